"""Puts the server together from its configuration, and runs it until a signal asks it to end."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import ssl
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from margo_gitops.errors import Location, ServerMisconfigured
from margo_gitops.server.application import WorkloadManagementApi
from margo_gitops.server.contracts.assembly import signed_contract
from margo_gitops.server.identity.callers import Identify, Nobody, NobodyAsked
from margo_gitops.server.identity.certificates import PeerCertificate, ProxiedCertificate
from margo_gitops.server.identity.tokens import BearerTokens
from margo_gitops.server.limits import InFlight, RateLimit
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import ReportJournal
from margo_gitops.server.reports.resources import ReportResources
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.git import GitResources
from margo_gitops.server.resources.renewal import freshness_renewal
from margo_gitops.server.resources.trust_discovery import BundleKeys, TrustDiscovery, read_trust_bundle
from margo_gitops.server.service.configuration import LoadedServerConfiguration
from margo_gitops.server.service.connection import BoundedConnection
from margo_gitops.server.service.tls import RenewedTls, TlsConnection, TlsFiles
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.server.watched_file import WatchedFile
from margo_gitops.state_repo.report_branch import ReportBranch
from margo_gitops.state_repo.served_objects import ServedObjects
from margo_gitops.state_repo.served_state import ServedState
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers

_LOG = logging.getLogger("margo_gitops.server")
LOOK_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 10
_KEEP_ALIVE_SECONDS: Final = 120


def serve(configuration: LoadedServerConfiguration) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ServerMisconfigured: a file that the configuration names cannot be used, or the address is taken.
        ServerBusy: another server has the journal.
        ClientRegistryUnusable: the registry of client ids cannot be opened.
        StateRepoUnusable: there is no state repo.
        ReportsUnusable: the journal cannot be opened.
    """
    _log_to_stderr()
    content = configuration.content
    watch = StateWatch(ServedState(StateRepo.open(configuration.state_repo)), content.limits.requests_of_all)
    identify = _identity(configuration, time.time)
    signers = _signers(configuration)
    context = _tls(configuration)
    discovery = _discovery(configuration)
    branch = ReportBranch(configuration.state_repo)
    journal = ReportJournal(configuration.journal, content.reports.per_device)
    with contextlib.ExitStack() as parts:
        parts.callback(journal.close)
        commits = ReportCommits(
            journal,
            branch,
            every=content.reports.commit_seconds,
            batch=content.reports.commit_reports,
            clock=time.time,
        )
        reading = DesiredStateResources(
            watch,
            journal,
            longest_wait=content.limits.wait_seconds,
            poll_seconds=content.limits.poll_seconds,
            profile=content.profile,
            signers=signers,
        )
        signed = parts.enter_context(signed_contract(configuration, watch, journal, commits, reading))
        objects = ServedObjects(configuration.state_repo)
        api = WorkloadManagementApi(
            identify=identify,
            watch=watch,
            reading=reading,
            git=GitResources(watch, reading, objects, longest_wait=content.limits.wait_seconds),
            writing=ReportResources(
                watch,
                journal,
                commits,
                profile=content.profile,
                any_device_id=content.reports.any_device_id,
                clock=time.time,
            ),
            commits=commits,
            rates=RateLimit(content.limits.requests_per_minute, content.limits.burst, time.monotonic),
            in_flight=InFlight(content.limits.requests_at_once, content.limits.requests_of_all),
            discovery=discovery,
            base=content.listen.base_path,
            look_every=LOOK_SECONDS,
            signed=signed,
            renewal=freshness_renewal(configuration, watch, signers),
        )
        _run(api, watch, configuration, context)


class _Server(uvicorn.Server):
    """uvicorn, which lets waiting polls go when it is told to end."""

    def __init__(self, config: uvicorn.Config, watch: StateWatch) -> None:
        super().__init__(config)
        self._watch = watch

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would raise the signal again at its end, and so kill the process before the journal is closed.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._watch.close()


def _run(
    api: WorkloadManagementApi,
    watch: StateWatch,
    configuration: LoadedServerConfiguration,
    context: ssl.SSLContext | None,
) -> None:
    listen = configuration.content.listen
    config = uvicorn.Config(
        api,
        host=listen.address,
        port=listen.port,
        http=TlsConnection if context else BoundedConnection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # addresses decide which Client-Cert is believed: no header may change them
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        backlog=4096,
        # uvicorn counts from this number on; BoundedConnection closes what is above the number before.
        limit_concurrency=configuration.content.limits.connections + 1,
    )
    config.load()
    if context is not None:
        config.ssl = context
    try:
        _Server(config, watch).run()
    except SystemExit as error:  # uvicorn's way to say that it could not listen; its log says why
        raise ServerMisconfigured(
            f"cannot listen on {listen.address} port {listen.port}",
            remedy="see that no other program listens there, and that the address is this machine's",
        ) from error


def _identity(configuration: LoadedServerConfiguration, clock: Callable[[], float]) -> Identify:
    identity = configuration.content.identity
    if identity.bearer is not None:
        return BearerTokens(configuration.path(identity.bearer.tokens), clock)
    if identity.client_cert is not None:
        proxies = [ipaddress.ip_network(proxy) for proxy in identity.client_cert.proxies]
        return ProxiedCertificate(proxies, configuration.path(identity.client_cert.accepted), clock)
    if identity.mutual_tls is not None:
        return PeerCertificate(configuration.path(identity.mutual_tls.accepted), clock)
    return NobodyAsked(identity.none.device) if identity.none else Nobody()


def _signers(configuration: LoadedServerConfiguration) -> AllowedSigners | None:
    name = configuration.content.allowed_signers
    if name is None:
        return None
    file = configuration.path(name)
    try:
        return parse_allowed_signers(file.read_bytes(), str(file))
    except OSError as error:
        raise ServerMisconfigured(
            "the list of allowed signers cannot be read", where=Location(str(file)), why=[str(error)]
        ) from error


def _discovery(configuration: LoadedServerConfiguration) -> TrustDiscovery | None:
    settings = configuration.content.discovery
    if settings is None:
        return None
    bundle: WatchedFile[BundleKeys] = WatchedFile(configuration.path(settings.trust_bundle), read_trust_bundle, ())
    return TrustDiscovery(settings.trust_domain, settings.public_url, bundle, settings.refresh_seconds)


def _tls(configuration: LoadedServerConfiguration) -> ssl.SSLContext | None:
    tls = configuration.content.tls
    if tls is None:
        return None
    trust = configuration.path(tls.client_trust) if tls.client_trust else None
    return RenewedTls(TlsFiles(configuration.path(tls.certificate), configuration.path(tls.key), trust)).context


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("margo_gitops.server", logging.INFO), ("uvicorn", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
