"""Push a package, with its components, to the registries that they belong to.

SUPPLY-1  A version is published once: where it has other content, nothing is pushed unless the caller says so.
SUPPLY-2  Components come first, so that a package never names what is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from margo_gitops.digests import sha256
from margo_gitops.errors import RegistryLacks, VersionPublished
from margo_gitops.packaging.layout import Layout, Pushable
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.pushing import push
from margo_gitops.registry.references import Reference
from margo_gitops.registry.signatures import sign
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was pushed.

    Attributes:
        outcome: "pushed", "replaced" or "unchanged".
    """

    name: str
    reference: Reference
    outcome: str


def push_package(client: RegistryClient, layout: Layout, *, replace: bool = False) -> list[Pushed]:
    """Push everything of a package; return what, the package last.

    Raises:
        VersionPublished: a version is there with other content, and may not be replaced; nothing was pushed.
        TransportError: a registry does not take it.
    """
    every = (*layout.components, layout.package)
    there = [_there(client, each) for each in every]
    changed = [each for each, found in zip(every, there, strict=True) if found not in (None, sha256(each.manifest))]
    if changed and not replace:
        raise VersionPublished(
            f"{changed[0].place} is published with other content",
            why=[f"{each.name}: {each.place}" for each in changed],
            remedy="raise the version; a version is published once. Or pass --replace",
        )
    return [_push(client, each, found) for each, found in zip(every, there, strict=True)]


def sign_package(client: RegistryClient, pushed: Sequence[Pushed], key: bytes, *, by_tag: bool) -> list[Reference]:
    """Sign what was pushed; return where the signatures are.

    Raises:
        PackageKeyUnusable: the key cannot be used.
        TransportError: a registry does not take it.
    """
    return [sign(client, each.reference, key, by_tag=by_tag) for each in pushed]


def _there(client: RegistryClient, each: Pushable) -> str | None:
    with suppress(RegistryLacks):
        return client.fetch(each.place).digest
    return None


def _push(client: RegistryClient, each: Pushable, there: str | None) -> Pushed:
    digest = sha256(each.manifest)
    reference = Reference(each.place.host, each.place.repository, each.place.tag, digest)
    if there == digest:
        return Pushed(each.name, reference, "unchanged")
    return Pushed(
        each.name, push(client, each.place, each.manifest, each.blobs), "pushed" if there is None else "replaced"
    )
