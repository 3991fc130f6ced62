"""MG20xx: registries and what is in them."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.apply import ArtifactRefused, ArtifactUnavailable, ChangeWaits, StorageFailed
from margo_gitops.errors.base import ExitCode, MargoGitopsError


class ContentComing(ChangeWaits):
    """A deployment waits for a large artifact that is still being fetched.

    The message says how much is on the device. What runs keeps running, and the agent continues by itself, also after a
    restart: what is on the device is not fetched again. A limit of the agent's configuration (`artifacts.limits`) may
    slow it down or let it wait. See docs/artifacts.md. `later` says
    that nothing can be fetched for now.
    """

    code = "MG2020"

    def __init__(self, what: str, *, why: Sequence[str] = (), later: bool = False) -> None:
        super().__init__(what, why=why)
        self.later = later


class ContentUnavailable(ArtifactUnavailable):
    """A large artifact cannot be fetched from any of its places.

    The message names each place, and why. The URLs are in `artifacts` of the deployment in the fleet repo; mirrors are
    in the agent's configuration. What was fetched stays on the device. The agent tries again after a pause, and at once
    when the network is back.
    """

    code = "MG2021"


class ContentRefused(ArtifactRefused):
    """A large artifact is not what the deployment promises.

    Every place gave other bytes than the digest says, or another size. Publish the promised file again, or run
    `margo-gitops artifact add` for the new one.
    """

    code = "MG2022"


class ContentNoRoom(StorageFailed):
    """There is no room on the device for a large artifact.

    The agent keeps `artifacts.keepFree` of its configuration free for what runs (256 MiB by default). It looks before
    it fetches, and while it writes. Free space on this disk, or take other deployments with artifacts off the device.
    """

    code = "MG2023"


class ArtifactUnknown(MargoGitopsError):
    """A large artifact of the fleet repo cannot be found, or a file cannot be added as one.

    The message says which file or which artifact it is, and why. `margo-gitops artifact add` writes artifacts into a
    deployment of the fleet repo.
    """

    code = "MG2024"
    exit_code = ExitCode.USAGE


class ArtifactsUndeliverable(MargoGitopsError):
    """A deployment has large artifacts that its components cannot get.

    Compose and custom profiles get artifacts: a container reads them below `/run/artifacts`. A profile that runs in a
    cluster does not, because a pod may run on another machine than the agent. An artifact can also name a component
    that the profile does not have. See docs/artifacts.md.
    """

    code = "MG2025"
