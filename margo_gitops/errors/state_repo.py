"""MG13xx: the state repo."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class StateRepoUnusable(MargoGitopsError):
    """The state repo cannot be opened, created or written.

    It must be a bare git repository that the renderer can write, on a disk with free space. `margo-gitops render`
    creates it if it does not exist. No ref was moved.
    """

    code = "MG1301"
    exit_code = ExitCode.USAGE


class StateRepoEmpty(MargoGitopsError):
    """The state repo is empty, but devices may hold state already: this machine rendered there, or keys/ exists.

    A state repo that was lost cannot start again at version 1: devices refuse versions that they have seen. Restore it
    (`margo-gitops state restore`, or the server's backup). If no copy is left, let the root keys name a higher version
    (`margo-gitops keys floor --next N`), then render with `--create`. For a new fleet, `--create` is enough.
    """

    code = "MG1311"
    exit_code = ExitCode.USAGE


class StateMoved(MargoGitopsError):
    """Another program moved a ref of the state repo during this render; nothing was written.

    Run the render again: it starts from the new state.
    """

    code = "MG1302"
    exit_code = ExitCode.TRY_LATER


class StateTampered(MargoGitopsError):
    """The state repo contains what no render wrote: a device branch that differs from the fleet branch.

    Only the renderer writes the state repo. Find out who moved the branch (`git reflog`, the server's audit log). Put
    it back to the renderer's last commit of this device (docs/state-repo.md shows how to find it), and protect the
    branch.
    """

    code = "MG1303"
    exit_code = ExitCode.TRUST

    def __init__(
        self,
        what: str,
        *,
        object_id: str = "",
        device: str | None = None,
        why: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        super().__init__(what, device=device, why=why, remedy=remedy)
        self.object_id = object_id
        """The object of the repository that is wrong; empty where it is not one object."""


class StateDiffers(MargoGitopsError):
    """The state repo is not what this fleet commit renders to (`render --check`).

    The commit was not rendered yet, or the state repo was rendered from another commit. The message lists each
    difference; `margo-gitops render` makes them equal.
    """

    code = "MG1304"


class SigningKeyUnusable(MargoGitopsError):
    """The signing key cannot be used, or is missing in a fleet that requires signed state.

    The file cannot be read, other users can read it, or the key is encrypted or not an ed25519 key.
    """

    code = "MG1305"
    exit_code = ExitCode.USAGE


class StateUnreachable(MargoGitopsError):
    """The remote state repo cannot be fetched or pushed now.

    The network, the server or its disk may be the cause. The message shows what the server and git printed, and whether
    anything was changed there. Check that `git ls-remote URL` works for the same user, then render again.
    """

    code = "MG1306"
    exit_code = ExitCode.TRANSPORT


class StateDeclined(MargoGitopsError):
    """The git host does not let this render read or write the state repo.

    A hook, a protected branch, a key that may only read, a missing signature, or credentials that are wrong or expired:
    the message shows the host's own words. A person must change something, there or in the pipeline's secrets; to
    render again without that does not help. `fleet` and every device branch need pushes without force; only
    `freshness/*` needs force pushes and deletions (docs/state-repo.md, Protect the branches).
    """

    code = "MG1312"
    exit_code = ExitCode.USAGE


class FleetCommitUnknown(MargoGitopsError):
    """The requested revision of the fleet repo does not exist.

    Name a branch, a tag or a commit id of this repository. A shallow clone lacks older commits; a new repository has no
    commit yet.
    """

    code = "MG1307"
    exit_code = ExitCode.USAGE


class FleetCommitOlder(MargoGitopsError):
    """The commit to render does not build on the commit that the state repo was rendered from.

    A slow pipeline of an older commit must not undo a newer one, and a side branch must not be rendered. A shallow
    clone does not have the commits to check this: fetch the whole history (`fetch-depth: 0` in many pipelines). To go
    back, revert the change in the fleet repo: the revert is a new commit, and versions only go up.
    """

    code = "MG1308"


class FleetBranchOther(MargoGitopsError):
    """The commit to render is not on the branch that devices get.

    This is `spec.branch`, or the default branch of the remote that the fleet repo was cloned from. Merge the change
    into it; `plan` and `render --check` are for any branch. If you mean it, pass `--allow-other-branch`.
    """

    code = "MG1310"


class StateForeign(MargoGitopsError):
    """The state repo belongs to another fleet, or another program wrote it.

    Every deployment would get another id there: devices would remove all workloads and install them again. Name the
    right state repo, or a new folder.
    """

    code = "MG1309"
    exit_code = ExitCode.USAGE
