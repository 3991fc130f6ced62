"""Which client ids were issued, and for which certificates: once said, for good.

An id is on disk before a client hears of it (SQLite, WAL, synchronous=FULL). The file lies beside the journal of
reports, whose lock keeps a second server away.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from margo_gitops.digests import Digest, sha256
from margo_gitops.errors import ClientRegistryUnusable, Location
from margo_gitops.server.contracts.algorithms import PublicKey, is_usable
from margo_gitops.server.contracts.verification import key_id_of

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS client (
    id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL,
    certificate BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS client_by_key ON client (key_id);
"""
_LARGEST_CERTIFICATE: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate that one of the four algorithms works with.

    Attributes:
        der: its bytes.
        fingerprint: sha256 of them.
        key: its public key.
        begins: seconds since the epoch.
        ends: seconds since the epoch.
    """

    der: bytes
    fingerprint: Digest
    key: PublicKey
    begins: float
    ends: float

    def holds_at(self, moment: float) -> bool:
        """Return whether it is valid at this time."""
        return self.begins <= moment <= self.ends


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client that was onboarded."""

    id: str
    certificate: ClientCertificate


def read_certificate(der: bytes) -> ClientCertificate:
    """Return a certificate.

    Raises:
        ValueError: it is none, or its key is of another kind.
    """
    if len(der) > _LARGEST_CERTIFICATE:
        raise ValueError("larger than any certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError("no certificate") from error
    if not is_usable(key):
        raise ValueError("a key of another kind")
    return ClientCertificate(
        der,
        sha256(der),
        key,  # type: ignore[arg-type]  # is_usable knows no other kinds
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


_read_again = lru_cache(maxsize=16_384)(read_certificate)
"""Of certificates that were issued an id; what strangers send is read once, and takes no memory."""


class ClientRegistry:
    """Issues client ids, and knows whose they are."""

    def __init__(self, file: Path) -> None:
        """Open the registry.

        Args:
            file: the SQLite file; made where there is none.

        Raises:
            ClientRegistryUnusable: it cannot be opened.
        """
        self._file = file
        self._writing = threading.Lock()
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = _connect(file)
            try:
                self._writer.executescript(_SCHEMA)
                self._reader = _connect(file)
            except BaseException:
                self._writer.close()
                raise
            file.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(file, error) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def find(self, client_id: str) -> RegisteredClient | None:
        """Return the client of an id.

        Raises:
            ClientRegistryUnusable: the disk refuses.
        """
        found = self._read("SELECT id, certificate FROM client WHERE id = ?", client_id)
        return found[0] if found else None

    def find_by_key(self, key_id: str) -> list[RegisteredClient]:
        """Return the clients whose certificates have a key: several where a certificate was renewed for it.

        Raises:
            ClientRegistryUnusable: the disk refuses.
        """
        return self._read("SELECT id, certificate FROM client WHERE key_id = ? LIMIT 16", key_id)

    def issue(self, certificate: ClientCertificate) -> tuple[str, bool]:
        """Return the id of a certificate's client, and whether it is new; it is on disk. Blocks: call it in a thread.

        Raises:
            ClientRegistryUnusable: the disk refuses; no id was issued.
        """
        row = (str(uuid.uuid4()), certificate.fingerprint, key_id_of(certificate.key), certificate.der)
        try:
            with self._writing:
                made = self._writer.execute("INSERT OR IGNORE INTO client VALUES (?, ?, ?, ?)", row).rowcount == 1
                known = self._writer.execute(
                    "SELECT id FROM client WHERE fingerprint = ?", (certificate.fingerprint,)
                ).fetchone()
        except sqlite3.Error as error:
            raise _unusable(self._file, error) from error
        return str(known[0]), made

    def _read(self, statement: str, value: str) -> list[RegisteredClient]:
        try:
            rows = self._reader.execute(statement, (value,)).fetchall()
        except sqlite3.Error as error:
            raise _unusable(self._file, error) from error
        return [RegisteredClient(client, _read_again(der)) for client, der in rows]


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _unusable(file: Path, error: Exception) -> ClientRegistryUnusable:
    return ClientRegistryUnusable(
        "the registry of clients cannot be used",
        where=Location(str(file)),
        why=[str(error)],
        remedy="see that the disk is not full and the folder is yours",
    )
