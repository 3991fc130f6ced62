"""The kit puts agents through its cases: ours conform, a loop around the git command is found out."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Outcome, client, margo_gitops
from support.conformance_results import check_recorded
from support.real import require_program

AGENTS = Path(__file__).parent / "agents"
ROOT = Path(__file__).parents[2]
OURS = ("sh", str(AGENTS / "ours.sh"), sys.executable, "-P", "-m", "margo_gitops")
NAIVE = ("sh", str(AGENTS / "naive_git.sh"))
NAIVE_CLONE = ("sh", str(AGENTS / "naive_clone.sh"))
NAIVE_TRUST = (sys.executable, "-I", "-S", str(AGENTS / "naive_trust.py"))
MARGO_PULL = ("sh", str(AGENTS / "margo_pull.sh"), str(ROOT / "scripts" / "margo-pull.sh"))

ENROLL = ("agent", "enroll", "{url}", "--code-file", "{code_file}", "--config", "{folder}/agent.yaml")

Check = Callable[..., Outcome]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Run `margo-gitops conformance agent` with options and a command."""

    def run(command: tuple[str, ...], *options: str) -> Outcome:
        return margo_gitops("conformance", "agent", *options, "--", *command, cwd=tmp_path, seconds=280)

    return run


def report(outcome: Outcome) -> dict[str, Any]:
    return json.loads(outcome.stdout)


def failed(found: dict[str, Any]) -> set[str]:
    return {each["check"] for each in found["results"] if each["verdict"] == "fail"}


@pytest.fixture(name="preloaded")
def preloaded_agent() -> tuple[str, ...]:
    """Our agent's command, forked from a process that has imported everything."""
    return ("sh", str(AGENTS / "ours.sh"), *client())


def test_our_agent_passes_as_people_run_it(check: Check) -> None:
    chosen = ("--only", "an older version", "--only", "a truncated pack", "--only", "G-R-7")
    outcome = check(OURS, "--held", "state/trusted/current", "--time-limit", "60", "--output", "json", *chosen)
    assert (outcome.code, failed(report(outcome))) == (0, set()), outcome


@pytest.mark.parametrize("transport", ["git", "http"])
def test_our_agent_passes_every_case(check: Check, preloaded: tuple[str, ...], transport: str) -> None:
    options = ("--transport", transport, "--held", "state/trusted/current", "--time-limit", "30", "--output", "json")
    outcome = check(preloaded, "--rooted", "--enroll", shlex.join((*client(), *ENROLL)), *options)
    found = report(outcome)
    told = [each for each in found["results"] if each["verdict"] in ("fail", "skipped")]
    assert (outcome.code, told) == (0, []), outcome
    assert found["passed"] > 70
    check_recorded(f"agent, {transport}", found)


def test_margo_pull_passes_every_must_of_http(check: Check) -> None:
    for program, package in (
        ("curl", "curl"),
        ("sha256sum", "coreutils"),
        ("tar", "tar"),
        ("gzip", "gzip"),
        ("ssh-keygen", "openssh-client"),
    ):
        require_program(program, package)
    options = ("--transport", "http", "--held", "state/current", "--time-limit", "30", "--output", "json")
    outcome = check(MARGO_PULL, "--rooted", *options)
    found = report(outcome)
    assert (outcome.code, found["failed"], found["skipped"]) == (0, 0, 0), outcome
    # It reads no YAML: whoever applies the state has to.
    assert failed(found) == {
        "documents for another device",
        "a document that is not YAML",
        "a document whose YAML aliases grow without bound",
    }
    check_recorded("margo-pull.sh", found)


