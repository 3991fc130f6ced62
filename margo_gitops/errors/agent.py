"""MG17xx: the agent."""

from __future__ import annotations

from margo_gitops.errors.apply import ApplyError
from margo_gitops.errors.base import ExitCode, MargoGitopsError


class AgentMisconfigured(MargoGitopsError):
    """The agent's configuration cannot be used.

    A key that is not known, a value outside its bounds, settings that contradict each other, an environment variable
    that starts with `MARGO_` and means nothing, or a file that the configuration names and that cannot be read. Nothing
    was started; what runs on the device keeps running.
    """

    code = "MG1701"
    exit_code = ExitCode.USAGE


class AgentBusy(MargoGitopsError):
    """Another agent works with this state folder.

    One device has one agent at a time. `agent run` holds the folder as long as it lives; send it SIGHUP to poll now.
    """

    code = "MG1702"
    exit_code = ExitCode.TRY_LATER


class StateFolderUnusable(MargoGitopsError):
    """The agent's state folder cannot be created, read or written, or belongs to another device.

    The trust floor of one device means nothing for another: give each device a state folder of its own.
    """

    code = "MG1703"
    exit_code = ExitCode.USAGE


class StorageFull(MargoGitopsError):
    """The disk is full: new state could not be stored.

    What was stored before is whole, and what runs keeps running. The agent tries again at its next poll.
    """

    code = "MG1704"
    exit_code = ExitCode.APPLY


class StoredStateDamaged(MargoGitopsError):
    """What lies in the state folder is not what was trusted and stored.

    A disk fault, or somebody changed files by hand. The agent treats it as "nothing held" and fetches the state again
    with its next poll; the trust floor still holds. `agent verify` shows this error.
    """

    code = "MG1705"
    exit_code = ExitCode.TRUST


class NothingHeld(MargoGitopsError):
    """The device holds no state yet: no poll has succeeded since the state folder was made.

    `margo-gitops agent once` polls and says what stands in the way.
    """

    code = "MG1706"


class DeploymentUnusable(ApplyError):
    """A trusted deployment cannot be turned into workloads.

    It waits for a deployment that is not on this device, or for itself through others; two of its parameters write the
    same place; its artifacts name components it does not have; or no configured applier serves its profile type. The
    other deployments are applied; what runs of this one keeps running.
    """

    code = "MG1707"


class DependencyNotInstalled(ApplyError):
    """A deployment waits, because one that must be installed before it is not installed.

    Nothing of it was changed. It is installed as soon as the deployment it waits for is.
    """

    code = "MG1708"


class AgentDefect(MargoGitopsError):
    """The agent met an error that it does not know.

    This is a defect of the agent: report it, with the log. The agent goes on with its next poll.
    """

    code = "MG1709"
    exit_code = ExitCode.APPLY


class ApplierDefect(ApplyError):
    """An applier ended with an error that its contract does not know.

    This is a defect of the applier, perhaps of a plug-in: report it to its makers, with the log. Other deployments go
    on.
    """

    code = "MG1710"


class DeviceIneligible(ApplyError):
    """This device may not, or cannot, run the deployment.

    Its profile names eligibility rules or capacity that the device's capabilities do not meet, or rules while the agent
    has no capabilities of that device: a device evaluates the rules itself before it deploys (Margo device
    constraints). Nothing of it was changed. Place the deployment elsewhere, or correct the capabilities.
    """

    code = "MG1711"


class StepInterrupted(ApplyError):
    """A step was left because the agent was asked to stop.

    Nothing has failed: the step is taken up again when the agent starts.
    """

    code = "MG1712"
