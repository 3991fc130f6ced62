"""`spec.policy` of `margo-gitops.yaml`: what a change must obey before it reaches devices (docs/policy.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from margo_gitops.documents.constraints import DeviceSelector, Name
from margo_gitops.documents.declarations import About, Items, Problem, Range, Text
from margo_gitops.documents.versions import read_range
from margo_gitops.values import dataclass, field

FilePath = Annotated[
    str,
    Text(
        pattern=r"^(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        what="a relative path of letters, digits, and . _ - /",
        max_length=500,
    ),
]
Mail = Annotated[str, Text(pattern=r"^[^<>@\s]+@[^<>@\s]+$", what="a mail address", max_length=254)]
Moment = Annotated[
    str,
    Text(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})$",
        what="a date and time with its time zone, in quotes: 2026-12-20T00:00+01:00",
    ),
]


@dataclass(frozen=True, slots=True)
class SignatureRule:
    """Commits of the fleet repo must be signed with SSH keys."""

    allowed_signers: Annotated[
        FilePath,
        About("Who may sign: a file of this repo in the format of ssh-keygen.", ("policy/allowed-signers",)),
    ]
    commits: Annotated[
        Literal["all", "mainline"],
        About(
            "Which: `all` new ones; or those of the `mainline`, the chain of first parents: who signs a merge then"
            " answers for what it brings."
        ),
    ] = "all"


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """How many people must have reviewed a change, and who counts."""

    count: Annotated[int, Range(0, 20), About("How many different people.", (2,))] = 1
    people: Annotated[
        tuple[Mail, ...], About("Mail addresses of those who count; an empty list: anyone.", (["ada@plant.example"],))
    ] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield a count that cannot be reached."""
        if self.people and len({each.lower() for each in self.people}) < self.count:
            message = f"{self.count} people cannot review: fewer are named"
            yield Problem(("count",), message, "name more people, or none for anybody")


