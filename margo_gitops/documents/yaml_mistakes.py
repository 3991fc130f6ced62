"""What a file that is not YAML looks like: the usual mistakes of people, where each starts, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from margo_gitops.errors import Location, UnreadableDocument

_CONFLICT = re.compile(r"<<<<<<<(?: |$)", re.MULTILINE)
_QUOTE_LEFT_OPEN = re.compile(r"""(?:.*?: |\s*- )?\s*(?:"[^"]*|'[^']*)$""")
_Place = tuple[int, int]
"""Line and column, from 0."""
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_PAIRS = {"[": "]", "{": "}"}


def not_yaml(error: Exception, content: bytes, file: str) -> UnreadableDocument:
    """Return the refusal of a file that PyYAML could not read.

    Args:
        error: what PyYAML, or Python below it, raised.
    """
    if not isinstance(error, yaml.MarkedYAMLError):  # PyYAML's own reader passes odd escapes to chr()
        return UnreadableDocument("is not valid YAML", where=Location(file), why=[str(error)])
    text = content.decode(errors="replace")
    mark, start = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    if (conflict := _CONFLICT.search(text)) is not None:
        what, place = (
            "git left a conflict here, between <<<<<<< and >>>>>>>",
            (text.count("\n", 0, conflict.start()), 0),
        )
        remedy = "keep what is right of both sides, and remove the three lines of markers"
    elif mark is None or start is None:
        what, remedy, place = "", "", None
    else:
        what, remedy, place = _mistake(
            error, _LINE_END.split(text), (mark.line, mark.column), (start.line, start.column)
        )
    why = [] if what else [" ".join(part.split()) for part in (error.context, error.problem) if part]
    where = Location(file, place[0] + 1, place[1] + 1) if place else Location(file)
    return UnreadableDocument(
        f"is not valid YAML{f': {what}' if what else ''}", where=where, why=why, remedy=remedy or "fix the syntax here"
    )


def _mistake(error: yaml.MarkedYAMLError, lines: list[str], at: _Place, start: _Place) -> tuple[str, str, _Place]:
    """Return what is wrong, what to do, and where it starts; no words where it is not a usual mistake."""
    context, problem = error.context or "", error.problem or ""
    if "flow node" in context:  # the file ends in a list: the bracket is before that
        start = next(_brackets_before(lines, start), start)
    line = _from(lines, (at[0], 0))
    opens = _from(lines, start)[:1]
    indent = len(line) - len(line.lstrip())
    if "\t" in line[:indent]:
        return "a tab indents this line", "indent it with spaces; set the editor to do so", (at[0], line.index("\t"))
    if "quoted scalar" in context:
        return f"the {opens} that opens here is never closed", f"write {opens} where the text ends", start
    if "parsing a flow" in context and opens in _PAIRS:
        what = f"the {opens} that opens here is not closed, or a comma is missing, up to line {at[0] + 1}"
        return what, f"write {_PAIRS[opens]} where it ends, and a comma between two entries", start
    if "parsing a block" in context and "node" not in context:
        return _in_block(lines, at, start, indent)
    if "mapping values" in problem:
        if ": " in line[indent : at[1]]:
            return "the value of this line holds a colon", "put the value into quotes", at
        what = "this line is indented below a line that has a value already"
        return what, "indent it as the line above, or remove the value there", (at[0], indent)
    if "simple key" in context:
        return "this line has no colon", "write KEY: VALUE; indent it to continue the text above", start
    if "cannot start any token" in problem and at[1] < len(line):
        return f"a value cannot start with {line[at[1]]}", "put the value into quotes", at
    return "", "", at


def _in_block(lines: list[str], at: _Place, start: _Place, indent: int) -> tuple[str, str, _Place]:
    for number, earlier in enumerate(lines[start[0] : at[0]], start[0]):
        if _QUOTE_LEFT_OPEN.match(earlier) and (begin := re.search(r"[\"']", earlier)):
            what = f"the {begin[0]} that opens here is not closed in this line"
            return what, f"write {begin[0]} where the text ends", (number, begin.start())
    if at[1] > indent:
        what = "a text in quotes ends before this"
        return what, "put the whole text into quotes of the other kind, or write a quote inside twice", at
    what = f"this line is not indented as the entries around it, which begin in line {start[0] + 1}"
    return what, f"indent it with as many spaces as the line that it belongs to, line {start[0] + 1} for one", at


def _brackets_before(lines: list[str], end: _Place) -> Iterator[_Place]:
    """Yield where brackets open, the last first."""
    for number in range(min(end[0], len(lines) - 1), -1, -1):
        for column in range(len(lines[number]) - 1, -1, -1):
            if lines[number][column] in _PAIRS and (number, column) < end:
                yield number, column


def _from(lines: list[str], place: _Place) -> str:
    return lines[place[0]][place[1] :] if place[0] < len(lines) else ""
