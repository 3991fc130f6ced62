"""A value as a key by identity: what is computed once for a document need not be computed for each device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class ById(Generic[T_co]):
    """Equal only to a key of the very same object, which it keeps alive."""

    value: T_co

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and other.value is self.value
