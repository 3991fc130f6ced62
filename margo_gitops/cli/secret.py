"""`margo-gitops secret`: values that are encrypted for one device, in the fleet repo (docs/secrets.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from margo_gitops.agent.apply.secrets import protect_process
from margo_gitops.cli.completion import complete_devices
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import extra_packages, fleet_option
from margo_gitops.cli.output import output_option, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.secrets import MAX_SECRET_BYTES
from margo_gitops.editing.secrets import listed_secrets, remove_secret, rotate_secrets, secret_keys, set_secret
from margo_gitops.errors import EditImpossible, Location
from margo_gitops.operations.fleet_input import read_working_tree
from margo_gitops.trust.sealing import Identity, read_identities
from margo_gitops.trust.ssh_key import MAX_KEY_FILE_BYTES
from margo_gitops.wording import table_lines

_PACKAGES = "secrets"


@click.group()
def secret() -> None:
    """Set, list, rotate and remove values that only one device can read."""


@secret.command("set")
@click.argument("device_id", metavar="DEVICE", shell_complete=complete_devices)
@click.argument("name")
@edit_options
def set_value(device_id: str, name: str, editing: Editing) -> None:
    """Keep the secret NAME of DEVICE in the fleet repo, encrypted for the device's own key.

    The value comes from standard input, as it is, or from a prompt that does not show it; it is never an argument. The
    device gets it with the next render. No one else can read it from the fleet repo, not even you: keep the original.
    """
    protect_process()
    base = editing.base()
    secret_keys(base.intent, device_id)
    with extra_packages("encrypting a secret", _PACKAGES):
        import pyrage  # noqa: F401  # what is missing is said before a person types anything

        editing.finish(base, set_secret(base, device_id, name, _value(name)))


def _value(name: str) -> bytes:
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read(MAX_SECRET_BYTES + 1)
    typed: str = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt="Once more", err=True)
    return typed.encode()


@secret.command()
@click.argument("device_id", metavar="DEVICE", shell_complete=complete_devices)
@click.argument("name")
@edit_options
def remove(device_id: str, name: str, editing: Editing) -> None:
    """Remove the secret NAME of DEVICE from the fleet repo. The history still has the encrypted value."""
    base = editing.base()
    editing.finish(base, remove_secret(base, device_id, name))


@secret.command()
@click.argument("device_id", metavar="DEVICE", shell_complete=complete_devices)
@click.option(
    "--identity",
    "identities",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A private key that opens what is kept: the old key of the device. Repeatable.",
)
@edit_options
def rotate(device_id: str, identities: tuple[Path, ...], editing: Editing) -> None:
    """Encrypt the secrets of DEVICE for its keys as they are now, after a change of `spec.secretKeys`.

    Without a key that opens them, this names the secrets that must be set again.
    """
    protect_process()
    base = editing.base()
    with extra_packages("encrypting a secret", _PACKAGES):
        editing.finish(base, rotate_secrets(base, device_id, [key for file in identities for key in _keys(file)]))


def _keys(file: Path) -> Iterable[Identity]:
    what = "the private key cannot be read"
    content = read_small_file(file, MAX_KEY_FILE_BYTES, what=what, error=EditImpossible, private=True)
    try:
        return read_identities(content)
    except ValueError as error:
        raise EditImpossible(what, where=Location(str(file)), why=[str(error)]) from error


@secret.command("list")
@click.argument("device_id", metavar="[DEVICE]", required=False, shell_complete=complete_devices)
@fleet_option
@output_option()
def list_secrets(device_id: str | None, fleet: Path, output: str) -> None:
    """List the secrets of all devices or of DEVICE: which keys can read them, and which deployments use them."""
    found = list(listed_secrets(read_working_tree(fleet), device_id))
    rows = [
        {
            "device": each.device,
            "name": each.name,
            "recipients": list(each.recipients),
            "current": each.current,
            "usedBy": list(each.used_by),
        }
        for each in found
    ]
    cells = [("DEVICE", "SECRET", "VALUE", "USED BY")]
    for each in found:
        place = f"encrypted for {', '.join(each.recipients)}" if each.recipients else "on the device"
        old = "" if each.current else " (not the device's keys now: secret rotate)"
        cells.append((each.device, each.name, place + old, ", ".join(each.used_by) or "-"))
    show(output, rows, table_lines(cells))
