"""What a configured device holds: its policy, trusted state, trust floor and proof of freshness, found and verified."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.memory.events import Record
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.signature_check import verify_apart
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.agent.settings.configuration import AgentConfiguration, FreshnessSettings
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.state_layout import FRESHNESS_FILE
from margo_gitops.errors import AgentMisconfigured, Location, NothingHeld, StoredStateDamaged
from margo_gitops.transport.transport import ProofSource, TrustSource
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, AllowedSigners, AnySigner, parse_allowed_signers
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge_held
from margo_gitops.values import replace

if TYPE_CHECKING:
    from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper
    from margo_gitops.agent.pull.trust_keeper import TrustKeeper

FLOOR_FILE: Final = "floor.json"
STORE_FOLDER: Final = "trusted"
CLOCK_FILE: Final = "clock.txt"
_LARGEST_CLOCK: Final = 64
_FIRST_FLOOR_SECONDS: Final = 2.0


def trusted_store(configuration: AgentConfiguration) -> TrustedStore:
    """Return the place of the trusted state."""
    return TrustedStore(configuration.state_folder / STORE_FOLDER)


def floor_files(configuration: AgentConfiguration) -> FloorFiles:
    """Return the places of the trust floor."""
    return FloorFiles(configuration.device, configuration.state_folder / FLOOR_FILE, configuration.trust.floor_copy)


def device_clock(configuration: AgentConfiguration, read: Callable[[], float]) -> DeviceClock:
    """Return the clock of the device.

    Args:
        read: the time as the machine shows it, seconds since the epoch.
    """
    return DeviceClock(read, _two_places(configuration, CLOCK_FILE, _LARGEST_CLOCK))


def _two_places(configuration: AgentConfiguration, name: str, most: int) -> TwoPlaces:
    copy = configuration.trust.floor_copy
    beside = copy.with_name(f"{copy.name}.{name}") if copy is not None else None
    return TwoPlaces(configuration.state_folder / name, beside, most)


def trust_keeper(
    configuration: AgentConfiguration,
    record: Record = lambda _event: None,
    clock: DeviceClock | None = None,
    source: TrustSource | None = None,
    abortable: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> TrustKeeper | None:
    """Return what follows the fleet's trust documents; None where the configuration names none.

    Args:
        clock: the time; None: the machine's.
        source: where newer versions come from; None: nowhere.
        abortable: a signal to stop may cut off what is done inside.
    """
    trust = configuration.trust
    if trust.document is None:
        return None
    from margo_gitops.agent.pull.trust_keeper import TrustKeeper
    from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES

    return TrustKeeper(
        configuration.device,
        trust.document,
        trust.fleet,
        lambda version: _two_places(configuration, f"trust-{version}.json", MAX_ENVELOPE_BYTES),
        record,
        clock or device_clock(configuration, time.time),
        source,
        abortable,
    )


def read_policy(
    configuration: AgentConfiguration, trust_document: TrustKeeper | None = None, *, signed: bool = True
) -> TrustPolicy:
    """Return what the device demands of its state, with the list of signers as it is now.

    Args:
        trust_document: what keeps the fleet's trust document; None: the configuration's.
        signed: whether to read the list; without, every key counts whose signature is right.

    Raises:
        AgentMisconfigured: the list cannot be read.
        AllowedSignersInvalid: the list has mistakes.
    """
    trust = configuration.trust
    signers: AllowedSigners | None = None
    fleet = trust.fleet
    if not signed and trust.unsigned is None:
        signers = AnySigner(verify=verify_apart)
    elif keeper := trust_document or trust_keeper(configuration):
        held = keeper.current()
        signers, fleet = held.signers("render"), held.document.fleet
    elif trust.allowed_signers is not None:
        path = trust.allowed_signers
        signers = _parse_list(_read_list(path), str(path))
    return TrustPolicy(configuration.device, signers, minimum_version=trust.minimum_version, fleet=fleet)


def freshness_keeper(
    configuration: AgentConfiguration,
    record: Record,
    clock: DeviceClock | None = None,
    source: ProofSource | None = None,
    abortable: Callable[[], AbstractContextManager[None]] = nullcontext,
    trust: TrustKeeper | None = None,
) -> FreshnessKeeper | None:
    """Return what keeps the device's proof of freshness; None where its configuration wants none.

    Args:
        clock: the time; None: the machine's.
        source: where proofs come from; None: nowhere but by hand.
        abortable: a signal to stop may cut off what is done inside.
        trust: follows the trust document that a statement names; None: the configuration's, without a source.
    """
    settings = configuration.freshness
    if settings is None:
        return None
    from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper, FreshnessRules
    from margo_gitops.documents.freshness import MAX_PROOF_BYTES

    trust = trust or trust_keeper(configuration)
    return FreshnessKeeper(
        FreshnessRules(configuration.device, settings.required, settings.on_expiry == "hold"),
        _two_places(configuration, FRESHNESS_FILE, MAX_PROOF_BYTES),
        functools.partial(_statement_signers, configuration, settings, trust),
        record,
        clock or device_clock(configuration, time.time),
        source,
        abortable,
        trust,
    )


def _statement_signers(
    configuration: AgentConfiguration, settings: FreshnessSettings, trust: TrustKeeper | None
) -> AllowedSigners:
    path = settings.allowed_signers or configuration.trust.allowed_signers
    if path is not None:
        return _parse_list(_read_list(path), str(path))
    if trust is None:
        raise TypeError("a configuration that asks for freshness says who may sign statements")
    return trust.current().signers("freshness")


def verify_held(configuration: AgentConfiguration) -> TrustedState:
    """Return the held state after every check that a freshly fetched one has to pass, from the bytes on disk.

    Raises:
        NothingHeld: the device holds no state yet.
        StoredStateDamaged: the bytes are not those that were stored.
        TrustRefused: a check failed: signature, digest, version against the floor ...
        AgentMisconfigured: the list of signers cannot be read.
    """
    remembered = floor_files(configuration).read().remembered
    policy = read_policy(configuration)
    snapshot = trusted_store(configuration).load()
    if snapshot is None:
        raise NothingHeld(
            "this device holds no state yet",
            where=Location(str(configuration.state_folder)),
            device=configuration.device,
            remedy="run `margo-gitops agent once`",
        )
    floor = remembered.left if remembered.is_left(snapshot.manifest) else remembered.floor
    state = judge_held(snapshot, policy, floor)
    # An agent that runs beside us stores its first state a moment before its floor.
    until = time.monotonic() + _FIRST_FLOOR_SECONDS
    while floor is None and time.monotonic() < until:
        time.sleep(0.05)
        floor = floor_files(configuration).read().floor
    if floor is None:
        raise StoredStateDamaged(
            "the trust floor is gone",
            where=Location(str(configuration.state_folder)),
            why=["without it, an older state would be accepted"],
            remedy="find out who removed it, or whether the agent's first cycle was cut off; its next cycle starts the"
            " floor again at the held version",
        )
    return state


@functools.lru_cache(maxsize=2)
def _parse_list(content: bytes, file: str) -> AllowedSigners:
    """Return a list of signers (AllowedSignersInvalid: it has mistakes); asked several times in a cycle."""
    return replace(parse_allowed_signers(content, file), verify=verify_apart)


def _read_list(path: Path) -> bytes:
    return read_small_file(
        path,
        MAX_LIST_BYTES,
        what="the list of allowed signers cannot be read",
        error=AgentMisconfigured,
        remedy="put the renderer's public key there, or correct trust.allowedSigners",
    )
