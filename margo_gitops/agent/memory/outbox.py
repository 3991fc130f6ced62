"""Statuses on their way to a server: the table of those that have not arrived, in the journal's database.

OUTBOX-1  A deployment's statuses arrive in their order, each once. One that says what the last one said is not kept.
OUTBOX-2  What came of a change (installed, failed, removed) is kept until it arrives, for weeks. Progress (pending,
          installing, removing) is true only while it lasts: it goes out as the newest status of its deployment, or not.
OUTBOX-3  Deployments of which a failure waits come first.
OUTBOX-4  At most 500 statuses and 1 MiB wait. Then the oldest that is not a failure goes, then the oldest failure; the
          newest status of a deployment stays.
OUTBOX-5  An older agent does not know this table. Rows that do not lead to the newest status are not sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from margo_gitops.disk.databases import Rows
from margo_gitops.documents.status import DeploymentStatus

MOST_UNSENT: Final = 500
MOST_UNSENT_BYTES: Final = 1024 * 1024

PROGRESS, DONE, FAILED = 0, 1, 2
"""How much a status weighs (OUTBOX-2, OUTBOX-4)."""

UNSENT_NAME: Final = "unsent"
UNSENT_TABLE: Final = (
    "CREATE TABLE unsent "
    "(id INTEGER PRIMARY KEY, deployment TEXT NOT NULL, weight INTEGER NOT NULL, document BLOB NOT NULL) STRICT"
)
UNSENT: Final = Rows("SELECT deployment, weight, document FROM unsent ORDER BY id", (str, int, bytes), tuple)


def weight_of(status: DeploymentStatus) -> int:
    """Return how much a status weighs."""
    state, error = status.status.state, status.status.error
    if state == "failed" or (state == "removing" and error is not None):
        return FAILED
    return DONE if state in ("installed", "removed") else PROGRESS


def put(connection: sqlite3.Connection, deployment: str, document: bytes, weight: int) -> None:
    """Let a status wait, after those of its deployment that do."""
    rows = "SELECT id, weight, document FROM unsent WHERE deployment = ? ORDER BY id DESC LIMIT 1"
    last = connection.execute(rows, (deployment,)).fetchone()
    if last is not None and last[1] == PROGRESS:
        connection.execute("DELETE FROM unsent WHERE id = ?", (last[0],))
        last = connection.execute(rows, (deployment,)).fetchone()
    if last is None or last[2] != document:
        insert = "INSERT INTO unsent (deployment, weight, document) VALUES (?, ?, ?)"
        connection.execute(insert, (deployment, weight, document))
        _thin_out(connection)


def arrived(connection: sqlite3.Connection, deployment: str, document: bytes) -> None:
    """Forget a status that arrived, with what waited before it; the newest one takes all with it."""
    connection.execute(
        "DELETE FROM unsent WHERE deployment = ?1 AND id <= coalesce("
        "(SELECT min(id) FROM unsent WHERE deployment = ?1 AND document = ?2), "
        "(SELECT max(id) FROM unsent WHERE ?2 = (SELECT document FROM outbox WHERE deployment = ?1)))",
        (deployment, document),
    )


def in_order(unsent: list[tuple[str, int, bytes]], newest: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """Return what waits, by deployment, in the order in which it goes out (OUTBOX-1, OUTBOX-3, OUTBOX-5)."""
    waiting: dict[str, list[bytes]] = {}
    failed = {deployment for deployment, weight, _ in unsent if weight == FAILED}
    for deployment, _, document in sorted(unsent, key=lambda row: row[0] not in failed):
        waiting.setdefault(deployment, []).append(document)
    return {deployment: each for deployment, each in waiting.items() if each[-1] == newest.get(deployment)}


def _thin_out(connection: sqlite3.Connection) -> None:
    count, size = connection.execute("SELECT count(*), sum(length(document)) FROM unsent").fetchone()
    if count <= MOST_UNSENT and size <= MOST_UNSENT_BYTES:
        return
    rows = connection.execute(
        "SELECT id, length(document) FROM unsent "
        "ORDER BY id IN (SELECT max(id) FROM unsent GROUP BY deployment), weight, id"
    ).fetchall()
    for row, length in rows:
        if count <= MOST_UNSENT and size <= MOST_UNSENT_BYTES:
            return
        connection.execute("DELETE FROM unsent WHERE id = ?", (row,))
        count, size = count - 1, size - length
