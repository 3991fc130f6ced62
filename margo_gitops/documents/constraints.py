"""Device constraints: what a profile needs of a device (Margo application description, device constraints).

Also how documents of the fleet name things and select devices. These are values only; `margo_gitops.documents.matching`
evaluates them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from margo_gitops.documents.capabilities import REQUIRED_MEMORY_PATTERN, REQUIRED_STORAGE_PATTERN, LabelValue
from margo_gitops.documents.declarations import About, Items, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.values import dataclass, field

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
    """Return whether a JSON value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

Name = Annotated[str, Text(pattern=NAME_PATTERN, what="a name (1 to 63 lower-case letters, digits, dashes inside)")]
DeviceName = Annotated[str, Text(pattern=DEVICE_ID_PATTERN, what="a device id", max_length=DEVICE_ID_MAX_LENGTH)]


@dataclass(frozen=True, slots=True)
class DeviceSelector:
    """Which devices: those named, and those that match all the other conditions given."""

    all: Annotated[bool, About("Every device of the fleet.")] = False
    devices: Annotated[tuple[DeviceName, ...], About("Device ids, in addition to those that match.")] = ()
    sites: Annotated[tuple[Name, ...], About("Any of these sites.")] = ()
    match_labels: Annotated[Mapping[str, LabelValue], About("Labels that must be equal.", ({"line": "3"},))] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[MatchExpression, ...], About("Conditions on labels; all must hold.")] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield a selector that says nothing, or says too much."""
        conditions = bool(self.sites or self.match_labels or self.match_expressions)
        if self.all and (conditions or self.devices):
            yield Problem(("all",), "all goes with no other condition", "remove all, or the others")
        if not (self.all or conditions or self.devices):
            yield Problem((), "selects no device", "give devices, sites, matchLabels or matchExpressions, or all: true")
