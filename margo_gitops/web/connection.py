"""One kept HTTP connection to the server of one source.

Rules:

1. Credentials go out with the first request, not after a 401.
2. The connection is kept from pull to pull. Where the server closed it meanwhile, it is opened once more. A
   request means the same when it is sent twice, so that sending it again does no harm.
3. No redirect is followed, not even to the same server: the settings say where state comes from, and nothing else does.
4. An answer is bounded in bytes, headers and framing included, and in time.
5. TLS 1.2 or newer, sessions resumed; the server's host name is checked, or its SPIFFE ID in place of it.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from margo_gitops import __version__
from margo_gitops.errors import SourceMisbehaved, SourceMisconfigured, SourceRefused, SourceUnreachable, TransportError
from margo_gitops.values import dataclass, field
from margo_gitops.web.credentials import Credentials, TlsSettings
from margo_gitops.web.metered_socket import MeteredSocket, connect
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import Read
from margo_gitops.web.source import WebSource, is_loopback

Body: TypeAlias = bytes | BinaryIO
"""What a request sends: bytes, or a file that can be read again from its start."""

Seal: TypeAlias = Callable[[str, str, bytes], Mapping[str, str]]
"""Returns more headers for method, target and body of a request; asked again for each sending."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_OTHER_AUTHORITY = "name the authority that signed the server's certificate as the CA file of the source"
_OTHER_HOST = "check the host name in the URL, or let the server's certificate name it (subjectAltName)"
_OTHER_TIME = "check the device's clock, and the dates of the server's certificate and of its authority"
_REMEDIES = {
    0: "check the host name, the device's clock, and the CA file of the source",
    **dict.fromkeys((2, 18, 19, 20, 21), _OTHER_AUTHORITY),
    **dict.fromkeys((62, 64), _OTHER_HOST),
    **dict.fromkeys((9, 10), _OTHER_TIME),
    79: "make the authority's certificate again, with the extension basicConstraints = critical, CA:TRUE",
}
"""By what OpenSSL found (X509_V_ERR_…)."""
# Status line, headers and the framing of chunks, on top of what an answer may hold.
_FRAMING_BYTES = 256 * 1024
_PIECE = 256 * 1024
_SENDING = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose request says its length also where it has no body (RFC 9110, 8.6)."""


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """The head of an answer, and a reader of its body."""

    response: http.client.HTTPResponse
    read: Read

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    def header(self, name: str) -> str | None:
        """Return the value of a header, all of them joined where it comes several times."""
        return self.response.getheader(name)


class WebConnection:
    """Speaks with the server of one source. Not for two threads at a time."""

    def __init__(self, source: WebSource, meter: Meter, spiffe_id: str | None = None, seal: Seal | None = None) -> None:
        """Take the settings; nothing is opened or read yet.

        Args:
            source: an http or https source.
            spiffe_id: who the server must be, in place of the host it is reached at.
            seal: signs each request; None for none.

        Raises:
            SourceMisconfigured: the environment names something that is not a proxy.
        """
        address = urlsplit(source.url)
        self._source = source
        self._meter = meter
        self._seal = seal
        self._host = address.hostname or ""
        self._port = address.port or _DEFAULT_PORTS[address.scheme]
        self._authority = address.netloc
        self._credentials = Credentials(source)
        self._tls = TlsSettings(source, spiffe_id) if address.scheme == "https" else None
        self._proxy = proxy_for(address.scheme, self._authority) if source.proxy_from_environment else None
        self._socket: MeteredSocket | None = None
        self._session: ssl.SSLSession | None = None

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        if self._socket is not None:
            self._session = self._socket.shut() or self._session
            self._socket = None

    @contextmanager
    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Body,
        limit: int,
        deadline: Deadline,
        *,
        whole: bool = True,
    ) -> Iterator[WebAnswer]:
        """Send a request and yield the answer, of at most `limit` bytes; its end is checked when the block ends.

        Args:
            target: path and query, absolute.
            headers: of this request alone; lengths, host and credentials come by themselves.
            body: what is sent; empty for none. A source whose requests are sealed takes bytes.
            limit: bytes of the body of the answer, as sent.
            whole: whether the block must read all of it. Otherwise what it leaves costs the connection.

        Raises:
            TransportError: no usable answer came, or bytes follow what the block read.
        """
        finished = False
        try:
            make = partial(self._request, method, target, headers, body)
            file = None if isinstance(body, bytes) else body
            with _connection_errors():
                response = self._respond(method, make, file, limit, deadline)
            with response:
                read = _reader(response)
                yield WebAnswer(response, read)
                rest = read(1)
                if rest and whole:
                    raise SourceMisbehaved("bytes follow the end of the answer")
                finished = not rest and not response.will_close
        finally:
            if not finished:
                self.close()

    def _request(self, method: str, target: str, headers: Mapping[str, str], body: Body) -> bytes:
        """Return the head of a request, with its body where that is bytes."""
        if self._seal is not None and isinstance(body, bytes):
            headers = {**headers, **self._seal(method, target, body)}
        if self._proxy is not None and self._tls is None:
            target = f"http://{self._authority}{target}"
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {self._authority}",
            f"User-Agent: margo-gitops/{__version__}",
        ]
        if (authorization := self._credentials.authorization()) is not None:
            lines.append(f"Authorization: {authorization}")
        if self._proxy is not None and self._proxy.authorization and self._tls is None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        size = len(body) if isinstance(body, bytes) else body.seek(0, os.SEEK_END)
        if size or method in _SENDING:
            lines.append(f"Content-Length: {size}")
        head = "\r\n".join([*lines, "", ""]).encode()
        return head + body if isinstance(body, bytes) else head

    def _respond(
        self, method: str, make: Callable[[], bytes], file: BinaryIO | None, limit: int, deadline: Deadline
    ) -> http.client.HTTPResponse:
        if self._tls is not None and self._tls.changed():
            self.close()
            self._session = None
        kept = self._socket
        if kept is not None:
            try:
                return self._send(kept, method, make(), file, limit, deadline)
            except TransportError:
                raise
            except OSError:
                if kept.received:
                    raise
                self.close()
        request = make()  # before anything is opened: a token or a key that cannot be read opens nothing
        self._socket = opened = self._open(deadline)
        return self._send(opened, method, request, file, limit, deadline)

    def _send(
        self,
        connection: MeteredSocket,
        method: str,
        request: bytes,
        file: BinaryIO | None,
        limit: int,
        deadline: Deadline,
    ) -> http.client.HTTPResponse:
        connection.expect(limit + _FRAMING_BYTES, deadline)
        self._meter.requests += 1
        connection.sendall(request)
        if file is not None:
            file.seek(0)
            while piece := file.read(_PIECE):
                connection.sendall(piece)
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
                    named = f"[{self._host}]" if ":" in self._host else self._host
                    open_tunnel(opened, self._proxy, f"{named}:{self._port}")
                opened.encrypt(self._tls.context(), self._host, self._session, self._source.connect_seconds)
                self._tls.check_server(opened.certificate())
        except BaseException:
            opened.shut()
            raise
        return opened


def _reader(response: http.client.HTTPResponse) -> Read:
    def read(size: int) -> bytes:
        with _connection_errors():
            try:
                return response.read(size)
            except (http.client.HTTPException, ValueError) as error:
                raise SourceMisbehaved("the answer ends early, or is broken HTTP") from error

    return read


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn what breaks a connection into errors of a source. A caller's own errors, of its disk, stay what they are."""
    try:
        yield
    except ssl.SSLError as error:
        raise _tls_refusal(error) from error
    except OSError as error:
        raise SourceUnreachable(f"the connection broke: {error.strerror or type(error).__name__}") from error
    except http.client.HTTPException as error:
        raise SourceMisbehaved(f"the answer is broken HTTP: {type(error).__name__}") from error


