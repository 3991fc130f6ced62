"""Puts the older contract together from the server's configuration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from margo_gitops.digests import Digest
from margo_gitops.server.contracts.accepted import read_accepted_certificates
from margo_gitops.server.contracts.older import SignedContract
from margo_gitops.server.contracts.onboarding import Onboarding, read_root_certificate
from margo_gitops.server.contracts.registry import ClientRegistry
from margo_gitops.server.contracts.replays import SeenSignatures
from margo_gitops.server.contracts.verification import SKEW_SECONDS, SignatureVerifier
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import ReportJournal
from margo_gitops.server.reports.resources import ReportResources
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.service.configuration import LimitSettings, LoadedServerConfiguration
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.server.watched_file import WatchedFile


@contextlib.contextmanager
def signed_contract(
    configuration: LoadedServerConfiguration,
    watch: StateWatch,
    journal: ReportJournal,
    commits: ReportCommits,
    reading: DesiredStateResources,
) -> Iterator[SignedContract | None]:
    """Yield what answers the older contract's requests; None where the configuration does not switch it on.

    Args:
        configuration: the server's.
        watch: sees the state.
        journal: keeps reports.
        commits: is told of them.
        reading: answers what devices read, in both contracts.

    Raises:
        ServerMisconfigured: a file that the configuration names cannot be used.
        ClientRegistryUnusable: the registry of client ids cannot be opened.
    """
    content = configuration.content
    settings = content.identity.signatures
    if settings is None:
        yield None
        return
    accepted: WatchedFile[Mapping[Digest, str]] = WatchedFile(
        configuration.path(settings.accepted), read_accepted_certificates, {}
    )
    root = configuration.path(settings.root_certificate) if settings.root_certificate else None
    verifier = SignatureVerifier(settings.public_urls, settings.profile, settings.window_seconds, time.time)
    with contextlib.closing(ClientRegistry(configuration.client_registry)) as registry:
        yield SignedContract(
            registry=registry,
            accepted=accepted,
            verifier=verifier,
            onboarding=Onboarding(
                registry,
                accepted,
                verifier,
                profile=settings.profile,
                unsigned=settings.unsigned_onboarding,
                root=WatchedFile(root, read_root_certificate, "") if root else None,
                clock=time.time,
            ),
            seen=_seen(settings.window_seconds, content.limits),
            reading=reading,
            # Documents of the older contract have older shapes, whatever the profile of the current one.
            writing=ReportResources(
                watch,
                journal,
                commits,
                profile="lenient",
                any_device_id=content.reports.any_device_id,
                clock=time.time,
            ),
            profile=settings.profile,
            base=content.listen.base_path,
            clock=time.time,
        )


def _seen(window: float, limits: LimitSettings) -> SeenSignatures:
    # A signature may be made a little ahead of this clock, and holds from then on.
    seconds = window + 2 * SKEW_SECONDS
    # Twice what the limits let pass: who sends more is refused, before it takes the room of others.
    most_of_one = int(2 * (limits.burst + seconds * limits.requests_per_minute / 60))
    return SeenSignatures(seconds, time.monotonic, most_of_one=most_of_one)
