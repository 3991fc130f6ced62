"""The rules that `margo-gitops validate` checks, and their ids; docs/rules.md is written from this table.

A rule that is an error of the tree has that error's code; the others have ids of their own: R1 the files of the fleet
repo and how they fit together, R2 what is not pinned, so that the same commit may run something else tomorrow; R3 the
fleet's policy.
Ids are stable: an id is never reused for another meaning.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

from margo_gitops import errors
from margo_gitops.errors import MargoGitopsError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        id: stable.
        severity: "error" refuses the fleet; "warning" may do harm later; "note" is worth knowing.
        title: one sentence.
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
        "Something in the fleet repo is a link or a special file.",
        "Links and submodules are not followed: what they lead to may differ between two clones of one commit. Replace"
        " it by the file or folder itself.",
    ),
    Rule(
        "R102",
        "error",
        "A file or folder has a name under which it would not be read.",
        "Documents end in `.yaml`, and the folders are `sites`, `devices`, `deployments` and `applications`, in lower"
        " case. Under another name a document would be ignored, and what it asks for be removed from devices. Rename"
        " it; README, `.md`, `.txt` and hidden files may stand beside documents.",
    ),
    Rule(
        "R103",
        "error",
        "A file is not named after what it holds.",
        "`devices/press-01.yaml` holds the device press-01. A reviewer sees the file's name first. Rename the file, or"
        " correct `metadata.name`.",
    ),
    Rule(
        "R104",
        "error",
        "A name stands twice.",
        "Two files define the same site, device or deployment. Remove one of them.",
    ),
    Rule(
        "R105",
        "error",
        "A package lies in a folder that is not its own.",
        "The package of version V of the application A is `applications/A/V/`. `margo-gitops app add` puts it there.",
    ),
    Rule(
        "R106",
        "error",
        "A package is not pinned.",
        "`applications.lock` has no entry for it, so nobody has decided which bytes of it to run. `margo-gitops app"
        " add` pins it.",
    ),
    Rule(
        "R107",
        "error",
        "A package is not what is pinned.",
        "A file of a vendored package was changed, added or removed since `margo-gitops app add`. If that was meant,"
        " raise the version in the package and add it again; else put the files back.",
    ),
    Rule(
        "R108",
        "error",
        "A pinned package is not there.",
        "`applications.lock` pins a version that is not in `applications/`. Add the package again, or remove the"
        " entry.",
    ),
    Rule(
        "R201",
        "warning",
        "An image has a tag that moves, or none.",
        "`latest`, `stable`, a branch name or no tag at all: the registry decides what runs, and two devices may run"
        " different images of one commit. Name a version and its digest: `image:1.2.3@sha256:…`.",
    ),
    Rule(
        "R202",
        "warning",
        "An image has a version, but no digest.",
        "A tag can be pushed again. Add the digest, which names these very bytes: `docker buildx imagetools inspect"
        " IMAGE` or `skopeo inspect docker://IMAGE` shows it.",
    ),
    Rule(
        "R203",
        "warning",
        "A service builds its image on the device.",
        "What a build makes depends on the day it is done. Build the image once, push it, and name it with its digest.",
    ),
    Rule(
        "R204",
        "warning",
        "A compose file cannot be looked into.",
        "It is too large or not YAML, so nothing is known of its images. The message says why.",
    ),
    Rule(
        "R205",
        "warning",
        "A component is fetched by a URL without a digest.",
        "`packageLocation` is Margo's older spelling: the server decides what it sends. Bring the content along in the"
        " package, or name it by `url` and `digest` in the component's `x-margo-gitops-extensions`.",
    ),
    Rule(
        "R206",
        "note",
        "A component is fetched from a registry by its tag.",
        "Margo names components by repository and revision, and a registry may let a tag be pushed again. Forbid that"
        " in the registry (immutable tags), or bring the content along in the package.",
    ),
    Rule(
        "R207",
        "note",
        "A compose file lies at a URL, so its images are not looked at.",
        "The archive has a digest, so it cannot change; whether the images in it are pinned, nobody checked. Bring the"
        " content along in the package to have it checked.",
    ),
    Rule(
        "R301",
        "note",
        "A freeze is over.",
        "`spec.policy.freezes` holds one whose end is before the date of the change. It forbids nothing any more."
        " Remove it.",
    ),
    Rule(
        "R302",
        "warning",
        "The policy names a site that the fleet does not have.",
        "A rule for a site, or a freeze of one, reaches no device where the name is wrong: the default holds there"
        " instead. Correct the name, or take the part out of `spec.policy`.",
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
)


def _of_error(error: type[MargoGitopsError]) -> Rule:
    title, _, text = (inspect.getdoc(error) or "").partition("\n\n")
    return Rule(error.code, "error", " ".join(title.split()), " ".join(text.split()))


RULES: dict[str, Rule] = {rule.id: rule for rule in (*map(_of_error, _ERRORS), *_OWN)}
"""Every rule, by its id."""
