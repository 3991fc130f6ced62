"""What the agent's configuration may say: one YAML file; everything unknown is an error.

    device: press-07
    stateFolder: /var/lib/margo-gitops
    source:
      git: {url: "https://git.plant.example/state.git", tokenFile: token}
    trust:
      allowedSigners: allowed_signers
    appliers:
      compose: {}

Paths are relative to the file. docs/agent.md is the reference; a test keeps the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from margo_gitops.agent.settings.artifacts import ArtifactSettings
from margo_gitops.agent.settings.secret_sources import SecretSettings
from margo_gitops.documents.declarations import About, Keys, OwnKind, Problem, Range, Spelled, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.registry.settings import Registries
from margo_gitops.settings import Duration, FilePath, spell_duration
from margo_gitops.transport.git.source import GitSettings
from margo_gitops.transport.http.source import HttpSettings
from margo_gitops.transport.stick.source import StickSettings
from margo_gitops.values import dataclass, field
from margo_gitops.web.source import WebSource

_SHORTEST_INTERVAL: Final = 1.0
_LONGEST_INTERVAL: Final = 30 * 86400.0
_SHORTEST_TIMEOUT: Final = 1.0
_LONGEST_TIMEOUT: Final = 86400.0
DEFAULT_LONGEST_TIMEOUT: Final = 900
_LAST_PORT: Final = 65535
_LONGEST_HOOK: Final = 3600.0
MARK_KEY_FILE: Final = "secrets.key"
"""In the state folder: the key of the marks of secrets."""
CAPABILITIES_FILE: Final = "capabilities.json"
"""In the state folder: what the agent found out, and what a person's document says before that."""
RECEIPTS_FOLDER: Final = "receipts"
"""In the state folder."""
CARRIED_NUMBER_FILE: Final = "carried-number"
"""In the state folder: what is known of the newest file of reports that a stick got."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where the desired state comes from: exactly one of them is given."""

    git: Annotated[GitSettings | None, About("Pull by git.")] = None
    http: Annotated[HttpSettings | None, About("Pull over HTTP, from a server of the Margo API or static files.")] = (
        None
    )
    stick: Annotated[StickSettings | None, About("Take it from a bundle that a person brings.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made, or was made twice."""
        if sum(each is not None for each in (self.git, self.http, self.stick)) != 1:
            yield Problem((), "must name exactly one of git, http and stick", "keep the one that the state comes from")

    @property
    def web(self) -> WebSource | None:
        """The source on a network; None for a stick."""
        return self.git or self.http

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.web.url if self.web else str(self.stick.path) if self.stick else "?"


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """What the device believes: exactly one of `document`, `allowedSigners` and `unsigned` is given."""

    document: Annotated[
        FilePath | None,
        About("The fleet's trust document, of any version: it names the keys. Later versions are followed."),
    ] = None
    allowed_signers: Annotated[
        FilePath | None, About("List of the keys that may sign this device's state (ssh-keygen's format).")
    ] = None
    unsigned: Annotated[
        bool | None, About("true: accept unsigned state. Anyone who can write the state repo owns the device.")
    ] = None
    floor_copy: Annotated[
        FilePath | None,
        About("Second place for the trust floor, outside stateFolder: it survives the loss of that folder."),
    ] = None
    minimum_version: Annotated[
        int, About("Never accept a lower manifest version, even without a floor."), Range(minimum=1)
    ] = 1
    fleet: Annotated[
        str | None, About("The fleet's name; absent: the fleet of the signed state that is held.", ("plant",))
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made, or was made twice."""
        if self.unsigned is False:
            yield Problem(("unsigned",), "unsigned can only be true", "remove it, and name document or allowedSigners")
        elif self.document is not None and (self.allowed_signers is not None or self.unsigned):
            yield Problem(("document",), "contradicts allowedSigners and unsigned", "keep one of them")
        elif self.document is None and self.allowed_signers is None and self.unsigned is None:
            yield Problem(
                (), "says nothing about signatures", "name document or allowedSigners, or write unsigned: true"
            )
        elif self.allowed_signers is not None and self.unsigned:
            yield Problem(("unsigned",), "allowedSigners and unsigned contradict each other", "keep one of them")


@dataclass(frozen=True, slots=True)
class FreshnessSettings:
    """What the device does when nothing proves any more that it holds the newest state (docs/freshness.md)."""

    required: Annotated[bool, About("A statement that never came counts like one that expired.")] = True
    on_expiry: Annotated[
        Literal["report", "hold"],
        About("report: a security event; hold: also take no new state without proof. Nothing that runs is stopped."),
    ] = "report"
    allowed_signers: Annotated[
        FilePath | None, About("Who may sign statements, where it is not the list of `trust` (ssh-keygen's format).")
    ] = None


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Where reports go, for a device whose source takes none: git, static files."""

    http: Annotated[HttpSettings | None, About("A server of the Margo API that takes capabilities and statuses.")] = (
        None
    )
    git: Annotated[
        GitSettings | None,
        About("A git host: the device pushes capabilities and statuses to its own branch (docs/git-host.md)."),
    ] = None
    origin: Annotated[
        bool, About("Name state commit, signing key, agent version and boot in each status, as an extension.")
    ] = False

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made or was made twice, and settings that only a source has."""
        if (self.git is None) == (self.http is None):
            yield Problem((), "must name exactly one of git and http", "keep the one that reports go to")
        if self.git is not None and self.git.ref is not None:
            yield Problem(("git", "ref"), "the branch of the reports follows from the device's id", "remove it")
        if self.git is not None and self.git.address.scheme == "file":
            yield Problem(("git", "url"), "reports are pushed over https or ssh", "name a git host")
        if self.http is not None and self.http.wait:
            yield Problem(("http", "wait"), "reports wait for nothing", "remove it; it belongs to source.http")
        if self.origin and self.http is not None and self.http.contract == "g1":
            yield Problem(("origin",), "the older contract has no extensions", "remove it")


@dataclass(frozen=True, slots=True)
class ReceiptSettings:
    """How the device signs what ran (docs/receipts.md)."""

    key: Annotated[
        FilePath | None,
        About("OpenSSH ed25519 private key without a passphrase; absent: the agent makes one in its state folder."),
    ] = None


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Where the agent says how it is (docs/health.md)."""

    listen: Annotated[
        str | None,
        About(
            "Answer /healthz, /readyz and /metrics on a port of the loopback, or on a unix socket.",
            ("127.0.0.1:9465", "unix:/run/margo-gitops/health.sock"),
        ),
        Text(
            pattern=r"^(unix:/.{1,100}|(127\.0\.0\.1|\[::1\]|localhost):[0-9]{1,5})$",
            what="127.0.0.1:PORT, [::1]:PORT, localhost:PORT or unix:/PATH",
        ),
    ] = None
    textfile: Annotated[
        FilePath | None, About("Write metrics to this file, for the textfile collector of Prometheus' node-exporter.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a section that asks for nothing, and a port that does not exist."""
        if self.listen is None and self.textfile is None:
            yield Problem((), "names neither listen nor textfile", "name one of them, or remove the section")
        elif self.listen and not self.listen.startswith("unix:") and int(self.listen.rpartition(":")[2]) > _LAST_PORT:
            yield Problem(("listen",), f"a port is at most {_LAST_PORT}")


@dataclass(frozen=True, slots=True)
class LockSettings:
    """Where workloads and gateways of the device hold locks (docs/locks.md)."""

    folder: Annotated[FilePath, About("Below it are the files and sockets of `spec.locks`.", ("/run/locks/margo",))]


@dataclass(frozen=True, slots=True)
class HookSettings:
    """The programs that deployments may name in `spec.hooks` (docs/locks.md)."""

    folder: Annotated[
        FilePath,
        About("The programs, by name. They and the folder belong to root or the agent, and no other may write them."),
    ]
    user: Annotated[
        str | None,
        About("The user that runs them, never root; an agent that is root must name one.", ("margo-hooks",)),
        Text(pattern=r"^[a-z_][a-z0-9_-]{0,31}$", what="a user's name"),
    ] = None
    timeout: Annotated[Duration, About("How long one may run; it is ended then, with all it started.", ("60s",))] = 60

    def problems(self) -> Iterator[Problem]:
        """Yield root, and a time that no hook may take."""
        if self.user == "root":
            yield Problem(("user",), "hooks never run as root", "name a user without rights")
        if not _SHORTEST_TIMEOUT <= self.timeout <= _LONGEST_HOOK:
            yield Problem(("timeout",), f"must be 1s to 1h, is {spell_duration(self.timeout)}")


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How often the device asks for new state."""

    interval: Annotated[Duration, About("Time between two polls: 90s, 5m, 2h, or seconds.", ("60s",))] = 60
    jitter: Annotated[
        Duration | None, About("The most that a poll is moved within its interval; a tenth of it by default.", ("5s",))
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield times that make no sense together."""
        if not _SHORTEST_INTERVAL <= self.interval <= _LONGEST_INTERVAL:
            yield Problem(("interval",), f"must be 1s to 30d, is {spell_duration(self.interval)}")
        elif self.jitter is not None and self.jitter >= self.interval:
            yield Problem(("jitter",), "must be less than the interval")


class ApplierSettings(NamedTuple):
    """Settings of one applier; which keys it knows is its own matter (docs/appliers.md).

    Attributes:
        folder: what relative paths in them are relative to.
    """

    values: Mapping[str, Json]
    folder: Path


_ApplierSettings = Annotated[
    ApplierSettings,
    Spelled(
        Mapping[str, Json],
        lambda values, folder: ApplierSettings(values, Path(folder)),
        lambda settings: dict(settings.values),
    ),
]


@dataclass(frozen=True, slots=True)
class AgentConfiguration(OwnKind):
    """What one device's agent does."""

    device: Annotated[
        str,
        About("This device's id, as the fleet repo names it.", ("press-07",)),
        Text(pattern=DEVICE_ID_PATTERN, what="a device id", max_length=DEVICE_ID_MAX_LENGTH),
    ]
    state_folder: Annotated[FilePath, About("Where the agent keeps what must survive a restart.")]
    source: SourceSettings
    trust: TrustSettings
    appliers: Annotated[
        Mapping[str, _ApplierSettings],
        About("By name, most preferred first: a profile type is served by the first applier that names it."),
        Keys(r"^[a-z][a-z0-9-]{0,62}$", "an applier's name"),
    ]
    poll: PollSettings = field(default_factory=PollSettings)
    freshness: Annotated[
        FreshnessSettings | None, About("Know when the source shows nothing new for too long; absent: do not ask.")
    ] = None
    reports: Annotated[
        ReportSettings | None, About("Where reports go; absent: to an HTTP source, and from a git source nowhere.")
    ] = None
    clock: Annotated[
        Literal["hold", "trust"],
        About(
            "Whether what needs the time waits (`hold`) while the clock was not set since the start, or was set back"
            " (docs/maintenance.md)."
        ),
    ] = "hold"
    receipts: Annotated[
        ReceiptSettings | None, About("Sign what runs after each change and each day; absent: sign nothing.")
    ] = None
    health: Annotated[
        HealthSettings | None, About("Where health and metrics of the agent can be read; absent: nowhere.")
    ] = None
    secrets: Annotated[
        SecretSettings | None, About("Where the values of secrets are; absent: no deployment with secrets runs.")
    ] = None
    capabilities: Annotated[
        tuple[FilePath, ...],
        About(
            "Margo capabilities documents: of this device first, then of its children. Eligibility rules are held "
            "against them, and they are sent where reports go when they change.",
            ("capabilities.yaml",),
        ),
    ] = ()
    discover: Annotated[
        bool,
        About("Find out what this device is and offers; what the first of `capabilities` says, counts before it."),
    ] = False
    workloads: Annotated[
        WorkloadPolicy, About("What a workload may do to this device; everything that is not named is refused.")
    ] = field(default_factory=WorkloadPolicy)
    longest_timeout: Annotated[
        Duration,
        About("The longest that one step of a component may take, even if its document asks for more.", ("15m",)),
    ] = DEFAULT_LONGEST_TIMEOUT
    registries: Annotated[
        Registries, About("How OCI registries are reached, whose content deployments name by `oci://`.")
    ] = field(default_factory=Registries)
    locks: Annotated[LockSettings | None, About("Where locks are held; absent: nothing can hold one by a file.")] = None
    artifacts: Annotated[ArtifactSettings, About("How large artifacts are fetched ([artifacts](artifacts.md)).")] = (
        field(default_factory=ArtifactSettings)
    )
    hooks: Annotated[
        HookSettings | None, About("Programs that deployments may name; absent: they may name no program.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a device that could apply nothing."""
        if not self.appliers:
            yield Problem(("appliers",), "names no applier", "add one, such as compose: {} or files: {...}")
        named = (self.trust.document, self.trust.allowed_signers, self.freshness and self.freshness.allowed_signers)
        if self.freshness and not any(named):
            yield Problem(("freshness",), "no list says who may sign statements", "add allowedSigners here or to trust")
        taker = self.reports.http if self.reports else self.source.http
        if self.receipts and taker and taker.contract == "g1":
            yield Problem(("receipts",), "the older contract takes no receipts", "remove it")
        if not _SHORTEST_TIMEOUT <= self.longest_timeout <= _LONGEST_TIMEOUT:
            yield Problem(("longestTimeout",), f"must be 1s to 1d, is {spell_duration(self.longest_timeout)}")

    @property
    def uses_proxy(self) -> bool:
        """Whether the source honours the environment's proxy: then downloads do as well."""
        source = self.source.web
        return source is not None and source.proxy_from_environment

    @property
    def capability_files(self) -> tuple[Path, ...]:
        """The capabilities documents that count: of this device first, then of its children."""
        if not self.discover:
            return self.capabilities
        return (self.state_folder / CAPABILITIES_FILE, *self.capabilities[1:])

    @property
    def jitter(self) -> float:
        """The most seconds that a poll is moved within its interval."""
        return self.poll.jitter if self.poll.jitter is not None else self.poll.interval / 10
