"""Secrets in a fleet repo, each encrypted for one device: set, remove, encrypt again, list (docs/secrets.md).

SECRET-1  A value is encrypted for the device that pulls: a gateway's keys are those of its children too.
SECRET-2  `spec.secretKeys` names the keys. Without it, the one key in `spec.receiptKeys` counts; of several, old ones
          may be lost or stolen, so none counts.
SECRET-3  Only a device's key opens what is kept. After a new key, a value is set again, or the old key opens it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.secrets import SECRET_NAME_PATTERN, SealedSecret
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import known_device
from margo_gitops.editing.round_trip import document_and_spec, rewritten
from margo_gitops.errors import EditImpossible
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import select, targets
from margo_gitops.trust.sealing import Identity, open_sealed, recipient_name, seal
from margo_gitops.values import dataclass
from margo_gitops.wording import did_you_mean


def secret_keys(intent: Intent, device: str) -> tuple[str, ...]:
    """Return the keys for which a device's secrets are encrypted (SECRET-1, SECRET-2).

    Raises:
        ReferenceUnknown: there is no such device.
        EditImpossible: it has no key that counts.
    """
    known_device(intent, device)
    holder = known_device(intent, client_of(device))
    spec = holder.value.spec
    keys = spec.secret_keys or (spec.receipt_keys if len(spec.receipt_keys) == 1 else ())
    if not keys:
        several = f"spec.receiptKeys has {len(spec.receipt_keys)}: which one counts?" if spec.receipt_keys else ""
        raise EditImpossible(
            f"{client_of(device)} has no key to encrypt for",
            where=holder.at("spec"),
            why=[several] if several else (),
            remedy="add spec.secretKeys with the device's public key (ssh-ed25519 …, or age1…); of an enrolled device: "
            "margo-gitops device receipt-key --server FILE",
        )
    return keys


def _names(keys: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(map(recipient_name, keys))
    except ValueError as error:
        raise EditImpossible("a key of spec.secretKeys cannot be used", why=[str(error)]) from error


def set_secret(base: Base, device: str, name: str, value: bytes) -> Edit:
    """Return the edit that keeps a value for a device, encrypted.

    Raises:
        ReferenceUnknown: there is no such device.
        EditImpossible: the name is not valid, the value is empty or too long, or the device has no key.
        NotEditable: the device's file cannot be changed.
        ModuleNotFoundError: pyrage is not installed.
    """
    if not re.search(SECRET_NAME_PATTERN, name):
        remedy = "write 1 to 64 letters, digits, and . _ - inside"
        raise EditImpossible(f"{name!r} is not a secret's name", remedy=remedy)
    if not value:
        raise EditImpossible("the value is empty", remedy="type it, or give it to standard input")
    keys = secret_keys(base.intent, device)
    _names(keys)
    notes = []
    if not any(each.device == device and each.name == name for each in _wanted(base.intent)):
        notes.append(f"no deployment of {device} names the secret {name}: see spec.secretRefs")
    return _edit(base, f"Set the secret {name} of {device}", device, {name: _sealed(device, name, value, keys)}, notes)


def _sealed(device: str, name: str, value: bytes, keys: Sequence[str]) -> SealedSecret:
    try:
        return seal(device, name, value, keys)
    except ValueError as error:
        raise EditImpossible(f"the secret {name} cannot be encrypted for {device}", why=[str(error)]) from error


def remove_secret(base: Base, device: str, name: str) -> Edit:
    """Return the edit that forgets what is kept for a device (EditImpossible: nothing of this name is)."""
    held = known_device(base.intent, device).value.spec.secrets
    if name not in held:
        raise EditImpossible(
            f"{device} has no secret {name} in the fleet repo",
            remedy=did_you_mean(name, held) if held else "see who has one: margo-gitops secret list",
        )
    notes = ["the history of the fleet repo still has it: change the password itself, if the device's key may be known"]
    return _edit(base, f"Remove the secret {name} of {device}", device, {name: None}, notes)


def rotate_secrets(base: Base, device: str, identities: Sequence[Identity]) -> Edit:
    """Return the edit that encrypts a device's secrets for its keys as they are now.

    Args:
        identities: private keys that open what is kept; none: say what has to be set again.

    Raises:
        EditImpossible: a value is for other keys, and none of these opens it.
        ModuleNotFoundError: pyrage is not installed.
    """
    keys = secret_keys(base.intent, device)
    wanted = set(_names(keys))
    held = known_device(base.intent, device).value.spec.secrets
    old = {name: each for name, each in held.items() if set(each.recipients) != wanted}
    made: dict[str, SealedSecret | None] = {}
    stuck = []
    for name, each in old.items():
        try:
            made[name] = _sealed(device, name, open_sealed(each.sealed, device, name, identities), keys)
        except ValueError as error:
            stuck.append(f"{name}: {error if identities else 'it is encrypted for ' + ', '.join(each.recipients)}")
    if stuck:
        raise EditImpossible(
            f"not all secrets of {device} can be encrypted again",
            why=stuck,
            remedy=f"set them again: margo-gitops secret set {device} NAME; or pass the old key with --identity",
        )
    return _edit(base, f"Encrypt the secrets of {device} for its new key", device, made, [])


def _edit(
    base: Base, title: str, device: str, changed: Mapping[str, SealedSecret | None], notes: Sequence[str]
) -> Edit:
    known = base.intent.devices[device]
    document, spec = document_and_spec(known.content, known.file, "device")
    written = spec.get("secrets")
    secrets: dict[str, Json] = dict(written) if isinstance(written, dict) else {}
    for name, sealed in changed.items():
        if sealed is None:
            secrets.pop(name, None)
        else:
            secrets[name] = write(sealed)
    if secrets:
        spec["secrets"] = secrets
    else:
        spec.pop("secrets", None)
    change = FileChange(known.file, known.content, rewritten(known.content, known.file, document))
    return make_edit(title, ["secret", device, *list(changed)[:3]], [change], notes)


@dataclass(frozen=True, slots=True)
class ListedSecret:
    """A secret of a device.

    Attributes:
        recipients: who can read what is kept; empty where the value comes from a source of the device.
        current: whether these are the device's keys as they are now.
        used_by: deployments that give it to their components.
    """

    device: str
    name: str
    recipients: tuple[str, ...]
    current: bool
    used_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    device: str
    name: str
    deployment: str


def _wanted(intent: Intent) -> Iterator[_Wanted]:
    fleet = targets(intent)
    for deployment, each in sorted(intent.deployments.items()):
        spec = each.value.spec
        names = sorted({ref.name or parameter for parameter, ref in spec.secret_refs.items()})
        for target in select(spec.placement, fleet) if names else ():
            yield from (_Wanted(target.id, name, deployment) for name in names)


def listed_secrets(intent: Intent, device: str | None = None) -> Iterator[ListedSecret]:
    """Yield the secrets of all devices or of one, sorted; those that deployments name, and those that are kept.

    Raises:
        ReferenceUnknown: there is no such device.
    """
    if device is not None:
        known_device(intent, device)
    used: dict[tuple[str, str], list[str]] = {}
    for each in _wanted(intent):
        used.setdefault((each.device, each.name), []).append(each.deployment)
    devices = intent.devices.items()
    kept = {(each, name): held for each, found in devices for name, held in found.value.spec.secrets.items()}
    for owner, name in sorted({*used, *kept}):
        if device in (None, owner):
            recipients = kept[owner, name].recipients if (owner, name) in kept else ()
            current = not recipients or set(recipients) == _now(intent, owner)
            yield ListedSecret(owner, name, recipients, current, tuple(used.get((owner, name), ())))


def _now(intent: Intent, device: str) -> set[str]:
    try:
        return set(_names(secret_keys(intent, device)))
    except EditImpossible:
        return set()
