"""The token that a device proves itself with, read at the moment it is needed."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from margo_gitops.errors import SourceMisconfigured
from margo_gitops.transport.web.source import WebSource

_LONGEST_TOKEN = 16 * 1024


class Credentials:
    """Makes the Authorization header of each request; a token file is read again only when it changed."""

    def __init__(self, source: WebSource) -> None:
        """Take the settings; nothing is read yet."""
        self._source = source
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def authorization(self) -> str | None:
        """Return the value of the header; None where the source needs no token.

        Raises:
            SourceMisconfigured: the token cannot be read, or is none.
        """
        token = self._read()
        if token is None:
            return None
        if self._source.username is None:
            return f"Bearer {token}"
        return "Basic " + base64.b64encode(f"{self._source.username}:{token}".encode()).decode()

    def _read(self) -> str | None:
        if self._source.token_variable is not None:
            name = self._source.token_variable
            return _checked(os.environ.get(name, ""), f"the environment variable {name}")
        if self._source.token_file is not None:
            return self._read_file(self._source.token_file)
        return None

    def _read_file(self, path: Path) -> str:
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                if status.st_size > _LONGEST_TOKEN:
                    raise SourceMisconfigured(f"the token file {path} is larger than any token")
                with path.open(encoding="utf-8") as file:
                    self._token = _checked(file.read(_LONGEST_TOKEN), f"the token file {path}")
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SourceMisconfigured(
                f"the token file {path} cannot be read: {why}",
                remedy="write the token into it, readable for the user the agent runs as",
            ) from None
        return self._token


def _checked(text: str, what: str) -> str:
    token = text.strip()
    if not token:
        raise SourceMisconfigured(f"{what} holds no token", remedy="put the token there, and nothing else")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SourceMisconfigured(
            f"{what} holds more than a token: blanks, lines or characters outside ASCII",
            remedy="put the token there, and nothing else",
        )
    return token
