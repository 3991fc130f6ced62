"""A state repo, and a short way to publish into it."""

from pathlib import Path

import pytest
from support.state_publishing import Renderer


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    """A renderer with an empty state repo."""
    return Renderer(tmp_path / "state.git")
