"""How a rendered mirror gets to a git host: all refs or none, or in steps that a render on any machine can finish.

`--atomic` moves all refs or none, and leases compare each with what was fetched. A host without `--atomic`, or one that
is slow for each ref (`spec.push.batch`), gets the refs in steps:

PUSH-1  The branch `pending` gets a commit whose parents are the new commits of `fleet` and of the devices, and the last
        one of `pending`. So the server has everything, or nothing; of two renders one is refused here.
PUSH-2  The devices' branches move, a group at a time. Each holds a complete state at any moment: a device reads no
        other branch.
PUSH-3  `fleet` moves last. Until then the push is not finished.
PUSH-4  A mirror has the refs that an unfinished push leads to, so that plans and audits see the state which the next
        render finishes. A ref that another program moved meanwhile stays as it is, and is found as such.
PUSH-5  A push that broke says nothing about the host: it may have taken all, or be at work still. So the host is asked
        what it holds, for as long as that can be expected to change. A push is only tried again after that.
PUSH-6  git compares each lease with each ref, and over HTTP gets each lease as an argument. Of many refs only those
        that are few have one; the others are compared with what the host lists, and move forward only.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import pygit2

from margo_gitops.documents.fleet_kinds import PushPolicy
from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.documents.state_layout import (
    BRANCHES,
    CHECKPOINTS_REF,
    DEVICE_REFS,
    FLEET_REF,
    FRESHNESS_REFS,
    TRUST_REF,
    carried_refs,
)
from margo_gitops.errors import StateMoved, StateUnreachable
from margo_gitops.progress import step
from margo_gitops.state_repo.host_answers import failed_push, was_answered, was_sent
from margo_gitops.state_repo.refs import Refs
from margo_gitops.wording import counted

TRACKED = "refs/remotes/state/"
PENDING_REF: Final = "refs/heads/pending"
"""A push in steps that is not finished: a commit whose parents are where it moves branches to (PUSH-4)."""
PENDING_MESSAGE: Final = "Push in steps\n"
MANY: Final = 200
"""More refs than this are too many for leases (PUSH-6)."""
_GROUP: Final = 1000
_SHORTEST_SECONDS: Final = 900.0
_SECONDS_PER_REF: Final = 0.5
"""A stock Gitea takes 0.13 s for each ref."""
_SETTLE_SECONDS: Final = 20.0
_LONGEST_PAUSE: Final = 30.0


class RunGit(Protocol):
    """Runs git in the mirror, whose remote is called `state`."""

    def __call__(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run it (subprocess.TimeoutExpired: it did not end in time, and was killed)."""
        ...


def tracked(ref: str) -> str:
    """Return the ref of the mirror that says where a branch of the remote was at the last fetch."""
    return TRACKED + ref.removeprefix(BRANCHES)


