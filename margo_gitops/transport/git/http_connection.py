"""Git over HTTP: one kept connection to one server (gitprotocol-http, smart clients).

Rules:

1. Credentials go out with the first request, not after a 401.
2. The connection is kept from pull to pull. Where the server closed it meanwhile, it is opened once more; all requests
   only read, so that sending one twice does no harm.
3. No redirect is followed, not even to the same server: the settings say where state comes from, and nothing else does.
4. An answer is taken only with status 200 and git's own content type, and only uncompressed: its size is what it says.
5. TLS 1.2 or newer, the host name always checked, sessions resumed.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from margo_gitops.errors import SourceMisbehaved, SourceRefused, SourceUnreachable, TransportError
from margo_gitops.transport.git.cost import Meter
from margo_gitops.transport.git.credentials import Credentials
from margo_gitops.transport.git.deadline import Deadline
from margo_gitops.transport.git.http_refusal import check_answer
from margo_gitops.transport.git.metered_socket import MeteredSocket, connect
from margo_gitops.transport.git.pktline import Read
from margo_gitops.transport.git.proxy import open_tunnel, proxy_for
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.git.tls import TlsSettings

_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
_REQUEST = "application/x-git-upload-pack-request"
_RESULT = "application/x-git-upload-pack-result"
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Status line, headers and the framing of chunks, on top of what an answer may hold.
_FRAMING_BYTES = 256 * 1024


class HttpConnection:
    """Speaks with the server of one source."""

    def __init__(self, source: GitSource, meter: Meter, agent: bytes) -> None:
        """Take the settings; nothing is opened or read yet.

        Args:
            source: an http or https source.
            meter: counts what passes.
            agent: this program's name and version, the `User-Agent`.
        """
        address = source.address
        self._source = source
        self._meter = meter
        self._agent = agent.decode()
        self._host = address.hostname or ""
        self._port = address.port or _DEFAULT_PORTS[address.scheme]
        self._authority = address.netloc
        self._path = address.path.rstrip("/")
        self._credentials = Credentials(source)
        self._tls = TlsSettings(source) if address.scheme == "https" else None
        self._proxy = proxy_for(address.scheme, self._authority) if source.proxy_from_environment else None
        self._socket: MeteredSocket | None = None
        self._session: ssl.SSLSession | None = None

    def greet(self, limit: int, deadline: Deadline) -> AbstractContextManager[Read]:
        """Return a reader of the advertisement of capabilities, of at most `limit` bytes."""
        return self._exchange("GET", "/info/refs?service=git-upload-pack", b"", _ADVERTISEMENT, limit, deadline)

    def ask(self, request: bytes, limit: int, deadline: Deadline) -> AbstractContextManager[Read]:
        """Return a reader of the answer to `request`, of at most `limit` bytes."""
        return self._exchange("POST", "/git-upload-pack", request, _RESULT, limit, deadline)

    def finish(self) -> None:
        """End a pull: the connection is kept."""

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        if self._socket is not None:
            self._session = self._socket.shut() or self._session
            self._socket = None

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes, content_type: str, limit: int, deadline: Deadline
    ) -> Iterator[Read]:
        request = self._request(method, path, body)
        finished = False
        try:
            with self._respond(method, request, limit, deadline) as response:
                check_answer(response, content_type, self._source)
                read = _reader(response)
                yield read
                if read(1):
                    raise SourceMisbehaved("bytes follow the end of the answer")
                finished = not response.will_close
        except ssl.SSLError as error:
            raise _tls_refusal(error) from error
        except OSError as error:
            raise SourceUnreachable(f"the connection broke: {error.strerror or type(error).__name__}") from error
        except http.client.HTTPException as error:
            raise SourceMisbehaved(f"the answer is broken HTTP: {type(error).__name__}") from error
        finally:
            if not finished:
                self.close()

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        target = self._path + path
        if self._proxy is not None and self._tls is None:
            target = f"http://{self._authority}{target}"
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {self._authority}",
            f"User-Agent: {self._agent}",
            "Git-Protocol: version=2",
        ]
        if (authorization := self._credentials.authorization()) is not None:
            lines.append(f"Authorization: {authorization}")
        if self._proxy is not None and self._proxy.authorization and self._tls is None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        if method == "POST":
            lines += [f"Content-Type: {_REQUEST}", f"Accept: {_RESULT}", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _respond(self, method: str, request: bytes, limit: int, deadline: Deadline) -> http.client.HTTPResponse:
        if self._tls is not None and self._tls.changed():
            self.close()
            self._session = None
        kept = self._socket
        if kept is not None:
            try:
                return self._send(kept, method, request, limit, deadline)
            except TransportError:
                raise
            except OSError:
                if kept.received:
                    raise
                self.close()
        self._socket = opened = self._open(deadline)
        return self._send(opened, method, request, limit, deadline)

    def _send(
        self, connection: MeteredSocket, method: str, request: bytes, limit: int, deadline: Deadline
    ) -> http.client.HTTPResponse:
        connection.expect(limit + _FRAMING_BYTES, deadline)
        self._meter.requests += 1
        connection.sendall(request)
        response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def _open(self, deadline: Deadline) -> MeteredSocket:
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self._host, self._port)
        opened = connect(host, port, self._source.connect_seconds, self._meter, deadline)
        try:
            if self._tls is not None:
                if self._proxy is not None:
                    open_tunnel(opened, self._proxy, f"{_bracketed(self._host)}:{self._port}")
                opened.encrypt(self._tls.context(), self._host, self._session, self._source.connect_seconds)
        except BaseException:
            opened.shut()
            raise
        return opened


def _reader(response: http.client.HTTPResponse) -> Read:
    def read(size: int) -> bytes:
        try:
            return response.read(size)
        except (http.client.HTTPException, ValueError) as error:
            raise SourceMisbehaved("the answer ends early, or is broken HTTP") from error

    return read


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls_refusal(error: ssl.SSLError) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceUnreachable(
            f"the server's certificate is not trusted: {error.verify_message}",
            remedy="check the host name, the device's clock, and the CA file of the source",
        )
    reason = (error.reason or type(error).__name__).lower().replace("_", " ")
    if "alert" in reason:
        return SourceRefused(
            f"the server ended TLS: {reason}",
            remedy="check the client certificate and key of the source, and their dates",
        )
    return SourceUnreachable(
        f"TLS failed: {reason}", remedy="check that the server speaks TLS 1.2 or newer on this port"
    )
