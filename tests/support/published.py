"""A state repo of three devices, published into a folder."""

from pathlib import Path

from margo_gitops.publishing.folder import FolderTarget
from margo_gitops.publishing.publication import Published, publish
from support.state_publishing import Renderer

FIRST = {
    "press-01": {"hmi": b"a: 1\n", "mes": b"b: 1\n", "edge": b"e: 1\n", "opc": b"o: 1\n"},
    "mixer-01": {"hmi": b"m: 1\n"},
    "idle-01": {},
}
SECOND = {**FIRST, "press-01": {**FIRST["press-01"], "hmi": b"a: 2\n"}}


class Plant:
    """A renderer and a folder that its state is published to."""

    def __init__(self, folder: Path) -> None:
        self.renderer = Renderer(folder / "state.git")
        self.folder = folder / "published"
        self.now = 1_700_000_000.0
        self.keep = 86_400.0

    @property
    def target(self) -> FolderTarget:
        return FolderTarget(self.folder, lambda: self.now)

    def render(self, devices: dict[str, dict[str, bytes]]) -> None:
        self.renderer.publish(devices)

    def publish(self, devices: dict[str, dict[str, bytes]] | None = None) -> Published:
        if devices is not None:
            self.render(devices)
        return publish(self.renderer.repo, self.target, self.keep)
