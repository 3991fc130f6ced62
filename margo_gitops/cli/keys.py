"""`margo-gitops keys`: the fleet's trust document (docs/trust.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_gitops.catalog.fleet_trust import trust_path
from margo_gitops.cli.options import Duration, cache_folder, fleet_option, state_option
from margo_gitops.cli.output import note, output_option, say, say_text, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.trust_document import FloorChange, KeyRole, Roles, RootRole
from margo_gitops.editing.keys import (
    ROLES,
    FleetKeys,
    add_signature,
    change,
    find_key,
    fingerprint,
    read_key_file,
    start,
    with_floor,
    with_key,
    without_key,
)
from margo_gitops.errors import KeysRefused, StateRepoUnusable
from margo_gitops.fleet_status.reading import StatusRequest, devices_by_signer, has_adopted
from margo_gitops.fleet_status.status import DeviceStatus
from margo_gitops.git_program import sign_with_ssh
from margo_gitops.trust.ssh_signature import MAX_ARMOR_BYTES
from margo_gitops.trust.trust_document import ROOT_NAMESPACE, FleetTrust
from margo_gitops.wording import counted, few, table_lines

C = TypeVar("C", bound=Callable[..., object])

_FILE = click.Path(path_type=Path, dir_okay=False)
_USUAL_LIFE = "365d"
_NAMED = 5
_BY_HAND = "sign by hand: margo-gitops keys show says how; then keys sign --signature FILE"


def _valid_for(default: str | None) -> Callable[[C], C]:
    usual = "a year" if default else "as long as the version before"
    return click.option(
        "--valid-for", type=Duration(), default=default, help=f"Until it expires: 90d. Default: {usual}."
    )


@click.group()
def keys() -> None:
    """Say whose signatures the fleet's devices accept, and change that without a visit to a device."""


def _key_files(role: str, says: str, *, required: bool = False) -> Callable[[C], C]:
    return click.option(f"--{role}", role, multiple=True, type=_FILE, required=required, metavar="FILE.pub", help=says)


@keys.command()
@fleet_option
@_key_files("root", "A key that signs trust documents; repeatable. Keep it off line.", required=True)
@_key_files("render", "A key of the renderer; repeatable.", required=True)
@_key_files("freshness", "A key that signs statements of freshness; repeatable.")
@click.option("--threshold", type=click.IntRange(1, 100), default=1, show_default=True, help="How many root keys sign.")
@_valid_for(_USUAL_LIFE)
def init(fleet: Path, threshold: int, valid_for: int, **files: tuple[Path, ...]) -> None:
    """Make version 1 of the trust document, from public keys: ed25519, sk- (tokens), ecdsa or rsa.

    It counts when the root keys have signed it: `margo-gitops keys sign`.
    """
    listed = {role: tuple(map(read_key_file, paths)) for role, paths in files.items()}
    root = RootRole(threshold, listed.pop("root"))
    roles = Roles(root, **{role: KeyRole(held) for role, held in listed.items()})
    held = FleetKeys.read(fleet)
    _say_written(held, start(held, roles, datetime.now(UTC), timedelta(seconds=valid_for)))


@keys.command()
@click.argument("role", type=click.Choice(ROLES))
@click.argument("file", type=_FILE, metavar="FILE.pub")
@click.option("--name", help="What to call the key. Default: the comment in its file.")
@click.option("--threshold", type=click.IntRange(1, 100), help="With root: how many root keys sign from then on.")
@fleet_option
def add(role: str, file: Path, name: str | None, threshold: int | None, fleet: Path) -> None:
    """Give a key a role in the next version."""
    if threshold is not None and role != "root":
        raise click.UsageError("only root has a --threshold")
    _change(fleet, with_key(role, read_key_file(file, name), threshold))


@keys.command()
@click.argument("key", metavar="NAME")
@fleet_option
@state_option
@click.option("--yes", is_flag=True, help="Do not ask the state repo which devices wait for what the key signed.")
def retire(key: str, fleet: Path, state: str | None, yes: bool) -> None:
    """Retire a key in the next version: what it signed until now counts, and nothing later.

    NAME is its name or fingerprint. Add the new key first. If devices have not reported that they adopted what the key
    signed, the command names them and changes nothing, unless you pass --yes.
    """
    if not yes:
        _refuse_waiting(fleet, state, key)
    _change(fleet, without_key(key, "retired", datetime.now(UTC)))


