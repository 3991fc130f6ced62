"""MG12xx: rendering."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import MargoGitopsError, listed


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
