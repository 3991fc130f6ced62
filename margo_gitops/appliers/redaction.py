"""What programs say is shown to people without the values of parameters: these may be secrets."""

from __future__ import annotations

from collections.abc import Mapping

_SHORTEST_REDACTED = 4
"""Characters; hiding every `1` or `on` would make messages unreadable."""


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` with parameter values replaced by their names; values of under four characters stay."""
    for name, value in sorted(environment.items(), key=lambda item: -len(item[1])):
        if len(value) >= _SHORTEST_REDACTED:
            text = text.replace(value, f"<{name}>")
    return text
