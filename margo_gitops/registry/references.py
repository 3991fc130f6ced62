"""Where something is in a registry: `oci://host[:port]/repository[:tag][@sha256:…]`. Pure.

The grammar is the one of OCI distribution and Docker's reference: a host, lower-case path components, a tag of at most
128 characters. The registry is always named: no host is guessed.
"""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.digests import Digest, parse_digest
from margo_gitops.errors import ReferenceInvalid
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

SCHEME: Final = "oci://"
HOST_PATTERN: Final = (
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
    r"(?::[0-9]{1,5})?"
)
REPOSITORY_PATTERN: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_LONGEST: Final = 255
_REFERENCE: Final = re.compile(
    f"({HOST_PATTERN})/({REPOSITORY_PATTERN})(?::({TAG_PATTERN}))?(?:@(sha256:[0-9a-f]{{64}}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository of a registry, and which of its manifests is meant.

    Attributes:
        host: with its port, where it is not the usual one; in lower case.
        tag: None: the digest says it, or no manifest is meant.
        digest: None: what the tag means now.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.host}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """What a registry calls the manifest: its digest, or its tag (ReferenceInvalid: it has neither)."""
        if not (name := self.digest or self.tag):
            raise ReferenceInvalid(f"{self} names no version", remedy=f"add a tag: {self}:1.0.0")
        return name

    @property
    def place(self) -> Reference:
        """The repository alone."""
        return Reference(self.host, self.repository)

    def at(self, name: str) -> Reference:
        """Return the manifest of this repository with a tag or a digest."""
        if name.startswith("sha256:"):
            return Reference(self.host, self.repository, None, parse_digest(name))
        return Reference(self.host, self.repository, name)


def parse_reference(text: str) -> Reference:
    """Return a reference.

    Raises:
        ReferenceInvalid: it is not one; credentials in it are not shown.
    """
    found = _REFERENCE.fullmatch(text.removeprefix(SCHEME)) if text.startswith(SCHEME) else None
    if found is None or len(found[2]) > _LONGEST:
        shown = f"{SCHEME}…{text[text.rindex('@') :]}" if "@" in text and "@sha256:" not in text else text
        raise ReferenceInvalid(
            f"{shortened(shown, 300)!r} is not a place in a registry",
            why=["it is oci://host[:port]/repository[:tag][@sha256:…], with the repository in lower case"],
            remedy="write it so, as oci://registry.example.com/acme/hello:1.4.0",
        )
    host, repository, tag, digest = found.groups()
    return Reference(host.lower(), repository, tag, parse_digest(digest) if digest else None)


def tag_of(version: str) -> str:
    """Return the tag of a version: SemVer's `+` is written `_` (Margo component properties, revision).

    Raises:
        ReferenceInvalid: no tag can be like that.
    """
    tag = version.replace("+", "_")
    if not re.fullmatch(TAG_PATTERN, tag):
        raise ReferenceInvalid(
            f"the version {shortened(version, 150)!r} cannot be the tag of a registry",
            remedy="use letters, digits, dots, dashes and underscores, at most 128",
        )
    return tag
