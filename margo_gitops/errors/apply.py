"""MG16xx: apply."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class ApplyError(MargoGitopsError):
    """Base of what goes wrong when a workload is installed, updated or removed.

    `reinstated` says whether what ran before runs again (or still).
    """

    code = "MG1600"
    exit_code = ExitCode.APPLY
    reinstated = True


class EngineUnavailable(ApplyError):
    """The engine that runs workloads does not answer.

    Start it, and see that the agent's user may talk to it. What runs keeps running; the agent tries again at its next
    poll.
    """

    code = "MG1601"
    exit_code = ExitCode.APPLY


class ArtifactUnavailable(ApplyError):
    """The content of a component cannot be fetched.

    The URL comes from `spec.artifacts.baseUrl` of the fleet, or from the application. See that the device reaches it
    and that the file is there. What runs keeps running; the agent tries again after a pause that doubles each time, up
    to an hour, and at once when asked with SIGHUP.
    """

    code = "MG1602"


class ArtifactRefused(ApplyError):
    """The content of a component is not what was promised, or not safe to unpack.

    Its digest differs, it is larger than allowed, or the archive holds links out of its folder, absolute paths or other
    things that a compose archive may not hold (Margo application registry, compose archive).
    """

    code = "MG1603"


class InstallFailed(ApplyError):
    """A workload did not start, or did not become healthy in time.

    The message ends with what the engine said. Correct the parameter or the application. What ran before runs again
    where that was possible; then the update is quarantined, and tried again only when its content changes or somebody
    asks (SIGHUP, `margo-gitops agent once --retry`). Where nothing ran before, the agent tries again after a pause.
    """

    code = "MG1604"


class RemoveFailed(ApplyError):
    """A workload could not be removed completely.

    Something still uses it, or the engine refused; the message ends with what it said. The agent tries again after a
    pause.
    """

    code = "MG1605"


class WorkloadUnsupported(ApplyError):
    """The deployment asks for something that this device's appliers cannot do.

    A component without content, a pointer that the applier does not know, or a name that something else on the device
    has taken. The remedy in the message says which; what runs keeps running.
    """

    code = "MG1606"


class ComposeInvalid(ApplyError):
    """The compose file of a component cannot be used.

    There is none, Compose refuses it with the deployment's parameters, or it keeps data in a relative folder that the
    next update would lose. Nothing that runs was touched.
    """

    code = "MG1607"


class ApplierUnusable(ApplyError):
    """An applier is not installed, cannot be loaded, or its settings cannot work.

    The message lists the appliers that are installed. Install the missing package, or correct `appliers` in the agent's
    configuration.
    """

    code = "MG1608"
    exit_code = ExitCode.USAGE


class StorageFailed(ApplyError):
    """The applier's folder cannot be written: the disk is full, read-only or broken.

    Nothing half done was kept. Free some space, or give the agent another folder; the step then works as it is.
    """

    code = "MG1609"
