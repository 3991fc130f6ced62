"""What a device is and offers, found out by its agent: the rules DISCOVER-1 to DISCOVER-4 of agent.report.discovery."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent.device_world import DEVICE, World, deployment_bytes
from agent.test_workload_order import capabilities_file

from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.report.discovery import Discovery, find_capabilities
from margo_gitops.agent.settings.configuration import CAPABILITIES_FILE, AgentConfiguration
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.appliers.machine import amount, cpu, gpus, machine_facts
from margo_gitops.documents.capabilities import parse_quantity
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import AgentMisconfigured, EngineUnavailable

VERSION = "org.margo-gitops.engine-version"


@dataclass
class Engine:
    """An applier whose engine tells what it is; None: it does not answer."""

    version: str | None = "28.0"
    more: dict[str, Json] = field(default_factory=dict)
    profile_types: tuple[str, ...] = ("compose",)
    asked: int = 0

    def facts(self) -> dict[str, Json]:
        self.asked += 1
        if self.version is None:
            raise EngineUnavailable("the engine does not answer")
        properties = {"cpus": [{"cores": 4, "architecture": "arm64"}], "supportedRuntimes": ["oci"], **self.more}
        return {"properties": properties, "labels": {VERSION: self.version}}


@dataclass
class Life:
    """An agent that finds out what its device offers, in a time of its own."""

    configuration: AgentConfiguration
    engine: Engine = field(default_factory=Engine)
    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    changes: int = 0

    def begin(self) -> Discovery:
        appliers = {"compose": self.engine}
        return Discovery(self.configuration, appliers, self.events.append, self.changed, lambda: self.now)

    def changed(self) -> None:
        self.changes += 1

    @property
    def place(self) -> Path:
        return self.configuration.state_folder / CAPABILITIES_FILE

    @property
    def version(self) -> str:
        return str(json.loads(self.place.read_bytes())["labels"][VERSION])

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.configure(discover=True)
    return world


@pytest.fixture
def life(world: World) -> Life:
    world.state.mkdir()
    return Life(configuration_of(world))


def configuration_of(world: World) -> AgentConfiguration:
    return load_configuration(world.config, Environment())


def test_a_document_is_found_without_a_person(life: Life) -> None:
    life.begin().look()
    found = json.loads(life.place.read_bytes())
    properties = found["properties"]
    assert (properties["id"], properties["supportedDeploymentTypes"]) == (DEVICE, ["compose"])
    assert properties["cpus"] == [{"architecture": "arm64", "cores": 4}], "the engine is asked before the machine"
    assert parse_quantity(properties["memory"]) > 0, "the machine says what the engine does not"
    assert (found["labels"], life.changes, life.events) == ({VERSION: "28.0"}, 1, [])


def test_what_a_person_says_counts_first_member_by_member(world: World) -> None:
    capabilities_file(world.folder, cpus=[{"cores": 2}], vendor="Acme")
    world.configure(discover=True, capabilities=[f"{DEVICE}.json"])
    engine = Engine(more={"vendor": "other", "peripherals": [{"type": "gpu"}], "otelCollector": True})
    found = json.loads(find_capabilities(configuration_of(world), {"compose": engine}).document)
    properties = found["properties"]
    assert (properties["vendor"], properties["memory"], properties["cpus"]) == ("Acme", "4 Gi", [{"cores": 2}])
    assert (properties["peripherals"], properties["otelCollector"]) == ([{"type": "gpu"}], False), "no member is mixed"
    assert found["labels"] == {"zone": "hall", VERSION: "28.0"}


def test_a_persons_document_of_another_device_is_refused(world: World) -> None:
    capabilities_file(world.folder, "press-08")
    world.configure(discover=True, capabilities=["press-08.json"])
    with pytest.raises(AgentMisconfigured, match="press-08"):
        find_capabilities(configuration_of(world), {})


def test_children_keep_their_own_documents(world: World) -> None:
    world.configure(discover=True, capabilities=["own.json", "child.json"])
    names = [path.name for path in configuration_of(world).capability_files]
    assert names == [CAPABILITIES_FILE, "child.json"]


def test_engines_are_asked_at_the_start_each_hour_and_when_one_is_back(life: Life) -> None:
    discovery = life.begin()
    for now, asked in ((0, 1), (3599, 1), (3600, 2), (3700, 2)):
        life.now = now
        discovery.look()
        assert life.engine.asked == asked
    discovery.back()
    discovery.look()
    assert life.engine.asked == 3


def test_a_change_is_written_told_and_counts_and_nothing_else_is_written(life: Life) -> None:
    discovery = life.begin()
    discovery.look()
    before = life.place.stat().st_ino
    discovery.back()
    discovery.look()
    assert (life.place.stat().st_ino, life.changes) == (before, 1)
    life.engine.version = "29.1"
    discovery.back()
    discovery.look()
    assert (life.version, life.changes, life.reasons()) == ("29.1", 2, [Reason.CAPABILITIES_CHANGED])
    assert life.events[0].text.endswith(f"labels.{VERSION}")
    life.begin().look()
    assert (life.changes, len(life.events)) == (3, 1), "a new life learns what is known, and tells nothing"


def test_an_engine_that_is_silent_leaves_the_document_and_is_told_once(life: Life) -> None:
    life.begin().look()
    life.engine.version = None
    discovery = life.begin()
    for life.now in (0, 59, 60, 179, 180):
        discovery.look()
    assert (life.engine.asked, life.version) == (1 + 3, "28.0")
    assert (life.reasons(), life.changes) == ([Reason.CAPABILITIES_UNKNOWN], 2)
    life.engine.version = "29.1"
    life.now = 600
    discovery.look()
    assert life.version == "29.1"


def test_without_the_engine_a_first_document_says_what_the_machine_says(life: Life) -> None:
    life.engine.version = None
    life.begin().look()
    assert json.loads(life.place.read_bytes())["properties"]["cpus"]
    assert life.reasons() == [Reason.CAPABILITIES_UNKNOWN]


@pytest.mark.parametrize("held", ["{", '{"properties": {"id": "x"}}', ""], ids=["cut", "wrong", "empty"])
def test_a_damaged_document_is_made_again(life: Life, held: str) -> None:
    life.place.write_text(held)
    life.begin().look()
    assert (life.version, life.reasons()) == ("28.0", [])


@pytest.mark.parametrize("wrong", [{"cpus": "four"}, {"supportedRuntimes": ["python"]}], ids=["shape", "word"])
def test_what_an_applier_tells_is_checked_before_it_is_written(life: Life, wrong: dict[str, Json]) -> None:
    life.engine.more = wrong
    life.begin().look()
    assert not life.place.exists()
    assert (life.reasons(), life.changes) == ([Reason.CAPABILITIES_UNKNOWN], 0)


def test_rules_are_evaluated_against_what_was_found(world: World) -> None:
    rules = b"""    type: compose
    deviceConstraints:
      eligibilityRules:
        - propertySelector:
            matchExpressions:
              - {key: /supportedDeploymentTypes, operator: In, values: [KIND]}
