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

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from margo_gitops.documents.declarations import About, Keys, OtherKeys, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.documents.fleet_kinds import ApiVersion
from margo_gitops.transport.http.source import Algorithm

DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST_INTERVAL: Final = 1.0
_LONGEST_INTERVAL: Final = 30 * 86400.0
_LONGEST_WAIT: Final = 300.0
_SHORTEST_TIMEOUT: Final = 1.0
_LONGEST_TIMEOUT: Final = 86400.0

FilePath = Annotated[str, Text(min_length=1)]
Duration = Annotated[
    float | str,
    Range(minimum=0),
    Text(pattern=DURATION_PATTERN, what="a duration: a number of seconds, or 90s, 5m, 2h, 1d"),
]


def seconds(duration: float | str) -> float:
    """Return a duration, `90s`, `5m`, `2h`, `1d` or a number, in seconds."""
    if not isinstance(duration, str):
        return float(duration)
    if not re.fullmatch(DURATION_PATTERN[1:-1], duration):
        raise ValueError(f"{duration!r} is no duration")
    return float(duration[:-1]) * _UNITS[duration[-1]]


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What every source on the network has."""

    url: Annotated[
        str,
        About("Where the source is; never with credentials in it.", ("https://git.example/s.git",)),
        Text(min_length=1),
    ]
    token_file: Annotated[
        FilePath | None, About("File that holds an access token and nothing else; read again when it changes.")
    ] = None
    token_environment: Annotated[
        str | None,
        About("Name of the environment variable that holds the token, instead of a file."),
        Text(min_length=1),
    ] = None
    username: Annotated[
        str | None, About("Send the token as this user's password instead of as a bearer token."), Text(min_length=1)
    ] = None
    allow_plain_token: Annotated[bool, About("Let the token travel over http to another machine.")] = False
    ca_file: Annotated[FilePath | None, About("Certificates (PEM) to trust instead of the system's.")] = None
    client_certificate: Annotated[FilePath | None, About("Certificate chain (PEM) that the device presents.")] = None
    client_key: Annotated[FilePath | None, About("Private key (PEM) of the client certificate.")] = None
    proxy_from_environment: Annotated[bool, About("Honour http_proxy, https_proxy and no_proxy.")] = False
    connect_timeout: Annotated[Duration, About("Longest connection attempt, TLS included.")] = "15s"
    read_timeout: Annotated[Duration, About("Longest silence of the source.")] = "30s"
    pull_timeout: Annotated[Duration, About("Longest pull as a whole.")] = "5m"


@dataclass(frozen=True, slots=True)
class GitSettings(WebSettings):
    """A git repository that holds rendered state: https, http, ssh or file."""

    ref: Annotated[
        str | None,
        About("Read this ref instead of the device's own branch.", ("refs/heads/devices/press-07",)),
        Text(min_length=1),
    ] = None
    ssh_identity: Annotated[FilePath | None, About("Private key for ssh.")] = None
    known_hosts: Annotated[FilePath | None, About("Host keys of the ssh server.")] = None


@dataclass(frozen=True, slots=True)
class HttpSettings(WebSettings):
    """A server of the Margo API, or static files in its layout: https or http."""

    wait: Annotated[
        Duration, About("How long the server may keep a poll waiting for a change; 0 for not at all.", ("60s",))
    ] = 0
    server_spiffe_id: Annotated[
        str | None,
        About(
            "The SPIFFE ID that the server's certificate must have; then its host name does not count.",
            ("spiffe://plant.example/margo/wfm/main",),
        ),
        Text(min_length=1),
    ] = None
    report_status: Annotated[bool, About("Send the status of each deployment when it changes.")] = True
    contract: Annotated[
        Literal["g1", "g2"], About("Which version of Margo's API the server has; g1: client ids and signed requests.")
    ] = "g2"
    signing_certificate: Annotated[
        FilePath | None, About("Certificate (PEM) that a server of g1 knows the device by.")
    ] = None
    signing_key: Annotated[FilePath | None, About("Private key (PEM) that signs requests; for g1.")] = None
    signature_algorithm: Annotated[
        Algorithm | None, About("How requests are signed; by default, as the key's kind says.")
    ] = None
    client_id: Annotated[
        str | None,
        About("The client id that a server of g1 has issued; by default, the device asks for one."),
        Text(min_length=1),
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a wait during which the agent would be lost to everything else."""
        if seconds(self.wait) > _LONGEST_WAIT:
            yield Problem(("wait",), f"must be at most 5m, is {self.wait}")


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where the desired state comes from: exactly one of the two is given."""

    git: Annotated[GitSettings | None, About("Pull by git.")] = None
    http: Annotated[HttpSettings | None, About("Pull over HTTP, from a server of the Margo API or static files.")] = (
        None
    )

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made, or was made twice."""
        if (self.git is None) == (self.http is None):
            yield Problem((), "must name exactly one of git and http", "keep the one that the state comes from")


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """What the device believes: exactly one of `allowedSigners` and `unsigned` is given."""

    allowed_signers: Annotated[
        FilePath | None, About("List of the keys that may sign this device's state (ssh-keygen's format).")
    ] = None
    unsigned: Annotated[
        bool | None, About("true: accept state that nobody signed. Whoever can write the state repo owns the device.")
    ] = None
    floor_copy: Annotated[
        FilePath | None,
        About("Second place for the trust floor, outside stateFolder: it survives the loss of that folder."),
    ] = None
    minimum_version: Annotated[
        int, About("Never accept a lower manifest version, even without a floor."), Range(minimum=1)
    ] = 1

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made, or was made twice."""
        if self.unsigned is False:
            yield Problem(("unsigned",), "unsigned can only be true", "remove it, and name allowedSigners")
        elif self.allowed_signers is None and self.unsigned is None:
            yield Problem((), "says nothing about signatures", "name allowedSigners, or write unsigned: true")
        elif self.allowed_signers is not None and self.unsigned:
            yield Problem(("unsigned",), "allowedSigners and unsigned contradict each other", "keep one of them")


@dataclass(frozen=True, slots=True)
class FreshnessSettings:
    """What the device does when nothing proves any more that it holds the newest state (docs/freshness.md)."""

    required: Annotated[bool, About("A statement that never came counts like one that expired.")] = True
    on_expiry: Annotated[
        Literal["report", "hold"],
        About("report: a security event; hold: besides, no new state is taken without proof. Nothing is ever stopped."),
    ] = "report"
    allowed_signers: Annotated[
        FilePath | None, About("Who may sign statements, where it is not the list of `trust` (ssh-keygen's format).")
    ] = None


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How often the device asks for new state."""

    interval: Annotated[Duration, About("Time between two polls: 90s, 5m, 2h, or seconds.", ("60s",))] = "60s"
    jitter: Annotated[
        Duration | None, About("The most that a poll is moved within its interval; a tenth of it by default.", ("5s",))
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield times that make no sense together."""
        interval = seconds(self.interval)
        if not _SHORTEST_INTERVAL <= interval <= _LONGEST_INTERVAL:
            yield Problem(("interval",), f"must be 1s to 30d, is {self.interval}")
        elif self.jitter is not None and seconds(self.jitter) >= interval:
            yield Problem(("jitter",), "must be less than the interval")


@dataclass(frozen=True, slots=True)
class ApplierSettings:
    """Settings of one applier; which keys it knows is its own matter (docs/appliers.md)."""

    values: OtherKeys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentConfiguration:
    """What one device's agent does."""

    api_version: ApiVersion
    kind: Literal["AgentConfiguration"]
    device: Annotated[
        str,
        About("This device's id, as the fleet repo names it.", ("press-07",)),
        Text(pattern=DEVICE_ID_PATTERN, what="a device id", max_length=DEVICE_ID_MAX_LENGTH),
    ]
    state_folder: Annotated[FilePath, About("Where the agent keeps what must survive a restart.")]
    source: SourceSettings
    trust: TrustSettings
    appliers: Annotated[
        Mapping[str, ApplierSettings],
        About("By name, most preferred first: a profile type is served by the first applier that names it."),
        Keys(r"^[a-z][a-z0-9-]{0,62}$", "an applier's name"),
    ]
    poll: PollSettings = field(default_factory=PollSettings)
    freshness: Annotated[
        FreshnessSettings | None, About("Know when the source shows nothing new for too long; absent: do not ask.")
    ] = None
    capabilities: Annotated[
        tuple[FilePath, ...],
        About(
            "Margo capabilities documents: of this device first, then of its children. Eligibility rules are held "
            "against them, and they are sent to an HTTP source when they change.",
            ("capabilities.yaml",),
        ),
    ] = ()
    longest_timeout: Annotated[
        Duration, About("The longest that one step of a component may take, whatever its document says.", ("15m",))
    ] = "15m"

    def problems(self) -> Iterator[Problem]:
        """Yield a device that could apply nothing."""
        if not self.appliers:
            yield Problem(("appliers",), "names no applier", "add one, such as compose: {} or files: {...}")
        if self.freshness and self.freshness.allowed_signers is None and self.trust.allowed_signers is None:
            yield Problem(("freshness",), "nobody may sign statements", "add allowedSigners here or to trust")
        if not _SHORTEST_TIMEOUT <= seconds(self.longest_timeout) <= _LONGEST_TIMEOUT:
            yield Problem(("longestTimeout",), f"must be 1s to 1d, is {self.longest_timeout}")
