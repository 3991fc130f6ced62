r"""What parameters are to a Helm chart: the values that pointers name. Pure.

HELM-VALUE-1  A pointer is a path as `helm --set` reads it: `a.b`, `a[0].b`; a backslash takes the next letter as it is.
HELM-VALUE-2  A value keeps its type: a text of digits stays a text, a number a number, a list a list.
HELM-VALUE-3  No pointer writes what another one writes, or writes into.
HELM-VALUE-4  Helm replaces a list as a whole, so the pointers into one name each item from 0 on.
HELM-VALUE-5  Helm reads each number of a file as a float, and writes 1000000 as 1e+06. With `--set` it stays a number.

Source: Margo application description, pointer (of a Helm component: a path in values.yaml).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.nodes import Json

ValuePath: TypeAlias = tuple[str | int, ...]

_DEEPEST: Final = 30  # Helm's own limit
_MOST_DIGITS: Final = 5
_FIRST_AS_FLOAT: Final = 10**6
_LARGEST: Final = 2**63 - 1


class PointerMistake(ValueError):
    """A pointer that is not a path, or that does not fit another one; the text is a sentence about it."""


def pointer_path(pointer: str) -> ValuePath:
    """Return the keys and indexes of a pointer (PointerMistake: it is not a path)."""
    path: list[str | int] = []
    rest = pointer
    while True:
        key, rest = _key(pointer, rest)
        path.append(key)
        while rest.startswith("["):
            digits, closed, rest = rest[1:].partition("]")
            if not closed or not (digits.isascii() and digits.isdecimal()) or len(digits) > _MOST_DIGITS:
                raise PointerMistake(f"{pointer} has an index that is not a number in brackets")
            path.append(int(digits))
        if len(path) > _DEEPEST:
            raise PointerMistake(f"{pointer} has more than {_DEEPEST} parts")
        if not rest:
            return tuple(path)
        if not rest.startswith("."):
            raise PointerMistake(f"{pointer} has an index, and no dot after it")
        rest = rest[1:]


def values_of(values: Iterable[tuple[str, ParameterValue]]) -> dict[str, Json]:
    """Return the values that pairs of pointer and value are, nested as in values.yaml.

    Raises:
        PointerMistake: a pointer is not a path, two do not fit each other, there is a gap in a list, or a number is too
            large.
    """
    places: dict[ValuePath, tuple[str, str]] = {}
    tree: dict[str | int, object] = {}
    for pointer, value in values:
        path = pointer_path(pointer)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int) and abs(each) > _LARGEST:
                raise PointerMistake(f"{pointer} gets {each}, which is larger than any number that Helm reads")
        node = tree
        for length, part in enumerate(path, 1):
            kind = "value" if length == len(path) else "list" if isinstance(path[length], int) else "mapping"
            held = places.setdefault(path[:length], (kind, pointer))
            if held[0] != kind or (kind == "value" and part in node):
                raise PointerMistake(f"{held[1]} and {pointer} write the same place, or one writes into the other")
            if kind == "value":
                node[part] = _Value(list(value) if isinstance(value, tuple) else value)
            else:
                child = node.setdefault(part, {})
                if isinstance(child, dict):
                    node = child
    return {str(key): _plain(child, (key,), places) for key, child in tree.items()}


def large_numbers(values: Mapping[str, Json]) -> Iterator[str]:
    """Yield what `--set` must say in addition to a file with `values`, so that no number changes (HELM-VALUE-5)."""
    yield from _large(values, "")


class _Value:
    """What a pointer writes; apart from mappings on the way to it."""

    def __init__(self, value: Json) -> None:
        self.value = value


def _key(pointer: str, rest: str) -> tuple[str, str]:
    letters = []
    position = 0
    while position < len(rest) and rest[position] not in ".[":
        if rest[position] in ",=]":
            raise PointerMistake(f"{pointer} has {rest[position]} in it: write a backslash before it")
        position += rest[position] == "\\"
        if position == len(rest):
            raise PointerMistake(f"{pointer} ends with a backslash")
        letters.append(rest[position])
        position += 1
    if not letters:
        raise PointerMistake(f"{pointer} has an empty part")
    return "".join(letters), rest[position:]


def _plain(node: object, path: ValuePath, places: Mapping[ValuePath, tuple[str, str]]) -> Json:
    if isinstance(node, _Value):
        return node.value
    children = node if isinstance(node, dict) else {}
    if places[path][0] == "mapping":
        return {str(key): _plain(child, (*path, key), places) for key, child in children.items()}
    missing = next(index for index in range(len(children) + 1) if index not in children)
    if missing < len(children):
        pointer = places[(*path, max(children))][1]
        raise PointerMistake(f"{pointer} is an item of a list, and nothing writes its item {missing}")
    return [_plain(children[index], (*path, index), places) for index in range(len(children))]


def _large(value: Json | Mapping[str, Json], path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            name = "".join(f"\\{letter}" if letter in ".[],=\\" else letter for letter in key)
            yield from _large(child, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _large(child, f"{path}[{index}]")
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _FIRST_AS_FLOAT:
        yield f"{path}={value}"
