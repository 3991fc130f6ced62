"""Large files of a deployment: a model, a recipe set; by digest, outside of the deployment document. Pure.

    artifacts:
      - name: model.onnx
        urls: ["https://files.plant.example/models/model-7.onnx"]
        digest: sha256:…
        sizeBytes: 2147483648
        index: {digest: "sha256:…", sizeBytes: 2621440}

`margo-gitops artifact add` writes an entry. What a device does with it is in docs/artifacts.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from margo_gitops.digests import DIGEST_PATTERN, Digest
from margo_gitops.documents.declarations import About, Items, Problem, Range, Text
from margo_gitops.values import dataclass

MOST_ARTIFACTS: Final = 32
"""Of one deployment."""
ARTIFACT_FOLDER: Final = "/run/artifacts"
"""Where a container finds its artifacts, by name."""
_LARGEST: Final = 2**50
_DIGEST: Final = Text(pattern=DIGEST_PATTERN, what="a digest, sha256: and 64 lower-case hex digits")


@dataclass(frozen=True, slots=True)
class ArtifactIndex:
    """The chunk index of an artifact, next to it under its name and `.caibx`: a changed file is fetched in parts."""

    digest: Annotated[Digest, About("Of the index."), _DIGEST]
    size_bytes: Annotated[int, About("Its size."), Range(minimum=1, maximum=64 * 1024 * 1024)]


@dataclass(frozen=True, slots=True)
class LargeArtifact:
    """A large file that a device fetches before it installs the deployment, and gives to it read-only."""

    name: Annotated[
        str,
        About("The file's name for the workload.", ("model.onnx",)),
        Text(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", what="a file's name, in letters, digits and . _ -"),
    ]
    urls: Annotated[
        tuple[
            Annotated[str, Text(pattern=r"^(https|file|oci)://.+", what="an https://, file:// or oci:// URL")],
            ...,
        ],
        About("Where it is, best first.", (["https://files.plant.example/models/model-7.onnx"],)),
        Items(minimum=1, maximum=8),
    ]
    digest: Annotated[Digest, About("Of the file."), _DIGEST]
    size_bytes: Annotated[int, About("Its size."), Range(minimum=1, maximum=_LARGEST)]
    index: Annotated[ArtifactIndex | None, About("Its chunk index; absent: a change of it is fetched as a whole.")] = (
        None
    )
    components: Annotated[tuple[str, ...], About("Which components get it. Default: all of the profile.")] = ()

    @property
    def variable(self) -> str:
        """The variable that tells a container its path: `ARTIFACT_MODEL_ONNX`."""
        return "ARTIFACT_" + re.sub("[^A-Z0-9]", "_", self.name.upper())


LargeArtifacts = Annotated[
    tuple[LargeArtifact, ...],
    Items(unique="name", noun="artifact", any_case=True, maximum=MOST_ARTIFACTS),
    About("Large files that its components get, read-only ([artifacts](artifacts.md))."),
]


def same_variables(artifacts: tuple[LargeArtifact, ...]) -> Iterator[Problem]:
    """Yield artifacts whose names lead to one variable."""
    seen: dict[str, str] = {}
    for place, each in enumerate(artifacts):
        if seen.setdefault(each.variable, each.name) != each.name:
            text = f"{each.name} and {seen[each.variable]} would both be the variable {each.variable}"
            yield Problem(("artifacts", place, "name"), text, "choose another name")
