"""Documents as ruamel.yaml holds them, changed in place so that everything untouched keeps its style."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import SequenceMatcher

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, PlainScalarString, ScalarString, SingleQuotedScalarString

from margo_gitops.documents.nodes import Json, exact
from margo_gitops.documents.yaml_scalars import write_number, write_text
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import UnreadableDocument
from margo_gitops.values import dataclass

_PLAIN = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?|\d+(\.\d+)? [KMGTPE]i")
"""Versions and amounts are text to every reader, and people write them without quotes."""

_INLINE = 60
"""Characters of a list that is on one line in a new document."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number in the spelling that every reader takes for the same number; no text, or it would inherit quotes."""

    text: str


class NodeRepresenter(RoundTripRepresenter):
    """The round-trip representer, with numbers as this project writes them."""


def _represent_number(representer: RoundTripRepresenter, number: Number) -> ScalarNode:
    tag = "int" if number.text.lstrip("-").isdigit() else "float"
    return representer.represent_scalar(f"tag:yaml.org,2002:{tag}", number.text)


def _represent_null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


NodeRepresenter.add_representer(Number, _represent_number)
NodeRepresenter.add_representer(type(None), _represent_null)


def fresh(value: Json, *, new_file: bool = False) -> object:
    """Return a value in the style of new text; as people write it in a new file, otherwise as our writer does."""
    if isinstance(value, dict):
        mapping = CommentedMap((_text(key), fresh(child, new_file=new_file)) for key, child in value.items())
        if not value:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        items = CommentedSeq(fresh(child, new_file=new_file) for child in value)
        if _is_inline(value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, str):
        return PlainScalarString(value) if new_file and _PLAIN.fullmatch(value) else _text(value)
    return value if isinstance(value, bool) or value is None else Number(write_number(value))


def _is_inline(value: list[Json]) -> bool:
    scalars = all(not isinstance(child, (dict, list)) for child in value)
    return scalars and len(json.dumps(value, ensure_ascii=False)) <= _INLINE


def _text(text: str) -> str:
    styled: str = PlainScalarString(text) if write_text(text) == text else DoubleQuotedScalarString(text)
    return styled


def change(node: object, before: Json, after: Json) -> object:
    """Return `node` with another value; what is the same before and after is not touched."""
    if isinstance(node, CommentedMap) and isinstance(before, dict) and isinstance(after, dict):
        _change_mapping(node, before, after)
        return node
    if isinstance(node, CommentedSeq) and isinstance(before, list) and isinstance(after, list):
        _change_list(node, before, after)
        return node
    return node if exact(before) == exact(after) else _replaced(node, after)


def _change_mapping(node: CommentedMap, before: Mapping[str, Json], after: Mapping[str, Json]) -> None:
    for key in before.keys() - after.keys():
        del node[key]
    if not before and after:
        node.fa.set_block_style()
    for key, value in after.items():
        if key not in before:
            node[_text(key)] = fresh(value)
        elif exact(before[key]) != exact(value):
            node[key] = change(node[key], before[key], value)
    if not after:
        node.fa.set_flow_style()


def _change_list(node: CommentedSeq, before: list[Json], after: list[Json]) -> None:
    old, new = [exact(item) for item in before], [exact(item) for item in after]
    for tag, first, last, begin, end in reversed(SequenceMatcher(None, old, new, autojunk=False).get_opcodes()):
        if tag == "equal":
            continue
        if tag == "replace" and last - first == end - begin:
            for at, into in zip(range(first, last), range(begin, end), strict=True):
                node[at] = change(node[at], before[at], after[into])
            continue
        for _ in range(first, last):
            del node[first]
        for offset, item in enumerate(after[begin:end]):
            node.insert(first + offset, fresh(item))
    if not after:
        node.fa.set_flow_style()
    elif not before and not _is_inline(after):
        node.fa.set_block_style()


def _replaced(node: object, after: Json) -> object:
    """Return a new value in the style of the one it replaces, where that can hold it."""
    if not isinstance(after, str) or "\n" in after:
        return fresh(after)
    if isinstance(node, DoubleQuotedScalarString):
        return DoubleQuotedScalarString(after)
    if isinstance(node, SingleQuotedScalarString) and after.isprintable():
        return SingleQuotedScalarString(after)
    if isinstance(node, str) and not isinstance(node, ScalarString) and _reads_as_itself(after):
        return PlainScalarString(after)
    return _text(after)


def _reads_as_itself(text: str) -> bool:
    """Whether text needs no quotes, in a block and in brackets."""
    try:
        documents = [read_yaml(form.encode(), "").root.plain() for form in (f"- {text}\n", f"[{text}]\n")]
    except (UnreadableDocument, ValueError):
        return False
    return documents == [[text], [text]]
