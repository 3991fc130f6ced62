"""How a device fetches large artifacts: mirrors, limits by time of day, and room that is kept (docs/artifacts.md)."""

from __future__ import annotations

from typing import Annotated, Final

from margo_gitops.documents.declarations import About, Items, Range, Text, Wire
from margo_gitops.documents.maintenance import Maintenance
from margo_gitops.settings import FilePath
from margo_gitops.values import dataclass

_MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimit:
    """How fast artifacts may be fetched, in some hours or always."""

    kilobytes_per_second: Annotated[
        int, About("For all that is fetched together; 0: nothing is fetched.", (125,)), Range(minimum=0)
    ]
    hours: Annotated[Maintenance | None, About("When it holds: windows without blackouts. Absent: at any time.")] = None


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """How large artifacts are fetched."""

    mirrors: Annotated[
        tuple[
            Annotated[str, Text(pattern=r"^https?://[^/@?#]+(/[^?#]*)?/$", what="a http(s):// URL that ends with /")],
            ...,
        ],
        About(
            "Servers that are asked first, for the digest's 64 hex digits below this URL. They need not be trusted.",
            (["http://cache.north.example/artifacts/"],),
        ),
        Items(maximum=8),
    ] = ()
    limits: Annotated[
        tuple[FetchLimit, ...], About("The first one whose hours it is holds; without one, no limit."), Items(maximum=8)
    ] = ()
    keep_free: Annotated[
        int, Wire("keepFreeMebibytes"), About("Room on the disk that is kept for what runs, in MiB."), Range(minimum=0)
    ] = 256
    ca_file: Annotated[FilePath | None, About("Certificates (PEM) to trust instead of the system's.")] = None

    @property
    def keep_free_bytes(self) -> int:
        """Room on the disk that is kept."""
        return self.keep_free * _MEBIBYTE
