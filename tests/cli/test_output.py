"""How commands print: colours on a terminal alone, and never of what others wrote."""

from __future__ import annotations

import io
import re

import pytest

from margo_gitops.cli.output import CHANGES, DIFF, SEVERITIES, say


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def on(stream: io.StringIO, *lines: str, paint: re.Pattern[str] = CHANGES, **environment: str) -> str:
    """Return what is written when lines are printed there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        for line in lines:
            say(line, paint=paint)
    return stream.getvalue()


def test_added_is_green_changed_yellow_and_removed_red():
    lines = ("  + north/a: new", "  ~ north/b: manifest 1 -> 2", "  - c: leaves", "devices: 1 added")
    assert on(_Screen(), *lines) == (
        "  \x1b[32m+\x1b[0m north/a: new\n"
        "  \x1b[33m~\x1b[0m north/b: manifest 1 -> 2\n"
        "  \x1b[31m-\x1b[0m c: leaves\n"
        "devices: 1 added\n"
    )
    assert on(_Screen(), "-old", paint=DIFF) == "\x1b[31m-old\x1b[0m\n"
    assert on(_Screen(), "a.yaml:1:2: error: no", paint=SEVERITIES) == "a.yaml:1:2: \x1b[31merror\x1b[0m: no\n"


def test_a_colour_of_somebody_else_is_spelled_out():
    assert on(_Screen(), "  + \x1b[31mx") == "  \x1b[32m+\x1b[0m \\x1b[31mx\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": ""}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(environment: dict[str, str]):
    assert on(_Screen(), "  + a", **environment) == "  + a\n"


def test_a_pipe_has_no_colours():
    assert on(io.StringIO(), "  + a") == "  + a\n"