class Push:
    """One push of a mirror's branches to its remote."""

    def __init__(self, git: RunGit, url: str, mirror: Path, policy: PushPolicy, *, is_unfinished: bool = False) -> None:
        """Prepare a push.

        Args:
            git: runs git in the mirror.
            policy: how long it may take, and whether it is in steps.
            is_unfinished: whether the remote has an unfinished push in steps.
        """
        self._git = git
        self._url = url
        self._mirror = mirror
        self._policy = policy
        self.is_unfinished = is_unfinished
        self.pause: Callable[[float], None] = time.sleep
        self._values = Refs(mirror).read()

    def all(self) -> None:
        """Push what the renderer writes (StateMoved, StateDeclined, StateUnreachable: it cannot be)."""
        values = self._values
        names = (DEVICE_REFS, FRESHNESS_REFS)
        gone = [name for name in self._known_statements() if name not in values]
        moved: dict[str, str | None] = {
            name: values[name] for name in carried_refs(values) if values[name] != values.get(tracked(name))
        }
        moved.update(dict.fromkeys(gone))
        patterns = [f"{each}*:{each}*" for each in names if any(name.startswith(each) for name in values)]
        single = [f"{name}:{name}" for name in (FLEET_REF, TRUST_REF, CHECKPOINTS_REF) if name in values]
        refspecs = [*single, *patterns, *(f":{name}" for name in gone)]
        if self._policy.batch is None and self.pushed("--atomic", refspecs=refspecs, moved=moved, leases=True):
            return
        self._in_steps(moved)

    def _known_statements(self) -> list[str]:
        """Return the refs of statements that the remote had."""
        prefix = tracked(FRESHNESS_REFS)
        return sorted(FRESHNESS_REFS + name.removeprefix(prefix) for name in self._values if name.startswith(prefix))

    def _in_steps(self, moved: Mapping[str, str | None]) -> None:
        devices = [name for name in moved if name.startswith(DEVICE_REFS)]
        statements = [name for name in moved if name.startswith(FRESHNESS_REFS)]
        first = [name for name in moved if name not in {FLEET_REF, *devices, *statements}]
        last = [FLEET_REF] if FLEET_REF in moved else []
        if devices or last:
            pending = self._pending_commit([self._values[FLEET_REF], *(self._values[name] for name in devices)])
            self._step({PENDING_REF: pending}, leases=False)  # with all objects
            self.is_unfinished = True
        size = self._policy.batch or _GROUP
        groups = [devices[start : start + size] for start in range(0, len(devices), size)]
        done = 0
        # A device takes a new state with the keys that it knows, or with those of a trust document that is there.
        for group in (first, *groups, statements, last):
            step("pushing branches", done, len(moved))
            if group:
                self._step({name: moved[name] for name in group}, "--no-progress", leases=True)
            done += len(group)
        step("", 0, 0)

    def _step(self, moved: Mapping[str, str | None], *options: str, leases: bool) -> None:
        # A program without --atomic may not complete a thin pack, nor take a push that moves no ref (go-git).
        refspecs = [f"{value or ''}:{name}" for name, value in moved.items()]
        self.pushed("--no-thin", *options, refspecs=refspecs, moved=moved, leases=leases)

    def _pending_commit(self, parents: list[str]) -> str:
        repository = pygit2.Repository(str(self._mirror))
        fleet = repository[parents[0]].peel(pygit2.Commit)
        before = self._values.get(tracked(PENDING_REF))
        who, message = fleet.committer, PENDING_MESSAGE
        whole = [*parents, *([before] if before else [])]
        return str(repository.create_commit(None, who, who, message, fleet.tree_id, whole))

    def pushed(
        self, *options: str, refspecs: Sequence[str], moved: Mapping[str, str | None], leases: bool = False
    ) -> bool:
        """Push; return False where the server cannot move many refs as one.

        Args:
            moved: where the refs should be after it; None: gone.
            leases: whether each ref must be where it was fetched.

        Raises:
            StateMoved: another program moved one of them.
            StateDeclined: the host does not take this push.
            StateUnreachable: the host does not answer, or did not finish (PUSH-5).
        """
        limit = self._limit(len(moved))
        try:
            given = self._leases(moved) if leases else []
            result = self._git("push", *options, *given, "--porcelain", "state", *refspecs, seconds=limit)
        except subprocess.TimeoutExpired:
            said = f"git push did not end within {limit:.0f} s: spec.push.limit in margo-gitops.yaml can be longer"
            self._settle(moved, said, sent=True)
            return True
        if not result.returncode:
            return True
        if "does not support --atomic" in result.stderr:
            return False
        said = result.stdout + result.stderr
        error = failed_push(self._url, said, self._so_far("nothing was pushed"), str(self._mirror))
        if not isinstance(error, StateUnreachable) or was_answered(said):
            raise error
        self._settle(moved, said, sent=was_sent(said))
        return True

    def _so_far(self, otherwise: str) -> str:
        return "the next render finishes the push" if self.is_unfinished else otherwise

    def _limit(self, refs: int) -> float:
        if self._policy.limit is not None:
            return parse_valid_for(self._policy.limit).total_seconds()
        return _SHORTEST_SECONDS + _SECONDS_PER_REF * refs

    def _leases(self, moved: Mapping[str, str | None]) -> list[str]:
        if len(moved) <= MANY:
            return ["--force-with-lease"]
        there = self._listed(self._limit(0))
        if there is None:
            raise StateUnreachable(f"{self._url} does not say what it holds: {self._so_far('nothing was pushed')}")
        others = [name for name in moved if there.get(name) != self._values.get(tracked(name))]
        if others:
            raise StateMoved(
                f"somebody moved {counted(len(others), 'ref')} of {self._url} while this render was running: "
                f"{self._so_far('nothing was pushed')}",
                why=others[:10],
                remedy="render again: it starts from the new state",
            )
        few = [name for name in moved if not name.startswith(DEVICE_REFS)]
        return [f"--force-with-lease={name}:{there.get(name, '')}" for name in few]

    def _listed(self, seconds: float) -> dict[str, str] | None:
        """Return the branches of the remote; None: it does not answer."""
        try:
            listed = self._git("ls-remote", "--heads", "state", seconds=seconds)
        except subprocess.TimeoutExpired:
            return None
        if listed.returncode:
            return None
        return {name: value for value, _, name in (line.partition("\t") for line in listed.stdout.splitlines())}

    def _settle(self, moved: Mapping[str, str | None], said: str, *, sent: bool) -> None:
        """Return when the host has all of a push that broke (StateUnreachable: it has not); ask it again (PUSH-5)."""
        end = time.monotonic() + (_SETTLE_SECONDS + _SECONDS_PER_REF * len(moved) if sent else 0)
        pause, best, told = 1.0, -1, "it does not say whether something was changed there"
        while True:
            there = self._listed(_LONGEST_PAUSE)
            if there is not None:
                done = sum(there.get(name) == value for name, value in moved.items())
                if done == len(moved):
                    return
                told = f"{done} of {counted(len(moved), 'ref')} moved there" if done else "no ref moved there"
                step("waiting for the git host", done, len(moved))
                if done > best >= 0:  # it is at work
                    end = max(end, time.monotonic() + _LONGEST_PAUSE * 2)
                best = done
            if time.monotonic() + pause > end:
                break
            self.pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        finished = self._so_far(told) if told.startswith("no ref") else f"{told}; {self._so_far('render again')}"
        raise StateUnreachable(
            f"{self._url} did not finish the push: {finished}",
            why=[line for line in said.splitlines() if re.search(r"\w", line)][-6:],
            remedy="render again. If the host is slow for each ref, let it take them in groups: spec.push.batch "
            "(docs/git-host.md, Large fleets)",
        )
