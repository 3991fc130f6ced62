"""Puts the server together from its configuration, and runs it until a signal asks it to end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from margo_gitops.digests import Digest
from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.errors import Location, ServerMisconfigured
from margo_gitops.server.access_log import AccessLog
from margo_gitops.server.application import Contract, WorkloadManagementApi
from margo_gitops.server.contracts.current import CurrentContract, Parts
from margo_gitops.server.contracts.older import OlderReports, OlderShapes, SignedContract
from margo_gitops.server.contracts.older import Parts as OlderParts
from margo_gitops.server.contracts.onboarding import Onboarding, read_root_certificate
from margo_gitops.server.contracts.registry import ClientRegistry, SeenSignatures, read_accepted_certificates
from margo_gitops.server.contracts.signatures import SKEW_SECONDS, SignatureVerifier
from margo_gitops.server.identity.callers import Identify, Nobody, NobodyAsked
from margo_gitops.server.identity.certificates import PeerCertificate, ProxiedCertificate
from margo_gitops.server.identity.tokens import BearerTokens
from margo_gitops.server.limits import Admission, RateLimit
from margo_gitops.server.mirror import StateMirror
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import JournalBounds, ReportJournal
from margo_gitops.server.reports.reading import Profile
from margo_gitops.server.reports.receiving import ReportResources
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.discovery import BundleKeys, TrustDiscovery, read_trust_bundle
from margo_gitops.server.resources.enrolment import EnrolmentResource
from margo_gitops.server.resources.enrolment_registry import EnrolmentRegistry
from margo_gitops.server.resources.git import GitResources
from margo_gitops.server.resources.renewal import FreshnessRenewal
from margo_gitops.server.resources.webhook import Webhook
from margo_gitops.server.service.configuration import (
    EnrolmentSettings,
    MirrorSettings,
    RenewalSettings,
    ServerConfiguration,
    SignatureSettings,
)
from margo_gitops.server.service.connection import RenewedTls, run_until_signal
from margo_gitops.server.service.stores import database_url, opened_registry, report_store
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.server.watched_file import WatchedFile
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.publication import read_signing_key
from margo_gitops.state_repo.repacking import repack
from margo_gitops.state_repo.report_branch import ReportBranch
from margo_gitops.state_repo.served_state import ServedState
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
from margo_gitops.values import replace
from margo_gitops.web.tls import not_strict

_LOG = logging.getLogger("margo_gitops.server")
LOOK_SECONDS: Final = 0.1
_PACK_SECONDS: Final = 60
_MOST_SECRET: Final = 1024
_LEAST_SECRET: Final = 16
_STRANGERS_PER_MINUTE: Final = 300
"""Requests for enrolment without a secret or key that is known, of all together."""


def check(configuration: ServerConfiguration) -> None:
    """Read every file that a configuration names, as `serve` does; change nothing, and listen nowhere.

    Raises:
        ServerMisconfigured: a file cannot be used.
        StateRepoUnusable: there is no state repo.
        SigningKeyUnusable: the key for freshness cannot be used.
    """
    if configuration.followed is None:
        StateRepo.open(configuration.state_folder)
    _identity(configuration)
    _signers(configuration)
    _tls(configuration)
    _discovery(configuration)
    _webhook_secret(configuration.followed)
    if configuration.identity.signatures is not None:
        _signature_files(configuration.identity.signatures)
    if configuration.freshness is not None:
        read_signing_key(configuration.freshness.signing_key)
    if configuration.reports.postgresql is not None:
        database_url(configuration.reports.postgresql)
        return
    folder = configuration.journal.parent
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ServerMisconfigured(
            "the journal of reports cannot be written",
            where=Location(str(place)),
            remedy="give this user the folder, or name another one at reports.folder",
        )


def certificate_notes(configuration: ServerConfiguration) -> list[str]:
    """Return notes on certificates, of this server and for devices, that strict programs refuse."""
    tls, enrolment = configuration.tls, configuration.enrolment
    signed = configuration.identity.signatures
    files = [
        *((tls.certificate, tls.client_trust) if tls else ()),
        enrolment.ca_file if enrolment else None,
        signed.root_certificate if signed else None,
    ]
    return [note for file in files if file is not None for note in not_strict(file)]


def serve(configuration: ServerConfiguration) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ServerMisconfigured: a file that the configuration names cannot be used, or the address is taken.
        ServerBusy: another server has the journal.
        ReportsDatabaseRefused, ReportsDatabaseNewer: the database of reports cannot be used.
        ClientRegistryUnusable: the registry of client ids cannot be opened.
        StateRepoUnusable, StateUnreachable, StateTampered: there is no state repo, and no mirror of one.
        ReportsUnusable: the journal cannot be opened.
        SigningKeyUnusable: the key for freshness cannot be used.
    """
    _log_to_stderr()
    followed = None
    if (settings := configuration.followed) is not None:
        followed = _followed(settings, configuration.state_folder)
        followed.start()
    state = ServedState(StateRepo.open(configuration.state_folder))
    watch = StateWatch(state, configuration.limits.requests_of_all)
    signers = _signers(configuration)
    context = _tls(configuration)
    discovery = _discovery(configuration)
    secret = _webhook_secret(settings)
    branch = followed or ReportBranch(configuration.state_folder)
    reports = configuration.reports
    bounds = JournalBounds(reports.per_device, reports.device_bytes, reports.total_bytes)
    journal = ReportJournal(report_store(configuration), bounds)
    history = RateLimit(reports.device_bytes_per_hour / 60, reports.device_bytes_per_hour, time.monotonic)
    limits, base = configuration.limits, configuration.listen.base_path
    rates = RateLimit(limits.requests_per_minute, limits.burst, time.monotonic)
    admission = Admission(rates, limits.requests_at_once, limits.requests_of_all)
    with contextlib.ExitStack() as parts:
        parts.callback(journal.close)
        registry = parts.enter_context(opened_registry(configuration)) if configuration.enrolment else None
        identify = _identity(configuration, registry)
        commits = ReportCommits(
            journal,
            branch,
            every=reports.commit_seconds,
            batch=reports.commit_reports,
            clock=time.time,
        )
        mirror = None
        if followed is not None and settings is not None:
            mirror = StateMirror(followed, watch, settings.fetch_seconds, journal.say_state)
        reading = DesiredStateResources(
            watch,
            journal,
            longest_wait=limits.wait_seconds,
            poll_seconds=limits.poll_seconds,
            profile=configuration.profile,
            signers=signers,
            catch_up=mirror.catch_up if mirror is not None else None,
        )

        def writing(profile: Profile) -> ReportResources:
            return ReportResources(
                watch,
                journal,
                commits,
                profile=profile,
                any_device_id=reports.any_device_id,
                clock=time.time,
                bytes_of_history=history,
                free=lambda: _free(configuration) >= reports.free_bytes,
                catch_up=reading.catch_up,
            )

        contracts: list[Contract] = []
        if configuration.identity.signatures is not None:
            clients = parts.enter_context(contextlib.closing(ClientRegistry(configuration.client_registry)))
            # Documents of the older contract have older shapes, whatever the profile of the current one.
            signed = _signed(
                configuration, configuration.identity.signatures, admission, clients, reading, writing("lenient")
            )
            contracts.append(signed.answer)
        current = Parts(
            watch=watch,
            reading=reading,
            writing=writing(configuration.profile),
            git=GitResources(watch, reading, state.objects, longest_wait=limits.wait_seconds),
            discovery=discovery,
            enrolment=_enrolment(configuration.enrolment, registry, watch, journal),
            webhook=Webhook(secret, mirror.ask) if mirror is not None and secret else None,
        )
        contracts.append(CurrentContract(current, identify, admission, base).answer)
        background: list[Callable[[], Awaitable[None]]] = [
            lambda: watch.run(LOOK_SECONDS),
            lambda: _keep_packed(configuration.state_folder),
            current.writing.keep_collecting,
        ]
        if mirror is not None:
            background.append(mirror.run)
        if current.enrolment is not None:
            background.append(current.enrolment.keep_up)
        ask = mirror.ask if mirror is not None else lambda _: None
        background.append(lambda: journal.listen(lambda heard: history.spend(heard.client, heard.size), ask))
        if configuration.freshness is not None:
            background.append(_renewal(configuration, configuration.freshness, watch, signers).run)
        api = WorkloadManagementApi(contracts, commits, background, AccessLog(configuration.log))
        run_until_signal(api, watch, configuration, context)


