"""An applier's settings: plain values from the agent configuration, each asked for once, none left over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ApplierUnusable


class Settings:
    """Takes settings by name and type; `finish` refuses the names that are left. What is wrong is `ApplierUnusable`.

    Args:
        applier: the applier's name, for messages.
        values: the settings as configured.
        base: what relative paths in them are relative to.
    """

    def __init__(self, applier: str, values: Mapping[str, Json], base: Path = Path()) -> None:
        self._applier = applier
        self._base = base.absolute()
        self._left = dict(values)
        self._known: list[str] = []

    def text(self, name: str) -> str | None:
        """Return a text that is not empty, or None where it is not set."""
        value = self._take(name)
        if value is not None and not (isinstance(value, str) and value):
            raise self.wrong(name, "must be a text that is not empty")
        return value

    def path(self, name: str) -> Path | None:
        """Return a path as an absolute one, or None where it is not set."""
        text = self.text(name)
        if text is None:
            return None
        if "\0" in text:
            raise self.wrong(name, "must be a path")
        return self._base / text

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is not set."""
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return bool(value)

    def number(self, name: str, default: int, *, minimum: int = 1) -> int:
        """Return a whole number of at least `minimum`."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.wrong(name, f"must be a whole number of at least {minimum}")
        return value

    def arguments(self, name: str) -> tuple[str, ...] | None:
        """Return a program and its arguments, or None where it is not set; a program with a slash in it is a path."""
        value = self._take(name)
        if value is None:
            return None
        given = value if isinstance(value, list) else []
        words = [word for word in given if isinstance(word, str) and word and "\0" not in word]
        if not words or len(words) != len(given):
            raise self.wrong(name, "must be a list of texts: a program and its arguments")
        program, *arguments = words
        return (str(self._base / program) if "/" in program else program, *arguments)

    def finish(self) -> None:
        """Refuse what is left."""
        if self._left:
            unknown = ", ".join(sorted(self._left))
            raise ApplierUnusable(
                f"the applier {self._applier} has no setting {unknown}",
                remedy=f"its settings are {', '.join(sorted(self._known))}",
            )

    def wrong(self, name: str, rule: str) -> ApplierUnusable:
        """Return the error that a setting breaks a rule; the value is not shown, it could be a secret."""
        return ApplierUnusable(
            f"the setting {name} of the applier {self._applier} {rule}", remedy=f"correct {name} in the configuration"
        )

    def _take(self, name: str) -> Json:
        self._known.append(name)
        return self._left.pop(name, None)
