"""The line that tells editors which schema a file follows: `# yaml-language-server: $schema=…`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet_repo import FLEET_FILE

_LINE = re.compile(rb"^#[ \t]*yaml-language-server:[ \t]*\$schema=(?P<schema>\S+)[ \t]*\r?$", re.MULTILINE)
_FOLDERS = {"device": "devices", "deployment": "deployments"}
_ENOUGH = 50
"""Files that are looked into; a fleet either has the line in its files, or not."""


def schema_line(tree: RootTree, kind: str, path: str) -> str:
    """Return the line for a new file, after the example of the fleet's other files; "" where they have none.

    Args:
        tree: the fleet repo.
        kind: "device" or "deployment".
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
