"""The agent's configuration as it is in force: the file, what the environment overrides, and what it means.

Paths are relative to the file; variables win over it (docs/agent.md, environment).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.environment import Environment, read_environment
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.errors import AgentMisconfigured, InvalidDocument, Location, UnreadableDocument
from margo_gitops.settings import load_settings
from margo_gitops.values import replace

DEFAULT_CONFIGURATION: Final = Path("/etc/margo-gitops/agent.yaml")

_LARGEST_CAPABILITIES: Final = 1024 * 1024
_UNUSABLE: Final = "the device's capabilities cannot be used"
_CORRECT: Final = (
    "correct the document, or `capabilities` in the agent's configuration; "
    "`margo-gitops document check FILE` shows every mistake"
)


def configuration_in_force(file: Path | None, variables: Mapping[str, str]) -> AgentConfiguration:
    """Return the configuration in the file that a person or the environment names, as `load_configuration`.

    Args:
        file: that the person named; None: the environment's, or the default.
        variables: of the environment.
    """
    environment = read_environment(variables)
    return load_configuration(file or Path(environment.config or DEFAULT_CONFIGURATION), environment)


def load_configuration(file: Path, environment: Environment, content: bytes | None = None) -> AgentConfiguration:
    """Return the configuration in a file, with what the environment overrides.

    Args:
        content: of the file; None: it is read.

    Raises:
        AgentMisconfigured: the file cannot be read, or has findings; each is listed with line and column.
    """
    return load_settings(
        AgentConfiguration,
        file,
        whose="the agent's",
        error=AgentMisconfigured,
        remedy="name the file with --config or MARGO_GITOPS_CONFIG; docs/agent.md has an example",
        overridden=lambda source: _overridden(source, environment),
        content=content,
    )


def read_capabilities(path: Path) -> DeviceCapabilities:
    """Return what a file says, in any shape of the standard, JSON or YAML.

    Raises:
        AgentMisconfigured: it cannot be read, is too large, or is not a capabilities document.
    """
    content = read_small_file(path, _LARGEST_CAPABILITIES, what=_UNUSABLE, error=AgentMisconfigured, remedy=_CORRECT)
    try:
        return read_as(DeviceCapabilities, read_source(content, str(path)))
    except (InvalidDocument, UnreadableDocument) as error:
        raise capabilities_unusable(path, *str(error).splitlines()) from error


def check_folders(configuration: AgentConfiguration) -> None:
    """Refuse a configuration whose folder of locks or hooks is not there (AgentMisconfigured)."""
    named = (("locks", configuration.locks), ("hooks", configuration.hooks))
    for name, settings in named:
        if settings is not None and not settings.folder.is_dir():
            raise AgentMisconfigured(
                f"{settings.folder} is not a folder",
                why=[f"`{name}.folder` in the agent's configuration names it"],
                remedy=f"make the folder, or correct `{name}.folder`: its locks count as held, and no hook of it runs",
            )


def check_certificates(configuration: AgentConfiguration) -> list[str]:
    """Return notes on certificates that strict programs refuse (SourceMisconfigured: TLS cannot use a file)."""
    # Loaded where a configuration is checked.
    from margo_gitops.web.credentials import TlsSettings
    from margo_gitops.web.tls import not_strict

    source, reports = configuration.source, configuration.reports
    named = (source.git, source.http, *((reports.git, reports.http) if reports else ()))
    sources = [each for each in named if each and each.url.startswith("https:")]
    files = {
        each.folder / str(each.values["caFile"]) for each in configuration.appliers.values() if "caFile" in each.values
    }
    for each in sources:
        TlsSettings(each).context()
        files |= {file for file in (each.ca_file, each.client_certificate) if file}
    return [note for file in sorted(files) if file.exists() for note in not_strict(file)]


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
    """Yield what the token of the environment overrides, in any kind of source."""
    if environment.token_variable is not None:
        for kind in root.entries("source"):
            yield ("source", kind, "tokenEnvironment"), environment.token_variable
            yield ("source", kind, "tokenFile"), None


def _copy(node: Node) -> Node:
    """Return a node whose mappings can be changed."""
    value = {key: _copy(child) for key, child in node.value.items()} if isinstance(node.value, dict) else node.value
    return replace(node, value=value)
