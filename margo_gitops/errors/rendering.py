"""MG12xx: rendering."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, MargoGitopsError, listed


class RenderingRefused(MargoGitopsError):
    """The intent cannot be rendered; every reason found is listed, and nothing was written.

    Each reason has a code and a page of its own. Mend them in the fleet repo, commit, and render again; devices keep
    the state they have.
    """

    code = "MG1200"

    def __init__(self, what: str, errors: Sequence[MargoGitopsError]) -> None:
        super().__init__(what)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *listed(map(str, self.errors))])


class NotPlaceable(MargoGitopsError):
    """A device that a deployment selects can run none of the application's profiles.

    Capacity is checked before eligibility rules, as Margo demands. Take the device out of `spec.placement`, add a
    profile that fits, or correct the device's capabilities.
    """

    code = "MG1201"


class AmbiguousProfile(MargoGitopsError):
    """A device could run several profiles, and the deployment prefers none.

    Name the profiles in `spec.profiles`, best first. A guess would change when the supplier adds a third.
    """

    code = "MG1202"


class TemplateInvalid(MargoGitopsError):
    """An expression in a parameter cannot be evaluated.

    Broken syntax, a statement instead of an expression, a name that is not defined, an operation that fails, or a
    result that no parameter can hold.
    """

    code = "MG1203"


class ParameterInvalid(MargoGitopsError):
    """A parameter's value breaks a rule of the application's own configuration schema, or may not change any more.

    The message names the layer, file and line that the value comes from, and what the application wants there. Correct
    the value; `margo-gitops explain DEVICE DEPLOYMENT` shows all layers. A setting that the application calls immutable
    keeps the value it was installed with: put that back, or add the deployment anew under another name.
    """

    code = "MG1204"


class ParameterMissing(MargoGitopsError):
    """A parameter that the application needs has no value in any layer.

    Give it one in `spec.parameters` of the deployment, an overlay, the site or the device.
    """

    code = "MG1205"


class ReferenceUnknown(MargoGitopsError):
    """A document names something that does not exist.

    An application, device, site, profile, deployment or parameter. The message says which names are known.
    """

    code = "MG1206"
    kind = ""  # what the name was to be the name of: "site", "device" ...


class PolicyUnusable(MargoGitopsError):
    """The fleet's policy cannot be applied, so nothing can be told of the change.

    A file that the policy names is not there or cannot be read, or the policy's command cannot be run, takes too long,
    or does not end as docs/policy.md says. Nothing was written. Mend what the message names; the policy in force is the
    one of the commit before the change.
    """

    code = "MG1220"
    exit_code = ExitCode.USAGE


class CommitNotSigned(MargoGitopsError):
    """A commit has no signature that the fleet's policy accepts.

    `spec.policy.signatures` names the list of those who may sign, as it stood before the commit; the key must be valid
    at the commit's date. Sign the commit anew (`git commit --amend --no-edit -S`), or, if it is merged already, let
    somebody on the list answer for it: a signed commit with the trailer `Approves: COMMIT`.
    """

    code = "MG1221"


class ReviewMissing(MargoGitopsError):
    """A change was reviewed by fewer people than the fleet's policy wants.

    Reviewers stand in the commit that brings the change to the main line, as `Reviewed-by: Name <mail>`; those who
    wrote the change do not count. If it is merged already, a later commit with the reviewers' trailers and
    `Approves: COMMIT` heals it.
    """

    code = "MG1222"


class SiteFrozen(MargoGitopsError):
    """The change reaches devices that are frozen at the date of its commit.

    `spec.policy.freezes` says which devices, from when to when, and why. Leave these devices out of the change, wait
    until the freeze is over and commit then, or end the freeze in a commit of its own, which needs the reviews of a
    change of policy.
    """

    code = "MG1223"


class ApplicationNotAllowed(MargoGitopsError):
    """An application, or this version of it, may not be deployed there.

    `spec.policy.applications` lists what may. Deploy an allowed version, or allow this one in a change of its own: a
    change is judged by the policy before it as well as by its own.
    """

    code = "MG1224"


class RegistryNotAllowed(MargoGitopsError):
    """An image, a chart or other content of a component comes from a place that is not allowed there.

    `spec.policy.registries` lists the hosts. Use an application version that takes its content from one of them, mirror
    the content there, or allow the host in a change of its own. What cannot be told, such as an image that the device
    builds, is not allowed either.
    """

    code = "MG1225"


class CommandRefuses(MargoGitopsError):
    """The command of the fleet's policy found something in the plan.

    `spec.policy.command` names the program, as it was before the change; the message is its own words. Change what it
    asks for, or the program, in a change of its own.
    """

    code = "MG1226"
