"""Whether a compose file can run: what the Compose specification, its variables and the device's rules say of it.

COMPOSE-1  It follows the published JSON schema of the Compose specification, and what it names (volumes, networks,
           secrets, configs, services) is there. A value that a variable gives is not looked at.
COMPOSE-2  Each variable without a default is set by a parameter of the component, or by the `.env` next to the file.
COMPOSE-3  A parameter's pointer names a variable that can be set, and that the file uses.
COMPOSE-4  No service writes into the package: each update replaces it, and what was written would be lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.catalog.compose_images import compose_file
from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.catalog.package import packaged_path, place_of
from margo_gitops.documents.compose_variables import pointer_problem, variable_name
from margo_gitops.documents.compose_yaml import ComposeText, Value, mapping, plain, read_compose
from margo_gitops.errors import Finding, Location, UnreadableDocument
from margo_gitops.rendering.intent import Application
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

if TYPE_CHECKING:
    import jsonschema
    import jsonschema.protocols

_VARIABLE = re.compile(
    r"\$\$|\$(?P<plain>[A-Za-z_]\w*)|\$\{(?P<braced>[A-Za-z_]\w*)(?P<sign>:?[-?+]|\})|(?P<bad>\$)|(?P<close>\})",
    re.ASCII,
)
_RESTART = re.compile(r"no|always|unless-stopped|on-failure(:\d+)?")
_FROM_ELSEWHERE = ("extends", "env_file", "label_file")
_QUOTED = re.compile(r"'([^']*)'")
_REFERENCES = (
    ("depends_on", "service"),
    ("volumes", "volume"),
    ("networks", "network"),
    ("secrets", "secret"),
    ("configs", "config"),
)


def compose_findings(tree: FileTree, application: Application, file_prefix: str) -> Iterator[Finding]:
    """Yield what is wrong with the compose files of an application, and with the pointers to their variables.

    Args:
        tree: the package.
        application: as read from it.
        file_prefix: what precedes file names in messages.
    """
    description = application.description
    components = {
        each.name
        for profile in description.value.deployment_profiles
        if profile.type == "compose"
        for each in profile.components
    }
    given: dict[str, dict[str, Location]] = {name: {} for name in components}
    for name, parameter in description.value.parameters.items():
        for at, target in enumerate(parameter.targets):
            where = description.at("parameters", name, "targets", at, "pointer")
            here = components.intersection(target.components)
            if here and (problem := pointer_problem(target.pointer)):
                remedy = "name an environment variable that the compose file uses, such as PORT"
                message = f"the pointer {target.pointer} of parameter {name} {problem}"
                yield Finding(message, where, remedy=remedy, rule="R209")
                continue
            for component in here:
                given[component].setdefault(variable_name(target.pointer), where)
    for (kind, component), content in sorted(application.contents.items()):
        path = packaged_path(content, description.value)
        if kind != "compose" or path is None:
            continue
        try:
            found = compose_file(tree, path, is_folder=content.is_folder)
            if found is None:
                message = f"{path} holds no compose.yaml"
                remedy = "put compose.yaml into the one top-level folder of the archive"
                yield Finding(message, Location(f"{file_prefix}{path}"), rule="R208", remedy=remedy)
                continue
            text = read_compose(found.content, f"{file_prefix}{found.path}", in_archive=found.in_archive)
        except UnreadableDocument as error:
            where = place_of(error, path, file_prefix)
            message = "; ".join([f"the compose file {error.what}", *error.why])
            yield Finding(message, where, remedy="correct the file", rule="R204")
            continue
        env_file = tree.file(f"{found.path.rpartition('/')[0]}/.env") if not found.in_archive else None
        known = set(re.findall(rb"(?m)^\s*(?:export\s+)?(\w+)", env_file.read())) if env_file else set()
        yield from _Check(text, given[component], frozenset(name.decode() for name in known)).findings()


@lru_cache(maxsize=1)
def _specification() -> jsonschema.protocols.Validator:
    """Return a validator for the schema that compose-spec publishes, from the package that keeps a copy up to date."""
    # Imported where a compose file is checked: with optional packages they take seconds, and most commands check none.
    from importlib.metadata import distribution

    import jsonschema

    # Found without an import, which would load all of that program.
    path = Path(str(distribution("check-jsonschema").locate_file(_SCHEMA)))
    schema = json.loads(path.read_bytes())
    return jsonschema.validators.validator_for(schema)(schema)


_MOST_FINDINGS: Final = 20
_SCHEMA: Final = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"


@dataclass(frozen=True, slots=True)
class _Check:
    """The check of one compose file.

    Attributes:
        text: the file.
        given: where each variable that parameters set is named.
        beside: variables of the `.env` next to the file.
    """

    text: ComposeText
    given: Mapping[str, Location]
    beside: frozenset[str]

    def findings(self) -> Iterator[Finding]:
        broken = list(self._schema())
        yield from broken[:_MOST_FINDINGS]
        yield from self._variables()
        if not broken:
            yield from self._services()

    def _finding(self, rule: str, message: str, path: tuple[str | int, ...], remedy: str, level: str) -> Finding:
        return Finding(message, self.text.at(path), ".".join(map(str, path)), remedy, level, rule)

    def _wrong(self, message: str, path: tuple[str | int, ...], remedy: str = "") -> Finding:
        return self._finding("R208", message, path, remedy or "docs.docker.com/reference/compose-file", "error")

    def _schema(self) -> Iterator[Finding]:
        import jsonschema

        errors = list(_specification().iter_errors(self.text.value))
        for error in errors:
            leaf = jsonschema.exceptions.best_match(iter([error])) or error
            path = tuple(leaf.absolute_path)
            if leaf.validator in ("additionalProperties", "unevaluatedProperties"):
                # A field with a wrong value counts as unevaluated, too.
                if any(len(each.absolute_path) > len(path) for each in errors if _below(each, path)):
                    continue
                known = leaf.instance if isinstance(leaf.instance, dict) else {}
                path += tuple(key for key in _QUOTED.findall(leaf.message) if key in known)[:1]
            if not (isinstance(leaf.instance, str) and "$" in leaf.instance):
                yield self._wrong(f"does not follow the Compose specification: {shortened(leaf.message, 200)}", path)

    def _variables(self) -> Iterator[Finding]:
        used: set[str] = set()
        told: set[str] = set()
        elsewhere = "include" in plain(self.text.value)
        for path, value in self.text.leaves():
            elsewhere = elsewhere or any(part in _FROM_ELSEWHERE for part in path)
            if "environment" in path[2:4]:
                used.update(_passed_on(path, value))
            for name, needed in _uses(value) if isinstance(value, str) else ():
                used.add(name)
                if not name:
                    remedy = "write $$ for a plain $"
                    yield self._wrong(f"{str(value)[:60]!r} holds a $ that starts no variable", path, remedy)
                elif needed and name not in self.given and name not in self.beside and name not in told:
                    told.add(name)
                    message = f"${{{name}}} is set by no parameter of the component, so it is empty"
                    remedy = f"correct the name, add a parameter with the pointer {name}, or write ${{{name}:-default}}"
                    level = "error" if needed == "required" or path[2:] == ("image",) else "warning"
                    yield self._finding("R210", message, path, remedy, level)
        for name, where in self.given.items() if not elsewhere else ():
            if name not in used and name != "COMPOSE_PROFILES":
                message = f"the pointer {name} names a variable that the compose file does not use"
                yield Finding(
                    message,
                    where,
                    remedy=f"write ${{{name}}} in it, or correct the pointer",
                    severity="warning",
                    rule="R211",
                )

    def _services(self) -> Iterator[Finding]:
        model = plain(self.text.value)
        services = mapping(model, "services")
        if not services and "include" not in model:
            yield self._wrong("has no services", ())
        for name, value in services.items():
            service = plain(value)
            path = ("services", name)
            borrows = "extends" in service or "include" in model
            if not borrows and not service.keys() & {"image", "build", "provider"}:
                yield self._wrong(f"service {name} has neither image nor build", path)
            restart = service.get("restart")
            if isinstance(restart, str) and "$" not in restart and not _RESTART.fullmatch(restart):
                yield self._wrong(f"{restart!r} is not a restart policy", (*path, "restart"))
            for at, volume in enumerate(_items(service.get("volumes"))):
                if _writes_into_package(volume):
                    yield self._finding(
                        "R212",
                        f"service {name} may write into the package: each update replaces it, and its data is lost",
                        (*path, "volumes", at),
                        "mount it read-only (:ro), or keep the data in a named volume",
                        "error",
                    )
            if not borrows:
                yield from self._references(name, service)

    def _references(self, name: str, service: Mapping[str, Value]) -> Iterator[Finding]:
        used = {kind: _names(service.get(kind)) for kind, _ in _REFERENCES}
        used["volumes"] = [_volume(each) for each in _items(service.get("volumes"))]
        for kind, noun in _REFERENCES:
            there = {"", "default"} | mapping(self.text.value, "services" if kind == "depends_on" else kind).keys()
            for other in used[kind]:
                if other not in there and "$" not in other:
                    message = f"service {name} uses the {noun} {other}, which is not there"
                    remedy = "correct the name" if kind == "depends_on" else f"add it under the top-level {kind}"
                    yield self._wrong(message, ("services", name, kind), remedy)


def _below(error: jsonschema.ValidationError, path: tuple[str | int, ...]) -> bool:
    return tuple(error.absolute_path)[: len(path)] == path


def _uses(text: str) -> Iterator[tuple[str, str]]:
    """Yield each variable in a text, and whether it needs a "value", is "required" or neither; "" for a bad one."""
    depth = 0  # inside the default of another variable
    for match in _VARIABLE.finditer(text):
        sign = match["sign"] or ""
        if match["close"]:
            depth = max(0, depth - 1)
        elif match["bad"]:
            yield "", ""
        elif name := match["plain"] or match["braced"]:
            needed = "required" if sign.endswith("?") else "" if sign.endswith(("-", "+")) else "value"
            yield name, "" if depth else needed
            depth += bool(sign) and sign != "}"


def _passed_on(path: tuple[str | int, ...], value: Value) -> Iterator[str]:
    """Yield the variable that an entry of `environment` hands on by its name alone."""
    if isinstance(value, str) and isinstance(path[-1], int) and "=" not in value:
        yield value
    if value is None and isinstance(path[-1], str):
        yield path[-1]


def _writes_into_package(volume: Value) -> bool:
    if isinstance(volume, str):
        source, *rest = volume.split(":")
        return bool(rest) and source.startswith(".") and not any("ro" in each.split(",") for each in rest[1:])
    entry = plain(volume)
    place = entry.get("source")
    local = isinstance(place, str) and not place.startswith(("/", "~", "$"))
    return entry.get("type") == "bind" and local and entry.get("read_only") is not True


def _volume(volume: Value) -> str:
    """Return the named volume that an entry of `volumes` uses; empty for another one."""
    if isinstance(volume, str):
        source, colon, _ = volume.partition(":")
        return source if colon and not source.startswith((".", "/", "~")) else ""
    entry = plain(volume)
    place = entry.get("source")
    return place if entry.get("type") == "volume" and isinstance(place, str) else ""


def _names(value: Value) -> list[str]:
    """Return the names in a list of texts, in one of mappings with a `source`, or in a mapping."""
    found = [each.get("source") if isinstance(each, dict) else each for each in _items(value)]
    return list(value) if isinstance(value, dict) else [each for each in found if isinstance(each, str)]


def _items(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []
