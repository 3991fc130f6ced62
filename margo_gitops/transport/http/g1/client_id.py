"""The client id that a server has issued, kept on disk: a device is onboarded once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.disk.files import sync_folder, write_synced
from margo_gitops.documents.json_reader import read_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.errors import ClientIdUnusable, Location, UnreadableDocument
from margo_gitops.transport.http.source import CLIENT_ID

_BOUNDS: Final = Bounds(size=16 * 1024, depth=2, nodes=20)


@dataclass(frozen=True, slots=True)
class ClientIdFile:
    """Where the id is kept, with what it holds for: another server or another certificate has another one.

    Attributes:
        path: the file; None: it is not kept.
        url: of the server.
    """

    path: Path | None
    url: str

    def read(self, certificate: bytes) -> str | None:
        """Return the id that the server has issued for a certificate; None where none is known.

        Raises:
            ClientIdUnusable: the disk refuses.
        """
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                root = read_json(file.read(_BOUNDS.size + 1), str(self.path), _BOUNDS).root
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.path, error) from error
        except UnreadableDocument:
            return None  # damaged: the server tells the id again
        if root.text("url") != self.url or root.text("certificate") != sha256(certificate):
            return None
        client_id = root.text("clientId") or ""
        return client_id if CLIENT_ID.fullmatch(client_id) else None

    def write(self, certificate: bytes, client_id: str) -> None:
        """Keep an id, durably.

        Raises:
            ClientIdUnusable: the disk refuses.
        """
        if self.path is None:
            return
        document = {"url": self.url, "certificate": sha256(certificate), "clientId": client_id}
        fresh = self.path.with_name(f".new-{self.path.name}")
        try:
            write_synced(fresh, json.dumps(document, indent=2).encode() + b"\n", mode=0o600)
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _unusable(self.path, error) from error


def _unusable(path: Path, error: OSError) -> ClientIdUnusable:
    return ClientIdUnusable(
        "the client id cannot be kept",
        where=Location(str(path)),
        why=[error.strerror or str(error)],
        remedy="see that the disk is not full, and the folder is the agent's",
    )