def _webhook_secret(settings: MirrorSettings | None) -> bytes:
    """Return the secret of the webhook; empty for none (ServerMisconfigured: its file cannot be read, or is empty)."""
    file = settings.webhook_secret_file if settings is not None else None
    if file is None:
        return b""
    try:
        secret = read_bounded(file, _MOST_SECRET).strip()
    except OSError as error:
        what = f"the webhook's secret cannot be read: {reason(error)}"
        raise ServerMisconfigured(what, where=Location(str(file)), remedy="name its file, for this user") from error
    if len(secret) < _LEAST_SECRET:
        raise ServerMisconfigured(
            f"the webhook's secret has less than {_LEAST_SECRET} characters",
            where=Location(str(file)),
            remedy="make one: openssl rand -hex 32",
        )
    return secret


def _followed(settings: MirrorSettings, folder: Path) -> FollowedState:
    if not settings.is_bucket:
        return FollowedState(settings.url or "", folder, settings.reports_url)
    from margo_gitops.state_repo.followed_bucket import FollowedBucket  # its package is an extra

    return FollowedBucket(settings.url or "", folder, settings.reports_url or "")


async def _keep_packed(folder: Path) -> None:
    while True:
        # A thread that the end of the server does not wait for.
        threading.Thread(target=repack, args=(folder,), daemon=True).start()
        await asyncio.sleep(_PACK_SECONDS)


