"""How registries are reached: hosts, mirrors, certificates, credentials.

A registry that no setting names is reached over https with the system's authorities, or with those that Docker and
Podman would use for it (`certs.d/HOST/*.crt`, and `*.cert` with `*.key` as the client's certificate).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from margo_gitops.documents.declarations import About, Items, Text
from margo_gitops.registry.references import HOST_PATTERN, REPOSITORY_PATTERN
from margo_gitops.settings import FilePath
from margo_gitops.values import dataclass
from margo_gitops.web.source import WebSource, is_loopback

CERTIFICATE_FOLDERS: Final = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
DOCKER_HUB: Final = "docker.io"
_API_HOSTS: Final = {DOCKER_HUB: "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}

_Host = Annotated[str, Text(pattern=f"^{HOST_PATTERN}$", what="a host, or host:port")]
_Mirror = Annotated[
    str, Text(pattern=f"^{HOST_PATTERN}(?:/{REPOSITORY_PATTERN})?$", what="a host, host:port or host:port/path")
]


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """How one registry, or one mirror, is reached."""

    host: Annotated[_Host, About("The registry, as references name it.", ("registry.example.com",))]
    mirrors: Annotated[
        tuple[_Mirror, ...],
        Items(maximum=8),
        About("Asked before it, in order, for what has a digest; with a path, that comes before the repository."),
    ] = ()
    ca_file: Annotated[FilePath | None, About("Certificates (PEM) to trust instead of the system's.")] = None
    client_certificate: Annotated[FilePath | None, About("Certificate chain (PEM) to present.")] = None
    client_key: Annotated[FilePath | None, About("Private key (PEM) of the client certificate.")] = None
    token_server: Annotated[
        _Host | None, About("Gets the credentials too, if the registry's tokens come from a host of another domain.")
    ] = None
    plain_http: Annotated[bool, About("Speak http. Credentials then go to this machine only.")] = False


@dataclass(frozen=True, slots=True)
class Registries:
    """What a configuration says of OCI registries."""

    hosts: Annotated[
        tuple[RegistryAccess, ...],
        Items(maximum=32, unique="host", noun="registry"),
        About("Registries that need settings; the others are reached over https, without mirrors."),
    ] = ()
    credentials_file: Annotated[
        FilePath | None,
        About("Credentials in the form of Docker's config.json; its helpers are run.", ("registries.json",)),
    ] = None

    def settings(self, *, proxy_from_environment: bool) -> RegistrySettings:
        """Return them with what else says how registries are reached."""
        return RegistrySettings(self.hosts, self.credentials_file, proxy_from_environment)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How all registries are reached.

    Attributes:
        registries: those that need settings.
        credentials_file: in the form of Docker's `config.json`; None: there are no credentials.
        proxy_from_environment: whether https_proxy and no_proxy count.
        certificate_folders: where Docker and Podman keep certificates of registries.
    """

    registries: tuple[RegistryAccess, ...] = ()
    credentials_file: Path | None = None
    proxy_from_environment: bool = False
    certificate_folders: tuple[Path, ...] = CERTIFICATE_FOLDERS

    def access(self, host: str) -> RegistryAccess:
        """Return how a host is reached."""
        for each in self.registries:
            if each.host.lower() == host:
                return each
        for folder in (place / host for place in self.certificate_folders):
            if folder.is_dir():
                first = {ending: min(folder.glob(f"*.{ending}"), default=None) for ending in ("crt", "cert", "key")}
                return RegistryAccess(host, (), first["crt"], first["cert"], first["key"])
        return RegistryAccess(host)


def web_source(access: RegistryAccess, *, proxy_from_environment: bool, url: str = "") -> WebSource:
    """Return what a connection needs.

    Args:
        url: of another host that the registry names; empty: the registry itself. Its client certificate is not shown
            to others.
    """
    scheme = "http" if access.plain_http else "https"
    address = _API_HOSTS.get(access.host, access.host)
    own = not url
    return WebSource(
        url or f"{scheme}://{address}",
        ca_file=access.ca_file if own or url.startswith("https:") else None,
        client_certificate=access.client_certificate if own and not access.plain_http else None,
        client_key=access.client_key if own and not access.plain_http else None,
        proxy_from_environment=proxy_from_environment,
    )


def is_private(source: WebSource) -> bool:
    """Whether what is sent to a source can be read by no one in between."""
    return source.address.scheme == "https" or is_loopback(source.address.hostname)
