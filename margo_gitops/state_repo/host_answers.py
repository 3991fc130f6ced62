"""What git said about a fetch or a push that failed: who can do something about it, in the host's own words (pure).

ANSWER-1  What a host declines (a hook, a protected branch, a key that may only read, a missing signature, credentials)
          stays declined until a person changes something: trying again is never suggested.
ANSWER-2  What the host itself said comes first, without blank lines and each line once. A declined push of many refs
          repeats its reasons for each of them.
ANSWER-3  A ref that another program moved is neither: the next render starts from the new state.
"""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.errors import MargoGitopsError, StateDeclined, StateMoved, StateUnreachable

_MOST_LINES: Final = 8
_REJECTED: Final = re.compile(r"^!\t[^\t:]*:?(?P<ref>[^\t]*)\t\[remote rejected\] \((?P<reason>.*)\)$", re.MULTILINE)
_MOVED: Final = re.compile(r"stale info|fetch first|non-fast-forward|cannot lock ref|reference already exists")
_PASSING: Final = re.compile(
    r"atomic (push|transaction) fail|failed to (update ref|write|lock)|transaction (failed|aborted)|unpacker error"
    r"|missing necessary objects|\block|internal (server )?error|timed? ?out|non-fast-forward",
    re.IGNORECASE,
)
"""Why a host takes a ref at another time, or what another ref caused; words of git, JGit and Gerrit."""
_CLOSED: Final = re.compile(
    r"returned error: 40[13]|Authentication failed|could not read (Username|Password)|Permission denied|Permission to "
    r"|access denied|denied to |DENIED by|read[- ]only|not (authori[sz]ed|allowed|permitted)|not have write access"
    r"|access to repository not granted|insufficient permission|(service|access) not enabled|not been verified",
    re.IGNORECASE,
)
"""How git, ssh, GitHub, GitLab, Gitea, Forgejo, gitolite and Gerrit say that these credentials may not."""
_NOT_REACHED: Final = re.compile(r"unable to access|^ssh: |Host key verification|not appear to be a git", re.MULTILINE)
_CREDENTIALS: Final = "see that the credentials are right and may do this there"


def host_words(said: str) -> list[str]:
    """Return the lines that say something, those of the host first (ANSWER-2)."""
    lines = [line.strip() for line in said.splitlines()]
    theirs = [line for line in lines if line.startswith(("remote:", "ERROR:", "FATAL:"))]
    told = [line for line in theirs if re.search(r"\w", line.removeprefix("remote:"))]
    ours = [line for line in lines if line and line not in theirs]
    told, ours = list(dict.fromkeys(told)), list(dict.fromkeys(ours))
    return [*told[:_MOST_LINES], *ours[-max(2, _MOST_LINES - len(told)) :]]


def failed_fetch(url: str, said: str) -> MargoGitopsError:
    """Return the error of a fetch that failed (ANSWER-1)."""
    what, why = f"{url} cannot be fetched", host_words(said)
    if _CLOSED.search(said):
        return StateDeclined(what, why=why, remedy=f"{_CREDENTIALS}: git ls-remote {url}")
    return StateUnreachable(
        what, why=why, remedy="see that the URL is right and that git can reach it: git ls-remote URL"
    )


def redirected_to(said: str) -> str:
    """Return the URL that the host sent git on to, as after a rename of the repository; empty: none."""
    found = re.search(r"^warning: redirecting to (\S+?)/?$", said, re.MULTILINE)
    return found[1] if found else ""


def was_answered(said: str) -> bool:
    """Return whether the host said of each ref what became of it."""
    return re.search(r"^!\t", said, re.MULTILINE) is not None


def was_sent(said: str) -> bool:
    """Return whether the host may be at work with a push that broke: it was reached at all."""
    return _NOT_REACHED.search(said) is None


def is_moved(said: str) -> bool:
    """Return whether a push failed because another program moved one of its refs (ANSWER-3)."""
    return _MOVED.search(said) is not None


def failed_push(url: str, said: str, so_far: str, mirror: str) -> MargoGitopsError:
    """Return the error of a push that failed.

    Args:
        said: the output of `git push --porcelain`, and its errors.
        so_far: what the push changed at the remote.
        mirror: the folder that was pushed.
    """
    rejected = [(found["ref"], found["reason"]) for found in _REJECTED.finditer(said)]
    declined = {reason: ref for ref, reason in reversed(rejected) if not _PASSING.search(reason)}
    if any(ref.startswith(FRESHNESS_REFS) and re.match(r"non-fast|deletion", why) for ref, why in rejected):
        return StateDeclined(
            f"{url} does not let you replace {FRESHNESS_REFS}*: {so_far}",
            why=host_words(said),
            remedy="allow force pushes and deletions there, and only there (docs/freshness.md, On a git server)",
        )
    if "shallow update not allowed" in said:
        return StateDeclined(
            f"{url} did not take the push: {so_far}",
            why=host_words(said),
            remedy=f"history ends at a checkpoint here: copy it there whole: git clone --bare {mirror}",
        )
    if declined:
        words = [line for line in host_words(said) if line.startswith("remote:")]
        return StateDeclined(
            f"{url} declined the push: {so_far}",
            why=[*words, *(f"{ref}: {reason}" for reason, ref in list(declined.items())[:_MOST_LINES])],
            remedy="change the rule or the hook there, or who renders; to render again does not help",
        )
    if is_moved(said):
        return StateMoved(
            f"somebody moved a ref of {url} while this render was running: {so_far}",
            why=host_words(said),
            remedy="render again: it starts from the new state",
        )
    if not rejected and _CLOSED.search(said):
        return StateDeclined(f"{url} declined the push: {so_far}", why=host_words(said), remedy=_CREDENTIALS)
    return StateUnreachable(
        f"{url} did not take the push: {so_far}",
        why=host_words(said),
        remedy="see that you may push there, then render again",
    )
