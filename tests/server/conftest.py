"""A served fleet for each test, or one for all tests of a file that only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from server.serving import FLEET, ServedFleet, served_fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ServedFleet]:
    """A rendered fleet; the test starts the server."""
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        for device in FLEET:
            fleet.token(device)
        yield fleet


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A running server over a fleet that no test of the file changes."""
    with served_fleet(tmp_path_factory.mktemp("served")) as fleet:
        fleet.render(FLEET)
        for device in FLEET:
            fleet.token(device)
        yield fleet.start(limits={"requestsPerMinute": 1_000_000, "burst": 1_000_000})
