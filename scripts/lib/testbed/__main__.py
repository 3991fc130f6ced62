"""scripts/testbed: start, stop and describe the real parts that tests and people use."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.errors import UnavailableError
from testbed.packages import INSTALL
from testbed.parts import PARTS, Part, bring_up, take_down
from testbed.places import state_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 (a part is not as asked) or 2 (usage)."""
    extra = [name for name, part in PARTS.items() if part.extra]
    parser = argparse.ArgumentParser(prog="scripts/testbed", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "env", "fetch"])
    known = f"any of {', '.join(PARTS)}; by default all but {', '.join(extra)}"
    parser.add_argument("parts", nargs="*", metavar="part", help=known)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")

    action = {"up": _up, "down": _down, "status": _status, "env": _env, "fetch": _fetch}[options.command]
    done = True
    usual = [name for name in PARTS if name not in extra or options.command == "down"]
    for name in options.parts or usual:
        try:
            done &= action(PARTS[name], state_folder())
        except UnavailableError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            done = False
    return 0 if done else 1


def _up(part: Part[Any], state: Path) -> bool:
    os.environ[INSTALL] = "1"
    bring_up(part, state)
    print(f"{part.name}: up")
    return True


def _fetch(part: Part[Any], state: Path) -> bool:
    os.environ[INSTALL] = "1"
    part.fetch(state)
    return True


def _down(part: Part[Any], state: Path) -> bool:
    if take_down(part, state):
        print(f"{part.name}: down")
        return True
    print(f"{part.name}: a test run uses it, and stops it at its end", file=sys.stderr)
    return False


def _status(part: Part[Any], state: Path) -> bool:
    running = part.find(state)
    print(f"{part.name}: {'up' if running else 'down'}")
    return running is not None


def _env(part: Part[Any], state: Path) -> bool:
    running = part.find(state)
    if running is None:
        print(f"error: {part.name} is down\n  remedy: scripts/testbed up {part.name}", file=sys.stderr)
        return False
    for name, value in running.environment.items():
        if name == "PATH":
            # The shell of a person keeps its own PATH; only the fitting client comes first.
            print(f'export PATH={shlex.quote(value.partition(":")[0])}:"$PATH"')
        elif name != "HOME":
            print(f"export {name}={shlex.quote(value)}")
    return True


if __name__ == "__main__":
    sys.exit(main())
