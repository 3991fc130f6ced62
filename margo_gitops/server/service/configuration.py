"""The server's configuration: one YAML file; everything unknown is an error. docs/http.md is the reference.

    apiVersion: margo-gitops/v1
    kind: ServerConfiguration
    stateRepo: plant-state.git
    listen: {address: 127.0.0.1, port: 8443}
    identity:
      bearer: {tokens: device-tokens}

Paths are relative to the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.documents.declarations import About, Items, OwnKind, Problem, Range, Spelled, Text
from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import is_client, is_loopback
from margo_gitops.settings import FilePath, load_settings
from margo_gitops.values import dataclass, field, replace

DATABASE_URL: Final = "MARGO_GITOPS_DATABASE_URL"
"""The environment variable with the URL of the database of reports."""
StatePlace: TypeAlias = Annotated[
    Path | str,
    Spelled(
        Annotated[str, Text(min_length=1)],
        lambda name, folder: name if is_remote(name) or name.startswith("s3://") else Path(folder, name),
        str,
    ),
]
"""A folder, relative to the file's folder, or a URL."""
_MIB: Final = 1024 * 1024
_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9._~\[\]:-]+(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where the server listens."""

    address: Annotated[str, About("An IP address of this machine.")] = "127.0.0.1"
    port: Annotated[int, About("The port; 0 takes any free one."), Range(minimum=0, maximum=65_535)] = 8080
    base_path: Annotated[
        str,
        About("A prefix of all paths of the API.", ("/v1alpha2/margo",)),
        Text(pattern=r"^(/[A-Za-z0-9._~-]+)*$", what="a path without a slash at its end"),
    ] = ""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The server's own certificate; without it, a proxy in front ends TLS."""

    certificate: Annotated[FilePath, About("The server's certificate and intermediates (PEM).")]
    key: Annotated[FilePath, About("Its private key (PEM).")]
    client_trust: Annotated[
        FilePath | None, About("Trust bundle (PEM) that certificates of clients must lead to; for `mutualTls`.")
    ] = None


@dataclass(frozen=True, slots=True)
class BearerSettings:
    """Devices send `Authorization: Bearer <token>`."""

    tokens: Annotated[FilePath, About("File with the sha256 of each device's tokens.")]


@dataclass(frozen=True, slots=True)
class ClientCertSettings:
    """A proxy in front ends mutual TLS and forwards the client's certificate (RFC 9440)."""

    proxies: Annotated[
        tuple[str, ...],
        Items(minimum=1),
        About("Addresses or networks of the proxies.", (["10.0.0.5", "10.1.0.0/24"],)),
    ]
    accepted: Annotated[FilePath, About("File with the SPIFFE IDs of the accepted clients.")]

    def problems(self) -> Iterator[Problem]:
        """Yield what is not a network."""
        for index, proxy in enumerate(self.proxies):
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                yield Problem(("proxies", index), str(error), "write it like 10.0.0.5 or 10.1.0.0/24")


@dataclass(frozen=True, slots=True)
class MutualTlsSettings:
    """Devices present an X.509-SVID on their own connection."""

    accepted: Annotated[FilePath, About("File with the SPIFFE IDs of the accepted clients.")]


@dataclass(frozen=True, slots=True)
class NobodyAskedSettings:
    """Callers are not asked who they are; on the loopback only."""

    device: Annotated[str | None, About("Who a caller is that sends no `Margo-Device` header.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a device that can be no client."""
        if self.device is not None and not is_client(self.device):
            yield Problem(("device",), f"{self.device!r} is not a client: write a device id without a slash")


@dataclass(frozen=True, slots=True)
class SignatureSettings:
    """The older contract: clients are onboarded, and sign their requests."""

    accepted: Annotated[FilePath, About("File with the device of each accepted certificate.")]
    public_urls: Annotated[
        tuple[str, ...],
        Items(minimum=1),
        About("How devices reach this server, as they sign it.", (["https://wfm.plant.example"],)),
    ]
    profile: Annotated[
        Literal["specification", "strict"],
        About("What a signature must cover: what the specification says, or also what its test suite demands."),
    ] = "specification"
    window_seconds: Annotated[float, About("How long a signature holds."), Range(minimum=1, maximum=3600)] = 300.0
    root_certificate: Annotated[
        FilePath | None, About("The authority of the server's certificate (PEM), for clients to download.")
    ] = None
    unsigned_onboarding: Annotated[
        bool,
        About("Take onboarding requests without signature; then everyone who has a certificate learns its client id."),
    ] = False

    def problems(self) -> Iterator[Problem]:
        """Yield what is not a URL of a server."""
        for index, url in enumerate(self.public_urls):
            if not _PUBLIC_URL.fullmatch(url):
                yield Problem(
                    ("publicUrls", index), f"{url!r} is not a URL of a server", "write it like https://wfm:8443"
                )


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """How devices say who they are: exactly one of the four, and signatures in addition or alone."""

    bearer: Annotated[BearerSettings | None, About("Tokens.")] = None
    client_cert: Annotated[ClientCertSettings | None, About("Certificates, from a proxy.")] = None
    mutual_tls: Annotated[MutualTlsSettings | None, About("Certificates, from the connection.")] = None
    none: Annotated[NobodyAskedSettings | None, About("For trying things out on one machine.")] = None
    signatures: Annotated[
        SignatureSettings | None, About("The older contract, on separate paths: clients that sign their requests.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made, or was made twice."""
        made = [way for way in (self.bearer, self.client_cert, self.mutual_tls, self.none) if way is not None]
        if len(made) > 1 or not (made or self.signatures):
            yield Problem((), f"names {len(made)} ways", "name exactly one of bearer, clientCert, mutualTls, none")


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """What `/.well-known/margo` says."""

    trust_domain: Annotated[
        str, About("The trust domain."), Text(pattern=r"^[a-z0-9._-]{1,255}$", what="a trust domain's name")
    ]
    public_url: Annotated[
        str,
        About("Where devices reach this server."),
        Text(pattern=r"^https://[^\s?#]*[^\s?#/]$", what="an https URL without a slash at its end"),
    ]
    trust_bundle: Annotated[FilePath, About("The authorities that devices should trust (PEM).")]
    refresh_seconds: Annotated[int, About("How often devices should look for a new bundle."), Range(minimum=1)] = 300


@dataclass(frozen=True, slots=True)
class EnrolmentSettings:
    """Devices make a key and a token, and the server learns them once (docs/enrolment.md)."""

    url: Annotated[
        str,
        About("How devices reach this server.", ("https://wfm.plant.example",)),
        Text(pattern=r"^https?://[^\s?#]*[^\s?#/]$", what="a URL without a slash at its end"),
    ]
    approval: Annotated[
        Literal["secret", "person"],
        About("secret: only devices with a one-time secret, or with a key that was named before; person: others wait."),
    ] = "secret"
    source: Annotated[Literal["http", "git"], About("How enrolled devices pull from this server.")] = "http"
    ca_file: Annotated[
        FilePath | None, About("Certificates (PEM) that devices trust for TLS; `device enroll` gives it to them.")
    ] = None
    most_pending: Annotated[int, About("How many keys wait for approval at once."), Range(minimum=1)] = 1000
    clones: Annotated[
        Literal["report", "refuse"],
        About("What becomes of a device that has a copy; refuse: its token ends, until it is enrolled again."),
    ] = "report"


@dataclass(frozen=True, slots=True)
class PostgresqlSettings:
    """A database that several servers share. Its URL may hold a password, so it is never in this file."""

    url_file: Annotated[
        FilePath | None,
        About(f"File with the URL of the database; without it, the variable {DATABASE_URL} holds the URL."),
    ] = None


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What becomes of reports."""

    folder: Annotated[
        FilePath | None, About("Where the journal is kept; by default `margo-gitops` in the state repo's folder.")
    ] = None
    postgresql: Annotated[
        PostgresqlSettings | None, About("Keep the journal in a PostgreSQL database: for more than one server.")
    ] = None
    commit_seconds: Annotated[
        float, About("Time between two commits to refs/heads/reports."), Range(minimum=0.1, maximum=86_400)
    ] = 30.0
    commit_reports: Annotated[
        int, About("This many changed reports are committed at once, and no later."), Range(minimum=1, maximum=10_000)
    ] = 1000
    per_device: Annotated[int, About("On how many subjects a device may report."), Range(minimum=1)] = 1000
    device_bytes: Annotated[int, About("Bytes of all reports of a device."), Range(minimum=1024)] = 8 * _MIB
    total_bytes: Annotated[int, About("Bytes of all reports of all devices."), Range(minimum=1024)] = 4096 * _MIB
    device_bytes_per_hour: Annotated[
        int, About("Bytes of changed reports of a device in an hour: what it adds to the history."), Range(minimum=1024)
    ] = 16 * _MIB
    free_bytes: Annotated[
        int, About("The server takes no reports when the disk has fewer bytes left."), Range(minimum=0)
    ] = 256 * _MIB
    any_device_id: Annotated[
        bool, About("Take capabilities of device ids that do not start with the client's own id.")
    ] = False


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """The server signs that the state it serves is the newest: with a key that is good for nothing else."""

    signing_key: Annotated[
        FilePath, About("An OpenSSH ed25519 private key that devices allow `margo-gitops-freshness`.")
    ]
    valid_for: Annotated[str, About("How long a statement is believed: 90m, 36h or 7d.", ("7d",))] = "7d"
    look_seconds: Annotated[
        float, About("Time between two looks whether a statement is due."), Range(minimum=0.1, maximum=86_400)
    ] = 60.0

    def problems(self) -> Iterator[Problem]:
        """Yield what is not a time."""
        try:
            parse_valid_for(self.valid_for)
        except ValueError as error:
            yield Problem(("validFor",), str(error))


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one device, and all together, may ask of the server. Addresses have no limits."""

    requests_per_minute: Annotated[float, About("Of one device, on and on."), Range(minimum=1)] = 600.0
    burst: Annotated[int, About("Of one device, at once."), Range(minimum=1)] = 300
    requests_at_once: Annotated[int, About("Of one device, being worked on, waiting ones too."), Range(minimum=1)] = 8
    requests_of_all: Annotated[int, About("Of all devices, waiting ones too."), Range(minimum=1)] = 50_000
    connections: Annotated[
        int, About("Of everybody, known or not; one more is closed at once."), Range(minimum=1, maximum=1_000_000)
    ] = 60_000
    wait_seconds: Annotated[
        float, About("Longest wait of a poll for a change; 0: none waits."), Range(minimum=0, maximum=3600)
    ] = 55.0
    poll_seconds: Annotated[
        int | None,
        About("Devices are asked to poll no more often than this (`X-Poll-Interval`); without it, they decide."),
        Range(minimum=1, maximum=86_400),
    ] = None


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """The state repo is elsewhere, and this server fetches a copy."""

    url: Annotated[
        str | None,
        About(
            "The state repo as git fetches it, or a bucket that `publish --history` fills. Default: `stateRepo`.",
            ("https://git.example/plant-state.git", "s3://plant/state"),
        ),
    ] = None
    reports_url: Annotated[
        str | None,
        About(
            "The git repository that gets the reports; without it, the one at `url`. A bucket or shard takes none.",
            ("https://git.example/plant-state.git",),
        ),
    ] = None
    fetch_seconds: Annotated[
        float, About("Time between two looks whether it moved."), Range(minimum=0.1, maximum=86_400)
    ] = 10.0
    webhook_secret_file: Annotated[
        FilePath | None,
        About("File with the secret of the git host's webhook, which says at once that the state repo moved."),
    ] = None

    @property
    def is_bucket(self) -> bool:
        """Whether the state comes from a bucket."""
        return self.url is not None and self.url.startswith("s3://")

    def problems(self) -> Iterator[Problem]:
        """Yield a bucket without a place for reports."""
        if self.is_bucket and self.reports_url is None:
            yield Problem(("reportsUrl",), "a bucket takes no reports", "name the git repository that gets them")


@dataclass(frozen=True, slots=True)
class ServerConfiguration(OwnKind):
    """What `margo-gitops serve` does."""

    state_repo: Annotated[
        StatePlace,
        About(
            "The state repo: a bare repository on this machine, or a URL that this server keeps a mirror of. With "
            "`mirror.url`, the folder of the mirror.",
            ("plant-state.git", "https://git.example/plant-state.git"),
        ),
    ]
    identity: IdentitySettings
    listen: ListenSettings = field(default_factory=ListenSettings)
    mirror: Annotated[
        MirrorSettings | None, About("Serve a copy of a state repo that is on a git server or in a bucket.")
    ] = None
    tls: Annotated[TlsSettings | None, About("TLS by the server itself.")] = None
    discovery: Annotated[DiscoverySettings | None, About("Serve /.well-known/margo and the trust bundle.")] = None
    profile: Annotated[
        Literal["lenient", "strict"], About("strict: the contract to the letter; lenient: what real devices need.")
    ] = "lenient"
    allowed_signers: Annotated[
        FilePath | None, About("Serve only what one of these keys has signed (ssh-keygen's format).")
    ] = None
    log: Annotated[Literal["off", "refusals", "all"], About("Which requests get a line in the log.")] = "refusals"
    enrolment: Annotated[EnrolmentSettings | None, About("Enrol devices; absent: tokens are given by hand.")] = None
    reports: ReportSettings = field(default_factory=ReportSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    freshness: Annotated[
        RenewalSettings | None, About("Renew the statement of freshness; absent: somebody else does.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield what would expose devices to each other, or could not work."""
        try:
            ipaddress.ip_address(self.listen.address)
        except ValueError:
            yield Problem(("listen", "address"), f"{self.listen.address!r} is not an IP address")
            return
        local = is_loopback(self.listen.address)
        if self.identity.none is not None and not local:
            yield Problem(("identity", "none"), "callers are not asked who they are: possible on the loopback only")
        for way, what in (("bearer", "tokens"), ("signatures", "what devices run")):
            if getattr(self.identity, way) is not None and self.tls is None and not local:
                remedy = "add tls, or listen on the loopback with a proxy in front"
                yield Problem(("identity", way), f"{what} would travel in clear text", remedy)
        if self.identity.mutual_tls is not None and (self.tls is None or self.tls.client_trust is None):
            yield Problem(("identity", "mutualTls"), "needs tls with clientTrust")
        if self.reports.postgresql is not None and self.identity.signatures is not None:
            remedy = "serve the older contract by one server without reports.postgresql"
            yield Problem(("reports", "postgresql"), "the client ids of the older contract are in a file", remedy)
        if self.enrolment is not None and self.identity.bearer is None:
            yield Problem(
                ("enrolment",), "enrolled devices have tokens", "add identity.bearer; certificates come from elsewhere"
            )
        yield from self._problems_of_mirror()

    def _problems_of_mirror(self) -> Iterator[Problem]:
        named = isinstance(self.state_repo, str)
        if self.mirror is not None and named == (self.mirror.url is not None):
            what = "two state repos are named" if named else "no state repo is named that could be mirrored"
            yield Problem(("mirror",), what, "write its URL at stateRepo, or at mirror.url")
            return
        if self.followed is None:
            return
        if self.freshness is not None:
            remedy = "renew it where the state repo is rendered: margo-gitops freshness renew"
            yield Problem(("freshness",), "this server serves a mirror, and pushes only reports", remedy)
        if self.reports.folder is None and (named or self.reports.postgresql is None):
            what = "the mirror needs a folder" if named else "the journal of reports must be outside of a mirror"
            remedy = "name a folder at reports.folder" + ("" if named else ", or use reports.postgresql")
            yield Problem(("stateRepo" if named else "mirror",), what, remedy)
        if named and self.followed.is_bucket and self.followed.reports_url is None:
            yield from self.followed.problems()

    @property
    def state_folder(self) -> Path:
        """The repository that is served: the state repo, or the mirror of it."""
        if isinstance(self.state_repo, Path):
            return self.state_repo
        return (self.reports.folder or Path()) / "mirror.git"

    @property
    def followed(self) -> MirrorSettings | None:
        """The mirror, with its URL; None where the state repo is on this machine."""
        if isinstance(self.state_repo, str):
            return replace(self.mirror or MirrorSettings(), url=self.state_repo)
        return self.mirror

    @property
    def journal(self) -> Path:
        """The journal of reports."""
        return self._folder / "reports.sqlite"

    @property
    def client_registry(self) -> Path:
        """The registry of client ids."""
        return self._folder / "clients.sqlite"

    @property
    def enrolments(self) -> Path:
        """The enrolled devices, where they are in a file."""
        return self._folder / "enrolments.sqlite"

    @property
    def _folder(self) -> Path:
        return self.reports.folder or self.state_folder / "margo-gitops"


def load_server_configuration(file: Path) -> ServerConfiguration:
    """Return the configuration in a file.

    Raises:
        ServerMisconfigured: the file cannot be read, or has mistakes; each is listed with line and column.
    """
    remedy = "name the file with --config; docs/http.md has an example"
    return load_settings(ServerConfiguration, file, whose="the server's", error=ServerMisconfigured, remedy=remedy)