def test_an_agent_that_ignores_the_signed_commit_is_found_out(check: Check) -> None:
    only = ("--only", "H-C-25", "--only", "H-C-26")
    options = ("--signed", "--transport", "http", "--held", "state/current", *only, "--output", "json")
    outcome = check((*MARGO_PULL, "unsigned"), *options)
    assert (outcome.code, failed(report(outcome))) == (
        1,
        {
            "a state without a commit",
            "a first state without a commit",
            "a commit signed by a stranger",
            "an unsigned commit",
            "a signature that was made for a file",
            "a first state signed by a stranger",
            "a commit that names another device",
            "a commit that states another manifest",
            "a commit that names two devices",
            "a commit with two signatures",
            "the next version, from another history",
            "only what was adopted is reported as adopted",
        },
    )


TOO_LITTLE = {
    "none": set(),
    "unverified": {
        "a next version that only a stranger signed",
        "a next version with root keys of a stranger",
        "a next version that too few root keys signed",
        "a next version that one root key signed twice",
        "a next version that too few root keys of the one before signed",
        "a next version that too few of its own root keys signed",
        "a next version that was signed for another use",
        "a version that skips the one before",
        "an older version in place of the next",
        "the version that was followed, with other content",
        "a state that names a version before the one that was followed",
    },
    "ignored": {
        "a state by the next key, after a rotation",
        "a state that names a version that the source does not have",
        "a version that has expired, and one after it that has not",
        "what runs is by a key that is compromised now, and a stranger's state comes: the next sound state is taken",
        "a state that a key signed after it was retired",
        "a state that a compromised key signed",
    },
    "any": {
        "a state that a key signed after it was retired",
        "a state that a compromised key signed",
        "a state that the key of freshness signed",
        "a state that a root key signed",
    },
    "floors": {
        "a lower version, after root keys took a higher one back",
        "a version below the one at which root keys say that the state continues",
    },
}
"""What fails by each fault of the agent that follows trust documents."""


@pytest.mark.parametrize(
    ("fault", "played"),
    [
        pytest.param("none", "28 29 30 31 32", id="none"),
        pytest.param("unverified", "29", id="takes-the-named-version-unverified"),
        pytest.param("ignored", "28 30 32", id="goes-by-the-given-version-for-ever"),
        pytest.param("any", "32", id="trusts-every-listed-key"),
        pytest.param("floors", "36", id="changes-no-floor"),
    ],
)
def test_an_agent_that_follows_trust_documents_naively_is_found_out(check: Check, fault: str, played: str) -> None:
    require_program("ssh-keygen", "openssh-client")
    only = [option for number in played.split() for option in ("--only", f"H-C-{number}")]
    outcome = check((*NAIVE_TRUST, fault), "--rooted", "--transport", "http", *only, "--output", "json")
    assert (outcome.code, failed(report(outcome))) == (int(fault != "none"), TOO_LITTLE[fault]), outcome


def test_a_device_that_is_enrolled_by_anyone_is_found_out(check: Check) -> None:
    ours = shlex.join((*client(), *ENROLL))
    only = [option for number in (33, 34, 35) for option in ("--only", f"H-C-{number}")]
    enroll = shlex.join(("sh", "-c", f"{ours} || true; rm -rf {{folder}}/*"))
    outcome = check(MARGO_PULL, "--transport", "http", "--enroll", enroll, *only, "--held", "state/current", "--rooted")
    assert outcome.code == 1
    assert outcome.stdout.count("the command ended with 0, as if the device were enrolled") == 4, outcome
    assert outcome.stdout.count("the second request has another key or token") == 4, outcome


def test_a_loop_around_the_git_command_is_found_out(check: Check) -> None:
    outcome = check(NAIVE, "--transport", "git", "--time-limit", "4", "--output", "json")
    found = report(outcome)
    assert outcome.code == 1
    assert failed(found) >= {
        "an older version, soundly made",
        "the same version with other content",
        "a document without the digest in the manifest",
        "a changed state under the signature of the sound one",
        "a commit signed by a stranger",
        "an unsigned commit",
        "a symbolic link in place of a document",
        "documents that are executable",
        "a submodule",
        "the next version, from another history",
        "documents for another device",
        "progress without end: it stops reading",
    }
    # What git itself looks after, it is not blamed for.
    passed = {each["check"] for each in found["results"] if each["verdict"] == "pass"}
    assert passed >= {
        "a first state",
        "one document changed",
        "all deployments were removed",
        "a truncated pack",
        "a pack with another document than the tree names",
        "the ref is gone",
        "a name that is git's own",
        "every request is answered with 403",
    }
    check_recorded("git in a loop", found)


