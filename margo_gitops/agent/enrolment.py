"""`agent enroll`: a device makes its key and its token, becomes known, and gets a configuration that works (D-37).

JOIN-1  Key and token are on disk before the first request. So a request that is sent again with the same secret, after
        a crash or a lost answer, is the same request.
JOIN-2  Each secret has a token of its own. The one that worked until now goes when the configuration names the new one.
JOIN-3  Nothing of an answer is used before all of it was judged (ENROL-3), and the configuration that is made of it
        reads without a mistake. `agent.yaml` is written last.
JOIN-4  A configuration of another device is never replaced.
JOIN-5  Secret and token travel by https only, or within this machine.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

from margo_gitops.agent.memory.state_folder import refuse_other_user
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.invitation import NEW_ONE, Invitation, agent_files, ask_on_stick
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.disk.locks import HeldLock, LockTaken, take_lock
from margo_gitops.documents.declarations import API_VERSION
from margo_gitops.documents.enrolment import (
    ENROLMENT_NAMESPACE,
    ENROLMENT_PATH,
    MAX_ANSWER_BYTES,
    MAX_FILE_BYTES,
    EnrolmentRequest,
    secret_digest,
)
from margo_gitops.documents.nodes import Bounds, Json
from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.errors import (
    AgentBusy,
    EnrolmentRefused,
    EnrolmentUnusable,
    EnrolmentWaits,
    Location,
    UnreadableDocument,
)
from margo_gitops.git_program import sign_with_ssh
from margo_gitops.settings import MOST_BYTES
from margo_gitops.transport.http.api import Reply, error_of, read_body
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.trust.enrolment import begin, read_answer, trust_digest, write_request
from margo_gitops.trust.ssh_key import MAX_KEY_FILE_BYTES, SshPublicKey, parse_signing_key, read_public_key
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.values import dataclass, replace
from margo_gitops.web.connection import WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.source import is_loopback, refuse_settings

KEY_FILE: Final = "device-key"
_TOKEN_FILE: Final = re.compile(r"token-[0-9a-f]{16}")
DOCUMENT_FILE: Final = "trust.json"
AUTHORITY_FILE: Final = "server-ca.pem"
NEW_AUTHORITY_FILE: Final = "server-ca.pem.new"
_BOUNDS: Final = Bounds(size=MAX_FILE_BYTES, depth=12, nodes=2_000)
_LONGEST_TOKEN: Final = 1024
_AGAIN_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 60.0
_DEFAULTS: Final[Mapping[str, Json]] = {"stateFolder": "/var/lib/margo-gitops", "appliers": {"compose": {}}}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A key that signs.

    Attributes:
        file: that has the private key; None: ssh-agent has it.
    """

    public: SshPublicKey
    sign: Callable[[bytes], str]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the device knows when it is enrolled."""

    device: str
    source: dict[str, Json]
    document: bytes
    minimum: int | None = None
    reports: dict[str, Json] | None = None


def enroll(
    invitation: Invitation,
    config: Path,
    *,
    say: Say,
    key: Path | None = None,
    base: Path | None = None,
    wait: float = 0,
    pause: Callable[[float], None] = time.sleep,
) -> AgentConfiguration:
    """Enrol this device, and return the configuration that was written.

    Args:
        config: where the agent's configuration is written; the other files are next to it.
        say: tells a person who the device is.
        key: its private key, or the public one of a key in ssh-agent; None: the one next to `config`, made if missing.
        base: a configuration without device, source and trust; None: the one at `config`, or defaults.
        wait: seconds to wait for approval.
        pause: waits.

    Raises:
        EnrolmentUnusable: what was given, or found on the disk, cannot be used.
        EnrolmentRefused, EnrolmentWaits, EnrolmentInvalid: as the server says.
        TrustRefused: the trust document does not count, or is another one.
        AgentMisconfigured: `base` has mistakes.
        TransportError: the server cannot be asked.
        AgentBusy: another process does this now.
        StorageFull: the disk is full.
    """
    folder = config.absolute().parent
    with agent_files(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_other_user(folder, EnrolmentUnusable)
    with _locked(folder):
        common = _common(config, base)
        known = common.get("device")
        if isinstance(known, str):
            if invitation.device not in (None, known):
                _refuse_other(config, known, str(invitation.device))
            invitation = replace(invitation, device=known)
        if invitation.authority is not None:
            _put(folder / NEW_AUTHORITY_FILE, invitation.authority)
        device_key = _device_key(key or folder / KEY_FILE, make=key is None)
        say(f"the key of this device is {device_key.public.fingerprint}")
        if invitation.asks:
            invitation = ask_on_stick(invitation, device_key.public, device_key.sign)
        if invitation.key not in (None, str(device_key.public)):
            raise EnrolmentUnusable("this is for a device with another key", remedy=NEW_ONE)
        if invitation.server is None:
            settled = _alone(invitation)
        else:
            settled = _ask_until(invitation, folder, device_key, wait, pause, say)
        if device_key.file is not None:
            # The server knows this key, so receipts are signed with it too.
            file = device_key.file.absolute()
            common.setdefault("receipts", {"key": file.name if file.parent == folder else str(file)})
        return _write(config, common, settled, folder)


def _alone(invitation: Invitation) -> _Settled:
    """Return what a device knows that no server enrols: credentials for the source are in its `base`."""
    if invitation.document is None or invitation.device is None:
        raise EnrolmentUnusable("there is no server, and no file that says all of it", remedy=NEW_ONE)
    document = begin(invitation.document, invitation.trust)
    if invitation.stick is not None:
        return _Settled(invitation.device, {"stick": {"path": str(invitation.stick)}}, document.content)
    kind, url = ("git", invitation.git) if invitation.git else ("http", invitation.http)
    source: dict[str, Json] = {"url": url, **_authority(invitation)}
    return _Settled(invitation.device, {kind: source}, document.content)


def _ask_until(
    invitation: Invitation, folder: Path, key: DeviceKey, wait: float, pause: Callable[[float], None], say: Say
) -> _Settled:
    """Return what the server answers, as soon as the key is approved."""
    waited, told = 0.0, False
    while True:
        try:
            return _ask(invitation, folder, key)
        except EnrolmentWaits:
            if waited >= wait:
                raise
            if not told:
                say("it waits for approval: compare this fingerprint there")
                told = True
        pause(_AGAIN_SECONDS)
        waited += _AGAIN_SECONDS


def _ask(invitation: Invitation, folder: Path, key: DeviceKey) -> _Settled:
    """Ask the server once."""
    trust = invitation.trust
    if invitation.document is not None:
        trust = trust_digest(begin(invitation.document, trust))
    if trust is None or invitation.server is None:
        raise EnrolmentUnusable(
            "nothing says with which trust document this device begins",
            remedy="give a code or a file of `device enroll`, or --trust-document FILE",
        )
    place = folder / f"token-{secret_digest(invitation.secret or '').removeprefix('sha256:')[:16]}"
    with agent_files(place):
        token = _kept_token(place)
    request = EnrolmentRequest(str(key.public), secret_digest(token), trust, invitation.device, invitation.secret)
    authority = folder / NEW_AUTHORITY_FILE if invitation.authority is not None else None
    source = HttpSource(url=invitation.server, ca_file=authority)
    if source.address.scheme == "http" and not is_loopback(source.address.hostname):
        refuse_settings("the secret and the token would travel unencrypted", "use https")
    reply = _post(source, write_request(request, key.sign))
    if reply.status == HTTPStatus.ACCEPTED:
        raise EnrolmentWaits(
            f"the key {key.public.fingerprint} waits for approval",
            remedy="compare the fingerprint, approve it (margo-gitops device approve), and run this command again",
        )
    if reply.status == HTTPStatus.FORBIDDEN:
        raise EnrolmentRefused("the server does not enrol this device", remedy=f"{NEW_ONE}; the server's log says why")
    if reply.status != HTTPStatus.OK:
        raise error_of(reply, source)
    answer, document = read_answer(reply.body, trust, invitation.device)
    proof: dict[str, Json] = {"tokenFile": place.name, **_authority(invitation)}
    http: dict[str, Json] = {"url": invitation.server, **proof, "sendBoot": True}
    if answer.source == "http":
        return _Settled(answer.device, {"http": http}, document.content, answer.minimum_version)
    git: dict[str, Json] = {"url": f"{invitation.server.rstrip('/')}/git/state.git", **proof}
    return _Settled(answer.device, {"git": git}, document.content, answer.minimum_version, {"http": http})


def _post(source: HttpSource, body: bytes) -> Reply:
    with (
        closing(WebConnection(source, Meter())) as connection,
        connection.exchange(
            "POST",
            source.prefix + ENROLMENT_PATH,
            {"Content-Type": "application/json", "Accept": "application/json"},
            body,
            MAX_ANSWER_BYTES,
            Deadline(_ASK_SECONDS, source.read_seconds),
        ) as answer,
    ):
        return Reply(answer.status, read_body(answer, MAX_ANSWER_BYTES), answer.response)


def _common(config: Path, base: Path | None) -> dict[str, Json]:
    """Return what the configuration keeps: of `base`, or of the one that is there (JOIN-4)."""
    there = _mapping(config)
    device = there.get("device") if there else None
    found = _mapping(base) if base is not None else there
    if found is None and base is not None:
        raise EnrolmentUnusable("the base does not exist", where=Location(str(base)), remedy="correct --base")
    common = {**_DEFAULTS, **(found or {})}
    named = common.pop("device", None)
    if device is not None and named not in (None, device):
        _refuse_other(config, str(device), str(named))
    return common if device is None and named is None else {**common, "device": device or named}


def _mapping(file: Path) -> dict[str, Json] | None:
    """Return the document in a configuration file; None if it does not exist."""
    with agent_files(file):
        try:
            content = read_bounded(file, MOST_BYTES)
        except FileNotFoundError:
            return None
    try:
        found = read_yaml(content, str(file), _BOUNDS).root.plain()
    except UnreadableDocument as error:
        why = "correct it, or move it away"
        raise EnrolmentUnusable(
            f"the configuration cannot be read: {error.what}", where=error.where, remedy=why
        ) from error
    return dict(found) if isinstance(found, Mapping) else {}


def _refuse_other(config: Path, device: str, other: str) -> None:
    raise EnrolmentUnusable(
        f"this is {device}, not {other}",
        where=Location(str(config)),
        remedy="to make another device of it, move its configuration and its state folder away first",
    )


def _write(config: Path, common: dict[str, Json], settled: _Settled, folder: Path) -> AgentConfiguration:
    """Write all files, the configuration last (JOIN-2, JOIN-3)."""
    (kind, source), sources, trust = *settled.source.items(), common.get("source"), common.get("trust")
    before = sources.get(kind) if isinstance(sources, Mapping) else None
    kept = (
        {key: value for key, value in trust.items() if key in ("floorCopy", "fleet", "minimumVersion")}
        if isinstance(trust, Mapping)
        else {}
    )
    own: dict[str, Json] = {
        "apiVersion": API_VERSION,
        "kind": "AgentConfiguration",
        "device": settled.device,
        "stateFolder": common["stateFolder"],
        "source": {kind: {**(before if isinstance(before, Mapping) else {}), **_mapped(source)}},
        "trust": {
            "document": DOCUMENT_FILE,
            **kept,
            **({"minimumVersion": settled.minimum} if settled.minimum else {}),
        },
        **({"reports": settled.reports} if settled.reports else {}),
    }
    content = write_yaml({**own, **{key: value for key, value in common.items() if key not in own}})
    configuration = load_configuration(config, Environment(), content)
    named = _mapped(source)
    _put(folder / DOCUMENT_FILE, settled.document)
    with agent_files(folder):
        if "caFile" in named:
            (folder / NEW_AUTHORITY_FILE).replace(folder / AUTHORITY_FILE)
        replace_file(config, content)
        for old in folder.iterdir():
            if _TOKEN_FILE.fullmatch(old.name) and old.name != named.get("tokenFile"):
                old.unlink(missing_ok=True)
    return configuration


def _mapped(value: Json) -> dict[str, Json]:
    return dict(value) if isinstance(value, Mapping) else {}


def _authority(invitation: Invitation) -> dict[str, Json]:
    return {"caFile": AUTHORITY_FILE} if invitation.authority is not None else {}


def _kept_token(path: Path) -> str:
    """Return the token for a secret, made if it is missing; it is on disk (JOIN-1; OSError)."""
    try:
        return read_bounded(path, _LONGEST_TOKEN, follow_links=False).decode("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        token = secrets.token_urlsafe(32)
        replace_file(path, token.encode())
        return token


def _device_key(path: Path, *, make: bool) -> DeviceKey:
    """Return the device's key; made where it is missing and may be made (JOIN-1)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if make and not path.exists():
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        _put(path, made)
    with agent_files(path):
        content = read_bounded(path, MAX_KEY_FILE_BYTES)
    try:
        if content.startswith(b"-----"):
            key = parse_signing_key(content)
            return DeviceKey(key.public, lambda text: sign(text, key, ENROLMENT_NAMESPACE), path)
        public = read_public_key(*content.decode("ascii").split(None, 2)[:2])
    except (ValueError, TypeError) as error:
        remedy = "give an ed25519 key without passphrase, or the .pub file of a key in ssh-agent"
        raise EnrolmentUnusable(
            "the key cannot be used", where=Location(str(path)), why=[str(error)], remedy=remedy
        ) from None
    remedy = "add the key to ssh-agent: ssh-add FILE, or ssh-add -s PKCS11-LIBRARY for a token or TPM"
    return DeviceKey(public, partial(sign_with_ssh, key=path, namespace=ENROLMENT_NAMESPACE, remedy=remedy))


def _put(path: Path, content: bytes) -> None:
    with agent_files(path):
        replace_file(path, content)


def _locked(folder: Path) -> HeldLock:
    place = folder / "enrol.lock"
    try:
        with agent_files(place):
            return take_lock(place)
    except LockTaken as taken:
        raise AgentBusy(
            "another process enrols this device", where=Location(str(folder)), remedy="wait for it"
        ) from taken
