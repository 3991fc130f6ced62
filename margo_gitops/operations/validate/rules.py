"""The rules that `margo-gitops validate` checks, and their ids; docs/rules.md is written from this table.

A rule that is an error of the tree has that error's code; the others have ids of their own: R1 the files of the fleet
repo and how they fit together, R2 what is not pinned, so that the same commit may run something else tomorrow; R3 the
fleet's policy.
Ids are stable: an id is never reused for another meaning.
"""

from __future__ import annotations

import inspect
from typing import Literal

from margo_gitops import errors
from margo_gitops.errors import MargoGitopsError
from margo_gitops.values import dataclass

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        severity: "error" refuses the fleet; "warning" may do harm later; "note" is worth knowing.
        text: why, and what to do; Markdown.
    """

    id: str
    severity: Severity
    title: str
    text: str


_OWN = (
    Rule(
        "R101",
        "error",
        "A part of the fleet repo is a link or a special file.",
        "Links and submodules are not followed: two clones of one commit may find different content there. Replace"
        " the link with the file or folder itself.",
    ),
    Rule(
        "R102",
        "error",
        "A file or folder has a name under which it would not be read.",
        "Documents end in `.yaml`, and the folders are `sites`, `devices`, `deployments` and `applications`, in"
        " lower case. A document with another name would be ignored, and devices would remove what it asks for."
        " Rename it. README, `.md`, `.txt` and hidden files may be in the same folders.",
    ),
    Rule(
        "R103",
        "error",
        "A file does not have the name of what it contains.",
        "`devices/press-01.yaml` contains the device press-01. A reviewer sees the file's name first. Rename the"
        " file, or correct `metadata.name`.",
    ),
    Rule(
        "R104",
        "error",
        "Two documents have the same name.",
        "Two files define the same site, device or deployment. Remove one of them.",
    ),
    Rule(
        "R105",
        "error",
        "A package is in the wrong folder.",
        "The package of version V of the application A is `applications/A/V/`. `margo-gitops app add` puts it there.",
    ),
    Rule(
        "R106",
        "error",
        "A package is not pinned.",
        "`applications.lock` has no entry for it, so no one has decided which bytes of it to run. `margo-gitops"
        " app add` pins it.",
    ),
    Rule(
        "R107",
        "error",
        "A package is not what is pinned.",
        "Someone changed, added or removed a file of a vendored package after `margo-gitops app add`. If that was"
        " intended, raise the version in the package and add it again. Otherwise, restore the files.",
    ),
    Rule(
        "R108",
        "error",
        "A pinned package is missing.",
        "`applications.lock` pins a version that is not in `applications/`. Add the package again, or remove the"
        " entry.",
    ),
    Rule(
        "R109",
        "note",
        "An overlay matches no device of its deployment.",
        "Its parameters have no effect. Its selector may have a wrong label, or its devices may be in no placement any"
        " more. Correct `match`, or remove the overlay.",
    ),
    Rule(
        "R110",
        "error",
        "A calendar names a time zone that does not exist.",
        "`spec.maintenance.timeZone` is an IANA name such as `Europe/Berlin`. A device that does not know the zone"
        " never changes what runs, so the deployment would wait. Correct the name; if the name is right, install the"
        " time zones (tzdata) on this machine.",
    ),
    Rule(
        "R111",
        "note",
        "A deployment stops another one that is on none of its devices.",
        "`spec.stop` has no effect, because no device has both. The name or a placement may be wrong. Correct it, or"
        " remove the name from `spec.stop`.",
    ),
    Rule(
        "R114",
        "warning",
        "A parameter's value looks like a secret.",
        "Everyone who can read the fleet repo or its history can read the value. The parameter's name ends with a word"
        " such as `password`, or the value has the form of a key or token, or is long and random. Name the"
        " parameter in `spec.secretRefs`, put the value on the device or run `margo-gitops secret set`, and change the"
        " password itself. See docs/secrets.md. If it is not a secret, silence the warning in `spec.policy.silenced`.",
    ),
    Rule(
        "R201",
        "warning",
        "An image has no tag, or a tag that moves.",
        "With `latest`, `stable`, a branch name or no tag at all, the registry decides what runs. Two devices may"
        " run different images of one commit. Name a version and its digest: `image:1.2.3@sha256:…`.",
    ),
    Rule(
        "R202",
        "warning",
        "An image has a version, but no digest.",
        "Someone can push a tag again. Add the digest, which names exactly these bytes: `docker buildx imagetools"
        " inspect IMAGE` or `skopeo inspect docker://IMAGE` shows it.",
    ),
    Rule(
        "R203",
        "warning",
        "A service builds its image on the device.",
        "The result of a build depends on the day of the build. Build the image once, push it, and name it with"
        " its digest.",
    ),
    Rule(
        "R204",
        "error",
        "A compose file cannot be read.",
        "It is too large or not YAML, so Compose refuses it, and its images are unknown. The message says why.",
    ),
    Rule(
        "R205",
        "warning",
        "A component is fetched by a URL without a digest.",
        "`packageLocation` is Margo's older spelling: the server decides what it sends. Put the content into the"
        " package, or name it by `url` and `digest` in the component's `x-margo-gitops-extensions`.",
    ),
    Rule(
        "R206",
        "note",
        "A component is fetched from a registry by its tag.",
        "Margo names components by repository and revision, and a registry may accept the same tag again. Forbid"
        " that in the registry (immutable tags), or put the content into the package.",
    ),
    Rule(
        "R207",
        "note",
        "A compose file or a chart is at a URL, so it is not checked.",
        "The archive has a digest, so it cannot change. But no one checked whether its images are pinned, or whether"
        " the chart can run. Put the content into the package to have it checked.",
    ),
    Rule(
        "R208",
        "error",
        "A compose file does not follow the Compose specification.",
        "Compose on the device would refuse it. The file is held against the schema that the Compose specification"
        " publishes, and each volume, network, secret, config and service that it names must be there. `app add`"
        " refuses such a package.",
    ),
    Rule(
        "R209",
        "error",
        "A parameter's pointer cannot be set.",
        "In a compose component a pointer is the name of an environment variable, `PORT` or `ENV.PORT`; the compose"
        " file uses it as `${PORT}`. No device can set `PORTS.80`, nor a variable that steers Compose itself, such as"
        " `DOCKER_HOST`.",
    ),
    Rule(
        "R210",
        "error",
        "A compose file uses a variable that nothing sets.",
        "Devices give Compose the parameters of the component and nothing else, so the variable is empty there. It is"
        " an error in the name of an image, or where the file asks for a value (`${NAME:?}`), and a warning elsewhere."
        " Correct the name, add a parameter, or write a default: `${NAME:-default}`.",
    ),
    Rule(
        "R211",
        "warning",
        "A parameter sets a variable that the compose file does not use.",
        "Its value has no effect. Use the variable in the compose file, or correct the pointer.",
    ),
    Rule(
        "R212",
        "error",
        "A service may write into the package.",
        "A device replaces the package at each update, so what a service wrote into a folder of it would be lost."
        " Mount the folder read-only (`./conf:/etc/app:ro`), and keep data in a named volume. Devices refuse such a"
        " file, too.",
    ),
    Rule(
        "R213",
        "error",
        "A Helm chart cannot be read.",
        "The content of a helm component is a chart: a folder with `Chart.yaml`, or a tar.gz with the chart as its"
        " one top-level folder, as `helm package` makes it. Its YAML must be correct, and the chart must not be too"
        " large.",
    ),
    Rule(
        "R214",
        "error",
        "A Chart.yaml does not fit its component.",
        "Margo takes charts of chart API v2. The chart has the name of the component, and the component's revision as"
        " its version. A library chart has nothing to install, nor has one without templates.",
    ),
    Rule(
        "R215",
        "error",
        "A parameter's pointer cannot be set in a chart.",
        "A pointer is a path of values.yaml, as `helm --set` reads it: `image.tag`, `hosts[0].name`. Two pointers"
        " cannot write one place, and none can write into what another one writes.",
    ),
    Rule(
        "R216",
        "warning",
        "A parameter sets a value that the chart does not have.",
        "values.yaml of the chart has no such value, so no template may use it. Helm accepts it, and the parameter"
        " has no effect. The same if it replaces a mapping by one value. Correct the pointer; the message has the"
        " nearest name.",
    ),
    Rule(
        "R217",
        "error",
        "Values do not follow the chart's schema.",
        "Helm refuses values that do not follow `values.schema.json` of the chart. Defaults of parameters are checked"
        " together with values.yaml. What values.yaml alone does wrong is a warning: a deployment may give the value.",
    ),
    Rule(
        "R218",
        "error",
        "A chart needs what only Helm does.",
        "Margo's charts must not depend on hooks, on `lookup`, or on what is in `crds/`, because a device may"
        " template a chart and apply the result. In a subchart it is a warning, because values decide whether it is"
        " used; so is a hook for `helm test`.",
    ),
    Rule(
        "R219",
        "error",
        "A dependency of a chart is missing.",
        "Devices and `plan` fetch nothing, so `charts/` must have each dependency that Chart.yaml names. Run `helm"
        " dependency build` before you add the package.",
    ),
    Rule(
        "R220",
        "warning",
        "A chart gives another result each time.",
        "A template uses chance or the time, such as `randAlphaNum` or `now`. So each update changes these objects,"
        " and restarts what uses them. `plan` cannot say what they will be. Make it a value; a password is a secret.",
    ),
    Rule(
        "R221",
        "error",
        "Kubernetes manifests cannot be used.",
        "The content of a component with `format: kubernetes` is a folder or a tar.gz with manifests. Each object has"
        " apiVersion, kind and a name, and appears once. Anchors, tags, `generateName`, and files of kustomize are"
        " refused (docs/kubernetes.md).",
    ),
    Rule(
        "R222",
        "error",
        "A parameter's pointer leads nowhere in the manifests.",
        "A pointer names an object and a field in it, such as `Deployment/web:spec.replicas`. The message has the"
        " objects that are there. A Secret that only secrets fill need not be there.",
    ),
    Rule(
        "R301",
        "note",
        "A freeze is over.",
        "`spec.policy.freezes` has a freeze that ended before the date of the change. It has no effect any more."
        " Remove it.",
    ),
    Rule(
        "R302",
        "warning",
        "The policy names a site that the fleet does not have.",
        "A rule or a freeze for a site with a wrong name reaches no device: the default applies there instead."
        " Correct the name, or remove the part from `spec.policy`.",
    ),
    Rule(
        "R303",
        "warning",
        "The policy silences a rule that does not exist.",
        "A line of `spec.policy.silenced` with a wrong rule silences nothing. Correct the rule, or remove the line.",
    ),
    Rule(
        "R304",
        "note",
        "The policy silences a warning that is not there.",
        "A line of `spec.policy.silenced` silences nothing: no such file has a warning of this rule. It would hide a"
        " warning that comes later. Remove it, or correct its files. Errors and notes are never silenced.",
    ),
)

_ERRORS: tuple[type[MargoGitopsError], ...] = (
    errors.InvalidDocument,
    errors.UnreadableDocument,
    errors.UnwritableValue,
    errors.PackageInvalid,
    errors.NotPlaceable,
    errors.AmbiguousProfile,
    errors.TemplateInvalid,
    errors.ParameterInvalid,
    errors.ParameterMissing,
    errors.ReferenceUnknown,
    errors.PolicyUnusable,
    errors.CommitNotSigned,
    errors.ReviewMissing,
    errors.SiteFrozen,
    errors.ApplicationNotAllowed,
    errors.RegistryNotAllowed,
    errors.StateTampered,
    errors.WorkloadForbidden,
    errors.TrustDocumentInvalid,
    errors.TrustDocumentUnsigned,
    errors.TrustDocumentForeign,
    errors.TrustDocumentGap,
)


def _of_error(error: type[MargoGitopsError]) -> Rule:
    title, _, text = (inspect.getdoc(error) or "").partition("\n\n")
    return Rule(error.code, "error", " ".join(title.split()), " ".join(text.split()))


RULES: dict[str, Rule] = {rule.id: rule for rule in (*map(_of_error, _ERRORS), *_OWN)}
"""Every rule, by its id."""
