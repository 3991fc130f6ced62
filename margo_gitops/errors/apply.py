"""MG16xx: apply."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class ApplyError(MargoGitopsError):
    """Base of what goes wrong when a workload is installed, updated or removed.

    `reinstated` says whether the workload that ran before runs again, or still runs.
    """

    code = "MG1600"
    exit_code = ExitCode.APPLY
    reinstated = True


class EngineUnavailable(ApplyError):
    """The engine that runs workloads does not answer, or it was restarted or its client ended during a step.

    Start it, and check that the agent's user may use it, and that the device has enough memory. Workloads keep running;
    the agent tries again at its next poll. After a step that was cut off, it first waits for a pause.
    """

    code = "MG1601"


class ArtifactUnavailable(ApplyError):
    """The content of a component cannot be fetched.

    The URL comes from `spec.artifacts.baseUrl` of the fleet, or from the application. Check that the device reaches it
    and that the file exists. Workloads keep running. The agent tries again after a pause that doubles each time, up to
    an hour; SIGHUP makes it try at once.
    """

    code = "MG1602"


class ArtifactRefused(ApplyError):
    """The content of a component is not what was promised, or not safe to unpack.

    Its digest differs, it is larger than allowed, or the archive contains what a compose archive must not contain
    (Margo application registry, compose archive). Examples are links out of its folder and absolute paths.
    """

    code = "MG1603"


class InstallFailed(ApplyError):
    """A workload did not start, or did not become healthy in time.

    The message ends with what the engine said. Correct the parameter or the application. If possible, the agent starts
    again what ran before, and puts the update in quarantine. It tries a quarantined update again only when its content
    changes or when you ask (SIGHUP, `margo-gitops agent once --retry`). If nothing ran before, the agent tries again
    after a pause.
    """

    code = "MG1604"


class RemoveFailed(ApplyError):
    """A workload could not be removed completely.

    Something still uses it, or the engine refused; the message ends with what the engine said. The agent tries again
    after a pause.
    """

    code = "MG1605"


class WorkloadUnsupported(ApplyError):
    """The deployment asks for something that this device's appliers cannot do.

    Possible causes: a component without content, a pointer that the applier does not know, or a name that something
    else on the device uses. The remedy in the message says which. Workloads keep running.
    """

    code = "MG1606"


class ComposeInvalid(ApplyError):
    """The compose file of a component cannot be used.

    It is missing, Compose refuses it with the deployment's parameters, or it keeps data in a relative folder that the
    next update would delete. Running workloads were not touched.
    """

    code = "MG1607"


class WorkloadForbidden(ApplyError):
    """The device's policy does not allow what a workload asks for.

    Each reason names the service, the key of the compose file, its value, and the line of `workloads` that would allow
    it. The device decides: change the compose file, or add that line to the agent's configuration on the device.
    `validate` says the same before the merge, for devices whose `spec.workloads` says what they allow. Running
    workloads were not touched. See docs/workload-policy.md.
    """

    code = "MG1610"


class ChangeWaits(ApplyError):
    """Base of what keeps a deployment from changing on this device for now.

    What is new is fetched and verified meanwhile, what runs keeps running, and the agent looks again by itself. You see
    one of the codes that follow.
    """

    code = "MG1612"
    exit_code = ExitCode.TRY_LATER


class OutsideWindow(ChangeWaits):
    """A deployment waits for a time at which it may change on this device.

    The times are in `spec.maintenance` of the deployment, the device and its site, in the fleet repo. What is new is
    fetched and verified meanwhile, and what runs keeps running. To change it sooner, give the deployment
    `spec.urgent: true`, or run `margo-gitops agent once --now` on the device. See docs/maintenance.md.
    """

    code = "MG1611"


class SecretUnavailable(ApplyError):
    """The device has no value for a secret that a deployment needs.

    The message names the secret and each place where the agent looked: the sources at `secrets` in its configuration,
    and the value that is encrypted for the device in the fleet repo. Put the value into one of them, or run
    `margo-gitops secret set`. What runs was not touched, and keeps running. See docs/secrets.md.
    """

    code = "MG1629"


class LockHeld(ChangeWaits):
    """A deployment waits because something on the device forbids to change it for now.

    The message names the lock of `spec.locks` of the deployment or the device, or the hook of `spec.hooks` that asked
    to try later. What runs keeps running, and the agent asks again at each cycle. A lock without `atMost` may wait
    without end: release it where it is held, or run `margo-gitops agent once --now` on the device. See docs/locks.md.
    """

    code = "MG1620"


class HookFailed(ApplyError):
    """A program of the device that a deployment names in `spec.hooks` is missing, may not run, or failed.

    The message ends with what it said last. If it was to run before the change, nothing was changed. The programs are
    in the folder `hooks.folder` of the agent's configuration. They belong to root or the agent, and no other user may
    write them. The agent tries again after a pause. See docs/locks.md.
    """

    code = "MG1621"


class StopFailed(ApplyError):
    """A deployment that another one stops for its update (`spec.stop`) does not stop, or does not start again.

    The message ends with what the engine or the hook said. If it did not stop, the other deployment was not touched,
    and the agent tries again after a pause. If it did not start, the agent tries again at each cycle. See
    docs/locks.md.
    """

    code = "MG1622"


class RolledBack(ApplyError):
    """An update of a deployment failed, and the device went back to what ran before (`spec.onFailure: rollback`).

    All components run again as they did before the update, also those that were updated well. The message says which
    component failed, and why. The update is tried again only when its content or `onFailure` changes, or when you ask
    (SIGHUP, `margo-gitops agent once --retry`). See docs/failure-and-drift.md.
    """

    code = "MG1623"


class Drifted(ApplyError):
    """What runs is no longer what was installed, and the device leaves it so (`spec.onDrift: report`).

    Something was stopped, removed, paused or edited on the device, or it ended by itself. Put it right on the device,
    change its content in the fleet repo, or run `margo-gitops agent apply-now` on the device: then it is installed
    again. See docs/failure-and-drift.md.
    """

    code = "MG1624"


class LeftByPerson(ApplyError):
    """A person stopped, removed, paused or edited a component on the device (`spec.onDrift: respect`).

    The device leaves it so until it runs again, its content changes in the fleet repo, or a person runs
    `margo-gitops agent apply-now` on the device. See docs/failure-and-drift.md.
    """

    code = "MG1625"
    exit_code = ExitCode.TRY_LATER


class Suspended(ChangeWaits):
    """A person at the device suspended its changes (`margo-gitops agent suspend`).

    What is new is fetched and verified meanwhile, and what runs is kept running. The message names who, why and until
    when. To end it, run `margo-gitops agent resume` on the device. See docs/maintenance.md.
    """

    code = "MG1614"


class ApplierUnusable(ApplyError):
    """An applier is not installed, cannot be loaded, or its settings cannot work.

    The message lists the installed appliers. Install the missing package, or correct `appliers` in the agent's
    configuration.
    """

    code = "MG1608"
    exit_code = ExitCode.USAGE


class StorageFailed(ApplyError):
    """The applier's folder cannot be written: the disk is full, read-only or broken.

    Nothing half finished was kept. Free some space, or give the agent another folder. The step then works without any
    other change.
    """

    code = "MG1609"
