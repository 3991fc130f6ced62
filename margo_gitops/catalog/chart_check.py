"""Whether a Helm chart can run: what can be known of it without the `helm` program.

CHART-1  Chart.yaml is of chart API v2, has the component's name and revision, and each dependency is in `charts/`.
CHART-2  A chart needs nothing that only Helm itself does: no hooks, no `lookup`, no `crds/` (Margo application
         description, Helm charts). A device may template a chart and apply the result.
CHART-3  A parameter's pointer is a path that no other pointer writes into, and that values.yaml has.
CHART-4  The defaults of parameters follow values.schema.json, where the chart has one.
CHART-5  What a template makes out of chance, time or the network is named: it changes each time it is made.

Templates are not executed here: what they make of the values is seen by `plan`, with the `helm` program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from margo_gitops.catalog.chart_schema import schema_mistakes
from margo_gitops.catalog.file_tree import FileTree, content_at
from margo_gitops.catalog.package import packaged_path, place_of
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.charts import ASK, CHART_FILE, Chart, calls, is_template, own_path, read_chart
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.compose_yaml import ComposeText, Value, plain
from margo_gitops.documents.helm_values import PointerMistake, ValuePath, pointer_path, values_of
from margo_gitops.errors import Finding, UnreadableDocument
from margo_gitops.rendering.intent import Application, Located
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import did_you_mean, few

Level: TypeAlias = Literal["error", "warning"]
VALUES_FILE: Final = "values.yaml"
SCHEMA_FILE: Final = "values.schema.json"

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_HOOK = re.compile(r"^\s*[\"']?helm\.sh/hook[\"']?\s*:\s*(.*)$", re.MULTILINE)
_MOST = 20


def chart_findings(tree: FileTree, application: Application, file_prefix: str) -> Iterator[Finding]:
    """Yield what is wrong with the charts of an application, and with the pointers into their values.

    Args:
        tree: the package.
        application: as read from it.
        file_prefix: what precedes file names in messages.
    """
    description = application.description
    elsewhere = {content for (kind, _), content in application.contents.items() if kind == "compose"}
    seen: set[str] = set()
    for index, profile in enumerate(description.value.deployment_profiles):
        for at, component in enumerate(profile.components if profile.type == "helm" else ()):
            if component.name in seen:
                continue
            seen.add(component.name)
            given = dict(_pointers(description.value, component.name))
            yield from _of_pointers(description, given)
            content = application.contents.get(("helm", component.name))
            # What a compose profile names is inherited by a component of the same name; it is no chart.
            path = packaged_path(content, description.value)
            if content is None or path is None or content in elsewhere:
                continue
            where = description.at("deploymentProfiles", index, "components", at)
            try:
                chart = packaged_chart(tree, path, is_folder=content.is_folder)
                if chart is None:
                    remedy = f"put {CHART_FILE} into the folder, or into the one top-level folder of the archive"
                    yield Finding(f"{path} holds no {CHART_FILE}", where, rule="R213", remedy=remedy)
                    continue
                chart = replace(chart, place=f"{file_prefix}{path}")
                check = ChartCheck(chart, component.name, component.properties.revision, description, given)
                yield from check.findings()
            except UnreadableDocument as error:
                message = "; ".join([f"the chart {error.what}", *error.why])
                yield Finding(message, place_of(error, path, file_prefix), rule="R213", remedy="correct the file")


def _pointers(description: ApplicationDescription, component: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield each pointer into a component's values, with its parameter and the target's index."""
    for name, parameter in description.parameters.items():
        for at, target in enumerate(parameter.targets):
            if component in target.components:
                yield target.pointer, (name, at)


def _of_pointers(
    description: Located[ApplicationDescription], given: Mapping[str, tuple[str, int]]
) -> Iterator[Finding]:
    """Yield the pointers that no chart can take (R215)."""
    sound: list[tuple[str, ParameterValue]] = []
    for pointer, (name, at) in given.items():
        try:
            values_of([*sound, (pointer, "")])
            sound.append((pointer, ""))
        except PointerMistake as error:
            where = description.at("parameters", name, "targets", at, "pointer")
            remedy = "write a path of values.yaml, such as image.tag"
            yield Finding(f"the pointer of parameter {name} cannot be set: {error}", where, remedy=remedy, rule="R215")


