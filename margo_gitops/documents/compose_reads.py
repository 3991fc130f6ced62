"""Which files a compose file lets Compose read on a device, before anything runs. Pure.

What Compose resolved no longer says where it came from: a variable of `env_file` looks like any other. So these are
looked for in the files as they are written.

READS-1  Compose files (`include`, `extends`) are in the content: no path out of it, no git or OCI repository.
READS-2  Files with variables and labels are in the content, or in `hostPaths`.
READS-3  No variable is part of such a name, because only Compose knows what it becomes.
READS-4  The `.env` next to the compose file sets no variable that steers Compose itself.
READS-5  Compose runs in the folder of the compose file, because it takes the `env_file` of an `include` in an included
         file from where it runs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Final

from margo_gitops.documents.compose_yaml import mapping, plain, read_compose
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_judge import Judge, Path, Refused, Surroundings, listed, text_of
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.values import dataclass

MOST_FILES: Final = 64
"""Compose files of one component."""

_COMMENT = re.compile(rb"(?m)^[ \t]*#[^'\"\r\n]*$")
"""One with a quote may be the end of a value instead."""
_STEERING = re.compile(rb"\b(COMPOSE_(?!PROFILES\b)\w+)")


def refused_reads(
    policy: WorkloadPolicy,
    file: str,
    read: Callable[[str], bytes | None],
    surroundings: Surroundings | None = None,
) -> Iterator[Refused]:
    """Yield each file that a compose file names and that Compose must not read (READS-1 to READS-4).

    Args:
        file: the compose file, relative to the content.
        read: returns a file of the content by its path; None where it has no such file.

    Raises:
        UnreadableDocument: a compose file is not YAML as Compose reads it.
    """
    if policy.unrestricted:
        return
    yield from _Reads(policy, surroundings or Surroundings(), read).files(file)


@dataclass(frozen=True, slots=True)
class _Reads(Judge):
    read: Callable[[str], bytes | None]

    def files(self, file: str) -> Iterator[Refused]:
        """Judge a compose file, and all that it is made of."""
        folder = posixpath.dirname(file)
        settings = _COMMENT.sub(b"", self.read(posixpath.join(folder, ".env")) or b"")
        for name in sorted(set(_STEERING.findall(settings))):
            yield from self.key((".env",), name.decode(), "env_file")
        seen = [(file, folder)]
        for current, base in seen:  # grows
            value = read_compose(self.read(current) or b"", current).value
            more: list[tuple[Path, str, str, str]] = []
            for path, entry in listed(("include",), plain(value).get("include")):
                parts = entry if isinstance(entry, dict) else {"path": entry}
                names = [text_of(name) for _, name in listed(path, parts.get("path"))]
                wanted = text_of(parts.get("project_directory"))
                if not self._is_content(base, wanted):
                    yield from self.key(path, wanted, "include")
                    continue
                inner = posixpath.join(base, wanted or posixpath.dirname("".join(names[:1])))
                more += [(path, "include", name, inner) for name in names]
                yield from self._text_files(path, "include", parts.get("env_file"), base)
            for service, entry in mapping(value, "services").items():
                path = ("services", service)
                for key in ("env_file", "label_file"):
                    yield from self._text_files((*path, key), key, plain(entry).get(key), base)
                if name := text_of(mapping(entry, "extends").get("file")):
                    more.append(((*path, "extends"), "extends", name, posixpath.join(base, posixpath.dirname(name))))
            for path, key, name, folder in more:
                place = (posixpath.normpath(posixpath.join(base, name)), posixpath.normpath(folder))
                known = self._is_content(base, name) and self.read(place[0]) is not None
                if not known or len(seen) >= MOST_FILES:
                    yield from self.key(path, name, key)
                elif place not in seen:
                    seen.append(place)

    def _is_content(self, base: str, name: str) -> bool:
        place = posixpath.normpath(posixpath.join(base, name))
        return "$" not in name and not name.startswith(("/", "~", "\\")) and place.partition("/")[0] != ".."

    def _text_files(self, path: Path, key: str, value: Json, base: str) -> Iterator[Refused]:
        for at, entry in listed(path, value):
            name = text_of(entry.get("path") if isinstance(entry, dict) else entry)
            if "$" in name:
                yield from self.key(at, name, key)
            elif not self._is_content(base, name):
                place = posixpath.normpath(posixpath.join(self.around.content, base, name))
                yield from self.host_path(at, name if name.startswith("~") else place, writable=False)
