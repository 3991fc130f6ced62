"""Where a server keeps what must last: reports and enrolled devices, in files or in a database."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from margo_gitops.disk.files import read_small_file
from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.reports.sqlite_store import SqliteStore
from margo_gitops.server.reports.store import Connection, ReportStore
from margo_gitops.server.resources.enrolment_registry import ENROLMENT_SCHEMA, EnrolmentFile, EnrolmentRegistry
from margo_gitops.server.service.configuration import DATABASE_URL, PostgresqlSettings, ServerConfiguration

if TYPE_CHECKING:
    from margo_gitops.server.reports.postgresql_store import PostgresqlStore


def report_store(configuration: ServerConfiguration) -> ReportStore:
    """Return where the reports are kept."""
    settings = configuration.reports.postgresql
    if settings is None:
        return SqliteStore(configuration.journal)
    return _database(settings)


def _database(settings: PostgresqlSettings) -> PostgresqlStore:
    from margo_gitops.server.reports.postgresql_store import PostgresqlStore  # its package is an extra

    return PostgresqlStore(database_url(settings))


@contextlib.contextmanager
def opened_registry(configuration: ServerConfiguration) -> Iterator[EnrolmentRegistry]:
    """Yield the enrolled devices of a server, also while it runs.

    Raises:
        EnrolmentsUnusable, ReportsDatabaseAway, ReportsUnusable: they cannot be read or written.
        ReportsDatabaseRefused: the user of the database may not make the table.
    """
    refuse = configuration.enrolment is not None and configuration.enrolment.clones == "refuse"
    if configuration.reports.postgresql is None:
        with contextlib.closing(EnrolmentFile(configuration.enrolments)) as file:
            yield EnrolmentRegistry(file.begin, time.time, refuse_copies=refuse)
        return
    one = threading.Lock()
    with contextlib.closing(_database(configuration.reports.postgresql)) as store:
        store.make_table("enrolment", ENROLMENT_SCHEMA)

        @contextlib.contextmanager
        def begin() -> Iterator[Connection]:
            with one, store.transaction() as opened:
                yield opened.connection

        yield EnrolmentRegistry(begin, time.time, refuse_copies=refuse)


def database_url(settings: PostgresqlSettings) -> str:
    """Return the URL of the database (ServerMisconfigured: it is missing, or cannot be read)."""
    what = "the URL of the database of reports cannot be read"
    if settings.url_file is not None:
        content = read_small_file(settings.url_file, 4096, what=what, error=ServerMisconfigured)
        url = content.decode("utf-8", "replace").strip()
    else:
        url = os.environ.get(DATABASE_URL, "")
    if not url:
        remedy = f"write it to the file at reports.postgresql.urlFile, or set {DATABASE_URL}"
        raise ServerMisconfigured("the URL of the database of reports is missing", remedy=remedy)
    return url
