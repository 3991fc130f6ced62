"""What a failed push means is read from what git and the host said: ANSWER-1 to ANSWER-3."""

from __future__ import annotations

import pytest

from margo_gitops.errors import MargoGitopsError, StateDeclined, StateMoved, StateUnreachable
from margo_gitops.state_repo.host_answers import failed_fetch, failed_push

URL = "https://git.example.com/plant/state.git"
FLEET = "refs/heads/fleet"


def pushed(said: str) -> MargoGitopsError:
    return failed_push(URL, said, "nothing was pushed", "/mirror")


def refused(reason: str, ref: str = FLEET) -> str:
    return f"!\t{ref}:{ref}\t[remote rejected] ({reason})\n"


@pytest.mark.parametrize(
    "said",
    [
        refused("pre-receive hook declined") + "remote: GitLab: You are not allowed to push code to protected branches",
        refused("protected branch hook declined") + "remote: error: GH006: Protected branch update failed for fleet.",
        refused("push declined due to repository rule violations") + "remote: - Commits must have verified signatures.",
        refused("pre-receive hook declined") + "remote: Gitea: Not allowed to push to protected branch fleet",
        refused("hook declined") + "remote: FATAL: W refs/heads/fleet state bot DENIED by refs/heads/fleet",
        refused("prohibited by Gerrit: not permitted: update"),
        refused("deny updating a hidden ref"),
        refused("deletion prohibited", "refs/heads/freshness/3"),
        refused("non-fast-forward", "refs/heads/freshness/3"),
        refused("shallow update not allowed"),
        refused("atomic push failure") + refused("hook declined", "refs/heads/devices/a"),
        "ERROR: The key you are authenticating with has been marked as read only.",
        "remote: ERROR: This deploy key does not have write access to this project.",
        "Gitea: User: 3 with Key: 7 is not authorized to write to plant/state.",
        "FATAL: W any state bot DENIED by fallthru",
        "remote: Permission to plant/state.git denied to bot.",
        "fatal: unable to access 'https://git.example.com/': The requested URL returned error: 403",
        "fatal: Authentication failed for 'https://git.example.com/'",
        "fatal: could not read Username for 'https://git.example.com': terminal prompts disabled",
        "bot@git.example.com: Permission denied (publickey).",
    ],
    ids=lambda said: said.split("\n")[-1].split("\t")[-1].split(": ")[-1][:32],
)
def test_what_a_host_declines_is_for_a_person(said: str):
    error = pushed(f"To {URL}\n{said}\nerror: failed to push some refs\n")
    assert isinstance(error, StateDeclined)
    assert said.split("remote:")[-1].strip().split("\t")[-1].strip("[]()").split("(")[-1] in str(error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"!\t{FLEET}:{FLEET}\t[rejected] (stale info)", StateMoved),
        (f"!\t{FLEET}:{FLEET}\t[rejected] (fetch first)", StateMoved),
        (refused("failed to update ref") + "remote: error: cannot lock ref 'refs/heads/fleet': is at 1", StateMoved),
        (refused("unpacker error") + "remote: fatal: write error: No space left on device", StateUnreachable),
        (refused("internal server error"), StateUnreachable),
        (refused("failed to lock"), StateUnreachable),
        ("fatal: unable to access 'x': Failed to connect to git.example.com port 443", StateUnreachable),
        ("fatal: unable to access 'x': The requested URL returned error: 502", StateUnreachable),
        ("client_loop: send disconnect: Broken pipe\nfatal: the remote end hung up unexpectedly", StateUnreachable),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", StateUnreachable),
    ],
    ids=lambda each: each.strip().split("\n")[-1][-30:] if isinstance(each, str) else each.code,
)
def test_what_may_pass_is_tried_again(said: str, kind: type[MargoGitopsError]):
    assert type(pushed(said)) is kind


def test_the_hosts_own_words_come_first_and_no_empty_line_takes_their_place():
    lines = ["", "", "GitLab: this branch is protected", "", "Ask the owners of plant/state", "", "", "", "", ""]
    told = "".join(f"remote: {line}        \n" for line in lines * 500)
    said = told + "".join(
        refused("pre-receive hook declined", f"refs/heads/devices/d{number}") for number in range(500)
    )
    assert list(pushed(said).why) == [
        "remote: GitLab: this branch is protected",
        "remote: Ask the owners of plant/state",
        "refs/heads/devices/d0: pre-receive hook declined",
    ]


def test_credentials_that_may_not_read_are_for_a_person_too():
    assert isinstance(failed_fetch(URL, "fatal: Authentication failed for 'x'"), StateDeclined)
    assert isinstance(failed_fetch(URL, "fatal: unable to access 'x': Could not resolve host"), StateUnreachable)
