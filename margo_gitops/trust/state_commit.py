"""What a commit of the state repo says about itself, as trailers of its message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from margo_gitops.trust.git_commit import GitCommit, format_trailers
from margo_gitops.values import dataclass, fields, replace

TRAILERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "state_commit": "State-Commit",
        "fleet": "Fleet",
        "fleet_commit": "Fleet-Commit",
        "rendered_by": "Rendered-By",
        "applications_lock": "Applications-Lock",
        "manifest_digest": "Manifest-Digest",
        "manifest_version": "Manifest-Version",
        "device": "Device",
        "trust_version": "Trust-Version",
    }
)
"""The trailer of each field of `StateCommit`, in the order in which they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCommit:
    """The trailers of a commit; None for one that it does not have.

    The commits of the branch `fleet` have the four that say where a render comes from. Device commits have all; the
    lock is missing where the fleet has none. Commits of freshness statements have `State-Commit` and `Fleet`.

    Attributes:
        state_commit: id of the commit of the branch `fleet`.
        fleet: the fleet's name.
        fleet_commit: id of the commit of the fleet repo that was rendered.
        rendered_by: the renderer and its version.
        applications_lock: digest of `applications.lock`.
        manifest_digest: digest of the manifest's bytes.
        manifest_version: the manifest's version, in decimal digits; as text, so that no other spelling equals it.
        device: the client's id.
        trust_version: version of the trust document at that time, in decimal digits; None in a fleet without one.
    """

    state_commit: str | None = None
    fleet: str | None = None
    fleet_commit: str | None = None
    rendered_by: str | None = None
    applications_lock: str | None = None
    manifest_digest: str | None = None
    manifest_version: str | None = None
    device: str | None = None
    trust_version: str | None = None

    @property
    def trust_number(self) -> int:
        """The version of the trust document as a number; 0 where the commit names none."""
        text = self.trust_version or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else 0

    @classmethod
    def of(cls, commit: GitCommit) -> StateCommit:
        """Return what a commit says; nothing is checked."""
        return cls(**{name: commit.trailers.get(trailer) for name, trailer in TRAILERS.items()})

    def trailers(self) -> dict[str, str]:
        """Return the trailers that are there, by name, in order."""
        values = ((trailer, getattr(self, name)) for name, trailer in TRAILERS.items())
        return {trailer: value for trailer, value in values if value is not None}

    def text(self) -> str:
        """Return the last paragraph of the commit's message (ValueError: a value is not one plain line)."""
        return format_trailers(self.trailers())

    def origin(self) -> StateCommit:
        """Return only what all commits of one render share."""
        return replace(self, state_commit=None, manifest_digest=None, manifest_version=None, device=None)

    def differences(self, other: StateCommit) -> Iterator[tuple[str, str | None, str | None]]:
        """Yield the trailer, this value and the other one, for each field in which two commits differ."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                yield TRAILERS[each.name], mine, theirs
