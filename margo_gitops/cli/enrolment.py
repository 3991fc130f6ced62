"""`margo-gitops device enroll, enrolments, approve, revoke`: which devices a server knows (docs/enrolment.md)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from margo_gitops.cli.device import device
from margo_gitops.cli.options import Duration, fleet_option
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.disk.files import disk_errors, read_small_file, replace_file
from margo_gitops.documents.enrolment import DeviceEnrolment, EnrolmentCode, secret_digest
from margo_gitops.documents.freshness import format_moment
from margo_gitops.documents.records import write
from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.editing.keys import FleetKeys, read_key_file
from margo_gitops.errors import EnrolmentNotMade
from margo_gitops.server.identity.callers import is_client
from margo_gitops.server.resources.enrolment_registry import Enrolment, EnrolmentRegistry
from margo_gitops.server.service.configuration import (
    EnrolmentSettings,
    ServerConfiguration,
    load_server_configuration,
)
from margo_gitops.server.service.stores import opened_registry
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.state_repo.trust_branch import held_chain
from margo_gitops.trust.enrolment import begin, trust_digest
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.wording import table_lines

_KNOWN = ("enrolled", "copied")
_FILE = click.Path(path_type=Path, dir_okay=False)
_server = click.option(
    "--server", type=_FILE, required=True, help="The server's configuration: run this on its machine."
)


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--server", type=_FILE, help="The server's configuration: run this on its machine.")
@click.option("--git", metavar="URL", help="Without a server: the state repo that the device pulls from.")
@click.option("--http", metavar="URL", help="Without a server: the static files that the device pulls.")
@click.option("--valid-for", type=Duration(), default="1h", show_default=True, help="Until the secret ends: 30m, 24h.")
@click.option("--public-key", type=_FILE, metavar="FILE.pub", help="The device's key, prepared before: no secret then.")
@click.option("--trust-document", type=_FILE, help="What the device begins with. Default: the newest that counts.")
@click.option("--ca-file", type=_FILE, help="Certificates (PEM) the device trusts for TLS. Default: enrolment.caFile.")
@click.option("--output", "target", type=_FILE, help="Write a file for the device (mode 0600), in place of the code.")
@fleet_option
def enroll(
    device_id: str,
    server: Path | None,
    git: str | None,
    http: str | None,
    valid_for: int,
    public_key: Path | None,
    trust_document: Path | None,
    ca_file: Path | None,
    target: Path | None,
    fleet: Path,
) -> None:
    """Let the device ID be enrolled: print a code for one use, or write a file that is carried to the device.

    On the device: `margo-gitops agent enroll`. The next enrolment of an id replaces the one before. Without a server,
    the file has what the device needs to begin; give it the credentials of the git host in another way.
    """
    if sum(each is not None for each in (server, git, http)) != 1:
        raise click.UsageError("name one of --server, --git and --http")
    if not is_client(device_id):
        raise EnrolmentNotMade(f"{device_id!r} cannot be enrolled", remedy="name a device id without a slash")
    authority = _pem(ca_file) if ca_file is not None else None
    if server is None:
        if target is None:
            raise click.UsageError("without a server, a file is carried to the device: name it with --output")
        document = _given(trust_document) or _newest(FleetKeys.read(fleet))
        _write(target, DeviceEnrolment(device_id, _text(document), certificate_authority=authority, git=git, http=http))
        return
    configuration, settings = _configured(server)
    document = _given(trust_document) or _served(configuration)
    if authority is None and settings.ca_file is not None:
        authority = _pem(settings.ca_file)
    secret = secrets.token_urlsafe(18) if public_key is None else None
    key = read_key_file(public_key).key if public_key is not None else ""
    with opened_registry(configuration) as registry:
        held = [each for each in registry.listed() if each.device == device_id and each.state in _KNOWN]
        registry.offer(device_id, secret=secret_digest(secret) if secret else None, key=key, seconds=valid_for)
    if held:
        note(f"{device_id} is enrolled now with {held[0].fingerprint}; that ends when it is enrolled again")
    expires = format_moment(datetime.now(UTC) + timedelta(seconds=valid_for))
    if target is not None:
        made = DeviceEnrolment(device_id, _text(document), settings.url, secret, expires, authority)
        _write(target, made)
    elif secret is not None:
        say(str(EnrolmentCode(device_id, secret, trust_digest(document))))
        note(f"give this to the device before {expires}: margo-gitops agent enroll {settings.url}")
    else:
        say(f"{device_id} can be enrolled with its key until {expires}")


@device.command()
@_server
@output_option()
def enrolments(server: Path, output: str) -> None:
    """List what a server knows: enrolled devices, keys that wait for approval, and secrets that were not used."""
    configuration, _ = _configured(server)
    with opened_registry(configuration) as registry:
        found = registry.listed()
    rows = [_row(each) for each in found]
    show(output, rows, table_lines([("DEVICE", "STATE", "KEY", "UNTIL"), *(tuple(row.values()) for row in rows)]))


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--fingerprint", required=True, help="Of the key that waits, as the device shows it: SHA256:…")
@_server
def approve(device_id: str, fingerprint: str, server: Path) -> None:
    """Enrol the key that waits as the device ID. First compare the fingerprint with the one that the device shows."""
    if not is_client(device_id):
        raise EnrolmentNotMade(f"{device_id!r} cannot be enrolled", remedy="name a device id without a slash")
    with _registry(server) as registry:
        if not registry.approve(device_id, fingerprint):
            remedy = "list what waits: margo-gitops device enrolments"
            raise EnrolmentNotMade(f"no such key waits to be {device_id}", remedy=remedy)
    say(f"{device_id} is enrolled with {fingerprint}")


@device.command()
@click.argument("device_id", metavar="ID")
@_server
def revoke(device_id: str, server: Path) -> None:
    """End what the device ID has from its enrolment: its token, and secrets that were not used. It keeps running."""
    with _registry(server) as registry:
        if not registry.revoke(device_id):
            raise EnrolmentNotMade(
                f"{device_id} is not enrolled", remedy="a token of the file ends with its line there"
            )
    say(f"{device_id} is not enrolled any more")


def _configured(server: Path) -> tuple[ServerConfiguration, EnrolmentSettings]:
    configuration = load_server_configuration(server)
    if configuration.enrolment is None:
        remedy = "add enrolment: {url: https://…} to it, and start the server again"
        raise EnrolmentNotMade(f"{server} has no section enrolment", remedy=remedy)
    return configuration, configuration.enrolment


@contextmanager
def _registry(server: Path) -> Iterator[EnrolmentRegistry]:
    configuration, _ = _configured(server)
    with opened_registry(configuration) as registry:
        yield registry


def _given(path: Path | None) -> FleetTrust | None:
    if path is None:
        return None
    what = "the trust document cannot be read"
    return begin(read_small_file(path, MAX_ENVELOPE_BYTES, what=what, error=EnrolmentNotMade), None)


def _newest(keys: FleetKeys) -> FleetTrust:
    if keys.chain is None or keys.chain.newest is None:
        raise _without_root()
    return keys.chain.newest


def _served(configuration: ServerConfiguration) -> FleetTrust:
    repo = StateRepo.open(configuration.state_repo)
    chain = held_chain(repo.objects, repo.refs.read())
    if not chain:
        raise _without_root()
    return chain[-1]


def _without_root() -> EnrolmentNotMade:
    remedy = "make one (margo-gitops keys init), let the root keys sign it, and render"
    return EnrolmentNotMade("this fleet has no trust document that counts", remedy=remedy)


def _text(document: FleetTrust) -> str:
    return document.content.decode()


def _pem(path: Path) -> str:
    return read_small_file(path, 256 * 1024, what="the certificates cannot be read", error=EnrolmentNotMade).decode()


def _write(target: Path, made: DeviceEnrolment) -> None:
    with disk_errors(target, what="the file cannot be written", error=EnrolmentNotMade):
        replace_file(target, write_yaml(write(made)))
    note(f"on the device: margo-gitops agent enroll {target.name}")
    say(f"{target} is written{'; it is a secret' if made.secret else ''}")


def _row(row: Enrolment) -> dict[str, str]:
    until = "" if row.state in _KNOWN else format_moment(datetime.fromtimestamp(row.expires, UTC))
    return {"device": row.device or "?", "state": row.state, "key": row.fingerprint or "(any)", "until": until}
