"""A fleet in a folder, for the tests of the catalog."""

from pathlib import Path

import pytest
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """A fleet without devices, and one application `app` with one compose profile."""
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.git.init()
    return fleet
