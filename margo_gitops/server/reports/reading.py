"""What devices send, checked (pure): capabilities and deployment status, in their current shape.

The body is untrusted: bounded, read once, and written again in one normal form, so that a report which says the same is
the same bytes. `strict` is the contract to the letter; `lenient` takes what real devices send and do no harm with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from margo_gitops.documents.capabilities import DeviceCapabilities, DeviceProperties
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.kinds import CAPABILITIES, STATUS, MargoKind
from margo_gitops.documents.nodes import Bounds, Node, SourceText
from margo_gitops.documents.receipt import MAX_RECEIPTS, write_receipts
from margo_gitops.documents.records import find
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.server.problems import (
    INVALID_REQUEST,
    NOT_AUTHORIZED,
    SEMANTIC_ERROR,
    FieldError,
    RequestRefused,
)
from margo_gitops.server.requests import MAX_BODY
from margo_gitops.trust.receipts import read_receipt
from margo_gitops.trust.receipts import read_receipts as read_file
from margo_gitops.values import dataclass

Profile: TypeAlias = Literal["lenient", "strict"]

_BOUNDS: Final = Bounds(size=MAX_BODY, depth=16, nodes=5_000)
_MAX_ERRORS: Final = 20


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A valid deployment status: its normal form, and what the server needs of it."""

    content: bytes
    adopted: int


def read_capabilities(body: bytes, device: str, profile: Profile, called: str = "") -> bytes:
    """Return a device's capabilities in their normal form (Margo device capabilities).

    Args:
        called: the device id in the path, where that is not the fleet's; the normal form has the fleet's.

    Raises:
        RequestRefused: 400 for what is not JSON, 422 for an invalid document, or one of another device.
    """
    source, older = _read(body, CAPABILITIES, profile)
    value, errors = _found(DeviceCapabilities, source, older=older)
    if isinstance(value, DeviceCapabilities):
        if value.properties.id not in (device, called):
            errors = [FieldError("properties.id", f"must be {called or device}, the device id in the path")]
        elif profile == "strict":
            errors = list(_not_to_the_letter(value.properties))
    if errors:
        raise RequestRefused(SEMANTIC_ERROR.because("These capabilities are not valid for this device.", errors))
    return _normal(source, {("properties", "id"): device})


def read_status(
    body: bytes, deployment_id: str, profile: Profile, named: Callable[[str], str] = lambda device: device
) -> StatusReport:
    """Return a deployment status in its normal form (Margo deployment status).

    Args:
        profile: how exactly the contract is followed; the lenient one does without `adoptedManifestVersion`.
        named: returns the id in the fleet of a device, or refuses it.

    Raises:
        RequestRefused: 400 for what is not JSON, 422 for an invalid status, or one of another deployment.
    """
    source, older = _read(body, STATUS, profile)
    value, errors = _found(DeploymentStatus, source, older=older or profile == "lenient")
    if not isinstance(value, DeploymentStatus) or errors:
        raise RequestRefused(SEMANTIC_ERROR.because("This status is not valid for this deployment.", errors))
    if value.deployment_id.lower() != deployment_id.lower():
        wrong = FieldError("deploymentId", f"must be {deployment_id}, the deployment in the path")
        raise RequestRefused(SEMANTIC_ERROR.because("This is the status of another deployment.", [wrong]))
    content = _normal(source, {("deviceId",): named(value.device_id)} if value.device_id else {})
    return StatusReport(content, value.adopted_manifest_version or 0)


def read_receipts(body: bytes, names: Collection[str]) -> bytes:
    """Return receipts in the normal form of their file; each receipt and its signature stay to the byte.

    Whether they are right, the auditor says: a server that refuses a forged one hides it.

    Args:
        names: what the device may call itself.

    Raises:
        RequestRefused: 400 for what is not JSON, 422 for what is not receipts, or those of another device.
    """
    try:
        found = read_file(body, "body")
        receipts = [read_receipt(each.receipt) for each in found]
    except UnreadableDocument as error:
        raise RequestRefused(INVALID_REQUEST.because(f"The body cannot be read as JSON: {error.what}")) from None
    except InvalidDocument as error:
        wrong = [FieldError(each.path, each.message) for each in error.findings][:_MAX_ERRORS]
        raise RequestRefused(SEMANTIC_ERROR.because("These are not valid receipts.", wrong)) from None
    if len(found) > MAX_RECEIPTS or any(each.device not in names for each in receipts):
        detail = f"A device sends receipts of its own, at most {MAX_RECEIPTS} at once."
        raise RequestRefused(SEMANTIC_ERROR.because(detail))
    return write_receipts(found)


