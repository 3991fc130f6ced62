"""A device that never saw a network: enrolled, updated twice, gone back, reported; all by one stick and commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder, parameter
from support.rooted_fleet import Plant

NO_NETWORK = """
import socket
def refuse(*_):
    raise SystemExit('this device has no network')
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@dataclass
class Site:
    """A plant, a device without a line, and the one stick that goes between them."""

    plant: Plant
    folder: Path

    @property
    def stick(self) -> Path:
        return self.folder / "stick"

    def carry(self, *more: str) -> None:
        self.plant.run("bundle", "create", self.stick, "--site", "north", *more)

    def at_device(self, *arguments: str | Path, code: int = 0, prelude: str = "") -> Outcome:
        config = ("--config", self.folder / "device/agent.yaml")
        outcome = margo_gitops("agent", *arguments, *config, cwd=self.folder, prelude=prelude)
        assert outcome.code == code, outcome
        return outcome

    def apply(self, code: int = 0, prelude: str = "") -> str:
        outcome = self.at_device("bundle", "apply", self.stick, code=code, prelude=prelude)
        return outcome.stdout.strip()

    def change(self, greeting: str) -> None:
        self.plant.fleet.deployment("greeting", parameters={"setting": greeting})
        self.plant.fleet.commit(f"Say {greeting}")
        self.plant.render()

    @property
    def greeting(self) -> str:
        (values,) = self.folder.glob("device/out/*/*/values.env")
        return values.read_text()

    @property
    def state(self) -> dict[str, str]:
        status = json.loads(self.plant.run("status", "--output", "json", code=None).stdout)
        (device,) = status["devices"]
        return {"state": device["state"], **{each["name"]: each["state"] for each in device["deployments"]}}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    fleet = FleetFolder.empty(tmp_path / "plant")
    fleet.put(".gitignore", ".cache\n")
    fleet.application(parameters={"setting": parameter(value="one", pointer="SETTING")})
    fleet.site("north")
    fleet.device("press-07", site="north")
    fleet.deployment("greeting")
    plant = Plant(fleet, tmp_path / "keys")
    fleet.commit()
    plant.rooted()
    (tmp_path / "stick").mkdir()
    (tmp_path / "device").mkdir()
    (tmp_path / "device/base.yaml").write_text(
        "apiVersion: margo-gitops/v1\nkind: AgentConfiguration\nstateFolder: state\nfreshness: {}\n"
        "appliers:\n  files: {folder: out, hook: [./hook]}\n".replace("./", f"{tmp_path}/device/")
    )
    hook = tmp_path / "device/hook"
    hook.write_text('#!/bin/sh\n! grep -q bad "$2"/values.env\n')
    hook.chmod(0o700)
    return Site(plant, tmp_path)


def test_a_whole_life_by_stick(site: Site) -> None:
    plant, stick = site.plant, site.stick
    # Enrolled: the request goes home, the answer comes back with the first state.
    asks = ("enroll", stick, "--device", "press-07", "--base", site.folder / "device/base.yaml")
    asks = (*asks, "--trust-document", plant.fleet.root / "keys/1.json")
    said = site.at_device(*asks, code=75).stderr
    fingerprint = re.search(r"SHA256:\S+", said)[0]  # type: ignore[index]
    assert fingerprint in plant.run("device", "enrolments", "--stick", stick).stdout
    approved = plant.run("device", "approve", "press-07", "--fingerprint", fingerprint, "--stick", stick)
    (key,) = re.findall(r"--key '(.*?)'", approved.stderr)
    plant.run("device", "receipt-key", "press-07", "--key", key)
    plant.fleet.commit("Name the key of press-07")
    plant.render()
    site.carry()
    assert "this is press-07" in site.at_device(*asks).stdout
    assert site.apply(prelude=NO_NETWORK) == "bundle: new; holds version 1"
    assert "one" in site.greeting
    since = json.loads((stick / "bundle.json").read_text())["stateCommit"]

    # Updated twice, the second time with what changed; then an update that the device takes back by itself.
    site.change("two")
    site.carry()
    assert site.apply() == "bundle: new; holds version 2"
    site.change("three")
    site.carry("--since", since)
    assert site.apply() == "bundle: new; holds version 3"
    assert "three" in site.greeting
    site.change("bad")
    site.carry()
    site.apply(code=5)
    assert "three" in site.greeting

    # Reported: once, and what the device said is in the history that an auditor verifies.
    assert "taken before" not in plant.run("reports", "import", stick).stdout
    assert site.state == {"state": "failed", "greeting": "failed"}
    assert plant.run("reports", "import", stick).stdout == "press-07: taken before\n"
    old = shutil.copytree(stick / "reports", site.folder / "old/reports")

    # Gone back by a person, and reported again.
    site.change("three")
    site.carry()
    assert site.apply() == "bundle: new; holds version 5"
    assert site.apply() == "bundle: unchanged; holds version 5"
    plant.run("reports", "import", stick)
    assert site.state == {"state": "installed", "greeting": "installed"}
    assert "5 receipts of what ran verified" in plant.run("audit", "verify").stdout

    # The stick lies about reports: an old one, another's, a changed one.
    assert "MG2042" in plant.run("reports", "import", old, code=4).stderr
    file = stick / "reports/press-07.json"
    file.write_bytes(file.read_bytes().replace(b"installed", b"xnstalled"))
    assert "MG2040" in plant.run("reports", "import", stick, code=4).stderr
