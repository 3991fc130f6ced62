"""How documents of the fleet name things, and select devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from margo_gitops.documents.capabilities import LabelValue
from margo_gitops.documents.constraints import MatchExpression
from margo_gitops.documents.declarations import About, Problem, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN

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
