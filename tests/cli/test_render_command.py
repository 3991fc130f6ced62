"""`margo-gitops render`: exit codes and messages that say what, where and what to do; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, write_signing_key
from support.git_cli import Git
from support.real import require_program

STATE = "my-fleet-state.git"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.commit("Make the fleet")
    return fleet


def refs(fleet: FleetFolder) -> str:
    folder = fleet.root.parent / STATE
    return Git(folder).run("for-each-ref") if folder.exists() else ""


def test_a_render_says_what_changed_and_the_next_one_that_nothing_did(fleet: FleetFolder):
    first = margo_gitops("render", cwd=fleet.root)
    assert first.code == 0, first
    assert "north/press-01: manifest 1" in first.stdout
    assert "4 devices changed, 0 unchanged" in first.stdout
    before = refs(fleet)
    second = margo_gitops("render", cwd=fleet.root)
    assert (second.code, refs(fleet)) == (0, before)
    assert "nothing changed: 4 devices up to date" in second.stdout


def test_a_device_at_another_site_has_moved(fleet: FleetFolder):
    assert margo_gitops("render", cwd=fleet.root).code == 0
    for device in ("press-01", "sensor-01"):
        fleet.change(f"devices/{device}.yaml", "site: north", "site: south")
    fleet.commit("Move")
    moved = margo_gitops("render", cwd=fleet.root).stdout
    assert "south/press-01: manifest 2" in moved
    assert moved.count("moved from site north") == 2


def test_json_output_is_json_and_nothing_else(fleet: FleetFolder):
    fleet.put("note ü.txt", "not committed")
    result = json.loads(margo_gitops("render", "--output", "json", cwd=fleet.root).stdout)
    assert [each["device"] for each in result["changed"]] == ["cell-01", "mixer-01", "press-01", "sensor-01"]
    assert result["stateCommit"] in refs(fleet)
    assert result["uncommitted"] == ["note ü.txt"]
    again = json.loads(margo_gitops("render", "--output", "json", cwd=fleet.root).stdout)
    assert (again["changed"], again["stateCommit"], again["unchanged"]) == ([], None, 4)


def test_check_writes_nothing_and_says_whether_the_state_repo_is_up_to_date(fleet: FleetFolder):
    missing = margo_gitops("render", "--check", cwd=fleet.root)
    assert missing.code == 2, missing
    assert not (fleet.root.parent / STATE).exists()
    margo_gitops("render", cwd=fleet.root)
    assert margo_gitops("render", "--check", cwd=fleet.root).code == 0
    before = refs(fleet)
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    assert margo_gitops("render", "--check", cwd=fleet.root).code == 0  # not committed, so not meant yet
    fleet.commit("Say hoi")
    differs = margo_gitops("render", "--check", cwd=fleet.root)
    assert differs.code == 1, differs
    assert "press-01 would get manifest 2" in differs.stderr
    assert "[MG1304]" in differs.stderr
    listed = margo_gitops("render", "--check", "--output", "json", cwd=fleet.root)
    assert json.loads(listed.stdout) == {"differences": ["press-01 would get manifest 2"]}
    assert refs(fleet) == before


def test_what_is_not_committed_is_not_rendered_and_said(fleet: FleetFolder):
    fleet.change("deployments/greeting.yaml", "Hello from", "Bye from")
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 0
    assert "1 file differs from HEAD and is not rendered" in outcome.stderr
    assert b"Bye from" not in Git(fleet.root.parent / STATE).run_bytes("log", "-p", "devices/mixer-01")


@pytest.mark.parametrize("folder", ["", "deployments", "applications/com-example-greeting/1.0.0"])
def test_it_works_in_any_folder_of_the_fleet_repo(fleet: FleetFolder, folder: str):
    assert margo_gitops("render", cwd=fleet.root / folder).code == 0
    assert "refs/heads/fleet" in refs(fleet)


def test_a_bare_fleet_repo_can_be_rendered(fleet: FleetFolder, tmp_path: Path):
    fleet.git.run("clone", "--quiet", "--bare", fleet.root, tmp_path / "fleet.git")
    outcome = margo_gitops(
        "render", "--fleet", tmp_path / "fleet.git", "--state-repo", tmp_path / "s.git", cwd=tmp_path
    )
    assert outcome.code == 0, outcome
    again = margo_gitops("render", "--fleet", tmp_path / "fleet.git", "--state-repo", "s.git", cwd=tmp_path)
    assert "nothing changed" in again.stdout, again


# Bad input: the exit code, the place, the remedy, and nothing written.

Change = Callable[[FleetFolder], object]

BAD: dict[str, tuple[Change, int, str, str]] = {
    "broken YAML": (lambda f: f.put("sites/south.yaml", "a: [1\nb: 2\n"), 1, "MG1101", "sites/south.yaml:"),
    "an unknown key": (
        lambda f: f.change("deployments/greeting.yaml", "placement:", "placment:"),
        1,
        "MG1101",
        "did you mean placement?",
    ),
    "a feature that does not exist": (
        lambda f: f.change("deployments/greeting.yaml", "  parameters:", "  rollout: {}\n  parameters:"),
        1,
        "MG1101",
        "rollout",
    ),
    "an oversized file": (lambda f: f.put("sites/big.yaml", "#" * 5_000_000), 1, "MG1101", "sites/big.yaml"),
    "a missing application": (
        lambda f: f.change("deployments/greeting.yaml", "com-example-greeting", "com-example-greting"),
        1,
        "MG1206",
        "did you mean com-example-greeting?",
    ),
    "a missing version": (
        lambda f: f.change("deployments/greeting.yaml", "version: 1.0.0", "version: 1.0.1"),
        1,
        "MG1206",
        "versions in this fleet repo: 1.0.0",
    ),
    "a tampered package": (lambda f: f.put("applications/com-example-greeting/1.0.0/x", ""), 1, "MG1101", "app add"),
    "a deployment that fits no profile": (
        lambda f: f.change("deployments/greeting.yaml", "cell-01", "sensor-01"),
        1,
        "MG1201",
        "the device supports custom",
    ),
    "an undefined name": (
        lambda f: f.change("deployments/greeting.yaml", "labels.line", "labels.lien"),
        1,
        "MG1203",
        "deployments/greeting.yaml:12:15",
    ),
    "a value outside its schema": (
        lambda f: f.change("deployments/line-monitor.yaml", "60", "4000"),
        1,
        "MG1204",
        "must be at most 3600, is 4000",
    ),
    "a missing value": (
        lambda f: f.change("deployments/line-monitor.yaml", "  parameters:\n    topic", "  parameters:\n    image"),
        1,
        "MG1205",
        "has no value in any layer",
    ),
    "deployments that wait for each other": (
        lambda f: f.change("deployments/greeting.yaml", "  placement:", "  after: [line-monitor]\n  placement:"),
        1,
        "MG1206",
        "wait for each other",
    ),
    "no fleet file": (lambda f: f.remove("margo-gitops.yaml"), 2, "MG1102", "margo-gitops init"),
    "a state repo that is a folder of other things": (
        lambda f: f.change("margo-gitops.yaml", "../my-fleet-state.git", "devices"),
        2,
        "MG1301",
        "devices",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_an_error_with_place_code_and_remedy_and_writes_nothing(fleet: FleetFolder, name: str):
    change, code, error, text = BAD[name]
    assert margo_gitops("render", cwd=fleet.root).code == 0
    before = refs(fleet)
    change(fleet)
    fleet.commit(name)
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == code, outcome
    assert f"[{error}]" in outcome.stderr
    assert text in outcome.stderr
    assert outcome.stdout == ""
    assert refs(fleet) == before


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--rev", "nosuch"], 2, "[MG1307]"),
        (["--rev", "HEAD^^^^"], 2, "[MG1307]"),
        (["--rev", "HEAD:sites"], 2, "[MG1307]"),
        (["--rev", ""], 2, "[MG1307]"),
        (["--fleet", "/"], 2, "[MG1102]"),
        (["--fleet", "/nowhere"], 2, ""),
        (["--signing-key", "/nowhere"], 2, "[MG1305]"),
        (["--state-repo", "margo-gitops.yaml"], 2, "[MG1301]"),
        (["--output", "xml"], 2, "xml"),
        (["--nosuch"], 2, "--nosuch"),
        (["extra"], 2, "extra"),
    ],
)
def test_options_that_cannot_be_used_are_exit_code_2(fleet: FleetFolder, options: list[str], code: int, text: str):
    outcome = margo_gitops("render", *options, cwd=fleet.root)
    assert outcome.code == code, outcome
    assert text in outcome.stderr


def test_a_fleet_repo_without_commits_says_so(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.git.init()
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 2
    assert "commit something first" in outcome.stderr


def test_a_folder_that_is_no_git_repository_says_so(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    outcome = margo_gitops("render", cwd=fleet.root, environment={"GIT_CEILING_DIRECTORIES": str(tmp_path)})
    assert outcome.code == 2
    assert "is not in a git repository" in outcome.stderr


def test_a_file_name_that_is_no_utf_8_can_be_reported(fleet: FleetFolder):
    Path(os.fsdecode(bytes(fleet.root / "sites") + b"/\xff.yaml")).write_bytes(b"[")
    fleet.commit("Odd name")
    assert margo_gitops("render", cwd=fleet.root).code == 1
    (fleet.root / "note").write_bytes(b"")
    assert margo_gitops("render", "--output", "json", cwd=fleet.root).code == 1


@pytest.mark.parametrize(
    "identity",
    [
        {"GIT_AUTHOR_NAME": "<Ada\tX>", "GIT_AUTHOR_EMAIL": ""},
        {"GIT_AUTHOR_NAME": "Größe ✓" * 5_000, "GIT_AUTHOR_EMAIL": "a b@c"},
        {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00-1130"},
        {"GIT_AUTHOR_DATE": "@0 +0000"},
    ],
    ids=["odd", "long", "west", "epoch"],
)
def test_whoever_made_the_fleet_commit_can_be_its_author(fleet: FleetFolder, identity: dict[str, str]):
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    fleet.git.run("commit", "--quiet", "-a", "-m", "Say hoi", environment=identity)
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 0, outcome
    Git(fleet.root.parent / STATE).run("fsck", "--strict")


@pytest.mark.parametrize("message", [b"", b"\xff\xfe latin", b"a\tb\x07c", b"x" * 100_000, b"\n\n\n"])
def test_whatever_the_fleet_commit_says_can_be_its_subject(fleet: FleetFolder, message: bytes):
    fleet.git.run("commit", "--quiet", "--allow-empty", "--allow-empty-message", "-F", "-", content=message)
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 0, outcome
    Git(fleet.root.parent / STATE).run("fsck", "--strict")


# Signing


def test_signed_commits_are_verified_by_git(fleet: FleetFolder, tmp_path: Path):
    require_program("ssh-keygen", "openssh-client")
    key = write_signing_key(tmp_path / "key")
    assert margo_gitops("render", "--signing-key", key, cwd=fleet.root).code == 0
    shown = Git(tmp_path / STATE).run(
        "-c", f"gpg.ssh.allowedSignersFile={tmp_path / 'key.allowed'}", "log", "--show-signature", "devices/press-01"
    )
    assert 'Good "git" signature for renderer with ED25519 key' in shown


def test_the_key_may_be_named_in_the_environment(fleet: FleetFolder, tmp_path: Path):
    key = write_signing_key(tmp_path / "key")
    assert margo_gitops("render", cwd=fleet.root, environment={"MARGO_GITOPS_SIGNING_KEY": str(key)}).code == 0
    assert "gpgsig" in Git(tmp_path / STATE).run("cat-file", "commit", "fleet")


def test_a_fleet_that_wants_signed_state_is_not_rendered_without_key(fleet: FleetFolder):
    fleet.change("margo-gitops.yaml", "spec:\n", "spec:\n  signing: {required: true}\n")
    fleet.commit("Sign")
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 2
    assert "margo-gitops.yaml:" in outcome.stderr
    assert "--signing-key" in outcome.stderr
    assert refs(fleet) == ""


@pytest.mark.parametrize("what", ["readable by others", "no key", "a folder", "encrypted"])
def test_a_key_that_cannot_be_used_is_refused_and_never_shown(fleet: FleetFolder, tmp_path: Path, what: str):
    key = write_signing_key(tmp_path / "key")
    secret = key.read_text().splitlines()[3]
    if what == "readable by others":
        key.chmod(0o644)
    elif what == "no key":
        key.write_text(secret)
    elif what == "a folder":
        key.unlink()
        key.mkdir()
    else:
        keygen = require_program("ssh-keygen", "openssh-client")
        subprocess.run([keygen, "-q", "-p", "-N", "secret", "-f", key], check=True, capture_output=True)
    outcome = margo_gitops("render", "--signing-key", key, cwd=fleet.root)
    assert outcome.code == 2, outcome
    assert secret not in outcome.stderr
    assert refs(fleet) == ""


# Order of commits


def test_a_slow_pipeline_of_an_older_commit_undoes_nothing(fleet: FleetFolder):
    older = fleet.git.run("rev-parse", "HEAD")
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    fleet.commit("Say hoi")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    before = refs(fleet)
    outcome = margo_gitops("render", "--rev", older, cwd=fleet.root)
    assert outcome.code == 1, outcome
    assert "[MG1308]" in outcome.stderr
    assert "--allow-older" in outcome.stderr
    assert refs(fleet) == before
    assert margo_gitops("render", "--rev", older, "--allow-older", cwd=fleet.root).code == 0


def test_a_revert_is_a_new_commit_and_raises_the_version(fleet: FleetFolder):
    margo_gitops("render", cwd=fleet.root)
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    fleet.commit("Say hoi")
    margo_gitops("render", cwd=fleet.root)
    fleet.git.run("revert", "--no-edit", "HEAD")
    outcome = margo_gitops("render", cwd=fleet.root)
    assert "north/press-01: manifest 3" in outcome.stdout, outcome
    state = Git(fleet.root.parent / STATE)
    assert state.run("rev-parse", "devices/press-01:deployments") == state.run(
        "rev-parse", "devices/press-01~2:deployments"
    )


# F21: the same input gives the same commit ids, wherever it is rendered.

PLACES = [
    {"TZ": "UTC", "PYTHONHASHSEED": "0", "LC_ALL": "C"},
    {"TZ": "Pacific/Chatham", "PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "GIT_COMMITTER_NAME": "Else"},
    {"TZ": "America/St_Johns", "PYTHONHASHSEED": "77", "LC_ALL": "POSIX", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"},
]


def test_f21_equal_fleet_commits_give_equal_commit_ids_on_every_machine(fleet: FleetFolder, tmp_path: Path):
    """F21: time zone, locale, hash seed, working folder and the renderer's own clock do not matter."""
    key = write_signing_key(tmp_path / "key")
    first = fleet.git.run("rev-parse", "HEAD")
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    second = fleet.commit("Say hoi")
    seen = set()
    for number, environment in enumerate(PLACES):
        clone = tmp_path / f"machine-{number}" / "deep" / "fleet"
        fleet.git.run("clone", "--quiet", fleet.root, clone)
        for revision in (first, second):
            outcome = margo_gitops(
                *("render", "--rev", revision, "--state-repo", tmp_path / f"state-{number}.git", "--signing-key", key),
                cwd=clone / ("deployments" if number == 1 else "."),
                environment=environment,
            )
            assert outcome.code == 0, outcome
        seen.add(Git(tmp_path / f"state-{number}.git").run("for-each-ref"))
    assert len(seen) == 1