@dataclass(frozen=True, slots=True)
class ChartCheck:
    """The check of one chart.

    Attributes:
        name: of the component.
        revision: of the component.
        given: the parameter and the target's index of each pointer into it.
    """

    chart: Chart
    name: str
    revision: str | None
    description: Located[ApplicationDescription]
    given: Mapping[str, tuple[str, int]]

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong (UnreadableDocument: a file of it cannot be read)."""
        about = self.chart.yaml(CHART_FILE)
        yield from self._about(about)
        values = self.chart.yaml(VALUES_FILE) if VALUES_FILE in self.chart.files else None
        subcharts: set[str | int] = {str(each.get("alias") or each.get("name")) for each in _dependencies(about)}
        yield from self._unknown_values(values, subcharts)
        yield from self._schema(values)
        yield from self._templates()

    def _about(self, about: ComposeText) -> Iterator[Finding]:
        given = plain(about.value)
        version = str(given.get("version", ""))
        revision = (self.revision or "").replace("_", "+")
        mistakes: list[tuple[str, str, str]] = []
        if given.get("apiVersion") != "v2":
            mistakes.append(("apiVersion", "apiVersion is not v2", "write apiVersion: v2; Margo takes no other"))
        if given.get("name") != self.name:
            told = f"the chart is called {given.get('name')}, the component {self.name}"
            mistakes.append(("name", told, "give both the same name: Margo names a chart by its component"))
        if not _SEMVER.fullmatch(version):
            mistakes.append(("version", f"{version or 'no version'} is not SemVer", "write it like 1.4.2"))
        elif revision and version != revision:
            told = f"the chart is {version}, the component's revision {revision}"
            mistakes.append(("version", told, "write the same version in both"))
        if given.get("type", "application") != "application":
            mistakes.append(("type", "a library chart cannot be installed", "name a chart of type application"))
        if not any(is_template(path) for path in self.chart.files) and not _dependencies(about):
            mistakes.append(("", "the chart has no templates", "add them in templates/"))
        for key, message, remedy in mistakes:
            yield Finding(message, about.at((key,) if key else ()), remedy=remedy, rule="R214")
        there = self.chart.subcharts()
        known = {str(plain(each.yaml(CHART_FILE).value).get("name")) for each in there.values()}
        for at, dependency in enumerate(_dependencies(about)):
            if dependency.get("name") not in known:
                message = f"the dependency {dependency.get('name')} is not in charts/"
                remedy = "run `helm dependency build` in the chart, and keep charts/: devices fetch nothing"
                yield Finding(message, about.at(("dependencies", at)), remedy=remedy, rule="R219")

    def _unknown_values(self, values: ComposeText | None, names: Iterable[str | int]) -> Iterator[Finding]:
        held = values.value if values is not None else {}
        known = sorted({_dotted(path) for path in _paths(held)})
        for pointer, (name, at) in self.given.items():
            try:
                path = pointer_path(pointer)
            except PointerMistake:
                continue  # R215 says so
            if path[0] == "global" or (path[0] in names and path[0] not in plain(held)):
                continue
            where = self.description.at("parameters", name, "targets", at, "pointer")
            if problem := _not_there(held, path):
                message = f"the pointer {pointer} of parameter {name} {problem}"
                yield Finding(message, where, remedy=did_you_mean(pointer, known), severity="warning", rule="R216")

    def _schema(self, values: ComposeText | None) -> Iterator[Finding]:
        if SCHEMA_FILE not in self.chart.files:
            return
        parameters = self.description.value.parameters
        pairs = [(pointer, parameters[name].value) for pointer, (name, _) in self.given.items()]
        try:
            given = values_of((pointer, value) for pointer, value in pairs if value is not None)
        except PointerMistake:
            return  # R215 says so
        merged = coalesced(values.value if values is not None else {}, given)
        for path, message in schema_mistakes(self.chart, SCHEMA_FILE, merged):
            origin = next((each for each in self.given if _begins(path, each)), None)
            if origin is not None:
                where = self.description.at("parameters", self.given[origin][0], "value")
                message = f"the default of parameter {self.given[origin][0]} {message}"
            else:
                where = values.at(path) if values is not None else self.chart.at(SCHEMA_FILE)
                message = f"the value {_dotted(path)} {message}" if path else message
            # Another layer may give a value that the schema wants: only what a default says is wrong for sure.
            level: Level = "error" if origin is not None or not path else "warning"
            remedy = f"see {SCHEMA_FILE} of the chart"
            yield Finding(message, where, remedy=remedy, severity=level, rule="R217")

    def _templates(self) -> Iterator[Finding]:
        found = sorted((finding for path in self.chart.files for finding in self._of_file(path)), key=_place)
        yield from found[:_MOST]

    def _of_file(self, path: str) -> Iterator[Finding]:
        own = own_path(path)
        # Whether a subchart is used depends on values.
        level: Level = "error" if own == path else "warning"
        if own.startswith("crds/"):
            message = "Helm alone installs what is in crds/"
            remedy = "put the definition into templates/, or let the cluster have it beforehand"
            yield Finding(message, self.chart.at(path), remedy=remedy, severity=level, rule="R218")
        if not is_template(own) or own == "templates/NOTES.txt":
            return
        text = self.chart.files[path].decode(errors="replace")
        for hook in _HOOK.finditer(text):
            kinds = hook[1].strip("\"' ")
            is_test = kinds in ("test", "test-success")
            message = f"the hook {kinds} runs only where Helm installs the chart"
            remedy = (
                "remove it: a device may apply what the templates make" if is_test else "use a Job or init container"
            )
            yield self._finding(path, text, hook.start(1), message, remedy, "warning" if is_test else level, "R218")
        for at, function in calls(text):
            if function in ASK:
                message = f"{function} asks the cluster or the network, and finds nothing where a chart is templated"
                yield self._finding(path, text, at, message, "make it a value", level, "R218")
            else:
                message = f"{function} gives another result each time the chart is templated"
                yield self._finding(path, text, at, message, "make it a value, or a secret", "warning", "R220")

    def _finding(self, path: str, text: str, at: int, message: str, remedy: str, level: Level, rule: str) -> Finding:
        line = text.count("\n", 0, at) + 1
        column = at - text.rfind("\n", 0, at)
        if self.chart.in_archive:
            message = f"{path}:{line}: {message}"
        return Finding(message, self.chart.at(path, line, column), remedy=remedy, severity=level, rule=rule)


def packaged_chart(tree: FileTree, path: str, *, is_folder: bool) -> Chart | None:
    """Return the chart of a component that a package brings along; None if there is no Chart.yaml. No link is read.

    Args:
        tree: where the content is.
        path: of the content in it, a folder or a tar.gz (`read_chart`).

    Raises:
        UnreadableDocument: it cannot be looked into.
    """
    return read_chart(content_at(tree, path, is_folder=is_folder), path)


def coalesced(defaults: Value, given: object) -> Value:
    """Return values over a chart's defaults, as Helm merges them: mappings are merged, null removes a default."""
    if not isinstance(given, dict):
        return given  # type: ignore[return-value]  # a plain value
    merged = dict(plain(defaults))
    for key, value in given.items():
        merged[key] = coalesced(merged.get(key), value)
    return merged


