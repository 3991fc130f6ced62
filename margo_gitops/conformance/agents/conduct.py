"""How an agent behaves in all cases together: what it asks, what it gives away, what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeAlias, TypeVar

from margo_gitops.conformance.agents.case import Case, Look, Place, Seen, by
from margo_gitops.conformance.agents.hosts import MANIFEST_PATH, PREFIX, Command
from margo_gitops.conformance.agents.loopback import Exchange
from margo_gitops.conformance.agents.pushes import NOTHING, OWN_REF, RECEIVE_PACK, Push, read_push
from margo_gitops.conformance.agents.states import DEVICE
from margo_gitops.conformance.report import Outcome, bounded, shown
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import FRESHNESS_REFS as _FRESHNESS
from margo_gitops.documents.state_layout import TRUST_REF
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.receipts import read_receipt, read_receipts

Played: TypeAlias = Sequence[tuple[Case, Seen, frozenset[int]]]
"""Each case, what was seen in it, and the versions that the device may report as adopted."""
Judge: TypeAlias = Callable[[Played, Place], Outcome]
T = TypeVar("T")

_FETCH_WORDS: Final = frozenset({"no-progress", "ofs-delta", "thin-pack", "done", "deepen", "want", "shallow", "have"})
_SHARDS: Final = sorted(f"{_FRESHNESS}{shard}" for shard in possible_shards(DEVICE))
_EXCHANGES: Final[Callable[[Seen], Sequence[Exchange]]] = attrgetter("exchanges")
_NO_STATUS: Final = "the agent sent no status"
_NO_PUSH: Final = "the agent pushed nothing"


def _each(
    asked: Callable[[Seen], Iterable[T]],
    wrong: Callable[[T, Place], bool],
    reason: str,
    text: Callable[[T], str] = str,
    without: str = "the agent asked nothing of this kind",
) -> Judge:
    """Return a judge of each thing of a kind that the agent asked.

    Args:
        asked: picks them from what was seen in a case.
        reason: what is wrong then; `{ref}` is the device's ref.
    """

    def judge(played: Played, place: Place) -> Outcome:
        every = [each for _, seen, _ in played for each in asked(seen)]
        bad = (text(each) for each in every if wrong(each, place))
        return _outcome(every, bad, reason.format(ref=place.ref), without)

    return judge


def _outcome(every: Sequence[object], bad: Iterable[str], reason: str, without: str) -> Outcome:
    if not every:
        return Outcome("not-applicable", without)
    found = list(dict.fromkeys(bad))
    return Outcome("fail", reason, bounded(found)) if found else Outcome("pass")


def _commands(name: str) -> Callable[[Seen], list[Command]]:
    return lambda seen: [each for each in seen.commands if each.name == name]


def _of_freshness(seen: Seen) -> Iterator[Command]:
    return (each for each in seen.commands if any(name.startswith(_FRESHNESS) for name in each.values("ref-prefix")))


def _trust_is_asked_for(played: Played, _place: Place) -> Outcome:
    asked = [
        (case, each)
        for case, seen, _ in played
        for each in seen.commands
        if any(TRUST_REF.startswith(prefix) for prefix in each.values("ref-prefix"))
    ]
    bad = (
        f"{case.name}: {each}"
        for case, each in asked
        if each.values("ref-prefix") != [TRUST_REF] or (case.trust is None and case.expected == "takes")
    )
    return _outcome(asked, bad, f"it asks for {TRUST_REF} without a reason, or with others", "the agent never asked")


def _accepted(exchange: Exchange) -> str:
    return exchange.request.headers.get("accept", "")


def _pushes(seen: Seen) -> list[Push]:
    asked = (each.request for each in seen.exchanges if not each.elsewhere and each.authorized)
    return [read_push(each) for each in asked if each.method == "POST" and each.path.endswith(f"/{RECEIVE_PACK}")]


def _pushed_elsewhere(push: Push, _place: Place) -> bool:
    return {ref for _, _, ref in push.commands} != {OWN_REF} or any(new == NOTHING for _, new, _ in push.commands)


def _nothing_else_is_pushed(played: Played, place: Place) -> Outcome:
    pushes = [each for _, seen, _ in played for each in _pushes(seen)]
    bad = (shown(str(each.commands)) for each in pushes if _pushed_elsewhere(each, place))
    return _outcome([*played], bad, f"it pushes to another ref than {OWN_REF}", "nothing was played")


def _pushed_again(played: Played, _place: Place) -> Outcome:
    runs = [_pushes(seen) for _, seen, _ in played]
    # One more sending may follow if the branch held another commit (G-P-3).
    bad = (f"{case.name}: {len(run)} pushes" for (case, _, _), run in zip(played, runs, strict=True) if len(run) > 2)
    return _outcome([each for run in runs for each in run], bad, "it pushes again and again", _NO_PUSH)


def _further(seen: Seen) -> list[tuple[str, bytes]]:
    """Return what was pushed of children, and as receipts."""
    files = [(path, content) for push in _pushes(seen) for path, (_, content) in push.files.items()]
    return [each for each in files if each[0].startswith(("capabilities/", "receipts/"))]


def _is_wrong(file: tuple[str, bytes], _place: Place) -> bool:
    path, content = file
    try:
        if not path.startswith("receipts/"):
            read_as(DeviceCapabilities, read_source(content, path, foreign=True))
            return False
        return any(read_receipt(each.receipt).device != DEVICE for each in read_receipts(content, path))
    except (InvalidDocument, UnreadableDocument):
        return True


def _has_other_prefix(command: Command, place: Place) -> bool:
    prefixes = command.values("ref-prefix")
    return prefixes not in ([place.ref], [OWN_REF], [TRUST_REF]) and not all(
        each.startswith(_FRESHNESS) for each in prefixes or [""]
    )


def _asks_for_more(command: Command, _place: Place) -> bool:
    return bool({"peel", "symrefs", "unborn"} & set(command.arguments)) or not command.values("ref-prefix")


def _names_others(command: Command, place: Place) -> bool:
    prefixes = command.values("ref-prefix") or ["refs/"]
    return any(
        not each.startswith((place.ref, _FRESHNESS, TRUST_REF, OWN_REF)) and place.ref not in each for each in prefixes
    )


def _has_other_form(command: Command, _place: Place) -> bool:
    return (
        len(command.values("want")) != 1
        or command.values("deepen") != ["1"]
        or not {"done", "no-progress", "ofs-delta"} <= set(command.arguments)
        or not {line.partition(" ")[0] for line in command.arguments} <= _FETCH_WORDS
    )


def _reports_are_valid(played: Played, _place: Place) -> Outcome:
    sent = [each for _, seen, _ in played for each in seen.statuses]
    bad = (f"of {shown(name)}: {wrong}" for name, body in sent if (wrong := _wrong_status(name, body)))
    return _outcome(sent, bad, "a status is invalid", _NO_STATUS)


def _wrong_status(name: str, body: bytes) -> str:
    status = _status(body)
    if isinstance(status, str):
        return status
    return f"it names {shown(status.deployment_id)}" if status.deployment_id.lower() != name.lower() else ""


def _reports_what_is(played: Played, _place: Place) -> Outcome:
    bad = (
        f"{case.name}: it reports version {status.adopted_manifest_version} as adopted"
        for case, seen, allowed in played
        for _, body in seen.statuses
        if not isinstance(status := _status(body), str)
        if status.adopted_manifest_version is not None and status.adopted_manifest_version not in allowed
    )
    sent = [each for _, seen, _ in played for each in seen.statuses]
    return _outcome(sent, bad, "it reports a state as adopted that it must not adopt", _NO_STATUS)


def _status(body: bytes) -> DeploymentStatus | str:
    """Return the status in a body, or what is wrong with it."""
    try:
        return read_as(DeploymentStatus, read_source(body, "status.json", foreign=True))
    except (InvalidDocument, UnreadableDocument) as error:
        return shown(str(error))


CONDUCT: Final[tuple[Look[Judge], ...]] = (
    Look(
        "credentials go out with the first request",
        by("G-A-1", "H-C-2"),
        _each(
            _EXCHANGES,
            lambda each, _: not each.elsewhere and not each.authorized,
            "it asked without its credentials: send them with the first request",
        ),
    ),
    Look(
        "credentials go to no other host",
        by("G-A-2", "H-C-2"),
        _each(_EXCHANGES, lambda each, _: each.elsewhere and each.authorized, "the token reached another host"),
    ),
    Look(
        "ls-refs has the device's ref as its only prefix",
        by(git="G-C-1"),
        _each(_commands("ls-refs"), _has_other_prefix, "it asks for more than the one ref-prefix {ref}"),
    ),
    Look(
        "freshness is asked for by the names that it can have",
        by(git="G-F-8"),
        _each(
            _of_freshness,
            lambda each, _: set(each.values("ref-prefix")) != set(_SHARDS),
            f"it asks for other refs than {', '.join(_SHARDS)}",
        ),
    ),
    Look(
        "ls-refs asks for nothing else",
        by(git="G-C-2"),
        _each(_commands("ls-refs"), _asks_for_more, "it asks for peel, symrefs or unborn, or for every ref"),
    ),
    Look(
        "no ref of others is asked for",
        by(git="G-X-5"),
        _each(_commands("ls-refs"), _names_others, "it asks for refs of others"),
    ),
    Look(
        "fetch has the one form",
        by(git="G-C-5"),
        _each(_commands("fetch"), _has_other_form, "a fetch is not of the one form: one want, deepen 1, done"),
    ),
    Look("trust documents are asked for alone, and only where one is named", by(git="G-K-7"), _trust_is_asked_for),
    Look("nothing is pushed but the device's own reports", by(git="G-P-1"), _nothing_else_is_pushed),
    Look(
        "what is pushed has the form of reports",
        by(git="G-P-2"),
        _each(
            _pushes, lambda each, _: bool(each.oddity), "a push has another form", lambda each: each.oddity, _NO_PUSH
        ),
    ),
    Look(
        "a push is one commit without parents",
        by(git="G-P-3"),
        _each(_pushes, lambda each, _: each.parents > 0, "the branch grows", without=_NO_PUSH),
    ),
    Look(
        "what is pushed of children, and as receipts, is that",
        by(git="G-P-5"),
        _each(
            _further,
            _is_wrong,
            "a file does not follow its contract",
            lambda file: shown(file[0]),
            "no such file was pushed",
        ),
    ),
    Look("no push is repeated", by(git="G-P-6"), _pushed_again),
    Look(
        "the manifest is asked for by its media type",
        by(http="H-C-1"),
        _each(
            lambda seen: [each for each in seen.exchanges if each.request.path == f"{PREFIX}{MANIFEST_PATH}"],
            lambda each, _: MANIFEST_MEDIA_TYPE not in _accepted(each),
            f"it asks for the manifest without Accept: {MANIFEST_MEDIA_TYPE}",
            lambda each: f"{each}, Accept: {shown(_accepted(each) or 'none')}",
        ),
    ),
    Look("reports are valid", by(http="H-C-21"), _reports_are_valid),
    Look("only what was adopted is reported as adopted", by(http="H-C-21"), _reports_what_is),
)
"""What is judged after all cases."""
