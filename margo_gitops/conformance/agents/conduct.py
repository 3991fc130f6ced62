"""How an agent behaves in all cases together: what it asks, what it gives away, what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from margo_gitops.conformance.agents.case import Case, Place, Seen, TransportName, by
from margo_gitops.conformance.evidence import bounded, shown
from margo_gitops.conformance.hostile.margo_api import MANIFEST_PATH, PREFIX
from margo_gitops.conformance.hostile.server import Exchange
from margo_gitops.conformance.hostile.states import DEVICE
from margo_gitops.conformance.report import Outcome
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import FRESHNESS_REFS as _FRESHNESS
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.trust.freshness_tree import possible_shards

Played: TypeAlias = Sequence[tuple[Case, Seen, frozenset[int]]]
"""Each case, what was seen in it, and the versions that the device may say it adopted."""

_FETCH_WORDS: Final = frozenset({"no-progress", "ofs-delta", "thin-pack", "done", "deepen", "want", "shallow", "have"})
_NOT_ASKED: Final = Outcome("not-applicable", "the agent asked nothing of this kind")


@dataclass(frozen=True, slots=True)
class Conduct:
    """Something that is judged by all cases together.

    Attributes:
        name: of the check.
        requirement: that it belongs to, by transport.
        judge: judges.
    """

    name: str
    requirement: Mapping[TransportName, str]
    judge: Callable[[Played, Place], Outcome]


def _exchanges(played: Played) -> list[Exchange]:
    return [exchange for _, seen, _ in played for exchange in seen.exchanges]


def _outcome(bad: Iterable[str], reason: str) -> Outcome:
    found = list(dict.fromkeys(bad))
    return Outcome("fail", reason, bounded(found)) if found else Outcome("pass")


def _credentials_first(played: Played, _place: Place) -> Outcome:
    bad = (str(each) for each in _exchanges(played) if not each.elsewhere and not each.authorized)
    return _outcome(bad, "it asked without its credentials: send them with the first request")


def _credentials_at_home(played: Played, _place: Place) -> Outcome:
    bad = (str(each) for each in _exchanges(played) if each.elsewhere and each.authorized)
    return _outcome(bad, "the token reached another host")


def _one_prefix(played: Played, place: Place) -> Outcome:
    asked = [each for _, seen, _ in played for each in seen.commands if each.name == "ls-refs"]
    if not asked:
        return _NOT_ASKED
    bad = (
        str(each)
        for each in asked
        if each.values("ref-prefix") != [place.ref]
        and not all(prefix.startswith(_FRESHNESS) for prefix in each.values("ref-prefix") or [""])
    )
    return _outcome(bad, f"it asks for more than the one ref-prefix {place.ref}")


def _possible_shards(played: Played, _place: Place) -> Outcome:
    every = [each for _, seen, _ in played for each in seen.commands if each.name == "ls-refs"]
    asked = [each for each in every if any(name.startswith(_FRESHNESS) for name in each.values("ref-prefix"))]
    if not asked:
        return _NOT_ASKED
    names = {f"{_FRESHNESS}{shard}" for shard in possible_shards(DEVICE)}
    bad = (str(each) for each in asked if set(each.values("ref-prefix")) != names)
    return _outcome(bad, f"it asks for other refs than {', '.join(sorted(names))}")


def _no_peel(played: Played, _place: Place) -> Outcome:
    asked = [each for _, seen, _ in played for each in seen.commands if each.name == "ls-refs"]
    bad = (
        str(each)
        for each in asked
        if {"peel", "symrefs", "unborn"} & set(each.arguments) or not each.values("ref-prefix")
    )
    return _outcome(bad, "it asks for peel, symrefs or unborn, or for every ref") if asked else _NOT_ASKED


def _own_refs(played: Played, place: Place) -> Outcome:
    asked = [each for _, seen, _ in played for each in seen.commands if each.name == "ls-refs"]
    bad = (
        str(each)
        for each in asked
        for prefix in each.values("ref-prefix") or ["refs/"]
        if not prefix.startswith((place.ref, _FRESHNESS)) and place.ref not in prefix
    )
    return _outcome(bad, "it asks for refs of others") if asked else _NOT_ASKED


def _fetch_form(played: Played, _place: Place) -> Outcome:
    asked = [each for _, seen, _ in played for each in seen.commands if each.name == "fetch"]
    bad = (
        str(each)
        for each in asked
        if len(each.values("want")) != 1
        or each.values("deepen") != ["1"]
        or not {"done", "no-progress", "ofs-delta"} <= set(each.arguments)
        or not {line.partition(" ")[0] for line in each.arguments} <= _FETCH_WORDS
    )
    return _outcome(bad, "a fetch is not of the one form: one want, deepen 1, done") if asked else _NOT_ASKED


def _never_pushes(played: Played, _place: Place) -> Outcome:
    bad = (str(each) for each in _exchanges(played) if "git-receive-pack" in each.request.target)
    return _outcome(bad, "it tries to push")


def _asks_for_type(played: Played, _place: Place) -> Outcome:
    asked = [each for each in _exchanges(played) if each.request.path == f"{PREFIX}{MANIFEST_PATH}"]
    bad = (
        f"{each}, Accept: {shown(each.request.headers.get('accept', 'none'))}"
        for each in asked
        if MANIFEST_MEDIA_TYPE not in each.request.headers.get("accept", "")
    )
    return _outcome(bad, f"it asks for the manifest without Accept: {MANIFEST_MEDIA_TYPE}")


def _reports_are_valid(played: Played, _place: Place) -> Outcome:
    sent = [each for _, seen, _ in played for each in seen.statuses]
    if not sent:
        return Outcome("not-applicable", "the agent sent no status")
    return _outcome((wrong for name, body in sent if (wrong := _wrong_status(name, body))), "a status is invalid")


def _wrong_status(name: str, body: bytes) -> str:
    try:
        status = read_as(DeploymentStatus, read_source(body, "status.json"))
    except (InvalidDocument, UnreadableDocument) as error:
        return f"of {shown(name)}: {shown(str(error))}"
    if status.deployment_id.lower() != name.lower():
        return f"of {shown(name)}: it names {shown(status.deployment_id)}"
    return ""


def _reports_what_is(played: Played, _place: Place) -> Outcome:
    if not any(seen.statuses for _, seen, _ in played):
        return Outcome("not-applicable", "the agent sent no status")
    bad = (
        f"{case.name}: it reports version {version} as adopted"
        for case, seen, allowed in played
        for version in _adopted(seen)
        if version not in allowed
    )
    return _outcome(bad, "it reports a state as adopted that it must not adopt")


def _adopted(seen: Seen) -> list[int]:
    found = []
    for _, body in seen.statuses:
        try:
            status = read_as(DeploymentStatus, read_source(body, "status.json"))
        except (InvalidDocument, UnreadableDocument):
            continue
        if status.adopted_manifest_version is not None:
            found.append(status.adopted_manifest_version)
    return found


CONDUCT: Final = (
    Conduct("credentials go out with the first request", by("G-A-1", "H-C-2"), _credentials_first),
    Conduct("credentials go to no other host", by("G-A-2", "H-C-2"), _credentials_at_home),
    Conduct("ls-refs has the device's ref as its only prefix", by(git="G-C-1"), _one_prefix),
    Conduct("freshness is asked for by the names that it can have", by(git="G-F-8"), _possible_shards),
    Conduct("ls-refs asks for nothing else", by(git="G-C-2"), _no_peel),
    Conduct("no ref of others is asked for", by(git="G-X-5"), _own_refs),
    Conduct("fetch has the one form", by(git="G-C-5"), _fetch_form),
    Conduct("nothing is pushed", by(git="G-P-1"), _never_pushes),
    Conduct("the manifest is asked for by its media type", by(http="H-C-1"), _asks_for_type),
    Conduct("reports are valid", by(http="H-C-21"), _reports_are_valid),
    Conduct("only what was adopted is reported as adopted", by(http="H-C-21"), _reports_what_is),
)
"""What is judged when all cases were played."""
