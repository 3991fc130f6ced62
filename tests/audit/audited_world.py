"""A fleet with a history: changes, a device that left and came back, a change of site, and a first signature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from forging import Forger
from support.fleet import FleetFolder, parameter, profile, write_signing_key
from support.git_cli import Git

from margo_gitops.audit.verify.history_check import VerifyOptions, verify
from margo_gitops.audit.verify.verification import Verification
from margo_gitops.operations.fleet_input import StateRequest, read_signing_key
from margo_gitops.operations.render.fleet_render import Rendered, RenderRequest, render_fleet
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers


@dataclass(frozen=True)
class World:
    """A fleet repo, its state repo, and who renders."""

    folder: Path
    seed: int | None = None

    @property
    def fleet(self) -> FleetFolder:
        return FleetFolder(self.folder / "fleet")

    @property
    def state(self) -> Git:
        return Git(self.folder / "state.git")

    @property
    def forger(self) -> Forger:
        return Forger(self.state)

    @property
    def request(self) -> StateRequest:
        return StateRequest(self.folder / "fleet", None, self.folder / "cache")

    def render(self, revision: str = "HEAD", **more: bool) -> Rendered:
        request = RenderRequest(self.folder / "fleet", revision, None, self.folder / "cache", **more)
        if self.seed is not None:
            key = write_signing_key(self.folder / f"key-{self.seed}", self.seed)
            request = replace(request, key=read_signing_key(key))
        return render_fleet(request)

    def commit(self, message: str = "Change the fleet") -> str:
        """Commit and render; returns the commit of the branch `fleet`."""
        self.fleet.commit(message)
        self.render()
        return self.state.run("rev-parse", "fleet")

    def signers(self, *seeds: int, options: str = "") -> AllowedSigners:
        lines = []
        for seed in seeds:
            write_signing_key(self.folder / f"key-{seed}", seed)
            line = (self.folder / f"key-{seed}.allowed").read_text().split(" ", 1)[1]
            lines.append(f"renderer-{seed} {options}{line}")
        return parse_allowed_signers("".join(lines).encode(), "allowed_signers")

    def verify(self, **options: object) -> Verification:
        return verify(self.request, VerifyOptions(**options))  # type: ignore[arg-type]


def new_world(folder: Path, seed: int | None = None) -> World:
    """Make a fleet of three devices that was never rendered."""
    fleet = FleetFolder.empty(folder / "fleet")
    for version in ("1.0.0", "2.0.0"):
        fleet.application(
            "app",
            version,
            deploymentProfiles=[profile(), profile("other")],
            parameters={"p": parameter("compose", "other", value=version), "q": parameter("other", value="q")},
        )
    for name in ("north", "south"):
        fleet.site(name)
    for name in ("a", "b", "gw", "gw/child"):
        fleet.device(name, site="north")
    fleet.deployment("web", profiles=["compose"])
    fleet.git.init()
    return World(folder, seed)


def with_history(world: World) -> World:
    """Render seven commits."""
    fleet = world.fleet
    world.commit("Begin")
    fleet.site("north", p="one")
    world.commit("Set p")
    fleet.device("a", site="north", p="mine")
    world.commit("Set p on a")
    fleet.remove("devices/b.yaml")
    world.commit("Take b out")
    fleet.device("b", site="south")
    world.commit("Bring b back")
    fleet.device("a", site="south", p="mine")
    world.commit("Move a")
    fleet.deployment("db", on=["a", "b"], profiles=["other"], version="2.0.0")
    world.commit("Add db")
    return world
