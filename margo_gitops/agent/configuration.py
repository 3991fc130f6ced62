"""The agent's configuration: one YAML file, overridden by a few environment variables; everything unknown is an error.

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from margo_gitops.agent.durable import disk_errors
from margo_gitops.agent.environment import Environment
from margo_gitops.appliers.applier import ApplierContext, never
from margo_gitops.documents.declarations import About, Keys, OtherKeys, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.documents.fleet_kinds import ApiVersion
from margo_gitops.documents.nodes import Bounds, Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_reader import read_yaml
from margo_gitops.errors import AgentMisconfigured, Location, MargoGitopsError, UnreadableDocument
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.http.source import HttpSource

DEFAULT_CONFIGURATION: Final = Path("/etc/margo-gitops/agent.yaml")
DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"

_BOUNDS: Final = Bounds(size=64 * 1024, depth=12, nodes=2_000)
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
        if not _SHORTEST_TIMEOUT <= seconds(self.longest_timeout) <= _LONGEST_TIMEOUT:
            yield Problem(("longestTimeout",), f"must be 1s to 1d, is {self.longest_timeout}")


@dataclass(frozen=True, slots=True)
class LoadedConfiguration:
    """A configuration with its file's folder, which paths are relative to."""

    file: Path
    content: AgentConfiguration

    def path(self, name: str) -> Path:
        """Return a path of the configuration as an absolute one."""
        return (self.file.absolute().parent / name).absolute()

    @property
    def device(self) -> str:
        """This device's id."""
        return self.content.device

    @property
    def state_folder(self) -> Path:
        """The folder for all that must survive a restart."""
        return self.path(self.content.state_folder)

    @property
    def floor_copy(self) -> Path | None:
        """The second place of the trust floor."""
        name = self.content.trust.floor_copy
        return self.path(name) if name is not None else None

    @property
    def interval(self) -> float:
        """Seconds between two polls."""
        return seconds(self.content.poll.interval)

    @property
    def jitter(self) -> float:
        """The most seconds a poll is moved within its interval."""
        jitter = self.content.poll.jitter
        return seconds(jitter) if jitter is not None else self.interval / 10

    def git_source(self) -> GitSource:
        """Return the settings of the git source.

        Raises:
            SourceMisconfigured: they cannot work.
        """
        git = self.content.source.git
        if git is None:
            raise TypeError("the source is no git source")
        return GitSource(
            url=git.url,
            device=self.device if git.ref is None else None,
            ref=git.ref,
            token_file=self._optional(git.token_file),
            token_variable=git.token_environment,
            username=git.username,
            allow_plain_token=git.allow_plain_token,
            ca_file=self._optional(git.ca_file),
            client_certificate=self._optional(git.client_certificate),
            client_key=self._optional(git.client_key),
            ssh_identity=self._optional(git.ssh_identity),
            ssh_known_hosts=self._optional(git.known_hosts),
            proxy_from_environment=git.proxy_from_environment,
            connect_seconds=seconds(git.connect_timeout),
            read_seconds=seconds(git.read_timeout),
            pull_seconds=seconds(git.pull_timeout),
        )

    def http_source(self) -> HttpSource:
        """Return the settings of the HTTP source.

        Raises:
            SourceMisconfigured: they cannot work.
        """
        http = self.content.source.http
        if http is None:
            raise TypeError("the source is no HTTP source")
        return HttpSource(
            url=http.url,
            token_file=self._optional(http.token_file),
            token_variable=http.token_environment,
            username=http.username,
            allow_plain_token=http.allow_plain_token,
            ca_file=self._optional(http.ca_file),
            client_certificate=self._optional(http.client_certificate),
            client_key=self._optional(http.client_key),
            server_spiffe_id=http.server_spiffe_id,
            proxy_from_environment=http.proxy_from_environment,
            connect_seconds=seconds(http.connect_timeout),
            read_seconds=seconds(http.read_timeout),
            pull_seconds=seconds(http.pull_timeout),
        )

    @property
    def wait(self) -> float:
        """The most seconds that a server may keep a poll waiting for a change."""
        http = self.content.source.http
        return seconds(http.wait) if http is not None else 0.0

    @property
    def longest_timeout(self) -> int:
        """The most seconds that one step of a component may take."""
        return round(seconds(self.content.longest_timeout))

    @property
    def capabilities_files(self) -> tuple[Path, ...]:
        """That document, and those of its children."""
        return tuple(self.path(name) for name in self.content.capabilities)

    @property
    def reports_status(self) -> bool:
        """Whether the status of each deployment is sent."""
        http = self.content.source.http
        return http is not None and http.report_status

    def applier_context(self, name: str, folder: Path, interrupted: Callable[[], bool] = never) -> ApplierContext:
        """Return what the factory of an applier gets.

        Args:
            name: of the applier.
            folder: of its own.
            interrupted: whether the agent was asked to stop.
        """
        return ApplierContext(self.device, folder, self.content.appliers[name].values, interrupted)

    def _optional(self, name: str | None) -> Path | None:
        return self.path(name) if name is not None else None


