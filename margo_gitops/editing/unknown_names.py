"""Names that the fleet does not have, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from margo_gitops.errors import ReferenceUnknown


def unknown(what: str, name: str, known: Iterable[str]) -> ReferenceUnknown:
    """Return the error for a name that the fleet does not have, with a near match."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 3, 0.8)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    some = f"{', '.join(names[:8])}{more}" if names else "none"
    remedy = f"did you mean {' or '.join(close)}?" if close else f"known: {some}"
    return ReferenceUnknown(f"{name} is no {what} of this fleet", remedy=remedy)