@keys.command()
@click.argument("key", metavar="NAME")
@fleet_option
def revoke(key: str, fleet: Path) -> None:
    """Revoke a key that another person may have, in the next version: nothing that it signed counts.

    What runs keeps running; devices report it. Render with another key afterwards, with --resign.
    """
    _change(fleet, without_key(key, "compromised", datetime.now(UTC)))


@keys.command()
@fleet_option
@_valid_for(None)
def renew(fleet: Path, valid_for: int | None) -> None:
    """Make the next version with the same keys, before the newest one expires."""
    _change(fleet, lambda document: document, valid_for)


@keys.command("floor")
@click.option("--highest", type=click.IntRange(1), help="Forget versions above this one: after an attack.")
@click.option("--next", "lowest", type=click.IntRange(1), help="The lowest version of the next state: after a loss.")
@click.option("--device", "devices", multiple=True, metavar="ID", help="Only for this device; repeatable.")
@click.option("--reason", required=True, help="Why; devices report it.")
@fleet_option
def change_floors(highest: int | None, lowest: int | None, devices: tuple[str, ...], reason: str, fleet: Path) -> None:
    """Change, once, which manifest versions devices accept; in the next version of the document."""
    held = FleetKeys.read(fleet)
    now = datetime.now(UTC)
    # Devices remember it: after a root that was stolen, a number would be one that they know.
    number = f"{now:%Y%m%d-%H%M%S}-{len(held.last.document.floors) + 1}"
    made = FloorChange(f"floor-{number}", reason, devices or None, highest, lowest)
    _say_written(held, change(held, with_floor(made), now))


@keys.command("show")
@fleet_option
def show_text(fleet: Path) -> None:
    """Print the exact text of the last version, to be signed on another machine.

    There: `ssh-keygen -Y sign -n margo-gitops-root -f KEY TEXT`.
    """
    say_text(FleetKeys.read(fleet).to_sign())


@keys.command()
@click.option("--key", type=_FILE, help="A private key, or the public one of a key in ssh-agent.")
@click.option("--signature", type=_FILE, help="A signature that was made on another machine.")
@fleet_option
def sign(key: Path | None, signature: Path | None, fleet: Path) -> None:
    """Sign the last version with a root key, by ssh-keygen: with its passphrase, a token, or ssh-agent."""
    held = FleetKeys.read(fleet)
    text = held.to_sign()
    if key is not None and signature is None:
        armor = sign_with_ssh(text.encode(), key, ROOT_NAMESPACE, _BY_HAND)
    elif signature is not None and key is None:
        content = read_small_file(signature, MAX_ARMOR_BYTES, what="the signature cannot be read", error=KeysRefused)
        armor = content.decode("ascii", "replace")
    else:
        raise click.UsageError("name the key with --key, or a signature with --signature")
    add_signature(held, armor)
    signed = FleetKeys.read(fleet)
    say(f"{trust_path(signed.last.version)} is signed")
    for line in _missing(signed):
        say(line)


@keys.command()
@fleet_option
@click.option("--state-repo", "state", help="Also count the devices whose state each key signed, in this state repo.")
@output_option()
def status(fleet: Path, state: str | None, output: str) -> None:
    """Show the versions, the keys with their roles, when the document expires, and which signatures are missing."""
    held = FleetKeys.read(fleet)
    found = devices_by_signer(StatusRequest(fleet, state, cache_folder())) if state is not None else {}
    known = {key: name for _, name, key, _ in _rows(held)}
    signed = {known.get(key or "", key) or "(not signed)": devices for key, devices in found.items()}
    waiting = {name: _waiting(devices) for name, devices in signed.items()}
    lines = []
    for name, devices in sorted(signed.items()):
        late = f"; not adopted yet by {few(waiting[name], _NAMED)}" if waiting[name] else ""
        lines.append(f"{name} signed the state of {counted(len(devices), 'device')}{late}")
    counts = {name: len(devices) for name, devices in signed.items()}
    more = {"devices": counts, "waiting": waiting} if state is not None else {}
    show(output, {**_as_json(held), **more}, [*_lines(held), *lines])


