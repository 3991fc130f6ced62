"""Our dataclasses do what those of the standard library do, which type checkers take them for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import KW_ONLY
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops import values


def declare(library: Any) -> dict[str, Any]:
    """Return classes of every kind that this project declares, made by a library."""
    dataclass, field = library.dataclass, library.field

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0
        names: list[str] = field(default_factory=list, compare=False)
        secret: str = field(default="", repr=False)
        KIND: ClassVar[str] = "point"

    @dataclass(frozen=True, slots=True)
    class Place(Point):
        z: int = 1

    @dataclass(frozen=True, slots=True, order=True)
    class Key:
        first: str

    @dataclass(slots=True)
    class Count:
        number: int = 0

    @dataclass(eq=False, kw_only=True)
    class Service:
        name: str
        _seen: dict[str, int] = field(default_factory=dict, init=False)

        def __post_init__(self) -> None:
            self._seen[self.name] = 1

    @dataclass(eq=False)
    class Applier:
        folder: str
        _: KW_ONLY
        most: int = 3
        told: str = field(default="no", init=False)

    @dataclass(frozen=True)
    class Empty:
        def __eq__(self, other: object) -> bool:
            return True

    made = {each.__name__: each for each in (Point, Place, Key, Count, Service, Applier, Empty)}
    for each in made.values():
        each.__qualname__ = each.__name__
    return made


OURS, STANDARD = declare(values), declare(dataclasses)
CALLS = st.tuples(
    st.sampled_from(sorted(OURS)),
    st.lists(st.integers(0, 1), max_size=3),
    st.dictionaries(
        st.sampled_from(["x", "y", "z", "secret", "first", "number", "name", "folder", "most"]), st.just(1)
    ),
)


def outcome(of: dict[str, Any], call: tuple[str, list[Any], dict[str, Any]], do: Any) -> object:
    """Return what something answers, or the kind of its error."""
    name, given_, named = call
    try:
        return do(of[name](*given_, **named), of[name](*given_))
    except Exception as error:  # noqa: BLE001  # any kind, the same in both
        return type(error)


@given(CALLS)
def test_a_value_is_made_shown_compared_and_changed_as_in_the_standard_library(call: Any) -> None:
    for do in (
        lambda one, _: values.astuple(one) if values.is_dataclass(one) else dataclasses.astuple(one),
        lambda one, _: repr(one) if "object at" not in repr(one) else None,
        lambda one, other: (one == other, one != other, one == 1),
        lambda one, other: one < other,
        lambda one, other: one >= other,
        lambda one, other: (hash(one) == hash(other)) >= (one == other),
        lambda one, _: setattr(one, dataclasses.fields(one)[0].name, 7),
        lambda one, _: delattr(one, dataclasses.fields(one)[0].name),
        lambda one, _: setattr(one, "another", 7) if hasattr(one, "__dict__") else None,
        lambda one, _: dataclasses.astuple(dataclasses.replace(one, y=5)),
        lambda one, _: dataclasses.asdict(copy.deepcopy(one)),
        lambda one, _: type(one).__match_args__,
        lambda one, _: hasattr(one, "__dict__"),
    ):
        assert outcome(OURS, call, do) == outcome(STANDARD, call, do)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_standard_library_knows_the_fields(name: str) -> None:
    def described(cls: type) -> list[tuple[object, ...]]:
        return [(each.name, each.type, each.init, each.repr, each.compare) for each in dataclasses.fields(cls)]

    assert described(OURS[name]) == described(STANDARD[name])
    assert [each.name for each in values.fields(OURS[name])] == [each[0] for each in described(OURS[name])]
    ours, standard = (inspect.signature(of[name]).parameters.values() for of in (OURS, STANDARD))
    assert [(each.name, each.kind) for each in ours] == [(each.name, each.kind) for each in standard]


@values.dataclass(frozen=True, slots=True)
class Kept:
    """A value that a process sends to another."""

    x: int
    names: tuple[str, ...] = ()


def test_a_value_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Kept(3, ("a",)))) == Kept(3, ("a",))


def test_a_default_that_all_values_would_share_is_refused() -> None:
    for library in (values, dataclasses):
        with pytest.raises(ValueError, match="default_factory"):

            @library.dataclass
            class Shared:
                names: list[str] = []  # noqa: RUF012


def test_values_of_ours_in_ours_become_tuples_too() -> None:
    nested = Kept(1, Kept(2))  # type: ignore[arg-type]
    assert values.astuple(nested) == dataclasses.astuple(nested) == (1, (2, ()))
    assert values.replace(nested, x=4).x == 4