def changing_functions(chart: Chart) -> dict[str, list[str]]:
    """Return the templates that give another result each time, with the functions that do it (CHART-5)."""
    found: dict[str, list[str]] = {}
    for path, content in chart.files.items():
        if is_template(own_path(path)):
            found[path] = [name for _, name in calls(content.decode(errors="replace")) if name != "lookup"]
    return {path: sorted(set(names)) for path, names in found.items() if names}


def _dependencies(about: ComposeText) -> list[dict[str, Value]]:
    found = plain(about.value).get("dependencies")
    return [plain(each) for each in found] if isinstance(found, list) else []


def _dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _begins(path: ValuePath, pointer: str) -> bool:
    try:
        given = pointer_path(pointer)
    except PointerMistake:
        return False
    return path[: len(given)] == given


def _paths(value: Value, path: ValuePath = ()) -> Iterator[ValuePath]:
    if path:
        yield path
    for key, child in plain(value).items():
        yield from _paths(child, (*path, key))


def _not_there(value: Value, path: ValuePath) -> str:
    """Return why a pointer leads nowhere in a chart's values; empty where it leads somewhere."""
    for depth, part in enumerate(path):
        if not isinstance(value, dict):
            return ""  # a list, null or text: what a template makes of it is not known
        if part not in value:
            # An empty mapping takes whatever people write, such as `nodeSelector: {}`.
            return "" if depth and not value else f"names a value that {VALUES_FILE} of the chart does not have"
        value = value[str(part)]
    if isinstance(value, dict) and value:
        return f"replaces a mapping of {VALUES_FILE}, with {few(sorted(value), 3)}"
    return ""


def _place(finding: Finding) -> tuple[str, int, int]:
    where = finding.location
    return (where.file, where.line or 0, where.column or 0) if where else ("", 0, 0)
