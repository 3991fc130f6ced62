"""`.margo-gitops/scaffold.json`: what was scaffolded, so that an upgrade can tell its own lines from people's edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated

from margo_gitops import __version__
from margo_gitops.digests import sha256
from margo_gitops.documents.declarations import About, DigestText, OwnKind, Problem, Text
from margo_gitops.documents.json_text import pretty_json
from margo_gitops.documents.records import read, write
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.scaffolding.template import TOOLING_FOLDER, Answers
from margo_gitops.values import dataclass

RECORD_FILE = f"{TOOLING_FOLDER}/scaffold.json"

_GENERATED = f"{TOOLING_FOLDER}/schemas/"
"""No one edits these, so their text is not kept."""


@dataclass(frozen=True, slots=True)
class ScaffoldedFile:
    """A file as the scaffold wrote it."""

    path: Annotated[str, About("Relative to the fleet repo."), Text(min_length=1)]
    digest: Annotated[DigestText, About("Of what the scaffold wrote.")]
    text: Annotated[str | None, About("What the scaffold wrote; null for generated files.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a path that leads out of the fleet repo, and a text that is not what the digest says."""
        parts = PurePosixPath(self.path).parts
        if self.path.startswith("/") or ".." in parts or (parts and parts[0] == ".git"):
            yield Problem(("path",), f"{self.path} is not in the fleet repo", "restore the file from git")
        if self.text is not None and sha256(self.text.encode()) != self.digest:
            yield Problem(("text",), "the text has another digest", "restore the file from git")


@dataclass(frozen=True, slots=True)
class Scaffold(OwnKind):
    """What was scaffolded, and by which version."""

    version: Annotated[str, About("Of margo-gitops."), Text(min_length=1)]
    answers: Answers
    files: Annotated[tuple[ScaffoldedFile, ...], About("Sorted by path.")] = ()

    def by_path(self) -> dict[str, ScaffoldedFile]:
        """Return the files by their paths."""
        return {file.path: file for file in self.files}


def scaffolded(path: str, content: bytes) -> ScaffoldedFile:
    """Return what is recorded of a file that the scaffold wrote."""
    return ScaffoldedFile(path, sha256(content), None if path.startswith(_GENERATED) else content.decode())


def new_record(answers: Answers, files: Mapping[str, ScaffoldedFile]) -> Scaffold:
    """Return the record of this version's scaffold."""
    return Scaffold(__version__, answers, tuple(files[path] for path in sorted(files)))


def write_record(record: Scaffold) -> bytes:
    """Return a record as the bytes of its file."""
    return pretty_json(write(record)).encode()


def read_record(content: bytes) -> Scaffold:
    """Return the record that a fleet repo holds (UnreadableDocument, InvalidDocument: it is not a record)."""
    return read(Scaffold, read_yaml(content, RECORD_FILE))