def _tls_refusal(error: ssl.SSLError) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceUnreachable(
            f"the server's certificate is not trusted: {error.verify_message}",
            remedy=_REMEDIES.get(error.verify_code, _REMEDIES[0]),
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


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy is, and the value of the `Proxy-Authorization` header it wants."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def proxy_for(scheme: str, authority: str) -> Proxy | None:
    """Return the proxy of the environment for this server (`http_proxy`, `https_proxy`, `no_proxy`).

    A plain http server on this machine is asked directly: it may see a token, and a proxy may not.

    Raises:
        SourceMisconfigured: the variable holds no http:// URL.
    """
    if scheme == "http" and is_loopback(urlsplit(f"//{authority}").hostname):
        return None
    # Costly to import, and few devices need it.
    from urllib.request import getproxies_environment, proxy_bypass

    url = getproxies_environment().get(scheme)
    if not url or proxy_bypass(authority):
        return None
    try:
        address = urlsplit(url if "://" in url else f"http://{url}")
        host, port = address.hostname, address.port or 80
    except ValueError:
        host, port, address = None, 0, urlsplit("")
    if address.scheme != "http" or not host:
        raise SourceMisconfigured(
            f"the variable {scheme}_proxy holds no URL of an http:// proxy", remedy="give it as http://host:port"
        )
    if address.username is None:
        return Proxy(host, port)
    pair = f"{unquote(address.username)}:{unquote(address.password or '')}"
    return Proxy(host, port, "Basic " + base64.b64encode(pair.encode()).decode())


def open_tunnel(connection: MeteredSocket, proxy: Proxy, target: str) -> None:
    """Ask the proxy for a tunnel to `target`, host and port.

    Raises:
        SourceRefused: the proxy refuses.
        SourceMisbehaved: it answers with something else than HTTP.
        OSError: the connection broke.
    """
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(cast("socket.socket", connection), method="CONNECT")
    try:
        response.begin()
    except http.client.HTTPException as error:
        raise SourceMisbehaved("the proxy does not answer in HTTP") from error
    finally:
        response.close()
    if response.status != http.client.OK:
        raise SourceRefused(
            f"the proxy {proxy.host} refuses a tunnel to {target}: status {response.status}",
            remedy="let the proxy pass this server, or name it in no_proxy",
        )
