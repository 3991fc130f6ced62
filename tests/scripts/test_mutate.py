"""scripts/mutate makes the mistakes that it names, always the same ones, and only in its copy."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

from mutations import choose, mutations_of

ROOT = Path(__file__).parents[2]
SOURCE = b'''"""A module."""

from functools import cache

@cache
def judged(count: int, name: str = "x") -> bool:
    """Return a judgement."""
    if count < 3 and name != "nobody":
        raise ValueError(f"{count} is too few")
    print(count)
    return (count) >= 4 or (name in ("a", "b"))
'''


def test_every_kind_of_mistake_is_made_in_the_text() -> None:
    made = {(each.kind, each.made(SOURCE).decode().splitlines()[each.line - 1].strip()) for each in found()}
    assert made == {
        ("comparison flipped", 'if count <= 3 and name != "nobody":'),
        ("off by one", 'if count < 4 and name != "nobody":'),
        ("and/or swapped", 'if count < 3 or name != "nobody":'),
        ("comparison flipped", 'if count < 3 and name == "nobody":'),
        ("text changed", "if count < 3 and name != 'nobody~':"),
        ("condition negated", 'if not (count < 3 and name != "nobody"):'),
        ("raise removed", "pass"),
        ("statement removed", "pass"),
        ("comparison flipped", 'return (count) > 4 or (name in ("a", "b"))'),
        ("off by one", 'return (count) >= 5 or (name in ("a", "b"))'),
        ("and/or swapped", 'return (count) >= 4 and (name in ("a", "b"))'),
        ("comparison flipped", 'return (count) >= 4 or (name not in ("a", "b"))'),
    }


def found():
    return mutations_of(SOURCE, "module.py")


def test_a_mistake_is_still_a_module() -> None:
    for path in (ROOT / "margo_gitops" / "trust").glob("*.py"):
        source = path.read_bytes()
        for mutation in mutations_of(source):
            ast.parse(mutation.made(source))


def test_a_seed_gives_the_same_mistakes_as_many_of_each_package() -> None:
    packages = ["margo_gitops/trust", "margo_gitops/rendering", "margo_gitops/documents"]
    chosen = choose(ROOT, packages, 8, seed=7)
    assert chosen == choose(ROOT, packages, 8, seed=7)
    assert chosen != choose(ROOT, packages, 8, seed=8)
    assert [sum(each.path.startswith(f"{package}/") for each in chosen) for package in packages] == [3, 3, 2]


def test_a_mistake_is_tried_in_a_copy(tmp_path: Path) -> None:
    module = ROOT / "margo_gitops" / "trust" / "floor.py"
    sound = module.read_bytes()
    mistake = next(
        each for each in mutations_of(sound, "margo_gitops/trust/floor.py") if each.kind == "condition negated"
    )
    copy = runpy.run_path(str(ROOT / "scripts" / "mutate"))["Copy"](tmp_path / "copy")
    assert copy.notices(mistake, seconds=120).startswith("tests/trust/test_")
    assert copy.first_failure(["tests/trust/test_floor.py"], seconds=120) == ""
    assert module.read_bytes() == sound