def _free(configuration: ServerConfiguration) -> int:
    """Return the bytes that are free where reports go."""
    folders = [configuration.state_folder]
    if configuration.reports.postgresql is None:
        folders.append(configuration.journal.parent)
    return min(shutil.disk_usage(folder).free for folder in folders)


def _enrolment(
    settings: EnrolmentSettings | None, registry: EnrolmentRegistry | None, watch: StateWatch, journal: ReportJournal
) -> EnrolmentResource | None:
    if settings is None or registry is None:
        return None
    strangers = RateLimit(_STRANGERS_PER_MINUTE, _STRANGERS_PER_MINUTE, time.monotonic)
    return EnrolmentResource(
        registry,
        watch,
        journal,
        settings.source,
        settings.approval,
        settings.most_pending,
        strangers,
        refuse_copies=settings.clones == "refuse",
    )


def _signed(
    configuration: ServerConfiguration,
    settings: SignatureSettings,
    admission: Admission,
    registry: ClientRegistry,
    reading: DesiredStateResources,
    writing: ReportResources,
) -> SignedContract:
    limits = configuration.limits
    accepted, root = _signature_files(settings)
    verifier = SignatureVerifier(settings.public_urls, settings.profile, settings.window_seconds, time.time)
    onboarding = Onboarding(
        registry,
        accepted,
        verifier,
        profile=settings.profile,
        unsigned=settings.unsigned_onboarding,
        root=root,
        clock=time.time,
    )
    # A signature may be made a little ahead of this clock, and holds from then on.
    remembered = settings.window_seconds + 2 * SKEW_SECONDS
    # Twice what the limits let pass: a client that sends more is refused, before it takes the room of others.
    most_of_one = int(2 * (limits.burst + remembered * limits.requests_per_minute / 60))
    return SignedContract(
        OlderParts(onboarding, replace(reading, shape=OlderShapes().of), OlderReports(writing, settings.profile)),
        admission,
        registry=registry,
        accepted=accepted,
        verifier=verifier,
        seen=SeenSignatures(remembered, time.monotonic, most_of_one=most_of_one),
        profile=settings.profile,
        base=configuration.listen.base_path,
        clock=time.time,
    )


def _signature_files(
    settings: SignatureSettings,
) -> tuple[WatchedFile[Mapping[Digest, str]], WatchedFile[str] | None]:
    accepted: WatchedFile[Mapping[Digest, str]] = WatchedFile(
        settings.accepted, read_accepted_certificates, {}, "list of accepted certificates"
    )
    if settings.root_certificate is None:
        return accepted, None
    return accepted, WatchedFile(settings.root_certificate, read_root_certificate, "", "root certificate")


def _identity(configuration: ServerConfiguration, registry: EnrolmentRegistry | None = None) -> Identify:
    identity = configuration.identity
    if identity.bearer is not None:
        return BearerTokens(identity.bearer.tokens, time.time, registry.holder if registry else lambda _: None)
    if identity.client_cert is not None:
        proxies = [ipaddress.ip_network(proxy) for proxy in identity.client_cert.proxies]
        return ProxiedCertificate(proxies, identity.client_cert.accepted, time.time)
    if identity.mutual_tls is not None:
        return PeerCertificate(identity.mutual_tls.accepted, time.time)
    return NobodyAsked(identity.none.device) if identity.none else Nobody()


def _signers(configuration: ServerConfiguration) -> Callable[[], AllowedSigners] | None:
    path = configuration.allowed_signers
    if path is None:
        return None
    nobody = AllowedSigners((), str(path))
    parse = lambda text, file: parse_allowed_signers(text.encode(), str(file))  # noqa: E731
    return WatchedFile(path, parse, nobody, "list of allowed signers").value


def _renewal(
    configuration: ServerConfiguration,
    settings: RenewalSettings,
    watch: StateWatch,
    signers: Callable[[], AllowedSigners] | None,
) -> FreshnessRenewal:
    return FreshnessRenewal(
        configuration.state_folder,
        read_signing_key(settings.signing_key),
        valid_for=parse_valid_for(settings.valid_for),
        every=settings.look_seconds,
        healthy=lambda: watch.healthy,
        signers=signers,
    )


def _discovery(configuration: ServerConfiguration) -> TrustDiscovery | None:
    settings = configuration.discovery
    if settings is None:
        return None
    bundle: WatchedFile[BundleKeys] = WatchedFile(settings.trust_bundle, read_trust_bundle, (), "trust bundle")
    return TrustDiscovery(settings.trust_domain, settings.public_url, bundle, settings.refresh_seconds)


def _tls(configuration: ServerConfiguration) -> ssl.SSLContext | None:
    return RenewedTls(configuration.tls).context if configuration.tls else None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("margo_gitops.server", logging.INFO), ("uvicorn", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
