"""Every attack of TUF's list on every way: what is refused, what goes on running, and how the same agent recovers.

One agent lives through all of it, as on a device: nothing of an attack may stay behind in its memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from attacks import AGENT, ATTACKS, DAY, FIRST_DOCUMENT, HONEST, NOW, Attack, table
from device_world import DEVICE, deployment_id
from support.hostile_origin import HostileServer, Shown, hostile_server, write_folder, write_stick
from support.pull_script import small_device

from margo_gitops.agent.agent import Parts, working_agent
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.transport.http.http_transport import HttpTransport

PATHS = {"git": "state.git", "http": "", "files": "static"}


@dataclass
class Victim:
    """A device, and the origin that it asks."""

    folder: Path
    way: str
    server: HostileServer
    parts: Parts = field(init=False)
    now: datetime = NOW

    def show(self, shown: Shown) -> None:
        self.server.shown = shown
        if self.way == "folder":
            write_folder(self.folder / "state.git", shown, DEVICE)
        if self.way == "stick":
            write_stick(self.folder / "bundle", shown, DEVICE)

    @contextlib.contextmanager
    def agent(self) -> Iterator[None]:
        source: dict[str, Json]
        if self.way == "stick":
            source = {"stick": {"path": "bundle"}}
        elif self.way == "folder":
            source = {"git": {"url": f"file://{self.folder}/state.git"}}
        elif self.way == "git":
            source = {"git": {"url": self.server.url(PATHS[self.way])}}
        else:
            source = {"http": {"url": self.server.url(PATHS[self.way]), "reportStatus": False}}
        (self.folder / "root.json").write_bytes(FIRST_DOCUMENT)
        (self.folder / "agent.yaml").write_bytes(
            write_yaml(
                {
                    "apiVersion": "margo-gitops/v1",
                    "kind": "AgentConfiguration",
                    "device": DEVICE,
                    "stateFolder": "agent",
                    "source": source,
                    "trust": {"document": "root.json", "floorCopy": "elsewhere/floor.json"},
                    "freshness": {"onExpiry": "report"},
                    "appliers": {"files": {"folder": str(self.folder / "output")}},
                }
            )
        )
        with (
            Interruptions() as interruptions,
            working_agent(
                load_configuration(self.folder / "agent.yaml", Environment()),
                "text",
                interruptions,
                clock=lambda: self.now.timestamp(),
            ) as self.parts,
        ):
            yield

    def cycle(self) -> Outcome:
        return self.parts.cycle.run()

    @property
    def greeting(self) -> str:
        value = (self.folder / "output" / deployment_id(1) / "web" / "values.env").read_text()
        return value.partition("=")[2].strip().strip('"')

    def found(self) -> set[str]:
        """Return the codes and reasons of all that was recorded."""
        return {each for event in self.parts.journal.events(1000) for each in (event.reason, event.code)}

    @contextlib.contextmanager
    def impatience(self) -> Iterator[None]:
        transport = self.parts.cycle.transport
        source = transport.source if isinstance(transport, HttpTransport) else transport._source  # type: ignore[attr-defined]
        before = source.pull_seconds
        object.__setattr__(source, "pull_seconds", 0.1)
        try:
            yield
        finally:
            object.__setattr__(source, "pull_seconds", before)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attack has to do with a power failure."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, attack in ATTACKS.items() for way in AGENT if way in attack.found]
)
def test_an_attack_is_refused_and_leaves_nothing_behind(tmp_path: Path, name: str, way: str) -> None:
    attack = ATTACKS[name]
    with hostile_server(DEVICE, HONEST) as server:
        victim = Victim(tmp_path, way, server)
        victim.show(HONEST)
        with victim.agent():
            first = victim.cycle()
            assert (first.poll, victim.greeting) == ("new", "two"), first.poll_error
            if attack.before is not None:
                victim.show(attack.before)
                assert victim.cycle().poll == "new"
            before = victim.found()
            attacked(victim, attack)
            assert attack.found[way] in (victim.found() - before) | ({"taken"} if attack.believes == "evil" else set())
            recovered(victim, attack)


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "script" in attack.found])
def test_the_script_refuses_it_as_well(tmp_path: Path, name: str) -> None:
    attack, device = ATTACKS[name], small_device(tmp_path / "device", "dash")
    device.can_verify(NOW)
    given = device.folder / "root.json"
    given.write_bytes(FIRST_DOCUMENT)
    with hostile_server(DEVICE, HONEST) as server:
        said: list[str] = []

        def pull(seconds: int = 60) -> str:
            options = ("--trust-document", str(given), "--device", DEVICE, "--timeout", str(seconds))
            options += ("--freshness", "report")
            outcome = device.pull(server.url("static"), "token", *options)
            said.append(outcome.stderr)
            return f"exit {outcome.code}" if outcome.code else "taken"

        def greets(greeting: str) -> bool:
            return f"value: {greeting}\n".encode() in b"".join(device.documents().values())

        assert (pull(), greets("two")) == ("taken", True)
        if attack.before is not None:
            server.shown = attack.before
            assert (pull(), greets("two")) == ("taken", True)
        device.can_verify(NOW + attack.later)
        server.shown, server.faults = attack.lie, [*attack.faults]
        # As with the agent: that a newer state exists counts at the poll after the statement.
        assert attack.found["script"] in (pull(1 if attack.is_slow else 60) for _ in range(2))
        assert greets(attack.believes)
        device.can_verify(NOW + 10 * DAY)
        server.shown, server.faults = attack.after, []
        if attack.by_hand is not None:
            given.write_bytes(attack.by_hand)
        assert (pull(), greets("three")) == ("taken", True)


def attacked(victim: Victim, attack: Attack) -> None:
    victim.now += attack.later
    victim.server.faults = [*attack.faults]
    victim.show(attack.lie)
    with victim.impatience() if attack.is_slow else contextlib.nullcontext():
        for _ in range(2):
            outcome = victim.cycle()
            assert victim.greeting == attack.believes, outcome.poll_error
            assert outcome.reconciliation is not None
            assert outcome.reconciliation.complete


def recovered(victim: Victim, attack: Attack) -> None:
    victim.server.faults = []
    victim.now = NOW + 10 * DAY
    if attack.by_hand is not None:
        (victim.folder / "root.json").write_bytes(attack.by_hand)
    victim.show(attack.after)
    outcome = victim.cycle()
    assert (outcome.poll, victim.greeting) == ("new", "three"), outcome.poll_error
    freshness = victim.parts.cycle.freshness
    assert freshness is not None
    newest = freshness.held(None)
    assert newest is not None
    assert newest.content == attack.after.proof


def test_the_page_has_the_table_of_these_attacks() -> None:
    assert table() in (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
