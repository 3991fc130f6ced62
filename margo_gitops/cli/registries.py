"""`margo-gitops app push|sign|verify|outdated` and `registry login|logout`: packages in OCI registries."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Final, Literal, TypeVar, cast

import click

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import LOCK_FILE, Package, locked_applications
from margo_gitops.catalog.vendor import offered_package, package_of
from margo_gitops.cli.options import fleet_option
from margo_gitops.cli.output import output_option, say, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.fleet_kinds import LockedApplication
from margo_gitops.documents.versions import version_key
from margo_gitops.errors import ExitCode, PackageKeyUnusable, RegistryCredentialsUnusable
from margo_gitops.packaging.fetching import FetchedPackage, fetch_package, newer_versions
from margo_gitops.packaging.layout import lay_out, write_layout
from margo_gitops.packaging.publishing import push_package, sign_package
from margo_gitops.packaging.scaffold import new_package
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.credentials import HostCredentials, store_credentials, usual_credentials_file
from margo_gitops.registry.references import SCHEME, Reference, parse_reference
from margo_gitops.registry.server import Patience
from margo_gitops.registry.settings import CERTIFICATE_FOLDERS, RegistrySettings
from margo_gitops.registry.signatures import verify as verify_signature
from margo_gitops.values import dataclass, replace

C = TypeVar("C", bound=Callable[..., object])

_PATIENCE_SECONDS: Final = 120.0
_MOST_KEY_BYTES: Final = 16 * 1024
_MOST_PASSWORD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reach:
    """How a person reaches a registry: what the command says, and what Docker and Podman have on this machine."""

    ca_file: Path | None
    plain_http: bool

    def settings(self, host: str) -> RegistrySettings:
        """Return the settings of all registries; the options count for `host`."""
        folders = (Path.home() / ".config/containers/certs.d", *CERTIFICATE_FOLDERS)
        usual = RegistrySettings((), usual_credentials_file(), True, folders)
        if self.ca_file is None and not self.plain_http:
            return usual
        access = replace(usual.access(host), ca_file=self.ca_file, plain_http=self.plain_http)
        return replace(usual, registries=(access,))

    def client(self, host: str) -> RegistryClient:
        """Return a client that waits where a registry asks for it."""
        return RegistryClient(self.settings(host), patience=Patience(_PATIENCE_SECONDS))

    def package(self, reference: Reference, key: Path | None) -> tuple[Package, FetchedPackage]:
        """Return the package in a registry, verified with a key if there is one, and checked."""
        with self.client(reference.host) as client:
            fetched = fetch_package(client, reference, key=read_key(key) if key is not None else None)
        return package_of(fetched.files, str(reference)), fetched


def registry_options(command: C) -> C:
    """Add the options of a command that asks a registry; the command gets them as `reach`, a `Reach`."""

    @wraps(command)
    def made(*arguments: object, ca_file: Path | None, plain_http: bool, **more: object) -> object:
        return command(*arguments, reach=Reach(ca_file, plain_http), **more)

    decorated = cast("C", made)
    for option in (
        click.option("--plain-http", is_flag=True, help="Speak http with this registry."),
        click.option(
            "--ca-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Certificates (PEM) to trust for this registry. Default: those of Docker or Podman, or the system's.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def is_reference(source: str) -> bool:
    """Whether a package is in a registry, and not in a folder."""
    return source.startswith(SCHEME)


def read_key(path: Path) -> bytes:
    """Return the content of a key file (PackageKeyUnusable: it cannot be read)."""
    return read_small_file(path, _MOST_KEY_BYTES, what="the key cannot be read", error=PackageKeyUnusable)


key_option = click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="The public key (PEM) that must have signed it."
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--registry", "place", required=True, metavar="oci://REGISTRY/PATH", help="Where your packages go.")
@click.option("--kind", type=click.Choice(["compose", "helm"]), default="compose", help="What runs it.")
def new(folder: Path, place: str, kind: Literal["compose", "helm"]) -> None:
    """Write a new application package into FOLDER: a description, a component with parameters, and their rules."""
    name = folder.resolve().name
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise click.UsageError(
            f"the folder's name becomes the application's: {name!r} is not lower-case letters and digits"
        )
    application = new_package(folder, parse_reference(place), name, kind)
    say(f"wrote {application} 0.1.0 into {folder}")
    say(f"check it with `margo-gitops app validate {folder}`")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def pack(path: Path, target: Path) -> None:
    """Write what `push` would push of the package in PATH, as a new folder TARGET in the OCI image layout.

    Equal files always give equal digests. Programs such as skopeo copy the layout to any registry.
    """
    for each, digest in write_layout(lay_out(offered_package(path), None), target):
        say(f"{digest}  {each}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("reference", metavar="oci://REGISTRY/NAME")
@click.option("--replace", "replaced", is_flag=True, help="Overwrite this version if it exists with other content.")
@click.option(
    "--sign-key", type=click.Path(path_type=Path, dir_okay=False), help="Sign all that is pushed with this key (PEM)."
)
@click.option("--signature-tag", is_flag=True, help="Name signatures by cosign's tag, for cosign before version 3.")
@registry_options
def push(path: Path, reference: str, replaced: bool, sign_key: Path | None, signature_tag: bool, reach: Reach) -> None:
    """Push the package in the folder PATH to a registry, as Margo lays packages out.

    The content of each component goes where its `repository` and `revision` say. The tag of the package is its version.
    Equal files always give equal digests.
    """
    place = parse_reference(reference)
    layout = lay_out(offered_package(path), place)
    with reach.client(place.host) as client:
        pushed = push_package(client, layout, replace=replaced)
        for each in pushed:
            say(f"{each.outcome} {each.name}: {each.reference}")
        if sign_key is not None:
            for made in sign_package(client, pushed, read_key(sign_key), by_tag=signature_tag):
                say(f"signed: {made}")


@click.command()
@click.argument("reference", metavar="oci://REGISTRY/NAME:VERSION")
@click.option("--key", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Private key (PEM).")
@click.option("--signature-tag", is_flag=True, help="Name the signature by cosign's tag, for cosign before version 3.")
@registry_options
def sign(reference: str, key: Path, signature_tag: bool, reach: Reach) -> None:
    """Sign what a registry has, with a key of ECDSA P-256, as cosign does."""
    from margo_gitops.registry.signatures import sign as sign_reference

    place = parse_reference(reference)
    with reach.client(place.host) as client:
        say(f"signed: {sign_reference(client, place, read_key(key), by_tag=signature_tag)}")


@click.command()
@click.argument("reference", metavar="oci://REGISTRY/NAME:VERSION")
@click.option("--key", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Public key (PEM).")
@registry_options
def verify(reference: str, key: Path, reach: Reach) -> None:
    """Verify that what a registry has is signed with a key. No other service is asked."""
    place = parse_reference(reference)
    with reach.client(place.host) as client:
        say(f"{place.place}@{verify_signature(client, place, read_key(key))} is signed with this key")


@click.command()
@fleet_option
@output_option()
@registry_options
def outdated(fleet: Path, output: str, reach: Reach) -> None:
    """List the applications whose registry has a newer version. Ends with 1 if there is one.

    Only those count that came from a registry, by `app add oci://…`.
    """
    newest: dict[str, LockedApplication] = {}
    lock = DiskTree(FleetRepo.find(fleet).root).file(LOCK_FILE)
    for (name, version), entry in (locked_applications(lock.read()) if lock else {}).items():
        if entry.source is not None and (
            name not in newest or version_key(newest[name].version) < version_key(version)
        ):
            newest[name] = entry
    found = []
    for name, entry in sorted(newest.items()):
        place = parse_reference(entry.source or "")
        with reach.client(place.host) as client:
            versions = newer_versions(client, place, entry.version)
        if versions:
            source = str(place.place.at(versions[0]))
            found.append({"application": name, "version": entry.version, "newest": versions[0], "source": source})
    show(
        output,
        found,
        (f"{each['application']} {each['version']} -> {each['newest']}  {each['source']}" for each in found),
    )
    if found:
        sys.exit(ExitCode.FINDINGS)


@click.group()
def registry() -> None:
    """Log in to OCI registries; Docker's and Podman's logins count too."""


@registry.command()
@click.argument("host")
@click.option("--username", "-u", required=True, help="The user.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@registry_options
def login(host: str, username: str, password_stdin: bool, reach: Reach) -> None:
    """Keep the credentials for a registry, where Docker and its helpers keep them, if the registry accepts them.

    The password comes from standard input, or from a prompt that does not show it; it is never an argument.
    """
    place = parse_reference(f"{SCHEME}{host}/login")
    if password_stdin:
        password = sys.stdin.read(_MOST_PASSWORD_BYTES).rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        password = ""
    if not password:
        raise RegistryCredentialsUnusable("there is no password", remedy="pass it with --password-stdin")
    credentials = HostCredentials(username, password)
    with RegistryClient(reach.settings(place.host), credentials=lambda _: credentials) as client:
        client.check_login(place.host)
    kept = store_credentials(usual_credentials_file(), place.host, credentials)
    say(f"logged in to {place.host} as {username}; kept in {kept}")


@registry.command()
@click.argument("host")
def logout(host: str) -> None:
    """Forget the credentials for a registry."""
    place = parse_reference(f"{SCHEME}{host}/logout")
    say(f"forgotten in {store_credentials(usual_credentials_file(), place.host, None)}")
