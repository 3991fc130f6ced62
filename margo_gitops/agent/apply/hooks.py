"""Programs of the device that run around the change of a deployment.

HOOK-1  A deployment names a program; the device decides where it is and what it is. It is a plain file in
        `hooks.folder`; file and folder belong to root or to the agent's user, and only the owner may write them. So do
        all folders above, or another user could replace the folder; a sticky one (/tmp) may be written by others.
HOOK-2  It never runs as root: an agent that is root runs it as `hooks.user`, with that user's own group alone.
HOOK-3  Its environment has what is listed here alone; its working folder is `/`.
HOOK-4  When its time is over, it is ended with all it started. Of its output, the last lines are kept, without the
        values of the deployment's secrets; if one cannot be read then, nothing of it is kept.
HOOK-5  `before` runs in order when the locks are free, before anything changes. 21: the deployment waits, as for a
        lock. Another status than 0: it fails, and nothing was changed.
HOOK-6  `after` runs in order when the last component that changed runs. Another status than 0 is a failure of it: the
        agent tries again after a pause, which runs these hooks again. It also runs, with the result `failed`, where
        `before` ran and the change did not come to its end in this cycle; then its status is only recorded.
HOOK-7  A hook may run more than once for one change: an agent that was ended in between begins again.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.agent.settings.configuration import HookSettings
from margo_gitops.appliers.applier import OpenSecrets, no_secrets
from margo_gitops.appliers.programs import Finished, Secret, run_program
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import ApplyError, HookFailed, LockHeld
from margo_gitops.values import dataclass, field
from margo_gitops.wording import how_it_ended

TRY_LATER: Final = 21
"""As Mender's."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REMEDY: Final = "correct the program on the device, or spec.hooks in the fleet repo"


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a hook learns, each as a variable `MARGO_GITOPS_…`.

    Attributes:
        deployment: name of the deployment; `DEPLOYMENT`.
        deployment_id: `DEPLOYMENT_ID`.
        components: those that change; `COMPONENTS`, separated by spaces.
        version: of the application, what it will be; empty where it is removed; `VERSION`.
        previous: what it was; empty where nothing is there, or it is not known; `PREVIOUS_VERSION`.
        reason: install, update or remove; `REASON`.
        result: done or failed; empty before the change; `RESULT`.
        secrets: those of the deployment, by name; the hook does not get them.
    """

    deployment: str
    deployment_id: str
    components: Sequence[str]
    version: str
    previous: str
    reason: str
    result: str = ""
    secrets: Mapping[str, WantedSecret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HookRunner:
    """Runs the hooks of deployments.

    Attributes:
        settings: None where the device has no hooks.
        heartbeat: called before each hook.
        secrets: returns the values of secrets, so that messages do not have them.
    """

    settings: HookSettings | None
    device: str
    heartbeat: Callable[[], None] = lambda: None
    secrets: OpenSecrets = no_secrets

    def before(self, names: Sequence[str], occasion: Occasion) -> LockHeld | None:
        """Run hooks in order; return why the deployment waits, if one wants that.

        Raises:
            HookFailed: one is missing, may not run, or failed.
        """
        for name in names:
            done = self._run("before", name, occasion)
            if done.status == TRY_LATER:
                return LockHeld(
                    f"the deployment {occasion.deployment} waits: the hook {name} asks to try later",
                    why=self._said(done, occasion),
                    remedy="wait, or run `margo-gitops agent once --now` on the device",
                )
            self._check("before", name, occasion, done)
        return None

    def after(self, names: Sequence[str], occasion: Occasion) -> None:
        """Run hooks in order (HookFailed: one is missing, may not run, or failed)."""
        for name in names:
            self._check("after", name, occasion, self._run("after", name, occasion))

    def probe(self, name: str, occasion: Occasion) -> Sequence[str]:
        """Run a hook that tells whether a deployment is ready; return why it did not end with 0."""
        try:
            self._check("ready", name, occasion, self._run("ready", name, occasion))
        except HookFailed as error:
            return [error.what, *error.why]
        return []

    def _run(self, when: str, name: str, occasion: Occasion) -> Finished:
        settings = self.settings
        if settings is None:
            raise _failed(name, occasion, ["the configuration of this device names no folder of hooks (hooks.folder)"])
        self.heartbeat()
        path = settings.folder / name
        try:
            _check_owner(settings.folder, stat.S_ISDIR, "a folder")
            path = settings.folder.resolve(strict=True) / name
            for above in path.parent.parents:
                _check_owner(above, stat.S_ISDIR, "a folder", sticky=stat.S_ISVTX)
            _check_owner(path, stat.S_ISREG, "a plain file")
            return run_program(
                [str(path), when],
                {"PATH": _PATH, **self._variables(when, occasion)},
                seconds=settings.timeout,
                folder=Path("/"),
                run_as=_user(settings.user),
            )
        except (OSError, ValueError) as error:
            why = f"{path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
            raise _failed(name, occasion, [why]) from error

    def _check(self, when: str, name: str, occasion: Occasion, done: Finished) -> None:
        if done.status != 0:
            then = "; nothing was changed" if when == "before" else ""
            raise _failed(name, occasion, [*dict.fromkeys([f"{_ended(done)}{then}", *self._said(done, occasion)])])

    def _said(self, done: Finished, occasion: Occasion) -> list[str]:
        """Return the last lines of a hook (HOOK-4)."""
        try:
            values = self.secrets(occasion.secrets)
        except ApplyError:
            return ["what it said is not shown, because a secret of the deployment cannot be read now"]
        return done.last_lines({name: Secret(value.decode(errors="replace")) for name, value in values.items()})

    def _variables(self, when: str, occasion: Occasion) -> Mapping[str, str]:
        values = {
            "HOOK": when,
            "DEVICE": self.device,
            "DEPLOYMENT": occasion.deployment,
            "DEPLOYMENT_ID": occasion.deployment_id,
            "COMPONENTS": " ".join(occasion.components),
            "VERSION": occasion.version,
            "PREVIOUS_VERSION": occasion.previous,
            "REASON": occasion.reason,
            "RESULT": occasion.result,
        }
        return {f"MARGO_GITOPS_{name}": value for name, value in values.items()}


def _check_owner(path: Path, is_kind: Callable[[int], bool], what: str, *, sticky: int = 0) -> None:
    """Raise `ValueError` where another user could have put or changed a file or folder (HOOK-1).

    Args:
        sticky: the mode with which others may write a folder, because they cannot replace what is not theirs.
    """
    found = path.lstat()
    if not is_kind(found.st_mode):
        raise ValueError(f"{path} is not {what}")
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{path} belongs to another user than root and the agent")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & sticky:
        raise ValueError(f"others than the owner may write {path}")


def _user(name: str | None) -> tuple[int, int] | None:
    """Return who runs hooks; None: the agent's own user (ValueError: no user may)."""
    is_root = os.geteuid() == 0
    if name is None:
        if is_root:
            raise ValueError("hooks never run as root, and the configuration names no hooks.user")
        return None
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise ValueError(f"there is no user {name}") from error
    if found.pw_uid == 0:
        raise ValueError(f"{name} is root")
    if found.pw_uid == os.geteuid():
        return None
    return found.pw_uid, found.pw_gid


def _ended(done: Finished) -> str:
    return "it took too long" if done.status is None else how_it_ended(done.status)


def _failed(name: str, occasion: Occasion, why: Sequence[str]) -> HookFailed:
    return HookFailed(f"the hook {name} of the deployment {occasion.deployment} failed", why=why, remedy=_REMEDY)
