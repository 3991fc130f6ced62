"""Read an application package from a registry: from any supplier, so every byte is bounded and verified.

PULL-1  A package has at most as many files and bytes as one in a folder. Each blob has the digest that the manifest
        says, and the manifest the one that the reference says, if it says one.
PULL-2  Names of files are relative paths without `..`; a name that comes twice is refused.
PULL-3  Where a key is given, a signature by it comes first: nothing else of the package is read before.
"""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.catalog.package import DESCRIPTION_FILE, MAX_BYTES, MAX_FILES
from margo_gitops.documents.versions import version_key
from margo_gitops.errors import PackageInvalid
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.manifests import DESCRIPTION_LAYER, PACKAGE, Descriptor
from margo_gitops.registry.references import Reference
from margo_gitops.registry.signatures import verify
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import byte_count

_NAME: Final = re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[^/\\\0\n\r]+(?:/[^/\\\0\n\r]+)*")
_MOST_TOGETHER: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchedPackage:
    """A package from a registry.

    Attributes:
        files: by path in the package.
        reference: with the digest of its manifest.
    """

    files: dict[str, bytes]
    reference: Reference


def fetch_package(client: RegistryClient, reference: Reference, *, key: bytes | None = None) -> FetchedPackage:
    """Return a package.

    Args:
        key: the public key (PEM) that must have signed it; None: a signature is not needed.

    Raises:
        PackageInvalid: what is there is not an application package.
        PackageUnsigned, PackageSignatureRefused: no right signature.
        TransportError: there is no usable answer.
    """
    if key is not None:
        reference = replace(reference, digest=verify(client, reference, key))
    manifest, _, digest = client.manifest(reference)
    reference = replace(reference, digest=digest)
    if manifest.kind != PACKAGE:
        raise PackageInvalid(
            f"{reference} is not an application package",
            why=[f"its type is {manifest.kind}"],
            remedy="name the repository of the package, not that of a component or an image",
        )
    layers = {_name(layer, reference): layer for layer in manifest.layers}
    sizes = [layer.size for layer in layers.values()]
    if len(manifest.layers) > min(len(layers), MAX_FILES):
        raise PackageInvalid(f"{reference} has a file twice, or more than {MAX_FILES} files")
    if max(sizes, default=0) > MAX_BYTES or sum(sizes) > _MOST_TOGETHER:
        raise PackageInvalid(f"{reference} is larger than a package may be: {byte_count(sum(sizes))}")
    files = {name: client.content(reference, layer.digest, layer.size) for name, layer in layers.items()}
    return FetchedPackage(files, reference)


def _name(layer: Descriptor, reference: Reference) -> str:
    name = layer.title or (DESCRIPTION_FILE if layer.media_type == DESCRIPTION_LAYER else "")
    name = name.removeprefix("./")
    if layer.media_type == DESCRIPTION_LAYER:
        name = DESCRIPTION_FILE  # the standard lets a supplier call it as he likes
    if not _NAME.fullmatch(name):
        raise PackageInvalid(f"{reference} has a file without a usable name", why=[repr(name[:100])])
    return name


def newer_versions(client: RegistryClient, reference: Reference, version: str) -> list[str]:
    """Return the versions of a package that are newer than one, the newest first (TransportError: no usable answer)."""
    own = version_key(version)
    tags = [tag for tag in client.tags(reference) if not tag.startswith("sha256-") and re.match(r"v?[0-9]", tag)]
    return sorted((tag for tag in tags if version_key(tag) > own), key=version_key, reverse=True)
