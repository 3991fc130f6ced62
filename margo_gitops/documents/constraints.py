"""Device constraints: what a profile needs of a device (Margo application description, device constraints).

Values only; `margo_gitops.documents.matching` evaluates them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from margo_gitops.documents.declarations import About, Items, Problem, Range, Text
from margo_gitops.documents.quantities import REQUIRED_MEMORY_PATTERN, REQUIRED_STORAGE_PATTERN

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "ContainsAll", "ContainsAny"]
Architecture = Literal["amd64", "arm64", "arm", "riscv64", "other"]

_WITHOUT_VALUES = ("Exists", "DoesNotExist", "ContainsAll", "ContainsAny")
_ITEM_OPERATORS = ("ContainsAll", "ContainsAny")


@dataclass(frozen=True, slots=True)
class MatchExpression:
    """One condition on a property or label of a device."""

    key: Annotated[
        str, About("JSON Pointer (RFC 6901) below `properties`, or the exact key of a label.", ("/memory", "line"))
    ]
    operator: Annotated[Operator, About("How the device's value is compared.", ("In",))]
    values: Annotated[
        tuple[str | int | float | bool, ...] | None,
        About("What to compare with: for In and NotIn any number of one type, for Gt and Lt one number."),
    ] = None
    item_selector: Annotated[
        Selector | None, About("Conditions on the items of an array: for ContainsAll and ContainsAny.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield what the operator needs and the expression lacks, or has too much."""
        values = self.values or ()
        if self.operator in _WITHOUT_VALUES and self.values is not None:
            yield Problem(("values",), f"{self.operator} takes no values", "remove values")
        if self.operator in ("In", "NotIn") and not values:
            yield Problem(("values",), f"{self.operator} needs values", "add values")
        if self.operator in ("Gt", "Lt") and (len(values) != 1 or not is_number(values[0])):
            yield Problem(("values",), f"{self.operator} needs exactly one number", "give one number in values")
        if len({is_number(value) or type(value) for value in values}) > 1:
            yield Problem(("values",), "the values must be of one type")
        if self.operator in _ITEM_OPERATORS and self.item_selector is None:
            yield Problem((), f"{self.operator} needs an itemSelector", "add itemSelector")
        if self.operator not in _ITEM_OPERATORS and self.item_selector is not None:
            yield Problem(("itemSelector",), f"{self.operator} takes no itemSelector", "remove itemSelector")


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that all must hold."""

    match_expressions: Annotated[tuple[MatchExpression, ...], About("All of them must hold."), Items(minimum=1)]


@dataclass(frozen=True, slots=True)
class EligibilityRule:
    """One way to be eligible: both selectors must match; rules are alternatives."""

    property_selector: Annotated[Selector | None, About("On the `properties` of the device's capabilities.")] = None
    label_selector: Annotated[Selector | None, About("On the `labels` of the device's capabilities.")] = None


@dataclass(frozen=True, slots=True)
class CpuRequirement:
    """What one CPU of the device must offer; CPUs are not added together."""

    cores: Annotated[float, About("Cores needed; a fraction is a part of a core.", (0.5,)), Range(minimum=0)]
    architectures: Annotated[
        tuple[Architecture, ...], About("Any of these; none given: any architecture.", (["amd64", "arm64"],))
    ] = ()


@dataclass(frozen=True, slots=True)
class CapacityRequirements:
    """The least capacity of the device."""

    cpu: CpuRequirement | None = None
    memory: Annotated[
        str | None,
        About("Memory in Ki, Mi or Gi, without a space.", ("512Mi",)),
        Text(pattern=REQUIRED_MEMORY_PATTERN, what="an amount like 512Mi (Ki, Mi, Gi; no space)"),
    ] = None
    storage: Annotated[
        str | None,
        About("Storage in Ki to Ei, without a space.", ("10Gi",)),
        Text(pattern=REQUIRED_STORAGE_PATTERN, what="an amount like 10Gi (Ki to Ei; no space)"),
    ] = None


@dataclass(frozen=True, slots=True)
class DeviceConstraints:
    """What a device must be and have to run a profile: capacity first, then any one of the rules."""

    capacity_requirements: CapacityRequirements | None = None
    eligibility_rules: Annotated[tuple[EligibilityRule, ...], About("Any one must match; none: no limit.")] = ()


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
