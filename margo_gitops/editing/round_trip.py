"""Change a YAML document and nothing else of its file: comments, order, quotes, indentation and line ends stay.

EDIT-1  The file is read by ruamel.yaml, changed where its value differs, and written in a normal form; only the lines
        in which the normal forms before and after differ are put into the file.
EDIT-2  Comment lines and empty lines are never removed; a comment behind a value stays while the value's line stays.
EDIT-3  This project's own reader reads the result again: it says exactly the new value, or the edit is refused.

A new document starts with the line that tells editors its schema, `# yaml-language-server: $schema=…`, where the
fleet's other documents have one.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from ruamel.yaml import YAML
from ruamel.yaml.emitter import Emitter
from ruamel.yaml.error import YAMLError

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.documents.declarations import API_VERSION
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import Json, Node
from margo_gitops.editing.edit import FileChange
from margo_gitops.editing.line_merge import lines_of_values, merge_edit
from margo_gitops.editing.yaml_nodes import NodeRepresenter, change, fresh
from margo_gitops.errors import EditImpossible, Location, NotEditable, UnreadableDocument

_NO_FOLDING = 1_000_000
"""Columns; longer than any line that a document may have."""


def rewritten(content: bytes, file: str, value: Json) -> bytes:
    """Return a document's file with another value.

    Raises:
        UnreadableDocument: the file is not such a document.
        NotEditable: it cannot be changed without losing something.
    """
    source = read_source(content, file)
    before = source.root.plain()
    if _same(before, value):
        return content
    ending = "\r\n" if b"\r\n" in content else "\n"
    text = content.decode()
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    last = [lines.pop()] if lines[-1] == "" else []
    try:
        if content.lstrip()[:1] == b"{" and _is_json(text):
            normal, edited = _json_lines(before), _json_lines(value)
        else:
            kept = [lines[at] for at in lines_of_values(lines)]
            normal, edited = _yaml_lines(source.root, kept, before, value)
        for whole_blocks in (False, True):
            merged = merge_edit(lines, normal, edited, whole_blocks=whole_blocks)
            made = ending.join([*merged, *last]).encode()
            if _says(made, file, value):
                return made
    except (YAMLError, ValueError) as error:
        raise _not_editable(file, str(error).splitlines()[0]) from error
    raise _not_editable(file, "the edit would change more than was asked for")


def _not_editable(file: str, why: str) -> NotEditable:
    return NotEditable(
        "the file cannot be edited by a command", where=Location(file), why=[why], remedy="edit it by hand"
    )


def document_and_spec(content: bytes, file: str, kind: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return the value of a document of the fleet repo and the `spec` in it, to be changed for `rewritten`.

    Raises:
        EditImpossible: the file holds no such document.
    """
    document = read_source(content, file).root.plain()
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(spec, dict):
        remedy = "see what is wrong with it: margo-gitops validate"
        raise EditImpossible(f"the file holds no {kind}", where=Location(file), remedy=remedy)
    return document, spec


def new_document(value: Json, header: str = "") -> bytes:
    """Return a new file that says `value`.

    Args:
        header: comment lines above it, each with its newline.
    """
    writer = _yaml(2, 4, 2)
    stream = io.StringIO()
    writer.dump(fresh(value, new_file=True), stream)
    return (header + stream.getvalue()).encode()


def new_resource(
    tree: RootTree, kind: Literal["Device", "Deployment"], path: str, metadata: dict[str, Json], spec: dict[str, Json]
) -> FileChange:
    """Return the change that adds a document to the fleet repo, with the schema line that its others have.

    Raises:
        EditImpossible: there is such a file, which cannot be read: its document is not known.
    """
    refuse_unreadable(tree, path)
    document: Json = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    return FileChange(path, None, new_document(document, schema_line(tree, kind.lower(), path)))


def refuse_unreadable(tree: RootTree, path: str) -> None:
    """Refuse a document that is not known, and whose file is there (EditImpossible)."""
    if tree.file(path) is not None:
        remedy = "see what is wrong with it: margo-gitops validate"
        raise EditImpossible("the file is there already, and cannot be read", where=Location(path), remedy=remedy)


