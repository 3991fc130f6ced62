"""MG19xx: publishing."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class PublishTargetUnusable(MargoGitopsError):
    """The target of publishing cannot be read or written.

    Possible causes: a folder that contains other files, a full disk, missing permissions, or a bucket that refuses.
    Every published manifest still finds the files that it names. Remove the cause, then publish again.
    """

    code = "MG1901"
    exit_code = ExitCode.USAGE


class PublishBusy(MargoGitopsError):
    """Another publisher works on this target.

    Wait until it finishes, then publish again: a run that finds nothing new writes nothing.
    """

    code = "MG1902"
    exit_code = ExitCode.TRY_LATER


class PublishDiffers(MargoGitopsError):
    """The target is not what the state repo holds (`publish --check`).

    It was not published since the last render, or someone changed published files. The message lists each difference.
    `margo-gitops publish` makes them equal, except for files whose bytes do not match their names: remove those first.
    """

    code = "MG1903"


class PublishGoesBack(MargoGitopsError):
    """The target is ahead of the state repo, or holds another manifest of the same version; nothing was published.

    Devices refuse a manifest whose version does not go up. Most often, someone restored the state repo from an old
    backup. Restore it to its newest state, or render again until its versions are above the published ones.
    """

    code = "MG1904"
    exit_code = ExitCode.TRUST


class BundleNotMade(MargoGitopsError):
    """A bundle for a site cannot be made (`bundle create`).

    Possible causes: the state repo has no such site, device or commit, the folder holds other files, or the stick is
    full or write-protected. A bundle that was there before can still be used.
    """

    code = "MG1905"
    exit_code = ExitCode.USAGE
