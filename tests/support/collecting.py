"""Collecting thousands of tests: every worker of a run imports all of them, so what is the same for all is done once.

pytest rewrites the assertions of a test file when it is imported first, and keeps the result. Workers import the same
files in the same order: on a fresh clone each would rewrite all of them, at the same time as the others.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _pytest.assertion import rewrite


def rewrite_share(config: pytest.Config, ignored: Callable[[Path], bool]) -> None:
    """Rewrite this worker's share of the test files in the folders of a run; the others find them done.

    Args:
        ignored: whether a folder's files are not collected.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return
    folders = {path for path in map(Path, config.args) if path.is_dir()}
    files = {file for folder in folders for file in folder.rglob("test_*.py") if not ignored(file.parent)}
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    state = config.stash[rewrite.assertstate_key]
    for file in sorted(files)[number::count]:
        cache = rewrite.get_cache_dir(file)
        kept = cache / f"{file.stem}{rewrite.PYC_TAIL}"
        if rewrite.try_makedirs(cache) and rewrite._read_pyc(file, kept) is None:
            digest, code = rewrite._rewrite_test(file, config)
            rewrite._write_pyc(state, code, digest, kept)


@contextmanager
def no_search_for_garbage() -> Iterator[None]:
    """Look for no cyclic garbage meanwhile, nor later in what is there then: it stays until the end of the run."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
