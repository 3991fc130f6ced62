"""Publishing into a state repo without a fleet repo: devices as the content of their deployments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from margo_gitops.rendering.desired_state import DesiredState, desired_state
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.state_repo.publication import Publication, write_render
from margo_gitops.state_repo.render_commits import Provenance
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.git_commit import Ident
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.state_commit import StateCommit
from support.git_cli import Git


class Renderer:
    """Publishes devices, given as the content of their deployments by name."""

    def __init__(self, folder: Path) -> None:
        self.repo = StateRepo.open_or_create(folder)
        self.git = Git(folder)
        self.time = 1_700_000_000

    def refs(self) -> dict[str, str]:
        return dict(self.repo.refs.read())

    def states(
        self,
        devices: Mapping[str, Mapping[str, bytes]],
        site: str | None = "north",
        elsewhere: Mapping[str, str] | None = None,
    ) -> list[DesiredState]:
        values = self.refs()
        states = []
        for device, content in sorted(devices.items()):
            documents = {deployment_id("plant", device, name): body for name, body in content.items()}
            at = (elsewhere or {}).get(device, site)
            states.append(desired_state(device, at, documents, self.repo.held(device, values)))
        return states

    def publish(
        self,
        devices: Mapping[str, Mapping[str, bytes]],
        *,
        site: str | None = "north",
        elsewhere: Mapping[str, str] | None = None,
        values: Mapping[str, str] | None = None,
        key: SigningKey | None = None,
        subject: str = "Change it",
        aliases: Mapping[str, str] | None = None,
        only: frozenset[str] | None = None,
    ) -> Publication:
        states = [each for each in self.states(devices, site, elsewhere) if only is None or each.device in only]
        author = Ident("Ada", "ada@example.com", self.time, 60)
        provenance = Provenance(
            StateCommit(fleet="plant", fleet_commit="c" * 40, rendered_by="margo-gitops test"), subject, author
        )
        values = self.refs() if values is None else values
        return write_render(self.repo, states, values, provenance, key, aliases=aliases, only=only)
