"""What the older contract knows: the client ids it issued, the certificates it accepts, the signatures it has seen.

An id is issued for good, and is on disk before a client hears of it (SQLite, WAL, synchronous=FULL). The file is
next to the journal of reports, whose lock keeps a second server away. Signatures are remembered in memory while they
hold: a request that was recorded and is sent again does nothing (RFC 9421, 7.2.2).
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.databases import database_errors, open_database
from margo_gitops.errors import ClientRegistryUnusable, ServerBusy
from margo_gitops.server.contracts.signatures import PublicKey, is_usable
from margo_gitops.server.identity.tokens import read_device_digest
from margo_gitops.server.watched_file import read_entries
from margo_gitops.values import dataclass, field

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS client (
    id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    certificate BLOB NOT NULL
) WITHOUT ROWID;
"""
_WITHOUT_KEY_ID: Final = "BEGIN; DROP INDEX IF EXISTS client_by_key; ALTER TABLE client DROP COLUMN key_id; COMMIT;"
"""Takes away a column that older versions wrote."""
_LARGEST_CERTIFICATE: Final = 16 * 1024

MOST_REMEMBERED: Final = 500_000
MOST_OF_ONE: Final = 10_000
"""Of one client: more requests than its limits let pass while a signature holds."""


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
    """Return a certificate (ValueError: it is not a certificate, or its key is of another kind)."""
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
    """Issues client ids, and knows whose they are; `ClientRegistryUnusable` where the disk refuses."""

    def __init__(self, file: Path) -> None:
        """Open the SQLite file; it is made if it does not exist."""
        self._file = file
        self._writing = threading.Lock()
        with self._errors():
            self._writer = open_database(file, threads=True)
            self._writer.executescript(_SCHEMA)
            columns = self._writer.execute("SELECT name FROM pragma_table_info('client')")
            if ("key_id",) in columns.fetchall():
                self._writer.executescript(_WITHOUT_KEY_ID)
            self._reader = open_database(file, threads=True)

    def _errors(self) -> AbstractContextManager[None]:
        return database_errors(
            self._file,
            what="the registry of clients cannot be used",
            error=ClientRegistryUnusable,
            busy=ServerBusy,
            remedy="check that the disk is not full, and that the folder belongs to this user",
        )

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def find(self, client_id: str) -> RegisteredClient | None:
        """Return the client of an id."""
        with self._errors():
            found = self._reader.execute("SELECT id, certificate FROM client WHERE id = ?", (client_id,)).fetchone()
        return RegisteredClient(found[0], _read_again(found[1])) if found else None

    def issue(self, certificate: ClientCertificate) -> tuple[str, bool]:
        """Return the id of a certificate's client, and whether it is new; it is on disk. Blocks."""
        row = (str(uuid.uuid4()), certificate.fingerprint, certificate.der)
        with self._errors(), self._writing:
            made = self._writer.execute("INSERT OR IGNORE INTO client VALUES (?, ?, ?)", row).rowcount == 1
            known = self._writer.execute("SELECT id FROM client WHERE fingerprint = ?", row[1:2]).fetchone()
        return str(known[0]), made


def read_accepted_certificates(text: str, path: Path) -> Mapping[Digest, str]:
    """Return the device of each accepted certificate.

        # device   sha256 of the certificate (DER)
        press-07   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

    Two lines for a device let an old certificate and a new one overlap; a line removed counts from the next request.

    Raises:
        ServerMisconfigured: a line is wrong.
    """
    line = "DEVICE sha256:<64 hex digits>; openssl x509 -in FILE -outform DER | sha256sum prints them"
    return read_entries(text, path, _read_accepted, what="certificate", line=line)


def _read_accepted(fields: list[str]) -> tuple[Digest, str]:
    if len(fields) != 2:
        raise ValueError(f"{len(fields)} fields instead of 2")
    device, digest = read_device_digest(fields)
    return digest, device


@dataclass(eq=False)
class SeenSignatures:
    """Remembers marks for a while.

    Attributes:
        seconds: how long a mark is remembered.
        clock: seconds since some moment; never jumps.
        most: how many are remembered at once.
        most_of_one: how many of one client.
    """

    seconds: float
    clock: Callable[[], float]
    most: int = MOST_REMEMBERED
    most_of_one: int = MOST_OF_ONE
    _marks: OrderedDict[bytes, tuple[float, str]] = field(default_factory=OrderedDict, init=False)
    _of_clients: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def full(self) -> bool:
        """Whether no other mark can be remembered now."""
        self._forget()
        return len(self._marks) >= self.most

    def is_full_of(self, client: str) -> bool:
        """Return whether no other mark of a client can be remembered now: it takes no place that others need."""
        self._forget()
        return self._of_clients[client] >= self.most_of_one

    def is_first(self, mark: bytes, client: str) -> bool:
        """Remember a mark of a client, and return whether it was not remembered yet."""
        self._forget()
        if mark in self._marks:
            return False
        self._marks[mark] = self.clock() + self.seconds, client
        self._of_clients[client] += 1
        return True

    def _forget(self) -> None:
        now = self.clock()
        while self._marks and next(iter(self._marks.values()))[0] <= now:
            _, (_, client) = self._marks.popitem(last=False)
            self._of_clients[client] -= 1
            if not self._of_clients[client]:
                del self._of_clients[client]
