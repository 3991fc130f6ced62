"""Dataclasses that cost a program little to start with: what a class needs is made when it is first used.

The standard library compiles six functions for each frozen class while its module loads, and loads `inspect` for that.
Here all classes share `__eq__`, `__hash__`, `__repr__` and the refusal to change, and `__init__` is compiled after the
first few values. An agent loads 140 classes, and makes a few values of most of them.

Type checkers read the standard library's names, which mean the same. The standard library also knows these classes:
`dataclasses.replace` and `dataclasses.fields` work. Annotations are text (`from __future__ import annotations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, total_ordering
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeGuard, cast

_ABSENT: Final = object()
_FIELDS: Final = "__value_fields__"
_FEW: Final = 16
"""Values of a class that cost less than to compile its `__init__`."""
_set = object.__setattr__


class _Field:
    """How one attribute is declared."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr")

    def __init__(
        self,
        *,
        default: object = _ABSENT,
        default_factory: object = _ABSENT,
        init: bool = True,
        repr: bool = True,  # noqa: A002  # as the standard library spells it
        compare: bool = True,
    ) -> None:
        self.default, self.default_factory = default, default_factory
        self.init, self.repr, self.compare = init, repr, compare
        self.name, self.kw_only = "", False

    @property
    def is_required(self) -> bool:
        """Whether a value must be given."""
        return self.default is _ABSENT and self.default_factory is _ABSENT


class _Value(Protocol):
    """What each of these classes has."""

    __value_fields__: Mapping[str, _Field]
    __value_key__: Callable[[object], tuple[object, ...]]


class _Initializer:
    """The `__init__` of a class: slow for the first values, then compiled, and put into the class in place of this."""

    __slots__ = ("cls", "frozen", "made")

    def __init__(self, cls: type[_Value], *, frozen: bool) -> None:
        self.cls, self.frozen, self.made = cls, frozen, 0

    def __get__(self, value: object, owner: type | None = None) -> object:
        self.made += 1
        if value is not None and self.made <= _FEW:
            return partial(self._begin, value)
        return self._compiled().__get__(value, owner)

    def _compiled(self) -> FunctionType:
        made = _compile_init(self.cls, frozen=self.frozen)
        type.__setattr__(self.cls, "__init__", made)
        return made

    def _begin(self, value: object, /, *given: object, **named: object) -> None:
        """Set each field; what is wrong with the arguments, the compiled function says."""
        fields = _fields(self.cls)
        held = dict(zip((each.name for each in fields if each.init and not each.kw_only), given, strict=False)) | named
        known = {each.name for each in fields if each.init}
        required = {each.name for each in fields if each.init and each.is_required}
        if len(held) != len(given) + len(named) or not required <= held.keys() <= known:
            self._compiled()(value, *given, **named)
            return
        for each in fields:
            if each.name in held:
                _set(value, each.name, held[each.name])
            elif callable(each.default_factory):
                _set(value, each.name, each.default_factory())
            elif each.default is not _ABSENT:
                _set(value, each.name, each.default)
        if hasattr(value, "__post_init__"):
            value.__post_init__()


class _StandardFields:
    """The fields of a class for `dataclasses`, made when it asks."""

    def __get__(self, value: object, owner: type) -> object:
        import dataclasses

        def standard(each: _Field) -> object:
            known = {"default": each.default, "default_factory": each.default_factory}
            known = {name: given for name, given in known.items() if given is not _ABSENT}
            return dataclasses.field(  # type: ignore[call-overload]
                **known, init=each.init, repr=each.repr, compare=each.compare, kw_only=True
            )

        hints = {name: hint for each in reversed(owner.__mro__) for name, hint in annotations_of(each).items()}
        made = [(each.name, hints[each.name], standard(each)) for each in _fields(owner)]
        return dataclasses.make_dataclass(owner.__name__, made).__dataclass_fields__  # type: ignore[attr-defined]


def _dataclass(cls: type | None = None, /, **options: bool) -> object:
    """Make a class a dataclass; the options are those of the standard library that this project uses."""
    return (lambda each: _make(each, **options)) if cls is None else _make(cls, **options)


def _make(
    cls: type,
    *,
    eq: bool = True,
    order: bool = False,
    frozen: bool = False,
    slots: bool = False,
    kw_only: bool = False,
) -> type:
    own = _declared(cls, kw_only=kw_only)
    declared: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        declared |= base.__dict__.get(_FIELDS, {})
    declared |= own
    compared = [each.name for each in declared.values() if each.compare]
    members: dict[str, object] = {
        _FIELDS: declared,
        "__value_key__": _key_of(compared),
        "__dataclass_fields__": _StandardFields(),
        "__match_args__": tuple(each.name for each in declared.values() if each.init and not each.kw_only),
    }
    shared: dict[str, object] = {"__repr__": _repr}
    if eq:
        shared["__eq__"] = _eq
        if cls.__dict__.get("__hash__") is None:
            members["__hash__"] = _hash if frozen else None
    if order:
        shared["__lt__"] = _lt
    if frozen:
        shared |= {"__setattr__": _refuse, "__delattr__": _refuse}
        if slots:
            shared |= {"__getstate__": _state, "__setstate__": _set_state}
    members |= {name: member for name, member in shared.items() if name not in cls.__dict__}
    if slots:
        cls = _with_slots(cls, own, members)
    else:
        for name, member in members.items():
            setattr(cls, name, member)
    if "__init__" not in cls.__dict__:
        cls.__init__ = _Initializer(cls, frozen=frozen)  # type: ignore[misc]
    return total_ordering(cls) if order else cls


