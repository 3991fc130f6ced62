"""A module lists its rules in its docstring; each id is defined once and says what it is about."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "margo_gitops"
DEFINITION = re.compile(r"^ *([A-Z]+)-(\d+)  \S", re.MULTILINE)
TOPICS = sorted(
    (match[1], match[2], path.relative_to(PACKAGE).as_posix())
    for path in PACKAGE.rglob("*.py")
    for match in DEFINITION.finditer(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
)


def test_each_rule_is_defined_in_one_module() -> None:
    places = defaultdict(list)
    for topic, number, module in TOPICS:
        places[f"{topic}-{number}"].append(module)
    assert len(places) > 100
    assert {rule: modules for rule, modules in places.items() if len(modules) > 1} == {}


def test_an_id_is_a_word_and_not_a_letter() -> None:
    assert {topic for topic, _, _ in TOPICS if len(topic) < 3} == set()
