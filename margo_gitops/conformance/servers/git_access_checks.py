"""Checks of who may see what on a git server (docs/git-subset.md, G-A)."""

from __future__ import annotations

import base64
from typing import Final

from margo_gitops.conformance.evidence import shown
from margo_gitops.conformance.packets import packets
from margo_gitops.conformance.servers.checking import Check, CheckSkipped, NotApplicable, expect
from margo_gitops.conformance.servers.git_session import GitSession, error_of, lines_of, read_refs
from margo_gitops.conformance.servers.raw_client import Reply
from margo_gitops.documents.state_layout import DEVICE_REFS, FRESHNESS_REFS

_STRANGER: Final = "x" * 48
_MOST: Final = 5
_CANNOT: Final = (
    "an ordinary git host cannot do this: who may read the repository may read all of it. Serve it with "
    "`margo-gitops serve`, or give each device a repository of its own"
)


def _takes_tokens(session: GitSession) -> None:
    token = session.target.token
    if not token:
        raise NotApplicable("the device is known by its certificate")
    basic = "Basic " + base64.b64encode(f"device:{token}".encode()).decode()
    answers = [
        session.list_refs(session.ref, headers={"Authorization": value}, token="").status
        for value in (f"Bearer {token}", basic)
    ]
    expect(200 in answers, f"the token is answered with {answers[0]} as Bearer, with {answers[1]} as password of Basic")


def _tells_strangers_nothing(session: GitSession) -> None:
    if not session.target.token:
        raise CheckSkipped("the device is known by its certificate, and cannot come without it")
    tip = session.tip()
    for token in ("", _STRANGER):
        for reply in (session.advertisement(token=token), session.list_refs(session.ref, token=token)):
            expect(reply.status in (401, 403), f"a stranger is answered with {reply.status}")
            expect(tip.encode() not in reply.body, "a stranger is told where the ref points")
            if reply.status == 401:
                named = reply.header("www-authenticate").lower()
                expect("basic" in named, f"401 names {named or 'nothing'} in WWW-Authenticate, and not Basic")


def _shows_own_refs(session: GitSession) -> None:
    tip = session.tip()
    for prefixes in ((), ("refs/",), (DEVICE_REFS,), ("",)):
        seen = read_refs(session.list_refs(*prefixes))
        foreign = {
            name for name, target in seen.items() if name != session.ref and not (name == "HEAD" and target == tip)
        }
        freshness = {name for name in foreign if name.startswith(FRESHNESS_REFS)}
        foreign -= freshness
        expect(not foreign, f"it shows {len(foreign)} refs of others, such as {shown(min(foreign, default=''))}")
        expect(len(freshness) <= 1, f"it shows {len(freshness)} freshness refs")


def _shows_own_refs_in_version_0(session: GitSession) -> None:
    reply = session.client.ask("GET", session.path("info/refs?service=git-upload-pack"))
    if reply.status != 200:
        raise NotApplicable(f"the server does not speak version 0: {reply.status}")
    lines = [each[1:].partition(b"\0")[0].strip().decode(errors="replace") for each in lines_of(reply)]
    refs = [line.partition(" ")[2] for line in lines if " refs/" in line and not line.startswith("#")]
    foreign = [name for name in refs if name != session.ref and not name.startswith(FRESHNESS_REFS)]
    expect(
        not foreign,
        f"in version 0 it shows {len(foreign)} refs of others, such as {shown(foreign[0] if foreign else '')}",
    )


def _hides_objects(session: GitSession) -> None:
    nowhere = _asked(session, session.nobody)
    for foreign in session.others()[:_MOST]:
        reply = _asked(session, foreign)
        expect(not _has_pack(reply), "it sends a commit of another device")
        expect(
            _alike(reply, foreign) == _alike(nowhere, session.nobody), "it answers otherwise than for what is nowhere"
        )


def _asked(session: GitSession, want: str) -> Reply:
    return session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {want}", "done")


def _has_pack(reply: Reply) -> bool:
    return reply.status == 200 and not error_of(reply) and b"PACK" in reply.body


def _alike(reply: Reply, name: str) -> tuple[int, bytes, int]:
    return reply.status, reply.body.replace(name.encode(), b"*"), len(reply.body)


def _tells_no_haves(session: GitSession) -> None:
    tip = session.tip()

    def told(have: str) -> bytes:
        reply = session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {tip}", f"have {have}")
        head = b"".join(each for each in packets(reply.body)[:2]) if reply.status == 200 else b"%d" % reply.status
        return head.replace(have.encode(), b"*")

    nowhere = told(session.nobody)
    for foreign in session.others()[:_MOST]:
        expect(told(foreign) == nowhere, "by the answer to have, a device learns whether an object exists")


def _wants_commits_only(session: GitSession) -> None:
    tip = session.tip()
    inside = [name for name in session.state().objects if name != tip]
    if not inside:
        raise CheckSkipped("the pack of the state holds nothing but the commit")
    for name in inside[:_MOST]:
        expect(not _has_pack(_asked(session, name)), "it takes a tree or a blob as want")


def _decides_by_identity(session: GitSession) -> None:
    other = session.target.other_device
    if not other:
        raise CheckSkipped("name another device, with --other-device")
    tip = session.tip()
    headers = {"Margo-Device": other, "X-Forwarded-User": other, "X-Remote-User": other, "Remote-User": other}
    reply = session.list_refs(session.ref, headers=headers)
    expect(reply.status == 200, f"with headers that name another device it answers {reply.status}")
    expect(read_refs(reply).get(session.ref) == tip, "a header makes the device another one")


ACCESS: Final[tuple[Check[GitSession], ...]] = (
    Check("G-A-3", "the token is taken", _takes_tokens),
    Check("G-A-4", "strangers are told nothing", _tells_strangers_nothing, "send WWW-Authenticate: Basic with 401"),
    Check("G-A-5", "the device sees its own ref alone", _shows_own_refs, _CANNOT),
    Check("G-A-5", "and so in version 0", _shows_own_refs_in_version_0, _CANNOT),
    Check("G-A-6", "a commit of another device is as one that does not exist", _hides_objects, _CANNOT),
    Check("G-A-7", "have tells nothing", _tells_no_haves, _CANNOT),
    Check("G-A-8", "only commits can be wanted", _wants_commits_only, _CANNOT),
    Check("G-A-9", "the identity alone decides", _decides_by_identity),
)
"""Checks of who may see what."""