@dataclass(frozen=True, slots=True)
class ReviewRules:
    """Reviews, as `Reviewed-by: Name <mail>` in the commit on the main line that brings a change."""

    default: Annotated[ReviewRule | None, About("For devices of every site that is not named, and of none.")] = None
    sites: Annotated[Mapping[Name, ReviewRule], About("By site, instead of the default.")] = field(default_factory=dict)
    policy: Annotated[
        ReviewRule | None, About("For changes of this policy and the files it names; without it, the default.")
    ] = None
    urgent: Annotated[
        ReviewRule | None,
        About(
            "For changes of deployments with `spec.urgent`, which pass maintenance windows, in addition to the others."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """Devices that nothing may change for some time."""

    reason: Annotated[str, About("Why, for those who are refused.", ("Year-end production",)), Text(min_length=1)]
    begins: Annotated[Moment, About("The first moment of it.", ("2026-12-20T00:00+01:00",))]
    ends: Annotated[Moment, About("When it is over; there is no freeze without an end.", ("2027-01-07T06:00+01:00",))]
    match: Annotated[DeviceSelector, About("Which devices.", ({"sites": ["north"]},))]

    def problems(self) -> Iterator[Problem]:
        """Yield moments that no calendar has, and an end that is not after the beginning."""
        times = {}
        for name, text in (("begins", self.begins), ("ends", self.ends)):
            try:
                times[name] = datetime.fromisoformat(text).timestamp()
            except (ValueError, OverflowError):
                yield Problem((name,), f"{text} is not a date and time", "write 2026-12-20T00:00+01:00")
        if len(times) == 2 and times["ends"] <= times["begins"]:
            yield Problem(("ends",), "the freeze ends before it begins", "exchange the two")

    def is_on(self, at: int) -> bool:
        """Return whether a moment, in seconds since 1970-01-01 UTC, is in the freeze; its end is not."""
        return _seconds(self.begins) <= at < _seconds(self.ends)

    def is_over(self, at: int) -> bool:
        """Return whether the freeze ended before a moment."""
        return _seconds(self.ends) <= at


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True, slots=True)
class AllowedApplication:
    """An application that may be deployed, and which versions of it."""

    id: Annotated[
        str,
        About("The application's id; `*` matches any text.", ("com-acme-*",)),
        Text(pattern=r"^[a-z0-9*-]{1,200}$", what="an application id, or one with *"),
    ]
    versions: Annotated[str, About("A range; empty: every version.", (">=1.2 <2", "1.4.2 || >=2.1"))] = ""

    def problems(self) -> Iterator[Problem]:
        """Yield versions that are not a range."""
        try:
            if self.versions:
                read_range(self.versions)
        except ValueError as error:
            yield Problem(("versions",), str(error), "write a range such as >=1.2 <2, or 1.4.2")


Applications = Annotated[tuple[AllowedApplication, ...], About("What may be deployed; an empty list: nothing.")]


@dataclass(frozen=True, slots=True)
class ApplicationRules:
    """Which applications may be deployed."""

    default: Annotated[Applications | None, About("For every site that is not named; left out: all.")] = None
    sites: Annotated[Mapping[Name, Applications], About("By site, instead of the default.")] = field(
        default_factory=dict
    )


Registry = Annotated[
    str,
    Text(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._-]+)*|file:///[A-Za-z0-9._/-]*)$",
        what="a host, with a path where only a part of it is meant: registry.plant.example, ghcr.io/acme",
        max_length=500,
    ),
]
Registries = Annotated[
    tuple[Registry, ...],
    About("Hosts, or a host with the beginning of a path; an empty list: none."),
]


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """Where images, charts and other content of components may come from."""

    default: Annotated[
        Registries | None,
        About("For every site that is not named; left out: anywhere.", (["registry.plant.example", "ghcr.io/acme"],)),
    ] = None
    sites: Annotated[Mapping[Name, Registries], About("By site, instead of the default.")] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Silence:
    """Warnings of `validate` that no one can act on now; errors are never silenced."""

    rule: Annotated[str, About("Id of the rule (docs/rules.md).", ("R202",)), Text(pattern=r"^[A-Z]{1,2}[0-9]{3,4}$")]
    reason: Annotated[str, About("Why nothing can be done now.", ("The supplier has no digests",)), Text(min_length=1)]
    files: Annotated[
        str,
        About("Only in this file or folder; `*` matches any text.", ("applications/com-acme-*",)),
        Text(min_length=1, max_length=500),
    ] = "*"

    def covers(self, rule: str, file: str | None) -> bool:
        """Return whether it is about a warning of this rule in this file."""
        place = file or ""
        patterns = (self.files, f"{self.files.rstrip('/')}/*")
        return rule == self.rule and any(fnmatchcase(place, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a change must obey before it reaches devices."""

    signatures: SignatureRule | None = None
    reviews: ReviewRules | None = None
    freezes: Annotated[tuple[Freeze, ...], About("Devices that nothing may change for some time.")] = ()
    applications: ApplicationRules | None = None
    registries: RegistryRules | None = None
    silenced: Annotated[tuple[Silence, ...], About("Warnings that `validate` counts, and does not show.")] = ()
    command: Annotated[
        tuple[str, ...],
        Items(minimum=1),
        About(
            "A program and its arguments. It reads the plan as JSON and ends with 0, or with 1 and a list of findings."
            " A name with a slash is a file of this repo, any other is on the PATH.",
            (["policy/check", "--strict"],),
        ),
    ] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield a command that leads out of the repo."""
        if not self.command:
            return
        program = self.command[0]
        if not program or program.startswith("/") or ".." in program.split("/"):
            remedy = "name a file of this repo, policy/check, or a program on the PATH"
            yield Problem(("command", 0), f"{program[:80]!r} is not in a fleet repo", remedy)
        for index, argument in enumerate(self.command):
            if "\0" in argument:
                yield Problem(("command", index), "no argument of a program holds a NUL")
