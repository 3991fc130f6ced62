"""Small changes that a test should notice: found in a module's syntax tree, made in its text.

Kinds: a comparison that flips, a number that is off by one, a condition that is negated, a statement that is gone, a
text or truth value that changes, `and` for `or`, a `raise` that is gone.
"""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FLIPPED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one module.

    Attributes:
        path: the module, below the root of the project.
        kind: what is done.
        line: where, from 1.
        start: offset of the first byte that goes.
        end: offset after the last byte that goes.
        text: what comes in its place.
    """

    path: str
    kind: str
    line: int
    start: int
    end: int
    text: str

    def made(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def shown(self, source: bytes) -> str:
        """Return place, kind, and the line before and after."""
        before = source.decode().splitlines()[self.line - 1].strip()
        after = self.made(source).decode().splitlines()[self.line - 1].strip()
        return f"{self.path}:{self.line}: {self.kind}\n    - {before}\n    + {after}"


def mutations_of(source: bytes, path: str = "") -> list[Mutation]:
    """Return every mutation of a module, in the order of its text."""
    return sorted(_Finder(source, path).found(), key=lambda each: (each.start, each.end, each.kind))


def choose(root: Path, packages: Sequence[str], count: int, seed: int) -> list[Mutation]:
    """Return mutations to try: as many of each package, kinds mixed, always the same for a seed.

    Args:
        root: of the project.
        packages: folders below the root.
        count: of all mutations together.
        seed: of the choice.
    """
    generator = random.Random(seed)
    chosen: list[Mutation] = []
    for number, package in enumerate(packages):
        share = count // len(packages) + (number < count % len(packages))
        kinds: dict[str, list[Mutation]] = defaultdict(list)
        for module in sorted((root / package).rglob("*.py")):
            for each in mutations_of(module.read_bytes(), module.relative_to(root).as_posix()):
                kinds[each.kind].append(each)
        for _ in range(min(share, sum(map(len, kinds.values())))):
            kind = generator.choice(sorted(kind for kind, found in kinds.items() if found))
            chosen.append(kinds[kind].pop(generator.randrange(len(kinds[kind]))))
    return chosen


class _Finder:
    def __init__(self, source: bytes, path: str) -> None:
        self._source = source
        self._path = path
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def found(self) -> Iterator[Mutation]:
        waiting: list[ast.AST] = [ast.parse(self._source)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.JoinedStr):  # a message, most often
                continue
            yield from self._of(node)
            waiting += [child for child in ast.iter_child_nodes(node) if not _is_declaration(node, child)]

    def _of(self, node: ast.AST) -> Iterator[Mutation]:
        match node:
            case ast.Compare(ops=[operator]):
                gap = self._gap(node.left, node.comparators[0])
                yield self._new("comparison flipped", *gap, _FLIPPED[type(operator)])
                for side in (node.left, node.comparators[0]):
                    if isinstance(side, ast.Constant) and isinstance(side.value, str):
                        yield self._replaced("text changed", side, repr(f"{side.value}~"))
            case ast.BoolOp(op=operator):
                other = "or" if isinstance(operator, ast.And) else "and"
                yield self._new("and/or swapped", *self._gap(node.values[0], node.values[1]), other)
            case ast.Constant(value=bool(value)):
                yield self._replaced("truth value changed", node, repr(not value))
            case ast.Constant(value=int(value)):
                yield self._replaced("off by one", node, repr(value + 1))
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                start, end = self._span(test)
                yield self._new("condition negated", start, end, f"not ({self._source[start:end].decode()})")
            case ast.Raise():
                yield self._replaced("raise removed", node, "pass")
            case ast.Expr(value=ast.Call() | ast.Await() | ast.YieldFrom()) | ast.AugAssign() | ast.Delete():
                yield self._replaced("statement removed", node, "pass")

    def _gap(self, left: ast.expr, right: ast.expr) -> tuple[int, int]:
        """Return what is between two operands, without parentheses that belong to them."""
        start, end = self._span(left)[1], self._span(right)[0]
        between = self._source[start:end]
        start += len(between) - len(between.lstrip(b") \n"))
        return start, end - (len(between) - len(between.rstrip(b"( \n")))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[end_line - 1] + end_column

    def _replaced(self, kind: str, node: ast.expr | ast.stmt, text: str) -> Mutation:
        return self._new(kind, *self._span(node), text)

    def _new(self, kind: str, start: int, end: int, text: str) -> Mutation:
        line = self._source.count(b"\n", 0, start) + 1
        return Mutation(self._path, kind, line, start, end, text)


def _is_declaration(node: ast.AST, child: ast.AST) -> bool:
    """Return whether a child is an annotation or a decorator, which no test asks about."""
    of_types = (getattr(node, "annotation", None), getattr(node, "returns", None))
    return child in of_types or child in getattr(node, "decorator_list", ())