def _declared(cls: type, *, kw_only: bool) -> dict[str, _Field]:
    """Return the fields that a class itself declares; its attributes hold the defaults afterwards."""
    declared = {}
    for name, hint in annotations_of(cls).items():
        if str(hint).removeprefix("typing.").startswith("ClassVar"):
            continue
        if hint == "KW_ONLY":
            kw_only = True
            continue
        default = cls.__dict__.get(name, _ABSENT)
        each = default if isinstance(default, _Field) else _Field(default=default)
        if type(each.default).__hash__ is None:
            raise ValueError(f"{cls.__name__}.{name}: all values would share one default; use default_factory")
        each.name, each.kw_only = name, kw_only
        declared[name] = each
        if each.default is not _ABSENT:
            setattr(cls, name, each.default)
        elif default is not _ABSENT:
            delattr(cls, name)
    return declared


def annotations_of(cls: type) -> dict[str, str]:
    """Return the annotations of a class, without those that it inherits."""
    found: dict[str, str] = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  # inspect is large
    return found


def _with_slots(cls: type, own: Iterable[str], members: dict[str, object]) -> type:
    """Return the class again, with slots for its own fields: a class cannot get them later."""
    namespace = {name: member for name, member in cls.__dict__.items() if name not in own}
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    inherited = {name for base in cls.__mro__[1:] for name in base.__dict__.get("__slots__", ())}
    slots = tuple(name for name in own if name not in inherited)
    made = type(cls)(cls.__name__, cls.__bases__, {**namespace, **members, "__slots__": slots})
    made.__qualname__ = cls.__qualname__
    return made


def _compile_init(cls: type, *, frozen: bool) -> FunctionType:
    """Return the `__init__` of a class, which sets each field."""
    parameters: list[str] = []
    keyword_only: list[str] = []
    lines: list[str] = []
    known: dict[str, object] = {"_set": _set, "_absent": _ABSENT}
    for each in _fields(cls):
        name = value = each.name
        if each.default_factory is not _ABSENT:
            known[f"_make_{name}"] = each.default_factory
            value = f"(_make_{name}() if {name} is _absent else {name})" if each.init else f"_make_{name}()"
        if each.init:
            parameter = name
            if each.default is not _ABSENT:
                known[f"_default_{name}"] = each.default
                parameter = f"{name}=_default_{name}"
            elif each.default_factory is not _ABSENT:
                parameter = f"{name}=_absent"
            (keyword_only if each.kw_only else parameters).append(parameter)
        elif each.is_required:
            continue
        elif each.default_factory is _ABSENT:
            known[f"_default_{name}"], value = each.default, f"_default_{name}"
        lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    every = ", ".join(["self", *parameters, *(["*", *keyword_only] if keyword_only else [])])
    exec(f"def __init__({every}):\n " + "\n ".join(lines or ["pass"]), known)  # noqa: S102  # of names in our own source
    made = cast("FunctionType", known["__init__"])
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    hints = {name: hint for each in reversed(cls.__mro__) for name, hint in annotations_of(each).items()}
    made.__annotations__ = {each.name: hints[each.name] for each in _fields(cls) if each.init} | {"return": None}
    return made


def _key_of(names: list[str]) -> Callable[[object], object]:
    if not names:
        return lambda _: ()
    of = attrgetter(*names)
    return of if len(names) > 1 else lambda value: (of(value),)


def _refuse(_self: object, name: str, _value: object = None) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot change field {name!r}")


def _eq(self: _Value, other: object) -> object:
    if other.__class__ is not self.__class__:
        return NotImplemented
    key = self.__class__.__value_key__
    return key(self) == key(other)


def _hash(self: _Value) -> int:
    return hash(self.__class__.__value_key__(self))


def _lt(self: _Value, other: object) -> object:
    if other.__class__ is not self.__class__:
        return NotImplemented
    key = self.__class__.__value_key__
    return key(self) < key(other)


def _repr(self: _Value) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in _fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _state(self: _Value) -> list[object]:
    return [getattr(self, each.name) for each in _fields(self)]


def _set_state(self: _Value, state: list[object]) -> None:
    for each, value in zip(_fields(self), state, strict=True):
        _set(self, each.name, value)


def _fields(of: _Value | type[_Value]) -> tuple[_Field, ...]:
    """Return the fields of a value or a class, in order."""
    return tuple(of.__value_fields__.values())


def _replace(value: _Value, /, **changes: object) -> object:
    """Return a value again, some fields with others."""
    for each in _fields(value):
        if each.init and each.name not in changes:
            changes[each.name] = getattr(value, each.name)
    return type(value)(**changes)


def _astuple(value: _Value) -> tuple[object, ...]:
    """Return what a value holds; values in it become tuples too."""
    held = (getattr(value, each.name) for each in _fields(value))
    return tuple(_astuple(each) if _is_dataclass(each) else each for each in held)


def _is_dataclass(of: object) -> TypeGuard[_Value]:
    return hasattr(of, _FIELDS)


if TYPE_CHECKING:
    from dataclasses import KW_ONLY as KW_ONLY
    from dataclasses import MISSING as MISSING
    from dataclasses import Field as Field
    from dataclasses import astuple as astuple
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import is_dataclass as is_dataclass
    from dataclasses import replace as replace
else:
    KW_ONLY = MISSING = _ABSENT
    Field = field = _Field
    astuple, dataclass, fields, is_dataclass, replace = _astuple, _dataclass, _fields, _is_dataclass, _replace
