"""uvicorn's connections, with the bounds they lack, and TLS with certificates of clients (Margo TLS requirements).

uvicorn keeps trailers among the headers of a request. Here they are dropped: a proxy in front sets and removes headers
by what comes before the body, so nothing after it may say who calls; and their number has no bound.

TLS-1  TLS 1.3 only.
TLS-2  A certificate that does not lead to the trust bundle ends the handshake. Resources refuse a client without one,
       so that health can be asked without one.
TLS-3  Certificate, key and trust bundle are read again when their files change; the next handshake uses them.
TLS-4  No session is resumed, and a connection ends after an hour: neither keeps an old trust bundle alive.
TLS-5  A connection reads a record of TLS at a time: asyncio's own buffer would take 256 KiB for each device that waits.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import logging
import signal
import ssl
import time
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from margo_gitops.disk.stamps import FileWatch
from margo_gitops.errors import Location, MargoGitopsError, ServerMisconfigured
from margo_gitops.server.application import WorkloadManagementApi
from margo_gitops.server.service.configuration import ServerConfiguration, TlsSettings
from margo_gitops.server.state_watch import StateWatch

_LOG = logging.getLogger("margo_gitops.server")
_LONGEST_CONNECTION: Final = 3600.0
_STOP_SECONDS: Final = 16
"""For the last answers: a statement of the database of reports may take 10 seconds."""
_KEEP_ALIVE_SECONDS: Final = 120

_QUIET: Final = logging.getLogger("margo_gitops.connection")
_QUIET.setLevel(logging.CRITICAL)

PIPELINED: Final = 16
"""How many requests of a connection may wait for the answer to the one before: all that came are read in one go."""

HEAD_SECONDS: Final = 20.0
HEAD_BYTES: Final = 512 * 1024
"""Counted by what arrives, so the start of a body is in it."""

BODY_SECONDS: Final = 30.0
TLS_RECORD_BYTES: Final = 16 * 1024

MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Of a whole request: the largest body in the smallest chunks, and some."""


class BoundedConnection(HttpToolsProtocol):
    """Ends when a request, or its head, does not come, or does not end."""

    # With more attributes than objects share a table of, each connection would have one of its own: 1.5 KiB.
    __slots__ = ("_between", "_deadline", "_in_head", "_received")

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as uvicorn's own
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._received = 0
        self._in_head = True
        self._between = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over the connection; its first request must come soon."""
        super().connection_made(transport)
        self.logger = _QUIET  # a line for each mistake of a stranger would fill the log
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            transport.close()  # unknown callers may not hold the places of devices without end
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, unless it grows without end."""
        if self._between and self._deadline is None:
            self._await_head()  # empty lines before a request end uvicorn's own waiting, and begin no request
        self._received += len(data)
        if self._received > (HEAD_BYTES if self._in_head else MESSAGE_BYTES):
            self.transport.close()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request; too many that wait for their turn end the connection, and the reading of what came."""
        if len(self.pipeline) >= PIPELINED:
            self.transport.close()
            raise ConnectionAbortedError("too many requests wait on this connection")
        super().on_message_begin()
        self._between = False
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request, whose body must come soon."""
        self._in_head = False
        self._wait(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request; its answer may take its time."""
        self._between = True
        self._stop_waiting()
        super().on_message_complete()

    def _await_head(self) -> None:
        self._in_head, self._received = True, 0
        self._wait(HEAD_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TlsConnection(BoundedConnection):
    """A connection that tells its requests which certificate the client presented."""

    __slots__ = ("_began", "_certificate")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over the connection, after its handshake."""
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        self._certificate = connection.getpeercert(binary_form=True) if connection is not None else None
        self._began = time.monotonic()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        ending = time.monotonic() - self._began > _LONGEST_CONNECTION
        self.scope["extensions"] = {"tls": {"client_cert_der": self._certificate, "ending": ending}}


class RenewedTls:
    """The settings of TLS, as the files are now (TLS-3)."""

    def __init__(self, files: TlsSettings) -> None:
        """Read the files (ServerMisconfigured: one cannot be read, or holds something else)."""
        asyncio.sslproto.SSLProtocol.max_size = TLS_RECORD_BYTES
        self._files = files
        self._watch = FileWatch(*(path for path in (files.certificate, files.key, files.client_trust) if path))
        self._watch.mark()
        self._newest = _make(files)
        self.context = _make(files)
        # Called in every handshake, whether the client names a server or not.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._watch.changed():
            self._watch.mark()
            try:
                self._newest = _make(self._files)
                _LOG.info("TLS uses the renewed files")
            except MargoGitopsError as error:
                _LOG.error("TLS keeps its last good files: %s", error)
        connection.context = self._newest


def _make(files: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ServerMisconfigured(
            "the server's certificate and key cannot be used",
            where=Location(str(files.certificate)),
            why=[f"with the key {files.key}: {error}"],
            remedy="give a PEM chain and its unencrypted PEM key",
        ) from error
    if files.client_trust is not None:
        try:
            context.load_verify_locations(cafile=files.client_trust)
        except (OSError, ssl.SSLError) as error:
            raise ServerMisconfigured(
                "the trust bundle of clients cannot be read", where=Location(str(files.client_trust)), why=[str(error)]
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class _Server(uvicorn.Server):
    """uvicorn, which answers waiting polls when it must end."""

    def __init__(self, config: uvicorn.Config, watch: StateWatch) -> None:
        super().__init__(config)
        self._watch = watch

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would raise the signal again at its end, and so kill the process before the journal is closed.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        # Not here: a signal comes between any two steps of a request, as between its last look and its wait.
        asyncio.get_running_loop().call_soon_threadsafe(self._watch.close)


def run_until_signal(
    api: WorkloadManagementApi,
    watch: StateWatch,
    configuration: ServerConfiguration,
    context: ssl.SSLContext | None,
) -> None:
    """Listen and answer until a signal asks for the end (ServerMisconfigured: it cannot listen).

    Args:
        context: of TLS; None: without it.
    """
    listen = configuration.listen
    config = uvicorn.Config(
        api,
        host=listen.address,
        port=listen.port,
        http=TlsConnection if context else BoundedConnection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # addresses decide which Client-Cert is believed: no header may change them
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        backlog=4096,
        # uvicorn counts from this number on; BoundedConnection closes what is above the number before.
        limit_concurrency=configuration.limits.connections + 1,
    )
    config.load()
    if context is not None:
        config.ssl = context
    try:
        _Server(config, watch).run()
    except SystemExit as error:  # uvicorn's way to say that it could not listen; its log says why
        raise ServerMisconfigured(
            f"cannot listen on {listen.address} port {listen.port}",
            remedy="see that no other program listens there, and that the address is this machine's",
        ) from error
