"""Write YAML as exact bytes: one value, one spelling, the same to every reader.

Block style, two spaces, keys in the order given, lists indented below their key, text quoted unless it is plainly text,
no line folding, one newline at the end. The bytes depend on nothing but the value: no library version, locale or
platform takes part, because these bytes have digests (Margo desired state, exact bytes rule).
"""

from __future__ import annotations

from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_scalars import write_number, write_text
from margo_gitops.errors import UnwritableValue

_IMPLICIT_KEY_LENGTH = 1000
"""Readers look for the colon in the first 1024 characters only (YAML 1.2.2 section 7.4.2); longer keys need `?`."""


class Prewritten(dict[str, Json]):
    """A mapping that stands in many documents: its lines are made once for each indentation.

    It must not change any more once it was written.
    """

    def __init__(self, value: dict[str, Json]) -> None:
        super().__init__(value)
        self._lines: dict[str, list[str]] = {}

    def lines(self, indent: str) -> list[str]:
        """Return the mapping's lines."""
        if indent not in self._lines:
            self._lines[indent] = []
            _block(dict(self), indent, self._lines[indent])
        return self._lines[indent]


def write_yaml(value: Json) -> bytes:
    """Return the exact bytes of a document.

    Raises:
        UnwritableValue: a number that is not finite or beyond 64 bits, or text with a lone surrogate.
    """
    lines: list[str] = []
    try:
        if isinstance(value, (dict, list)) and value:
            _block(value, "", lines)
        else:
            lines.append(_inline(value))
    except ValueError as error:
        raise UnwritableValue("a value cannot be written as YAML", why=[str(error)]) from error
    lines.append("")
    return "\n".join(lines).encode()


def _block(value: dict[str, Json] | list[Json], indent: str, lines: list[str]) -> None:
    if isinstance(value, Prewritten):
        lines += value.lines(indent)
        return
    if isinstance(value, dict):
        for key, child in value.items():
            name = write_text(key)
            if len(name) > _IMPLICIT_KEY_LENGTH:
                lines.append(f"{indent}? {name}")
                name = ""
            head = f"{indent}{name}:"
            if isinstance(child, (dict, list)) and child:
                lines.append(head)
                _block(child, indent + "  ", lines)
            else:
                lines.append(f"{head} {_inline(child)}")
        return
    for child in value:
        if isinstance(child, (dict, list)) and child:
            start = len(lines)
            _block(child, indent + "  ", lines)
            # The first line of the item moves up behind its dash.
            lines[start] = f"{indent}- {lines[start][len(indent) + 2 :]}"
        else:
            lines.append(f"{indent}- {_inline(child)}")


def _inline(value: Json) -> str:
    if isinstance(value, str):
        return write_text(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return write_number(value)
    return "{}" if isinstance(value, dict) else "[]"
