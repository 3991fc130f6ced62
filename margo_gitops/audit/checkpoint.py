"""Remember how far a history was verified, so that an audit can go on there and sees when a branch was moved back."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.documents.json_text import write_json
from margo_gitops.trust.git_objects import is_object_id

_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A small file in the cache folder, one for each state repo and set of options."""

    path: Path

    @classmethod
    def of(cls, cache: Path, *options: str) -> Checkpoint:
        """Return the checkpoint for a state repo and options."""
        key = hashlib.sha256(write_json(list(options))).hexdigest()[:32]
        return cls(cache / "audit" / f"{key}.json")

    def read(self) -> str | None:
        """Return the last commit that was verified; None where nothing is known, or the file is damaged."""
        try:
            with self.path.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError):
            return None
        commit = content.get("verified") if isinstance(content, dict) else None
        return commit if isinstance(commit, str) and is_object_id(commit) else None

    def write(self, commit: str) -> None:
        """Remember a commit; a cache that cannot be written is none, and no reason to fail."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(write_json({"verified": commit}) + b"\n")
            Path(name).replace(self.path)
        except OSError:
            return
