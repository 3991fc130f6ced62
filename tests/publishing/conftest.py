"""A plant that publishes its state."""

from pathlib import Path

import pytest
from support.published import Plant


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A renderer and a folder for what it publishes; nothing is rendered yet."""
    return Plant(tmp_path)
