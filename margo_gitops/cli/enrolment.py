"""`margo-gitops device enroll` and what follows: devices that a server knows (docs/enrolment.md)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from margo_gitops.cli.completion import complete_devices
from margo_gitops.cli.device import device
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import Duration, fleet_option
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.disk.files import disk_errors, read_small_file, replace_file
from margo_gitops.documents.enrolment import DeviceEnrolment, EnrolmentCode, secret_digest
from margo_gitops.documents.freshness import format_moment
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.editing.carried_enrolment import answer_on, requests_on
from margo_gitops.editing.devices import name_receipt_keys
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
from margo_gitops.trust.ssh_key import read_public_key
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.wording import table_lines

_KNOWN = ("enrolled", "copied")
_FILE = click.Path(path_type=Path, dir_okay=False)
_server = click.option(
    "--server", type=_FILE, required=True, help="The server's configuration: run this on its machine."
)

_server_or_none = click.option("--server", type=_FILE, help="The server's configuration: run this on its machine.")
_stick = click.option(
    "--stick", type=click.Path(path_type=Path, file_okay=False, exists=True), help="The folder on the stick that came."
)


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--server", type=_FILE, help="The server's configuration: run this on its machine.")
@click.option("--git", metavar="URL", help="Without a server: the state repo that the device pulls from.")
@click.option("--http", metavar="URL", help="Without a server: the static files that the device pulls.")
@click.option("--stick", metavar="PATH", help="Without a line: where the device finds the stick that is brought to it.")
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
    stick: str | None,
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
    if sum(each is not None for each in (server, git, http, stick)) != 1:
        raise click.UsageError("name one of --server, --git, --http and --stick")
    if not is_client(device_id):
        raise EnrolmentNotMade(f"{device_id!r} cannot be enrolled", remedy="name a device id without a slash")
    authority = _pem(ca_file) if ca_file is not None else None
    if server is None:
        if target is None:
            raise click.UsageError("without a server, a file is carried to the device: name it with --output")
        document = _given(trust_document) or _newest(FleetKeys.read(fleet))
        made = DeviceEnrolment(device_id, _text(document), None, None, None, authority, git, http, stick)
        _write(target, made)
        return
    configuration, settings = _configured(server)
    document = _given(trust_document) or _served(configuration, device_id)
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
    if key:
        _receipt_key_note(device_id, key)


@device.command()
@_server_or_none
@_stick
@output_option()
def enrolments(server: Path | None, stick: Path | None, output: str) -> None:
    """List what a server knows: enrolled devices, keys that wait for approval, and secrets that were not used.

    With --stick, list the requests that a person carried here.
    """
    if (server is None) == (stick is None):
        raise click.UsageError("name one of --server and --stick")
    if stick is not None:
        asked = [(request.device, "pending", key.fingerprint) for request, key in requests_on(stick)]
        rows = [dict(zip(("device", "state", "key"), each, strict=True)) for each in asked]
        show(output, rows, table_lines([("DEVICE", "STATE", "KEY"), *asked]))
        return
    configuration, _ = _configured(server or Path())
    with opened_registry(configuration) as registry:
        found = registry.listed()
    rows = [_row(each) for each in found]
    show(output, rows, table_lines([("DEVICE", "STATE", "KEY", "UNTIL"), *(tuple(row.values()) for row in rows)]))


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--fingerprint", required=True, help="Of the key that waits, as the device shows it: SHA256:…")
@_server_or_none
@_stick
@fleet_option
def approve(device_id: str, fingerprint: str, server: Path | None, stick: Path | None, fleet: Path) -> None:
    """Enrol the key that waits as the device ID. First compare the fingerprint with the one that the device shows.

    With --stick, the answer goes back to the device on the stick that brought its request.
    """
    if not is_client(device_id):
        raise EnrolmentNotMade(f"{device_id!r} cannot be enrolled", remedy="name a device id without a slash")
    if (server is None) == (stick is None):
        raise click.UsageError("name one of --server and --stick")
    if stick is not None:
        asked = {(request.device, key.fingerprint): key for request, key in requests_on(stick)}
        if (device_id, fingerprint) not in asked:
            remedy = f"list what waits: margo-gitops device enrolments --stick {stick}"
            raise EnrolmentNotMade(f"no such key waits to be {device_id}", remedy=remedy)
        public = str(asked[device_id, fingerprint])
        answer_on(
            stick, DeviceEnrolment(device_id, _text(_newest(FleetKeys.read(fleet))), stick="/", public_key=public)
        )
        say(f"{device_id} with {fingerprint} finds its answer on the stick")
        _receipt_key_note(device_id, public)
        return
    with _registry(server or Path()) as registry:
        held = [each for each in registry.listed() if each.device == device_id and each.state in _KNOWN]
        key = registry.approve(device_id, fingerprint)
        if key is None:
            remedy = "list what waits: margo-gitops device enrolments"
            raise EnrolmentNotMade(f"no such key waits to be {device_id}", remedy=remedy)
    if held:
        note(f"{device_id} was enrolled with {held[0].fingerprint} before: that token has ended")
    say(f"{device_id} is enrolled with {fingerprint}")
    _receipt_key_note(device_id, key)


@device.command("receipt-key")
@click.argument("device_ids", nargs=-1, metavar="[ID...]", shell_complete=complete_devices)
@click.option("--key", metavar="KEY", help="The public key of the one device, as `device approve` prints it.")
@click.option("--server", type=_FILE, help="Take the keys of enrolled devices from this server: all, or those named.")
@edit_options
def receipt_key(device_ids: tuple[str, ...], key: str | None, server: Path | None, editing: Editing) -> None:
    """Write the key of enrolled devices into their Device documents, as the key that signs their receipts.

    Keys that are there stay: they signed older receipts. A reviewed commit then says whose key it is.
    """
    if (key is None) == (server is None) or (key is not None and len(device_ids) != 1):
        raise click.UsageError("name a device and its --key, or a --server that knows the keys")
    base = editing.base()
    if key is not None:
        keys = {device_ids[0]: _public_key(key)}
    else:
        with _registry(server or Path()) as registry:
            known = {each.device: each.key for each in registry.listed() if each.state in _KNOWN and each.key}
        if missing := [each for each in device_ids if each not in known]:
            raise EnrolmentNotMade(
                f"{missing[0]} is not enrolled", remedy="list what the server knows: margo-gitops device enrolments"
            )
        keys = {each: known[each] for each in device_ids or known if device_ids or each in base.intent.devices}
    editing.finish(base, name_receipt_keys(base, keys))


def _public_key(text: str) -> str:
    try:
        return str(read_public_key(*text.split()[:2]))
    except (TypeError, ValueError) as error:
        raise EnrolmentNotMade(
            "this is not a public key", why=[str(error)], remedy="name it as its .pub file has it: ssh-ed25519 AAAA…"
        ) from error


def _receipt_key_note(device_id: str, key: str) -> None:
    note(f"in the fleet repo, name the key of its receipts: margo-gitops device receipt-key {device_id} --key '{key}'")


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


def _served(configuration: ServerConfiguration, device_id: str) -> FleetTrust:
    repo = StateRepo.open(configuration.state_folder)
    refs = repo.refs.read()
    chain = held_chain(repo.objects, refs)
    if not chain:
        raise _without_root()
    if device_ref(device_id) not in refs:
        note(f"no state was rendered for {device_id} yet: is that its id in the fleet repo?")
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
