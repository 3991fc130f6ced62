"""The commands as people run them: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audited_world import World
from support.command_line import Outcome, margo_gitops


def audit(world: World, *arguments: str | Path) -> Outcome:
    return margo_gitops("audit", *arguments, "--fleet", world.fleet.root, cwd=world.folder)


def as_json(world: World, *arguments: str | Path) -> dict[str, object]:
    outcome = audit(world, *arguments, "--output", "json")
    assert outcome.code == 0, outcome
    found: dict[str, object] = json.loads(outcome.stdout)
    return found


def test_a_good_history_ends_with_0(signed: World):
    signed.signers(1)
    outcome = audit(signed, "verify", "--allowed-signers", signed.folder / "key-1.allowed", "--jobs", "2")
    assert outcome.code == 0, outcome
    assert outcome.stdout.splitlines() == ["7 fleet commits and 10 device commits verified", "signed by renderer"]
    assert outcome.stderr == ""


def test_a_bad_history_ends_with_4_and_names_commit_ref_and_file(world: World):
    forger = world.forger
    commit = forger.chain("fleet")[1]
    path = "devices/north/gw/manifest.json"
    forger.put(commit, {path: b"{}"})
    renamed = forger.write()[commit]
    outcome = audit(world, "verify")
    assert outcome.code == 4, outcome
    assert "[MG1820]" in outcome.stderr
    assert f"refs/heads/fleet: {path}: " in outcome.stderr
    assert renamed[:12] in outcome.stderr
    assert outcome.stdout.splitlines() == ["1 fleet commit and 3 device commits verified"]
    outcome = audit(world, "verify", "--output", "json")
    assert outcome.code == 4
    result = json.loads(outcome.stdout)
    assert (result["findings"][0]["commit"], result["findings"][0]["file"]) == (renamed, path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--since", "nothing"),
        ("verify", "--allowed-signers", "no-such-file"),
        ("verify", "--state-repo", "no-such-repo.git"),
        ("log", "--device", "a b"),
        ("trace", "nobody"),
        ("trace", "a", "--at", "yesterday"),
        ("trace", "a", "--at", "1999-01-01"),
        ("trace", "a", "--deployment", "nothing"),
        ("trace", "a", "--parameter", "nothing"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_remedy(world: World, arguments: tuple[str, ...]):
    outcome = audit(world, *arguments)
    assert outcome.code == 2, outcome
    assert "remedy: " in outcome.stderr


def test_the_log_tells_the_history_newest_first(world: World):
    commits = as_json(world, "log")["commits"]
    assert isinstance(commits, list)
    told = [
        (each["subject"], [(one["device"], one["change"], one["version"]) for one in each["devices"]])
        for each in commits
    ]
    assert told == [
        ("Add db", [("a", "changed", 4), ("b", "changed", 4)]),
        ("Move a", [("a", "moved", None)]),
        ("Bring b back", [("b", "returned", 3)]),
        ("Take b out", [("b", "left", None)]),
        ("Set p on a", [("a", "changed", 3)]),
        ("Set p", [("a", "changed", 2), ("b", "changed", 2), ("gw", "changed", 2)]),
        ("Begin", [("a", "added", 1), ("b", "added", 1), ("gw", "added", 1)]),
    ]
    assert commits[0]["devices"][0]["deployments"] == [{"name": "db", "device": "a", "change": "added"}]
    assert {each["device"] for each in commits[-1]["devices"][2]["deployments"]} == {"gw", "gw/child"}


def test_the_log_can_be_about_one_device_or_deployment(world: World):
    outcome = audit(world, "log", "--device", "gw/child")
    assert [line.strip() for line in outcome.stdout.splitlines() if line.startswith("  ") and line[2] != " "] == [
        "Set p",
        "gw  manifest 2",
        "Begin",
        "gw  manifest 1  added",
    ]
    commits = as_json(world, "log", "--deployment", "db")["commits"]
    assert isinstance(commits, list)
    assert [each["subject"] for each in commits] == ["Add db"]
    nothing = audit(world, "log", "--device", "press-99")
    assert (nothing.code, nothing.stdout) == (0, "")
    assert nothing.stderr.startswith("note: nothing in the history concerns that")
    commits = as_json(world, "log", "-n", "2")["commits"]
    assert isinstance(commits, list)
    assert len(commits) == 2


def test_a_trace_leads_to_the_line_its_author_and_the_signer(signed: World):
    signed.signers(1)
    found = as_json(signed, "trace", "a", "--deployment", "web", "--allowed-signers", signed.folder / "key-1.allowed")
    assert (found["version"], found["signature"], found["notes"]) == (4, "renderer", [])
    (deployment,) = found["deployments"]  # type: ignore[misc]
    (parameter,) = deployment["parameters"]
    assert (parameter["value"], parameter["layer"], parameter["file"]) == ("mine", "device a", "devices/a.yaml")
    line = (signed.fleet.root / "devices/a.yaml").read_text().splitlines()[parameter["line"] - 1]
    assert '"p": "mine"' in line
    assert parameter["line_subject" if "line_subject" in parameter else "lineSubject"] == "Set p on a"
    assert "Ada Author <ada@example.com>" in parameter.values()
    blamed = signed.fleet.git.run("blame", "--porcelain", "-L", f"{parameter['line']},+1", "devices/a.yaml")
    assert blamed.split(" ")[0] in parameter.values()


def test_a_trace_goes_back_in_time(world: World, tmp_path: Path):
    dates = [f"2030-01-0{number}T12:00:00+00:00" for number in (1, 2)]
    for number, date in enumerate(dates):
        world.fleet.site("north", p=f"then {number}")
        world.fleet.git.run("add", "--all")
        world.fleet.git.run("commit", "--quiet", "--date", date, "-m", "Later")
        world.render()
    for at, value in (("2030-01-01T12:00:00Z", "then 0"), ("2030-01-02", "then 0"), ("2030-01-03", "then 1")):
        found = as_json(world, "trace", "gw/child", "--at", at, "--parameter", "p")
        (deployment,) = found["deployments"]  # type: ignore[misc]
        assert deployment["device"] == "gw/child"
        assert deployment["parameters"][0]["value"] == value
    assert as_json(world, "trace", "gw/child", "--at", dates[1])["date"] == dates[1]


def test_a_device_that_left_is_traced_with_a_note(world: World):
    world.fleet.deployment("db", on=["a"], profiles=["other"], version="2.0.0")
    world.fleet.remove("devices/b.yaml")
    world.commit("Take b out again")
    outcome = audit(world, "trace", "b")
    assert outcome.code == 0, outcome
    assert "has left the fleet" in outcome.stdout
    assert "q = " in outcome.stdout
