"""How much of a hostile server's answer is taken before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024
# Header and padding of one file in a tar archive.
_TAR_FILE = 1024
# What gzip and chunks may add to content that does not compress.
_PACKING = 64 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on one pull, the same as those of trust (T-1); each is checked before the memory is allocated.

    Attributes:
        manifest_bytes: size of the manifest, decoded.
        deployment_bytes: size of each deployment, decoded.
        deployments: how many a manifest may list.
        total_bytes: size of all deployments together.
        problem_bytes: size of what a server says with an error.
    """

    manifest_bytes: int = _MIB
    deployment_bytes: int = _MIB
    deployments: int = 1000
    total_bytes: int = 8 * _MIB
    problem_bytes: int = 64 * 1024

    @property
    def archive_bytes(self) -> int:
        """Size of a bundle, unpacked from gzip."""
        return self.total_bytes + self.deployments * _TAR_FILE + _PACKING

    @property
    def bundle_bytes(self) -> int:
        """Size of a bundle as served."""
        return self.archive_bytes + _PACKING
