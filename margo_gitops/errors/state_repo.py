"""MG13xx: the state repo."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class StateRepoUnusable(MargoGitopsError):
    """The state repo cannot be opened, created or written.

    It must be a bare git repository that the renderer may write, on a disk with space left; `margo-gitops render` makes
    it where there is nothing. Nothing was moved.
    """

    code = "MG1301"
    exit_code = ExitCode.USAGE


class StateMoved(MargoGitopsError):
    """Somebody else moved a ref of the state repo while this render was running; nothing was written.

    Run the render again: it starts from the new state.
    """

    code = "MG1302"
    exit_code = ExitCode.TRY_LATER


class StateTampered(MargoGitopsError):
    """The state repo holds what no render wrote: a device branch that differs from the fleet branch.

    Only the renderer writes the state repo. Find out who moved the branch (`git reflog`, the server's audit log), put
    it back to the renderer's last commit of this device (docs/state-repo.md shows how to find it), and protect the
    branch.
    """

    code = "MG1303"
    exit_code = ExitCode.TRUST


class StateDiffers(MargoGitopsError):
    """The state repo is not what this fleet commit renders to (`render --check`).

    Either the commit was not rendered yet, or the state repo was rendered from another one. Each difference is listed;
    `margo-gitops render` makes them equal.
    """

    code = "MG1304"


class SigningKeyUnusable(MargoGitopsError):
    """The signing key cannot be used, or none was given where the fleet wants signed state.

    The file cannot be read, others can read it, or it is encrypted or no ed25519 key.
    """

    code = "MG1305"
    exit_code = ExitCode.USAGE


class StateUnreachable(MargoGitopsError):
    """The remote state repo cannot be fetched or pushed.

    Network, credentials, rights, or a server without atomic pushes; the last lines that git said are shown. Nothing was
    changed there. See that `git ls-remote URL` works for the same user, then render again.
    """

    code = "MG1306"
    exit_code = ExitCode.TRANSPORT


class FleetCommitUnknown(MargoGitopsError):
    """The revision of the fleet repo that was asked for does not exist.

    Name a branch, a tag or a commit id of this repository. A shallow clone lacks older commits; a new repository has
    none before the first one is made.
    """

    code = "MG1307"
    exit_code = ExitCode.USAGE


class FleetCommitOlder(MargoGitopsError):
    """The state repo was rendered from a commit that the one to render does not build on.

    A slow pipeline of an older commit must not undo a newer one, and a side branch is nothing to render. A shallow
    clone cannot tell: fetch the whole history (`fetch-depth: 0` in many pipelines). To go back, revert the change in
    the fleet repo: the revert is a new commit, and versions only go up.
    """

    code = "MG1308"


class StateForeign(MargoGitopsError):
    """The state repo belongs to another fleet, or was not written by this renderer.

    Every deployment would get another id there: all workloads of all devices would be removed and installed anew. Name
    the right state repo, or a new folder.
    """

    code = "MG1309"
    exit_code = ExitCode.USAGE