"""
    kinds = {1: b"custom", 2: b"other"}
    changed = {
        number: deployment_bytes(number).replace(b"    type: compose\n", rules.replace(b"KIND", kind))
        for number, kind in kinds.items()
    }
    world.publish(changed)
    assert world.agent("once").returncode == 5
    assert (world.value(1) is not None, world.value(2)) == (True, None)
    written = (world.state / CAPABILITIES_FILE).stat()
    world.agent("once")
    assert (world.state / CAPABILITIES_FILE).stat() == written
    shown = world.agent("capabilities", "--output", "json")
    assert json.loads(shown.stdout) == json.loads((world.state / CAPABILITIES_FILE).read_bytes())


# The machine


def put(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_machine_says_who_made_it(tmp_path: Path) -> None:
    put(tmp_path, sys__class__dmi__id__sys_vendor="Acme\n", proc__meminfo="MemTotal: 2097152 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_bytes(b"Board 5 Rev 1.0\0")
    properties = machine_facts(tmp_path, tmp_path)["properties"]
    assert isinstance(properties, dict)
    named = [properties[name] for name in ("vendor", "modelNumber", "serialNumber", "memory")]
    assert named == ["Acme", "Board 5 Rev 1.0", "unknown", "2 Gi"]


def test_gpus_are_what_can_compute(tmp_path: Path) -> None:
    drm = "sys__class__drm__renderD128__device__"
    put(tmp_path, **{f"{drm}vendor": "0x8086\n", f"{drm}uevent": "DRIVER=i915\nPCI_ID=8086:3E92\n"})
    put(tmp_path, sys__class__drm__card0__device__vendor="0x1a03")
    put(tmp_path, proc__driver__nvidia__gpus__0__information="Model: \t T4\nIRQ: 1\n")
    assert gpus(tmp_path) == [
        {"type": "gpu", "manufacturer": "Intel", "model": "8086:3E92"},
        {"type": "gpu", "manufacturer": "NVIDIA", "model": "T4"},
    ]


@pytest.mark.parametrize(
    ("size", "text"), [(8 * 1024**3, "8 Gi"), (8 * 1024**3 - 1, "8191 Mi"), (100 * 1024**3 + 5, "100 Gi"), (0, "0 Gi")]
)
def test_amounts_are_rounded_down(size: int, text: str) -> None:
    assert amount(size) == text
    assert parse_quantity(text) <= size


def test_an_architecture_without_a_word_of_margo_is_left_out() -> None:
    assert [cpu(1, each) for each in ("aarch64", "riscv64")] == [{"cores": 1, "architecture": "arm64"}, {"cores": 1}]
