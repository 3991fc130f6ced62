"""MG19xx: publishing."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class PublishTargetUnusable(MargoGitopsError):
    """The target of publishing cannot be read or written.

    A folder that holds other files, a full disk, missing rights, a bucket that refuses. At any moment every published
    manifest finds what it leads to: publish again once the cause is gone.
    """

    code = "MG1901"
    exit_code = ExitCode.USAGE


class PublishBusy(MargoGitopsError):
    """Another publisher works on this target.

    Let it finish, then publish again: a run that finds nothing new writes nothing.
    """

    code = "MG1902"
    exit_code = ExitCode.TRY_LATER


class PublishDiffers(MargoGitopsError):
    """The target is not what the state repo holds (`publish --check`).

    It was not published since the last render, or somebody changed published files. Each difference is listed;
    `margo-gitops publish` makes them equal, except for files that hold other bytes than their names say: remove those
    first.
    """

    code = "MG1903"


class PublishGoesBack(MargoGitopsError):
    """The target is ahead of the state repo, or holds another manifest of the same version; nothing was published.

    Devices refuse a manifest whose version does not go up. Most often the state repo was restored from an old backup:
    restore it to its newest state, or render again until its versions are above the published ones.
    """

    code = "MG1904"
    exit_code = ExitCode.TRUST
