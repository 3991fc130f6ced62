"""What devices will refuse of the compose files that a fleet sends them, by the policies that their documents say.

The judge is the device's own (`documents/compose_policy`). Here it gets the files as they are written, with values of
parameters instead of variables. A device that says nothing is taken for one with the default policy: a warning.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping

from margo_gitops.catalog.compose_images import MAX_BYTES, ComposeFile, compose_file, interpolated, variables_in
from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.documents.components import Component
from margo_gitops.documents.compose_policy import HARMLESS, refused_by
from margo_gitops.documents.compose_reads import refused_reads
from margo_gitops.documents.compose_variables import parameter_text, variable_name
from margo_gitops.documents.compose_yaml import ComposeText, Value, mapping, plain, read_compose
from margo_gitops.documents.workload_judge import Refused
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import UnreadableDocument, WorkloadForbidden
from margo_gitops.operations.content_sources import Placed
from margo_gitops.operations.validate.rule_findings import RuleFinding, of_error
from margo_gitops.rendering.intent import ComponentContent, Intent
from margo_gitops.values import dataclass, field

_SETTING = re.compile(r"(?m)^\s*(?:export\s+)?(\w+)\s*=\s*[\"']?(.*?)[\"']?\s*$")


def refused_by_devices(tree: FileTree, intent: Intent, every: Iterable[Placed]) -> Iterator[RuleFinding]:
    """Yield what devices will refuse of vendored compose files; an error where the device says what it allows."""
    files: dict[str, _File | None] = {}
    known: dict[tuple[object, ...], list[Refused]] = {}
    environments: dict[tuple[Hashable, str], Mapping[str, str]] = {}
    for each in every:
        if each.profile.type != "compose":
            continue
        device = intent.devices[each.deployed.device]
        policy = device.value.spec.workloads
        for component in each.profile.components:
            content = each.application.contents.get((each.profile.type, component.name))
            if content is None or "://" in content.location:
                continue
            if content.location not in files:
                files[content.location] = _read(tree, content)
            file = files[content.location]
            if file is None:
                continue
            same = (each.same(component, file.variables), component.name)
            environment = environments.get(same) if same[0] is not None else None
            if environment is None:
                environment = environments[same] = file.environment(each, component)
            key = (content.location, policy, *environment.items())
            if key not in known:
                known[key] = list(file.refused(policy or WorkloadPolicy(), environment))
            for refused in known[key]:
                told = "in its configuration and in spec.workloads" if policy else "and say so in spec.workloads"
                error = WorkloadForbidden(
                    f"component {component.name}: {refused.what}",
                    where=file.text.at(refused.path),
                    device=each.deployed.device,
                    remedy=f"change the compose file, or let the device allow it with `{refused.line}`, {told}",
                )
                yield of_error(error, "error" if policy else "warning")


@dataclass(frozen=True, slots=True)
class _File:
    """A compose file: what is judged of it, and what else its package has."""

    tree: FileTree
    found: ComposeFile
    text: ComposeText
    judged: Value
    variables: frozenset[str] = field(init=False)
    beside: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        leaves = ComposeText("", self.judged, {}).leaves()
        used = frozenset().union(*(variables_in(value) for _, value in leaves if isinstance(value, str)))
        settings = "" if self.found.in_archive or not used else (self.read(".env") or b"").decode(errors="replace")
        beside = {name: value for name, value in _SETTING.findall(settings) if name in used}
        object.__setattr__(self, "variables", used)
        object.__setattr__(self, "beside", beside)

    def environment(self, placed: Placed, component: Component) -> Mapping[str, str]:
        """Return the variables that matter to the judge, as a device gets them."""
        if not self.variables:
            return {}
        environment = dict(self.beside)
        for parameter in placed.parameters():
            for target in parameter.targets:
                name = variable_name(target.pointer)
                if name in self.variables and component.name in target.components:
                    environment[name] = parameter_text(parameter.value)
        return environment

    def read(self, name: str) -> bytes | None:
        """Return a file of the content; of an archive, what is not the compose file counts as empty."""
        if self.found.in_archive:
            return self.found.content if name == "compose.yaml" else b""
        file = self.tree.file(f"{self.found.path.rpartition('/')[0]}/{name}")
        return file.read() if file and file.kind == "file" and file.size <= MAX_BYTES else None

    def refused(self, policy: WorkloadPolicy, environment: Mapping[str, str]) -> Iterator[Refused]:
        try:
            yield from refused_reads(policy, "compose.yaml", self.read)
        except UnreadableDocument:
            return  # a file that it includes: another rule says so
        yield from refused_by(policy, _with_values(self.judged, environment))


def _read(tree: FileTree, content: ComponentContent) -> _File | None:
    try:
        found = compose_file(tree, f"applications/{content.location}", is_folder=content.is_folder)
        if found is None:
            return None
        text = read_compose(found.content, found.path, in_archive=found.in_archive)
    except UnreadableDocument:
        return None  # another rule says so
    services: dict[str, Value] = {
        name: {key: value for key, value in plain(service).items() if key not in HARMLESS}
        for name, service in mapping(text.value, "services").items()
    }
    return _File(tree, found, text, {**plain(text.value), "services": services})


def _with_values(value: Value, environment: Mapping[str, str]) -> Value:
    if isinstance(value, dict):
        return {key: _with_values(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_values(each, environment) for each in value]
    return interpolated(value, environment) if isinstance(value, str) else value