FAULTS = {
    "an older version, soundly made",
    "the same version with other content",
    "a document without the digest in the manifest",
    "a truncated pack",
    "a symbolic link in place of a document",
    "a commit signed by a stranger",
}
"""Rollback, version reuse, tampered blob, truncated pack, link, wrong signer."""


def test_a_loop_that_clones_anew_each_time_is_found_out_in_what_breaks_off_too(check: Check) -> None:
    only = [option for fault in sorted(FAULTS) for option in ("--only", fault)]
    outcome = check(NAIVE_CLONE, "--transport", "git", *only, "--output", "json")
    assert outcome.code == 1
    assert failed(report(outcome)) >= FAULTS  # our agent passes each: test_our_agent_passes_every_case


def test_an_agent_that_does_nothing_does_not_pass(check: Check) -> None:
    outcome = check(("true",), "--output", "json")
    found = report(outcome)
    assert (outcome.code, found["passed"], found["failed"]) == (1, 0, 1)
    assert found["skipped"] > 50


def test_an_agent_that_pulls_once_and_then_never_again_does_not_pass(check: Check, tmp_path: Path) -> None:
    lazy = tmp_path / "lazy.sh"
    lazy.write_text(f'[ -d "$CONFORMANCE_FOLDER/current/.git" ] || exec sh {AGENTS / "naive_git.sh"}\n')
    outcome = check(("sh", str(lazy)), "--only", "answered with 403", "--output", "json")
    assert (outcome.code, "every request is answered with 403" in failed(report(outcome))) == (1, True)
    assert "the agent asked nothing" in outcome.stdout


def test_an_agent_that_does_not_end_is_killed_and_fails(check: Check) -> None:
    outcome = check(("sh", "-c", "sleep 60"), "--time-limit", "1")
    assert outcome.code == 1
    assert "did not end in time" in outcome.stdout


def test_what_is_held_can_be_shown_by_a_command_and_placeholders_are_replaced(check: Check, tmp_path: Path) -> None:
    script = tmp_path / "agent.sh"
    script.write_text(
        'set -eu\ntest "$1" = "$CONFORMANCE_URL"; test "$2" = "$CONFORMANCE_DEVICE"\n'
        f'sh {AGENTS / "naive_git.sh"}\nmv "$CONFORMANCE_FOLDER/current" "$CONFORMANCE_FOLDER/elsewhere"\n'
    )
    outcome = check(
        ("sh", str(script), "{url}", "{device}"),
        "--held-by",
        "sh -c 'cp -R {folder}/elsewhere/* {view}; rm -rf {folder}/elsewhere'",
        "--only",
        "one document changed",
    )
    assert "pass     G-C-5  MUST    a first state" in outcome.stdout, outcome


@pytest.mark.parametrize(
    ("options", "command", "message"),
    [
        pytest.param((), "no-such-agent", "cannot be started", id="no-program"),
        pytest.param(("--only", "G-S-1"), "true", "no case by git is about G-S-1", id="no-case"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_usage(
    check: Check, options: tuple[str, ...], command: str, message: str
) -> None:
    outcome = check((command,), *options)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert "MG2301" in outcome.stderr


def test_the_token_is_in_no_report(check: Check) -> None:
    shouting = ("sh", "-c", 'cat "$CONFORMANCE_TOKEN_FILE"; curl -s -H "Authorization: Bearer x" "{url}"; false')
    outcome = check(shouting, "--output", "json")
    said = [line for each in report(outcome)["results"] for line in each["evidence"] if "ended with" in line]
    assert said
    assert all("***" in line for line in said)