def load_configuration(file: Path, environment: Environment) -> LoadedConfiguration:
    """Return the configuration in a file, with what the environment overrides.

    Args:
        file: the YAML file.
        environment: the overrides (see `margo_gitops.agent.environment`).

    Raises:
        AgentMisconfigured: the file cannot be read, or has findings; each is listed with line and column.
    """
    try:
        with disk_errors(file), file.open("rb") as opened:
            content = opened.read(_BOUNDS.size + 1)
        source = read_yaml(content, str(file), _BOUNDS)
    except UnreadableDocument as error:
        raise AgentMisconfigured(
            f"the agent's configuration cannot be read: {error.what}",
            where=error.where,
            why=error.why,
            remedy=error.remedy,
        ) from error
    except MargoGitopsError as error:
        raise AgentMisconfigured(
            f"the agent's configuration cannot be read: {error.what.partition(': ')[2]}",
            where=Location(str(file)),
            remedy="name the file with --config or MARGO_GITOPS_CONFIG; docs/agent.md has an example",
        ) from error
    configuration, findings = find(AgentConfiguration, _overridden(source, environment))
    if configuration is None:
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        raise AgentMisconfigured(
            "the agent's configuration has mistakes", where=Location(str(file)), why=errors, remedy="correct the file"
        )
    return LoadedConfiguration(file, configuration)


def seconds(duration: float | str) -> float:
    """Return a duration, `90s`, `5m`, `2h`, `1d` or a number, in seconds."""
    if not isinstance(duration, str):
        return float(duration)
    if not re.fullmatch(DURATION_PATTERN[1:-1], duration):
        raise ValueError(f"{duration!r} is no duration")
    return float(duration[:-1]) * _UNITS[duration[-1]]


def _overridden(source: SourceText, environment: Environment) -> SourceText:
    """Return the document with the values that the environment names in place of the file's."""
    root = _copy(source.root)
    for path, value in (*environment.overrides.items(), *_token_overrides(root, environment)):
        *parents, last = path
        node: Node = root
        for step in parents:
            entries = node.value
            if not isinstance(entries, dict):
                break
            node = entries.setdefault(step, Node({}))
        if not isinstance(node.value, dict):
            continue  # the reader says what is wrong with it
        if value is None:
            node.value.pop(last, None)
        else:
            node.value[last] = Node(value)
    return SourceText(source.file, root)


def _token_overrides(root: Node, environment: Environment) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield what the token of the environment overrides, in whichever source there is."""
    source = root.get("source")
    if environment.token_variable is not None and source is not None and isinstance(source.value, dict):
        for kind in source.value:
            yield ("source", kind, "tokenEnvironment"), environment.token_variable
            yield ("source", kind, "tokenFile"), None


def _copy(node: Node) -> Node:
    """Return a node whose mappings can be changed."""
    value = {key: _copy(child) for key, child in node.value.items()} if isinstance(node.value, dict) else node.value
    return Node(value, node.line, node.column, node.key_line, node.key_column)
