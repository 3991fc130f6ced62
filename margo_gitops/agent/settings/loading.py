"""The agent's configuration as it is in force: the file, what the environment overrides, and what it means.

Paths are relative to the file; variables win over it (docs/agent.md, environment).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.agent.settings.configuration import AgentConfiguration, seconds
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.appliers.applier import ApplierContext, never
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.nodes import Bounds, Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import AgentMisconfigured, InvalidDocument, Location, UnreadableDocument
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.http.source import HttpSource

DEFAULT_CONFIGURATION: Final = Path("/etc/margo-gitops/agent.yaml")
CLIENT_ID_FILE: Final = "client-id.json"

_LARGEST_CAPABILITIES: Final = 1024 * 1024
_UNUSABLE: Final = "the device's capabilities cannot be used"
_CORRECT: Final = (
    "correct the document, or `capabilities` in the agent's configuration; "
    "`margo-gitops document check FILE` shows every mistake"
)
_BOUNDS: Final = Bounds(size=64 * 1024, depth=12, nodes=2_000)


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
    def statement_signers(self) -> Path | None:
        """The list of the keys that may sign statements of freshness; None where the device does not ask for any."""
        freshness = self.content.freshness
        name = (freshness.allowed_signers or self.content.trust.allowed_signers) if freshness else None
        return self._optional(name)

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
            contract=http.contract,
            device=self.device,
            signing_certificate=self._optional(http.signing_certificate),
            signing_key=self._optional(http.signing_key),
            signature_algorithm=http.signature_algorithm,
            client_id=http.client_id,
            client_id_file=self.state_folder / CLIENT_ID_FILE,
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
        source = self.content.source
        proxy = any(part.proxy_from_environment for part in (source.git, source.http) if part is not None)
        return ApplierContext(self.device, folder, self.content.appliers[name].values, interrupted, proxy)

    def _optional(self, name: str | None) -> Path | None:
        return self.path(name) if name is not None else None


def load_configuration(file: Path, environment: Environment) -> LoadedConfiguration:
    """Return the configuration in a file, with what the environment overrides.

    Args:
        file: the YAML file.
        environment: the overrides (see `margo_gitops.agent.settings.environment`).

    Raises:
        AgentMisconfigured: the file cannot be read, or has findings; each is listed with line and column.
    """
    content = read_small_file(
        file,
        _BOUNDS.size,
        what="the agent's configuration cannot be read",
        error=AgentMisconfigured,
        remedy="name the file with --config or MARGO_GITOPS_CONFIG; docs/agent.md has an example",
    )
    try:
        source = read_yaml(content, str(file), _BOUNDS)
    except UnreadableDocument as error:
        raise AgentMisconfigured(
            f"the agent's configuration cannot be read: {error.what}",
            where=error.where,
            why=error.why,
            remedy=error.remedy,
        ) from error
    configuration, findings = find(AgentConfiguration, _overridden(source, environment))
    if configuration is None:
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        raise AgentMisconfigured(
            "the agent's configuration has mistakes", where=Location(str(file)), why=errors, remedy="correct the file"
        )
    return LoadedConfiguration(file, configuration)


def read_capabilities(path: Path) -> DeviceCapabilities:
    """Return what a file says, in any shape of the standard, JSON or YAML.

    Raises:
        AgentMisconfigured: it cannot be read, is too large, or is no capabilities document.
    """
    content = read_small_file(path, _LARGEST_CAPABILITIES, what=_UNUSABLE, error=AgentMisconfigured, remedy=_CORRECT)
    try:
        return read_as(DeviceCapabilities, read_source(content, str(path)))
    except (InvalidDocument, UnreadableDocument) as error:
        raise capabilities_unusable(path, *str(error).splitlines()) from error


def capabilities_unusable(path: Path, *why: str) -> AgentMisconfigured:
    """Return the error for a file that cannot be used."""
    return AgentMisconfigured(_UNUSABLE, where=Location(str(path)), why=why, remedy=_CORRECT)


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