def _says(content: bytes, file: str, value: Json) -> bool:
    try:
        return _same(read_source(content, file).root.plain(), value)
    except UnreadableDocument:
        return False


def _same(left: Json, right: Json) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _json_lines(value: Json) -> list[str]:
    return json.dumps(value, indent=2, ensure_ascii=False).split("\n")


def _yaml_lines(root: Node, lines: list[str], before: Json, value: Json) -> tuple[list[str], list[str]]:
    """Return the normal form without and with the edit."""
    writer = _yaml(*_indentation(root))
    document = writer.load("\n".join([*lines, ""]))
    normal = _dumped(writer, document)
    edited = _dumped(writer, change(document, before, value))
    return normal, edited


def _dumped(writer: YAML, document: object) -> list[str]:
    stream = io.StringIO()
    writer.dump(document, stream)
    return stream.getvalue().removesuffix("\n").split("\n")


class _Emitter(Emitter):
    """Writes long keys as short ones; YAML 1.2.2 allows 1,024 characters (section 7.4.2)."""

    MAX_SIMPLE_KEY_LENGTH = 1000


def _yaml(mapping: int, sequence: int, offset: int) -> YAML:
    writer = YAML(typ="rt", pure=True)
    writer.Emitter = _Emitter
    writer.Representer = NodeRepresenter
    writer.preserve_quotes = True
    writer.width = _NO_FOLDING
    writer.indent(mapping=mapping, sequence=sequence, offset=offset)
    return writer


def _indentation(root: Node) -> tuple[int, int, int]:
    """Return how a file is indented: columns of a mapping, of an item's content, and of its dash."""
    mappings: Counter[int] = Counter()
    lists: Counter[tuple[int, int]] = Counter()
    for node in root.walk():
        if not isinstance(node.value, dict):
            continue
        for child in node.value.values():
            if isinstance(child.value, dict) and child.value and child.line > child.key_line:
                first = next(iter(child.value.values()))
                mappings[first.key_column - child.key_column] += 1
            elif isinstance(child.value, list) and child.value and child.line > child.key_line:
                lists[child.value[0].column - child.key_column, child.column - child.key_column] += 1
    mapping = mappings.most_common(1)[0][0] if mappings else 2
    sequence, offset = lists.most_common(1)[0][0] if lists else (4, 2)
    if not (0 < mapping <= 9 and offset >= 0 and offset + 2 <= sequence <= 12):
        return 2, 4, 2
    return mapping, sequence, offset


_LINE = re.compile(rb"^#[ \t]*yaml-language-server:[ \t]*\$schema=(?P<schema>\S+)[ \t]*\r?$", re.MULTILINE)
_FOLDERS = {"device": "devices", "deployment": "deployments", "site": "sites"}
_ENOUGH = 50
"""Files that are looked into; a fleet either has the line in its files, or not."""


def schema_line(tree: RootTree, kind: str, path: str) -> str:
    """Return the line for a new file, after the example of the fleet's other files; "" where they have none.

    Args:
        kind: "device", "deployment" or "site".
        path: of the new file; a schema named by a relative path is named from there.
    """
    for file, name in _examples(tree, kind):
        found = tree.file(file)
        match = _LINE.search(found.read()[:4096]) if found is not None and found.kind == "file" else None
        if match:
            schema = match["schema"].decode(errors="replace").replace(f"{name}.schema.json", f"{kind}.schema.json")
            if "://" not in schema and not schema.startswith("/"):
                absolute = posixpath.normpath(posixpath.join(posixpath.dirname(file), schema))
                schema = posixpath.relpath(absolute, posixpath.dirname(path) or ".")
            return f"# yaml-language-server: $schema={schema}\n"
    return ""


def _examples(tree: RootTree, kind: str) -> Iterator[tuple[str, str]]:
    """Yield files that may have the line, and the name of their kind: of the same kind first."""
    for number, file in enumerate(tree.files(_FOLDERS[kind])):
        if number < _ENOUGH and file.path.endswith(".yaml"):
            yield file.path, kind
    yield FLEET_FILE, "fleet"