def _waiting(devices: Iterable[DeviceStatus]) -> list[str]:
    """Return the devices that have not reported that they adopted their newest state."""
    return [each.device for each in devices if not has_adopted(each)]


def _refuse_waiting(fleet: Path, state: str | None, name: str) -> None:
    """Refuse to retire a key while devices wait for what it signed (KeysRefused)."""
    key = find_key(FleetKeys.read(fleet).last.document, name)
    try:
        found = devices_by_signer(StatusRequest(fleet, state, cache_folder()))
    except StateRepoUnusable:
        return  # nothing was rendered there yet
    if waiting := _waiting(found.get(fingerprint(key), ())):
        raise KeysRefused(
            f"{counted(len(waiting), 'device')} did not report yet that the state which {key.name} signed was adopted",
            why=[few(waiting, _NAMED)],
            remedy="wait for them (margo-gitops status), or pass --yes: they accept what it signed until now",
        )


def _change(fleet: Path, made: Callable[..., Any], valid_for: int | None = None) -> None:
    held = FleetKeys.read(fleet)
    life = timedelta(seconds=valid_for) if valid_for is not None else None
    _say_written(held, change(held, made, datetime.now(UTC), life))


def _say_written(before: FleetKeys, written: FleetTrust) -> None:
    if before.chain is not None and before.chain.pending is not None and before.chain.pending.signatures:
        note("the signatures that it had are gone: it says something else now")
    say(f"{trust_path(written.version)} is written; root keys sign it: margo-gitops keys sign --key FILE")


def _missing(held: FleetKeys) -> Iterator[str]:
    """Yield what the last version lacks; or that it counts."""
    last = held.last
    if held.chain is not None and held.chain.pending is None:
        yield f"version {last.version} counts; commit it, and render"
        return
    before = held.judge(last)
    same = before.root_keys == last.root_keys and before.document.roles.root == last.document.roles.root
    for judge in (before,) if same else (before, last):
        signed, needed = last.signed_by(judge), judge.document.roles.root.threshold
        if len(signed) < needed:
            able = ", ".join(name for name in judge.root_keys.values() if name not in signed)
            yield f"version {last.version} needs {needed - len(signed)} more of: {able} (of version {judge.version})"


def _rows(held: FleetKeys) -> Iterator[tuple[str, str, str, str]]:
    document = held.last.document
    revoked = {each.key: f"{each.reason} since {each.since}" for each in document.revoked}
    for role in ROLES:
        for key in document.keys_of(role):
            yield role, key.name, fingerprint(key), revoked.get(key.key, "")


def _lines(held: FleetKeys) -> Iterator[str]:
    last = held.last
    counts = held.chain.newest.version if held.chain and held.chain.newest else None
    yield f"fleet    {last.document.fleet}"
    yield f"counts   {f'version {counts}' if counts else 'none yet'}"
    yield f"last     version {last.version}, expires {last.document.expires}"
    for line in _missing(held):
        yield f"         {line}"
    yield from table_lines([("ROLE", "NAME", "KEY", "REVOKED"), *_rows(held)])
    for each in last.document.revoked:
        if each.reason == "compromised":
            yield f"compromised since {each.since}: {fingerprint(each)}"
    for floor in last.document.floors:
        limits = (("highest", floor.highest), ("next", floor.next))
        said = ", ".join(f"{name} {version}" for name, version in limits if version is not None)
        yield f"{floor.id}: {said}, for {', '.join(floor.devices or ['all devices'])}: {floor.reason}"


def _as_json(held: FleetKeys) -> dict[str, object]:
    last, chain = held.last, held.chain
    return {
        "fleet": last.document.fleet,
        "counts": chain.newest.version if chain and chain.newest else None,
        "last": last.version,
        "expires": last.document.expires,
        "missing": [] if chain and chain.pending is None else list(_missing(held)),
        "keys": [
            {"role": role, "name": name, "key": key, "revoked": revoked or None}
            for role, name, key, revoked in _rows(held)
        ],
    }
