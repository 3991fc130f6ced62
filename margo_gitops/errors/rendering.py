"""MG12xx: rendering."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, MargoGitopsError, folded, listed


class RenderingRefused(MargoGitopsError):
    """The fleet commit cannot be rendered; every reason found is listed, and nothing was written.

    Each reason has a code and its own page. Fix them in the fleet repo, commit, and render again. Devices keep the
    state they have.
    """

    code = "MG1200"

    def __init__(self, what: str, errors: Sequence[MargoGitopsError]) -> None:
        super().__init__(what)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *listed(map(str, folded(self.errors)))])


class NotPlaceable(MargoGitopsError):
    """A device that a deployment selects cannot run any of the application's profiles.

    Capacity is checked before eligibility rules, as Margo requires. Remove the device from `spec.placement`, add a
    profile that fits, or correct the device's capabilities.
    """

    code = "MG1201"


class AmbiguousProfile(MargoGitopsError):
    """A device can run several profiles, and the deployment does not say which one it prefers.

    Name the profiles in `spec.profiles`, best first. margo-gitops does not guess: its guess would change when the
    supplier adds a profile.
    """

    code = "MG1202"


class TemplateInvalid(MargoGitopsError):
    """An expression in a parameter cannot be evaluated.

    Possible causes: broken syntax, a statement instead of an expression, a name that is not defined, an operation that
    fails, or a result that a parameter cannot hold.
    """

    code = "MG1203"


class ParameterInvalid(MargoGitopsError):
    """A parameter's value breaks a rule of the application's configuration schema, or can no longer change.

    The message names the layer, file and line of the value, and what the application expects. Correct the value;
    `margo-gitops explain DEVICE DEPLOYMENT` shows all layers. A setting that the application calls immutable keeps the
    value it was installed with: restore that value, or add the deployment again under another name.
    """

    code = "MG1204"


class ParameterMissing(MargoGitopsError):
    """A parameter that the application needs has no value in any layer.

    Set it in `spec.parameters` of the deployment, an overlay, the site or the device.
    """

    code = "MG1205"


class ReferenceUnknown(MargoGitopsError):
    """A document names something that does not exist.

    The name is that of an application, device, site, profile, deployment or parameter. The message lists the names that
    exist.
    """

    code = "MG1206"
    kind = ""  # what the name was to be the name of: "site", "device" ...


class ProcessEnded(MargoGitopsError):
    """A process that did a part of the work was ended, or could not be started.

    Most often, memory was short, and the system ended it. Nothing was written. Do it in one process (`--jobs 1`), which
    needs less memory, or give the machine more.
    """

    code = "MG1207"
    exit_code = ExitCode.USAGE


class PolicyUnusable(MargoGitopsError):
    """The fleet's policy cannot be applied, so the change cannot be judged.

    A file that the policy names is missing or cannot be read. Or the policy's command cannot be run, takes too long, or
    ends in a way that docs/policy.md does not allow. Nothing was written. Fix what the message names. The policy in
    force is that of the commit before the change.
    """

    code = "MG1220"
    exit_code = ExitCode.USAGE


class CommitNotSigned(MargoGitopsError):
    """A commit has no signature that the fleet's policy accepts.

    `spec.policy.signatures` names the list of allowed signers. The list in the commit before this one counts, and the
    key must be valid at the commit's date. Sign the commit again (`git commit --amend --no-edit -S`). If it is already
    merged, someone on the list approves it: with a signed commit that has the trailer `Approves: COMMIT`.
    """

    code = "MG1221"


class ReviewMissing(MargoGitopsError):
    """A change has fewer reviewers than the fleet's policy requires.

    The commit that brings the change to the main line names each reviewer as `Reviewed-by: Name <mail>`. The authors of
    the change do not count. If the change is already merged, add a later commit with the reviewers' trailers and
    `Approves: COMMIT`.
    """

    code = "MG1222"


class SiteFrozen(MargoGitopsError):
    """The change reaches devices that are frozen at the date of its commit.

    `spec.policy.freezes` says which devices are frozen, from when to when, and why. Leave these devices out of the
    change, or commit after the freeze. You can also end the freeze in a separate commit, which needs the reviews of a
    policy change.
    """

    code = "MG1223"


class ApplicationNotAllowed(MargoGitopsError):
    """An application, or this version of it, may not be deployed there.

    `spec.policy.applications` lists what is allowed. Deploy an allowed version, or allow this one in a separate change:
    a change is judged by the policy before it as well as by its own.
    """

    code = "MG1224"


class RegistryNotAllowed(MargoGitopsError):
    """An image, a chart or other content of a component comes from a host that is not allowed there.

    `spec.policy.registries` lists the hosts. Use an application version that takes its content from one of them, mirror
    the content there, or allow the host in a separate change. Content whose source is unknown, such as an image that
    the device builds, is not allowed either.
    """

    code = "MG1225"


class CommandRefuses(MargoGitopsError):
    """The command of the fleet's policy found something in the plan.

    `spec.policy.command` names the program, as it was before the change. The message is the program's own text. Change
    what it asks for, or change the program in a separate change.
    """

    code = "MG1226"
