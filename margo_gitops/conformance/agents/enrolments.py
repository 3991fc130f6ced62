"""How an agent is enrolled: with its own key, at the trust document of its code, or not at all (docs/http.md)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Final

from margo_gitops.conformance.agents.hosts import PREFIX
from margo_gitops.conformance.agents.loopback import Answer, Exchange
from margo_gitops.conformance.agents.offered_commits import ROOTS, Keys
from margo_gitops.conformance.agents.program import run_command
from margo_gitops.conformance.agents.stage import CODE_FILE, Stage
from margo_gitops.conformance.agents.states import DEVICE, make_signing_key
from margo_gitops.conformance.agents.trust_documents import version
from margo_gitops.conformance.report import Outcome, bounded
from margo_gitops.documents.enrolment import ENROLMENT_PATH, EnrolmentAnswer, EnrolmentCode
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.errors import EnrolmentInvalid
from margo_gitops.trust.enrolment import begin, read_request, trust_digest
from margo_gitops.values import dataclass, replace

_NONE: Final = Outcome("not-applicable", "the agent is not enrolled by a command: see --enroll")


@dataclass(frozen=True, slots=True)
class Desk:
    """What a server may answer: the right thing, a trust document of strangers, and another host."""

    right: EnrolmentAnswer
    other_document: str
    other_url: str

    def answer(self, **changes: str) -> Answer:
        """Return the right answer with other values."""
        said = replace(self.right, **changes)  # type: ignore[arg-type]  # the caller knows the fields
        return Answer(200, [("Content-Type", "application/json")], write_json(write(said)), note="an answer")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the server does with the first request; the second one gets the right answer."""

    name: str
    requirement: str
    first: Callable[[Desk], Answer]


ENROLMENTS: Final = (
    Enrolment("the answer is lost, and the same code is used again", "H-C-33", lambda _desk: Answer(503)),
    Enrolment(
        "an answer with another trust document",
        "H-C-34",
        lambda desk: desk.answer(trust_document=desk.other_document),
    ),
    Enrolment("an answer for another device", "H-C-34", lambda desk: desk.answer(device=f"{DEVICE}-2")),
    Enrolment(
        "an answer that leads to another host",
        "H-C-35",
        lambda desk: Answer(307, [("Location", f"{desk.other_url}{PREFIX}{ENROLMENT_PATH}")]),
    ),
)


def play_enrolments(stage: Stage, chosen: tuple[Enrolment, ...]) -> Iterator[tuple[str, str, Outcome]]:
    """Yield requirement, name and outcome of each (AgentNotRunnable: the command cannot be started)."""
    for each in chosen:
        yield each.requirement, each.name, _play(stage, each) if stage.agent.enroll else _NONE


def _document() -> bytes:
    roots = {letter: make_signing_key() for letter in ROOTS}
    return version(Keys(make_signing_key(), make_signing_key(), roots=roots), 1)


def _play(stage: Stage, case: Enrolment) -> Outcome:
    document = _document()
    code = EnrolmentCode(DEVICE, secrets.token_urlsafe(18), trust_digest(begin(document, None)))
    desk = Desk(EnrolmentAnswer(DEVICE, "http", document.decode()), _document().decode(), stage.server.other_url)
    stage.empty()
    (stage.work / CODE_FILE).write_text(f"{code}\n", encoding="ascii")
    before, said = len(stage.server.exchanges), []
    for answer in (case.first(desk), desk.answer()):
        stage.server.respond = lambda _request, _elsewhere, answer=answer: answer  # type: ignore[misc]  # bound now
        said.append(run_command(stage.agent.enroll, stage.values(), stage.agent.seconds, code.secret))
    asked = stage.server.exchanges[before:]
    problems = _problems(asked, code)
    if said[0].code == 0:
        problems.append("the command ended with 0, as if the device were enrolled")
    if said[1].code != 0:
        problems.append("the right answer after that is not taken")
    evidence = (*bounded([str(each) for each in asked] or ["the agent asked nothing"]), *map(str, said))
    return Outcome("fail", "; ".join(problems), evidence) if problems else Outcome("pass", "", evidence)


def _problems(asked: list[Exchange], code: EnrolmentCode) -> list[str]:
    """Return what is wrong with what was asked."""
    problems = ["the other host was asked"] if any(each.elsewhere for each in asked) else []
    posts = [each.request for each in asked if each.request.path == PREFIX + ENROLMENT_PATH]
    try:
        found = [read_request(each.body)[0] for each in posts]
    except EnrolmentInvalid as error:
        return [*problems, f"a request cannot be read: {error.what}"]
    if len(found) < 2:
        problems.append("the agent did not ask once in each run")
    if len({(each.public_key, each.token) for each in found}) > 1:
        problems.append("the second request has another key or token")
    if any((each.secret, each.trust, each.device) != (code.secret, code.trust, code.device) for each in found):
        problems.append("a request does not say what the code says")
    return problems
