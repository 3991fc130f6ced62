"""MG17xx: the agent."""

from __future__ import annotations

from margo_gitops.errors.apply import ApplyError
from margo_gitops.errors.base import ExitCode, MargoGitopsError


class AgentMisconfigured(MargoGitopsError):
    """The agent's configuration cannot be used.

    Possible causes: an unknown key, a value outside its bounds, contradicting settings, an unknown environment variable
    that starts with `MARGO_`, or a file in the configuration that cannot be read. Nothing was started; workloads on the
    device keep running.
    """

    code = "MG1701"
    exit_code = ExitCode.USAGE


class AgentBusy(MargoGitopsError):
    """Another agent uses this state folder.

    A device has one agent at a time. `agent run` locks the folder as long as it runs; send it SIGHUP to poll now.
    """

    code = "MG1702"
    exit_code = ExitCode.TRY_LATER


class StateFolderUnusable(MargoGitopsError):
    """The agent's state folder cannot be created, read or written, or belongs to another device.

    The trust floor of one device means nothing for another: give each device its own state folder.
    """

    code = "MG1703"
    exit_code = ExitCode.USAGE


class StorageFull(MargoGitopsError):
    """The disk is full: new state could not be stored.

    The state that was stored before is complete, and workloads keep running. The agent tries again at its next poll.
    """

    code = "MG1704"
    exit_code = ExitCode.APPLY


class StoredStateDamaged(MargoGitopsError):
    """The files in the state folder are not what was trusted and stored.

    The disk has a fault, or someone changed files by hand. The agent behaves as if it held nothing: it fetches the
    state again with its next poll. The trust floor still holds. `agent verify` shows this error.
    """

    code = "MG1705"
    exit_code = ExitCode.TRUST


class NothingHeld(MargoGitopsError):
    """The device holds no state yet: no poll has succeeded since the state folder was made.

    `margo-gitops agent once` polls, and says what goes wrong if the poll fails.
    """

    code = "MG1706"


class DeploymentUnusable(ApplyError):
    """A trusted deployment cannot be turned into workloads.

    It waits for a deployment that is not on this device, or for itself through others. Or two of its parameters write
    to the same place, its artifacts name components it does not have, or no configured applier serves its profile type.
    The agent applies the other deployments. Workloads of this deployment keep running.
    """

    code = "MG1707"


class DependencyNotInstalled(ApplyError):
    """A deployment waits for another deployment that is not installed.

    Nothing of it was changed. The agent installs it as soon as the other deployment is installed.
    """

    code = "MG1708"


class AgentDefect(MargoGitopsError):
    """The agent met an error that it does not know.

    This is a defect of the agent: report it, with the log. The agent continues with its next poll.
    """

    code = "MG1709"
    exit_code = ExitCode.APPLY


class ApplierDefect(ApplyError):
    """An applier ended with an error that its contract does not know.

    This is a defect of the applier, perhaps of a plug-in: report it to its makers, with the log. The agent continues
    with the other deployments.
    """

    code = "MG1710"


class DeviceIneligible(ApplyError):
    """This device may not, or cannot, run the deployment.

    The device checks capacity and eligibility rules itself before it deploys (Margo device constraints). Its
    capabilities do not meet them, or the agent has no capabilities to check the rules against. Nothing of the
    deployment was changed. Place it elsewhere, or correct the capabilities.
    """

    code = "MG1711"


class StepInterrupted(ApplyError):
    """A step was left because the agent was asked to stop.

    Nothing has failed: the agent does the step when it starts again.
    """

    code = "MG1712"


class EnrolmentRefused(MargoGitopsError):
    """The server does not enrol this device.

    The secret is wrong, has ended, was used by another key, or is for another device; or the server enrols no device
    without a secret; or a person revoked this device. The server says the same for all of them, and its log says
    which. Nothing was written. `margo-gitops device enroll` on the server's machine makes a new secret.
    """

    code = "MG1713"
    exit_code = ExitCode.TRUST


class EnrolmentWaits(MargoGitopsError):
    """The server knows this device's key, and no person has approved it yet.

    Compare the fingerprint, and approve it: `margo-gitops device approve`. Then run the same command on the device
    again.
    """

    code = "MG1714"
    exit_code = ExitCode.TRY_LATER


class EnrolmentUnusable(MargoGitopsError):
    """What was given for the enrolment of this device cannot be used.

    Possible causes: a code or file that is not complete, a key of another kind, a configuration that is for another
    device, or files that cannot be written. What the device had before still works.
    """

    code = "MG1715"
    exit_code = ExitCode.USAGE


class EnrolmentInvalid(MargoGitopsError):
    """An enrolment request or its answer is malformed, is not signed by its key, or is for another device.

    Nothing was written. If a server answers so, find out what it is before you make a new secret.
    """

    code = "MG1716"
    exit_code = ExitCode.TRUST
