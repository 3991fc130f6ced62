"""A copy of a device is noticed by its boots: one machine never goes back to a boot that it has left.

CLONE-1  A device names its boot in each request. A boot that comes again after another one means two machines with one
         credential, or one that was set back to an earlier moment of its memory.
CLONE-2  What is remembered is bounded, for each device and for all. Requests without a boot say nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from margo_gitops.cache import SizedCache
from margo_gitops.documents.state_layout import BOOT_HEADER
from margo_gitops.server.identity.callers import header

if TYPE_CHECKING:
    from starlette.types import Scope

_MOST_DEVICES: Final = 200_000
_MOST_BOOTS: Final = 8
_HEADER: Final = BOOT_HEADER.lower().encode()
_BOOT = re.compile(r"[0-9A-Za-z-]{8,64}")


class BootWatch:
    """The latest boots with each credential, the current one last; in memory."""

    def __init__(self) -> None:
        self._boots: SizedCache[tuple[str, str | None], tuple[str, ...]] = SizedCache(_MOST_DEVICES)

    def sees_copy(self, client: str, scope: Scope) -> bool:
        """Take a request of a device; return whether it shows that there are two (CLONE-1)."""
        boot, credential = header(scope, _HEADER), (client, header(scope, b"authorization"))
        if boot is None or not _BOOT.fullmatch(boot):
            return False
        boots = self._boots.get(credential) or ()
        if boots[-1:] == (boot,):
            return False
        self._boots.put(credential, (*(each for each in boots if each != boot), boot)[-_MOST_BOOTS:])
        return boot in boots