# F27 and the lock


def test_a_state_repo_that_somebody_changed_is_refused_with_exit_code_4(fleet: FleetFolder):
    margo_gitops("render", cwd=fleet.root)
    state = Git(fleet.root.parent / STATE)
    for number, device in enumerate(("press-01", "mixer-01"), start=1):
        other = state.run("commit-tree", "devices/cell-01^{tree}", "-p", f"devices/{device}", "-m", "mine")
        state.run("update-ref", f"refs/heads/devices/{device}", other)
        before = refs(fleet)
        for arguments in (["render"], ["render", "--check"]):
            outcome = margo_gitops(*arguments, cwd=fleet.root)
            assert outcome.code == 4, outcome
            assert "[MG1303]" in outcome.stderr
            assert f"devices/{device}" in outcome.stderr
            assert outcome.stderr.count("is not what the fleet branch holds") == number
        assert refs(fleet) == before


def test_another_writer_means_try_later(fleet: FleetFolder):
    margo_gitops("render", cwd=fleet.root)
    lock = fleet.root.parent / STATE / "packed-refs.lock"
    lock.touch()
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    fleet.commit("Say hoi")
    before = refs(fleet)
    outcome = margo_gitops("render", cwd=fleet.root)
    assert outcome.code == 75, outcome
    assert str(lock) in outcome.stderr
    assert refs(fleet) == before
    lock.unlink()
    assert margo_gitops("render", cwd=fleet.root).code == 0
