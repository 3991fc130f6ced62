"""Write JSON as exact bytes: RFC 8785 (keys sorted, no white space, shortest escapes).

Margo names RFC 8785 for manifests so that equal manifests have equal ETags. Integers are written in full up to 64 bits:
RFC 8785 would pass them through a double and lose `manifestVersion` above 2^53, which Margo allows up to 2^64 - 1.
"""

from __future__ import annotations

import json

from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.errors import UnwritableValue

_PLAIN_FROM, _PLAIN_UNTIL = 1e-4, 1e16
"""Between these, Python writes a float without an exponent."""


def write_json(value: Json) -> bytes:
    """Return the exact bytes of a JSON document, without a newline at the end.

    Raises:
        UnwritableValue: a float below 0.0001 or above 10^16, an integer beyond 64 bits, or text with a lone surrogate.
    """
    try:
        return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise UnwritableValue("a value cannot be written as JSON", why=[str(error)]) from error


def _ordered(value: Json) -> Json:
    if isinstance(value, dict):
        # RFC 8785 section 3.2.3: keys are sorted by their UTF-16 code units.
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{value} needs more than 64 bits")
    return value


def _number(value: float) -> Json:
    """Return a number that `json` writes as RFC 8785 section 3.2.2.3 has it, where Python's form is that one."""
    if abs(value) >= _PLAIN_UNTIL or 0 < abs(value) < _PLAIN_FROM or value != value:
        raise ValueError(f"{value} is too large or too small a number")
    return int(value) if value.is_integer() else value
