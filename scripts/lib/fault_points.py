"""What came of each point of scripts/faults, kept in a file: a run that was cut goes on where it ended."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

FINE = "came through"
NOT_REACHED = "not reached"
"""The update ended before it came to the call: how often it waits differs from one to the next."""


class Points:
    """The points of one run: those that are still to try, and what came of the others.

    Args:
        every: all points, as names.
        file: holds the points in its first line and a result in each other; None keeps nothing. Where it is there, its
            points are taken, not `every`.
        sample, seed: try only so many, chosen at random; 0 tries all.
    """

    def __init__(self, every: Sequence[str], file: Path | None, *, sample: int, seed: int, verbose: bool) -> None:
        self._file, self._verbose = file, verbose
        self.results: dict[str, str] = {}
        self.every = list(every)
        if file and file.exists():
            first, *others = file.read_text().splitlines()
            self.every = json.loads(first)
            self.results.update(json.loads(line) for line in others)
        elif file:
            file.write_text(f"{json.dumps(self.every)}\n")
        # In no order: a run that is cut has tried a sample of everything.
        self.wanted = random.Random(seed).sample(self.every, min(sample or len(self.every), len(self.every)))

    def left(self) -> Iterator[str]:
        """Return the points that are still to try."""
        return (name for name in self.wanted if name not in self.results)

    def note(self, name: str, found: str) -> None:
        """Keep and show what came of a point."""
        self.results[name] = found
        if self._file:
            with self._file.open("a") as stream:
                stream.write(f"{json.dumps([name, found])}\n")
        if self._verbose or found not in (FINE, NOT_REACHED):
            print(f"{name}: {found}", flush=True)

    def show(self) -> bool:
        """Print how many points of each kind of fault came through; return whether all did."""
        tried: Counter[str] = Counter()
        missed: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        for name, found in self.results.items():
            kind = name.partition(" ")[0]
            tried[kind] += 1
            missed[kind] += found == NOT_REACHED
            wrong[kind] += found not in (FINE, NOT_REACHED)
        for kind in tried:
            reached = f", {missed[kind]} not reached" if missed[kind] else ""
            print(f"{kind:12} {tried[kind]:5} points, {wrong[kind]} not come through{reached}")
        reached = f", {missed.total()} not reached" if missed.total() else ""
        print(f"{'all':12} {tried.total():5} points of {len(self.every)}, {wrong.total()} not come through{reached}")
        return not wrong.total()
