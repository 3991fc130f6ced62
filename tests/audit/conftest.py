"""Worlds to audit: one history for all tests of a worker, a copy of it for each."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from audited_world import World, new_world, with_history


@pytest.fixture(scope="session")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    return with_history(new_world(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def _signed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return with_history(new_world(tmp_path_factory.mktemp("signed"), 1))


def _copy(world: World, folder: Path) -> World:
    shutil.copytree(world.folder, folder, dirs_exist_ok=True)
    return replace(world, folder=folder)


@pytest.fixture
def world(_plain: World, tmp_path: Path) -> World:
    """An unsigned history: whoever forges it needs no key."""
    return _copy(_plain, tmp_path)


@pytest.fixture
def signed(_signed: World, tmp_path: Path) -> World:
    """A history signed with one key."""
    return _copy(_signed, tmp_path)
