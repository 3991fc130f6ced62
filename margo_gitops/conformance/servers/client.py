"""The server under test, who asks it, and requests exactly as a check writes them: no redirects, no retries."""

from __future__ import annotations

import base64
import contextlib
import http.client
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from margo_gitops import __version__
from margo_gitops.conformance.report import shown
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.errors import ServerNotCheckable, ServerNotReached
from margo_gitops.values import dataclass, field
from margo_gitops.web.tls import client_context

_LONGEST_TOKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server, and the device that asks it.

    Attributes:
        url: of the repository, or what comes before /api/v1/deployments.
        token: its access token; empty where a certificate identifies it.
        other_device: id of a device that the credentials are not for; empty for none.
        other_token: its token; empty for none.
        username: send tokens as the password of this user (Basic); empty for Bearer.
        ca_file: certificates to trust instead of the system's.
        certificate: client certificate and key in one file.
        seconds: the longest that one answer may take.
        reports: "all" sends valid reports too, "invalid" only ones that change nothing, "none" is for servers that
            take no reports.
    """

    url: str
    device: str
    token: str = field(default="", repr=False)
    other_device: str = ""
    other_token: str = field(default="", repr=False)
    username: str = ""
    ca_file: Path | None = None
    certificate: Path | None = None
    seconds: float = 30
    reports: str = "invalid"

    def __post_init__(self) -> None:
        """Check the settings (ServerNotCheckable: they cannot work)."""
        try:
            address = urlsplit(self.url)
            port_is_one = address.port != 0
        except ValueError:
            raise _refused("the URL cannot be read", "give https://host/path") from None
        if address.scheme not in ("http", "https") or not address.hostname or not port_is_one:
            raise _refused("the URL is not one of http or https", "give https://host/path")
        if address.username or address.password:
            raise _refused("the URL holds credentials", "put the token into a file, and name it with --token-file")
        if address.query or address.fragment:
            raise _refused(
                "the URL has a query or a fragment",
                "give the URL of the repository, or what comes before /api/v1/deployments",
            )
        for device in (self.device, self.other_device):
            if device and not is_device_id(device):
                raise _refused(f"{device[:80]!r} is not a device id", "give the id as the fleet repo names it")
        if self.device == self.other_device:
            raise _refused("the other device is the same", "name a device that the credentials are not for")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no report may hold."""
        return tuple(each for each in (self.token, self.other_token) if each)

    @property
    def prefix(self) -> str:
        """The path of the URL, without a slash at its end."""
        return urlsplit(self.url).path.rstrip("/")


def read_token(path: Path | None) -> str:
    """Return the token in a file; empty for no file (ServerNotCheckable: it cannot be read, or holds no token)."""
    if path is None:
        return ""
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(_LONGEST_TOKEN).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _refused(f"the token file {path} cannot be read: {why}", "name a file that holds a token") from error
    if not token or not token.isprintable() or " " in token:
        raise _refused(f"{path} holds no token", "put the token there, and nothing else")
    return token


def _refused(what: str, remedy: str) -> ServerNotCheckable:
    return ServerNotCheckable(what, remedy=remedy)


LONGEST_BODY: Final = 64 * 1024 * 1024
_LONGEST_CONTENT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        headers: names in lower case; several of one name are joined by a comma.
        body: as it came, with its content coding.
        seconds: from the request to the end of the answer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def header(self, name: str) -> str:
        """Return a header; empty if it is missing."""
        return self.headers.get(name.lower(), "")

    @property
    def keeps(self) -> bool:
        """Whether the server keeps the connection."""
        return "close" not in self.header("connection").lower()

    @property
    def media_type(self) -> str:
        """The media type, without parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()

    def content(self) -> bytes:
        """Return the body without its content coding (ValueError: a coding not asked for, damaged, or too long)."""
        coding = self.header("content-encoding").lower() or "identity"
        if coding == "identity":
            return self.body
        if coding not in ("gzip", "x-gzip"):
            raise ValueError(f"the content coding is {shown(coding)}")
        unpacker = zlib.decompressobj(wbits=31)
        try:
            content = unpacker.decompress(self.body, _LONGEST_CONTENT)
        except zlib.error as error:
            raise ValueError(f"the body is not gzip: {error}") from error
        if not unpacker.eof:
            raise ValueError("the body is cut off, or unpacks to too much")
        return content


@dataclass(slots=True)
class RawClient:
    """Asks one server, on one connection that is kept while it can be.

    Attributes:
        log: what was asked and came, one line each, without credentials.
    """

    target: ServerTarget
    log: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    _connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        token: str | None = None,
    ) -> Reply:
        """Send a request and return the answer.

        Args:
            path: the target, from the host on; sent as it is.
            headers: without Host, Authorization and lengths.
            body: what is sent; None for nothing.
            token: another token than the device's; empty for no Authorization at all.

        Raises:
            ServerNotReached: no answer came.
        """
        sent = {"User-Agent": f"margo-gitops-conformance/{__version__}", **(headers or {})}
        given = self.target.token if token is None else token
        if given:
            sent["Authorization"] = self._authorization(given)
        begin = time.monotonic()
        try:
            reply = self._exchange(method, path, sent, body, begin)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerNotReached(
                f"{shown(f'{method} {path}')}: no answer: {shown(str(why))}",
                remedy="check the URL, the network and the certificates; then try again",
            ) from error
        self.replies.append(reply)
        self.log.append(self._line(method, path, headers or {}, reply, given))
        return reply

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes | None, begin: float) -> Reply:
        kept = self._connection is not None
        connection = self._connection = self._connection or self._connect()
        try:
            # Not `request`, which looks at the path and at the body.
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in headers:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            if body:
                # A server that refuses a body may close before it has come; what it says counts.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.send(body)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            self.close()
            if kept:
                return self._exchange(method, path, headers, body, begin)
            raise
        content = response.read(LONGEST_BODY)
        found: dict[str, str] = {}
        for name, value in response.getheaders():
            key = name.lower()
            found[key] = f"{found[key]}, {value}" if key in found else value
        if response.will_close or response.read(1):
            self.close()
        return Reply(response.status, found, content, time.monotonic() - begin)

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.target.url)
        host = address.hostname or ""
        if address.scheme == "http":
            return http.client.HTTPConnection(host, address.port, timeout=self.target.seconds)
        try:
            context = client_context(self.target.ca_file)
            if self.target.certificate is not None:
                context.load_cert_chain(self.target.certificate)
        except OSError as error:
            raise ServerNotCheckable(
                f"the certificates cannot be used: {shown(str(error))}", remedy="name files in PEM form"
            ) from error
        return http.client.HTTPSConnection(host, address.port, timeout=self.target.seconds, context=context)

    def _authorization(self, token: str) -> str:
        if not self.target.username:
            return f"Bearer {token}"
        return "Basic " + base64.b64encode(f"{self.target.username}:{token}".encode()).decode()

    def _line(self, method: str, path: str, headers: Mapping[str, str], reply: Reply, token: str) -> str:
        who = "" if token == self.target.token else ", as another device" if token else ", without credentials"
        told = "".join(f", {name}: {value}" for name, value in headers.items())
        tag = f", ETag {reply.header('etag')}" if reply.header("etag") else ""
        came = f"{reply.status} {reply.media_type}, {len(reply.body)} bytes{tag}"
        return shown(f"{method} {path}{told}{who} -> {came}", self.target.secrets)


def chunked(content: bytes) -> bytes:
    """Return content as one chunk and the end (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