def device_in_fleet(client: str, device: str, *, alias: str | None = None, any_device_id: bool = False) -> str:
    """Return the id in the fleet of a device that a client reports on; check that it is one of this client's.

    Args:
        client: who reports.
        device: as the client calls it.
        alias: what the client calls itself; None: its id.
        any_device_id: whether the client may use device ids that do not start with its own id.

    Raises:
        RequestRefused: 403 for another client's device, whether there is one or not; 422 for a name too long.
    """
    first, slash, child = device.partition("/")
    if first == alias:
        device = f"{client}{slash}{child}"
    elif first != client and not any_device_id:
        own = f"{client!r} or its alias {alias!r}" if alias else f"{client!r}"
        # The same words for another client's device and for one that does not exist.
        detail = (
            f"The device id does not start with {own}. Use that id. Or, in the fleet repo, make the id that you sent "
            f"the alias of the device {client!r} (spec.alias), and render."
        )
        raise RequestRefused(NOT_AUTHORIZED.because(detail))
    try:
        encode_device_id(device)
    except ValueError:
        raise RequestRefused(SEMANTIC_ERROR.because("The device id is too long.")) from None
    return device


def _read(body: bytes, kind: MargoKind, profile: Profile) -> tuple[SourceText, bool]:
    """Return a body as nodes in the current shape, and whether it was of an older one."""
    try:
        source = read_json(body, "body", _BOUNDS, foreign=True)
    except UnreadableDocument as error:
        raise RequestRefused(INVALID_REQUEST.because(f"The body cannot be read as JSON: {error.what}")) from None
    if not isinstance(source.root.value, dict):
        raise RequestRefused(SEMANTIC_ERROR.because("The body must be a JSON object."))
    if profile == "lenient" and source.root.text("kind") in kind.older_kinds:
        return kind.upgrade(source), True
    return source, False


def _found(record: type, source: SourceText, *, older: bool) -> tuple[object | None, list[FieldError]]:
    value, findings = find(record, source, older_shape=older)
    errors = [FieldError(each.path, each.message) for each in findings if each.severity == "error"]
    return value, errors[:_MAX_ERRORS]


def _not_to_the_letter(properties: DeviceProperties) -> Iterator[FieldError]:
    """Yield what the contract demands of a device that hosts workloads, and the lenient profile does not."""
    values: dict[str, object] = {
        "cpus": properties.cpus or None,
        "memory": properties.memory,
        "storage": properties.storage,
        "supportedRuntimes": properties.supported_runtimes,
        "supportedDeploymentTypes": properties.supported_deployment_types,
        "otelCollector": properties.otel_collector,
    }
    if all(value is None for value in values.values()) and not (properties.peripherals or properties.interfaces):
        return  # a gateway that hosts nothing
    for name, value in values.items():
        if value is None:
            yield FieldError(f"properties.{name}", "is missing; a device that hosts workloads gives it")
    if properties.otel_collector is False:
        yield FieldError("properties.otelCollector", "must be true: a hosting device runs a collector")


def _normal(source: SourceText, texts: Mapping[tuple[str, ...], str]) -> bytes:
    """Return a document with sorted keys, indented: small differences for git and for people; with these texts."""
    for (*path, name), value in texts.items():
        fields = source.root.get(*path)
        if fields is not None and isinstance(fields.value, dict):
            fields.value[name] = Node(value)
    text = json.dumps(source.root.plain(), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def summary(content: bytes | None, subject: Sequence[str]) -> str:
    """Return a report in a few words, for the message of a commit.

    Args:
        content: its normal form; None for one removed.
    """
    if content is None:
        return f"{' '.join(subject)} removed"
    document = json.loads(content)
    status = document.get("status") if isinstance(document, dict) else None
    state = status.get("state") if isinstance(status, dict) else None
    return f"{' '.join(subject)} {state}" if isinstance(state, str) else " ".join(subject)
