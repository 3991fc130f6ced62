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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from margo_gitops.agent.durable import disk_errors
from margo_gitops.agent.environment import Environment
from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.documents.declarations import About, Keys, OtherKeys, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.documents.fleet_kinds import ApiVersion
from margo_gitops.documents.nodes import Bounds, Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_reader import read_yaml
from margo_gitops.errors import AgentMisconfigured, Location, MargoGitopsError, UnreadableDocument
from margo_gitops.transport.git.source import GitSource

DEFAULT_CONFIGURATION: Final = Path("/etc/margo-gitops/agent.yaml")
DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"

_BOUNDS: Final = Bounds(size=64 * 1024, depth=12, nodes=2_000)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST_INTERVAL: Final = 1.0
_LONGEST_INTERVAL: Final = 30 * 86400.0

FilePath = Annotated[str, Text(min_length=1)]
Duration = Annotated[
    float | str,
    Range(minimum=0),
    Text(pattern=DURATION_PATTERN, what="a duration: a number of seconds, or 90s, 5m, 2h, 1d"),
]


@dataclass(frozen=True, slots=True)
class GitSettings:
    """A git repository that holds rendered state."""

    url: Annotated[
        str,
        About(
            "The state repo: https, http, ssh or file. Never with credentials in it.", ("https://git.example/s.git",)
        ),
        Text(min_length=1),
    ]
    ref: Annotated[
        str | None,
        About("Read this ref instead of the device's own branch.", ("refs/heads/devices/press-07",)),
        Text(min_length=1),
    ] = None
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
    ssh_identity: Annotated[FilePath | None, About("Private key for ssh.")] = None
    known_hosts: Annotated[FilePath | None, About("Host keys of the ssh server.")] = None
    proxy_from_environment: Annotated[bool, About("Honour http_proxy, https_proxy and no_proxy.")] = False
    connect_timeout: Annotated[Duration, About("Longest connection attempt, TLS included.")] = "15s"
    read_timeout: Annotated[Duration, About("Longest silence of the source.")] = "30s"
    pull_timeout: Annotated[Duration, About("Longest pull as a whole.")] = "5m"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where the desired state comes from."""

    git: Annotated[GitSettings, About("Pull by git.")]


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

    def problems(self) -> Iterator[Problem]:
        """Yield a device that could apply nothing."""
        if not self.appliers:
            yield Problem(("appliers",), "names no applier", "add one, such as compose: {} or files: {...}")


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

    def applier_context(self, name: str, folder: Path) -> ApplierContext:
        """Return what the factory of an applier gets."""
        return ApplierContext(self.device, folder, self.content.appliers[name].values)

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
    for path, value in environment.overrides.items():
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


def _copy(node: Node) -> Node:
    """Return a node whose mappings can be changed."""
    value = {key: _copy(child) for key, child in node.value.items()} if isinstance(node.value, dict) else node.value
    return Node(value, node.line, node.column, node.key_line, node.key_column)
