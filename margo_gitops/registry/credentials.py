"""Credentials for registries, where Docker keeps them: `config.json` and its credential helpers.

LOGIN-1  Credentials are found by the host of a registry or a mirror, and are for that host alone.
LOGIN-2  A secret is in no argument, no message and no log: helpers read it from their standard input.
LOGIN-3  The file is written in one step, for its owner alone, and keeps what other programs wrote in it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TypeVar

from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.documents.declarations import Wire
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import find
from margo_gitops.errors import RegistryCredentialsUnusable, UnreadableDocument
from margo_gitops.registry.settings import DOCKER_HUB
from margo_gitops.values import dataclass, field

T = TypeVar("T")

_HUB_KEY: Final = "https://index.docker.io/v1/"
_BOUNDS: Final = Bounds(size=1024 * 1024, depth=8, nodes=20_000)
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS: Final = 60.0
_TOKEN_USER: Final = "<token>"  # noqa: S105  # how helpers mark an identity token


@dataclass(frozen=True, slots=True)
class HostCredentials:
    """What proves a user to one registry.

    Attributes:
        secret: the password, or an identity token where there is no user.
    """

    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Auth:
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identity_token: Annotated[str | None, Wire("identitytoken")] = None


@dataclass(frozen=True, slots=True)
class _DockerConfig:
    auths: Mapping[str, _Auth] = field(default_factory=dict)
    helpers: Annotated[Mapping[str, str], Wire("credHelpers")] = field(default_factory=dict)
    store: Annotated[str | None, Wire("credsStore")] = None


@dataclass(frozen=True, slots=True)
class _Answer:
    username: Annotated[str, Wire("Username")]
    secret: Annotated[str, Wire("Secret")]


def usual_credentials_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where this user's credentials are: as Podman and Docker say, in this order."""
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return Path(named)
    folder = environment.get("DOCKER_CONFIG")
    return Path(folder) / "config.json" if folder else Path.home() / ".docker" / "config.json"


def find_credentials(file: Path, host: str) -> HostCredentials | None:
    """Return the credentials for a host; None: it has no entry.

    Raises:
        RegistryCredentialsUnusable: the file or the helper cannot be used.
    """
    config = _read(file)
    if (helper := _helper(config, host)) is not None:
        answer = _run_helper(helper, "get", _key(host))
        if answer is None:
            return None
        found = _decoded(_Answer, answer, f"the answer of docker-credential-{helper}")
        return HostCredentials("" if found.username == _TOKEN_USER else found.username, found.secret)
    for key, each in config.auths.items():
        if _host_of(key) == host:
            return _of_file(file, host, each)
    return None


def store_credentials(file: Path, host: str, credentials: HostCredentials | None) -> str:
    """Keep the credentials for a host, or with None, forget them; return where.

    Raises:
        RegistryCredentialsUnusable: the file or the helper does not take them.
    """
    config = _read(file)
    helper = _helper(config, host)
    if helper is not None:
        if credentials is None:
            _run_helper(helper, "erase", _key(host))
        else:
            names = {"ServerURL": _key(host), "Username": credentials.username, "Secret": credentials.secret}
            _run_helper(helper, "store", json.dumps(names))
        return f"the credential helper {helper}"
    with disk_errors(file, what="the credentials cannot be stored", error=RegistryCredentialsUnusable):
        content = json.loads(read_bounded(file, _BOUNDS.size)) if file.exists() else {}
        auths = {key: each for key, each in content.get("auths", {}).items() if _host_of(key) != host}
        if credentials is not None:
            pair = base64.b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()
            auths[_key(host)] = {"auth": pair}
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(file, (json.dumps({**content, "auths": auths}, indent=2) + "\n").encode())
    return str(file)


def _of_file(file: Path, host: str, each: _Auth) -> HostCredentials | None:
    if each.identity_token:
        return HostCredentials("", each.identity_token)
    if each.username and each.password:
        return HostCredentials(each.username, each.password)
    if not each.auth:
        return None
    user = separator = secret = ""
    with suppress(binascii.Error, UnicodeDecodeError):
        user, separator, secret = base64.b64decode(each.auth, validate=True).decode().partition(":")
    if not separator:
        raise RegistryCredentialsUnusable(
            f"the entry for {host} in {file} is not user:password in base64",
            remedy=f"log in again: margo-gitops registry login {host}",
        )
    return HostCredentials(user, secret.rstrip("\0"))


def _helper(config: _DockerConfig, host: str) -> str | None:
    for key, helper in config.helpers.items():
        if _host_of(key) == host:
            return helper
    return config.store or None


def _run_helper(helper: str, verb: str, given: str) -> bytes | None:
    """Return what a helper answers; None where it has no credentials (docker-credential-helpers, protocol)."""
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise RegistryCredentialsUnusable(f"{program!r} is not the name of a credential helper")
    try:
        done = subprocess.run(
            [program, verb], input=given.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryCredentialsUnusable(
            f"the credential helper {program} cannot be used: {type(error).__name__}",
            remedy="install it, or take it out of Docker's config.json",
        ) from None
    if done.returncode == 0:
        return done.stdout
    if verb == "get" and b"credentials not found" in (done.stdout + done.stderr).lower():
        return None
    raise RegistryCredentialsUnusable(
        f"the credential helper {program} fails with status {done.returncode}", remedy=f"run it: {program} list"
    )


def _read(file: Path) -> _DockerConfig:
    with disk_errors(file, what="the credentials cannot be read", error=RegistryCredentialsUnusable):
        try:
            content = read_bounded(file, _BOUNDS.size)
        except FileNotFoundError:
            return _DockerConfig()
    return _decoded(_DockerConfig, content, str(file))


def _decoded(record: type[T], content: bytes, what: str) -> T:
    """Return what a program wrote. Why it cannot be read is not shown: it holds secrets."""
    try:
        value, _ = find(record, read_json(content, what, _BOUNDS, foreign=True))
    except UnreadableDocument:
        value = None
    if value is None:
        raise RegistryCredentialsUnusable(f"{what} does not have the form that Docker writes")
    return value


def _key(host: str) -> str:
    return _HUB_KEY if host == DOCKER_HUB else host


def _host_of(key: str) -> str:
    """Return the host that an entry is for: older ones have a scheme and a path."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0].lower()
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host
