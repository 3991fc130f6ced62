"""What this device is and offers, found out by the agent itself: a Margo capabilities document in its state folder.

DISCOVER-1  A person's document counts first: each of its properties and each of its labels. What it leaves out is
            found: in an engine that an applier asks (`TellsFacts`), the most preferred applier first, then in the
            machine.
DISCOVER-2  It is looked for at the start, when an engine is back, and each hour. While an engine does not answer, the
            document stays as it is; the next look comes after a pause that grows.
DISCOVER-3  The document is written only where it changes. What goes up and down by itself is not in it.
DISCOVER-4  What cannot be found holds up nothing: an event says it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, cast

from margo_gitops.agent.apply.engines import contract_of
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.recorded import retry_pause
from margo_gitops.agent.memory.state_folder import keep_file
from margo_gitops.agent.settings.configuration import CAPABILITIES_FILE, AgentConfiguration
from margo_gitops.agent.settings.loading import capabilities_unusable, read_capabilities
from margo_gitops.appliers.applier import Applier, TellsFacts
from margo_gitops.appliers.machine import machine_facts
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import read, write
from margo_gitops.errors import ApplyError, MargoGitopsError
from margo_gitops.values import dataclass, field

_LOOK_SECONDS: Final = 3600.0
_MOST_BYTES: Final = 1024 * 1024
_PROFILE_TYPES: Final = ("helm", "compose", "custom")
_PARTS: Final = ("properties", "labels")


class Found(NamedTuple):
    """What was found out.

    Attributes:
        document: Margo's capabilities of the device, in its current shape.
        silent: why engines do not answer, by applier.
    """

    document: bytes
    silent: Mapping[str, ApplyError]


def find_capabilities(configuration: AgentConfiguration, appliers: Mapping[str, Applier]) -> Found:
    """Return what the device is and offers now (DISCOVER-1).

    Raises:
        AgentMisconfigured: the person's document cannot be used.
    """
    parts: list[Mapping[str, Json]] = []
    for path in configuration.capabilities[:1]:
        document = read_capabilities(path)
        if document.properties.id != configuration.device:
            why = f"it describes {document.properties.id}; the first document describes {configuration.device}"
            raise capabilities_unusable(path, why)
        parts.append(write(document))
    silent: dict[str, ApplyError] = {}
    types: set[str] = set()
    for name, applier in appliers.items():
        types.update(kind.partition("/")[0] for kind in applier.profile_types)
        if isinstance(applier, TellsFacts):
            try:
                with contract_of(name):
                    parts.append(applier.facts())
            except ApplyError as error:
                silent[name] = error
    served: list[Json] = [each for each in _PROFILE_TYPES if each in types]
    own: dict[str, Json] = {
        "id": configuration.device,
        "supportedDeploymentTypes": served,
        "supportedRuntimes": ["custom"],
    }
    parts += [{"properties": own}, machine_facts(configuration.state_folder)]
    merged: dict[str, Json] = dict(parts[0]) if configuration.capabilities else {}
    for name in _PARTS:
        members: dict[str, Json] = {}
        for part in reversed(parts):
            found = part.get(name)
            members |= found if isinstance(found, dict) else {}
        merged[name] = members
    content = write_json(merged)
    read(DeviceCapabilities, read_json(content, CAPABILITIES_FILE))  # what a plug-in tells may be anything
    return Found(content, silent)


@dataclass(eq=False)
class Discovery:
    """Keeps what was found out, for one life of an agent.

    Attributes:
        changed: called when the document is another than before, and at the first look.
        timer: seconds since some moment; never jumps.
    """

    configuration: AgentConfiguration
    appliers: Mapping[str, Applier]
    record: Record
    changed: Callable[[], None]
    timer: Callable[[], float] = time.monotonic
    _due: float = field(default=0.0, init=False)
    _failures: int = field(default=0, init=False)
    _told: str = field(default="", init=False)
    _held: bytes | None = field(default=None, init=False)

    @property
    def place(self) -> Path:
        """The document's."""
        return self.configuration.state_folder / CAPABILITIES_FILE

    def back(self) -> None:
        """Note that an engine is back, perhaps as another one."""
        self._due = self.timer()

    def look(self) -> None:
        """Look again where it is time (DISCOVER-2)."""
        if self._held is not None and self.timer() < self._due:
            return
        is_first = self._held is None
        if is_first:
            self._held = self._written()
        try:
            found = find_capabilities(self.configuration, self.appliers)
            errors = [str(error) for error in found.silent.values()]
            if found.document != self._held and not (errors and self._held):
                keep_file(self.place, found.document)
                if self._held:
                    self.record(Event(Reason.CAPABILITIES_CHANGED, _difference(self._held, found.document)))
                self._held, is_first = found.document, True
        except MargoGitopsError as error:
            errors = [str(error)]
        self._tell("\n".join(errors))
        if is_first and self._held:
            self.changed()

    def _written(self) -> bytes:
        try:
            content = read_bounded(self.place, _MOST_BYTES)
            read(DeviceCapabilities, read_json(content, CAPABILITIES_FILE))
        except (OSError, MargoGitopsError):
            return b""
        return content

    def _tell(self, text: str) -> None:
        """Say what could not be found, once, and when the next look is (DISCOVER-4)."""
        self._failures = self._failures + 1 if text else 0
        self._due = self.timer() + (retry_pause(self._failures) if text else _LOOK_SECONDS)
        if text and text != self._told:
            self.record(Event(Reason.CAPABILITIES_UNKNOWN, f"what this device offers cannot be found out: {text}"))
        self._told = text


def _difference(before: bytes, after: bytes) -> str:
    """Return which members became others, for people."""
    old, new = (cast("dict[str, dict[str, Json]]", json.loads(each)) for each in (before, after))
    names = [
        f"{part}.{name}"
        for part in _PARTS
        for name in sorted({*old.get(part, {}), *new.get(part, {})})
        if old.get(part, {}).get(name) != new.get(part, {}).get(name)
    ]
    return f"what this device is and offers changed: {', '.join(names) or 'its extensions'}"
