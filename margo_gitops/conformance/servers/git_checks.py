"""Checks of what a git server offers: requests, answers, packs, errors (docs/git-subset.md, G-S, G-R, G-X)."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Final

from margo_gitops.conformance.agents.hosts import tree_targets
from margo_gitops.conformance.report import ConformanceReport
from margo_gitops.conformance.servers.checking import (
    Check,
    CheckSkipped,
    NotApplicable,
    check_server,
    expect,
    never_stale,
    says_when_to_return,
)
from margo_gitops.conformance.servers.client import RawClient, Reply, ServerTarget, chunked
from margo_gitops.conformance.servers.git_content_checks import ACCESS, WRITTEN
from margo_gitops.conformance.servers.git_session import (
    ADVERTISEMENT_TYPE,
    RESULT_TYPE,
    GitSession,
    error_of,
    lines_of,
    read_refs,
)
from margo_gitops.conformance.wire import (
    BLOB,
    COMMIT,
    FLUSH,
    LONGEST_PACKET,
    OFS_DELTA,
    REF_DELTA,
    TAG,
    TREE,
    command_bytes,
    pack,
    packet,
)
from margo_gitops.documents.state_layout import FRESHNESS_REFS

_BODY: Final = 64 * 1024
_TOO_LARGE: Final = 8 * 1024 * 1024
_WAIT: Final = 3
_SHORTEST_WAIT: Final = 2.5
_LONGEST_WAIT: Final = 15
_FORBIDDEN: Final = ("filter", "packfile-uris", "bundle-uri")


def _answers_at_once(session: GitSession) -> None:
    session.client.close()
    read_refs(session.list_refs(session.ref))


def _advertises(session: GitSession) -> None:
    lines = [each[1:].removesuffix(b"\n").decode() for each in lines_of(session.advertisement()) if each[:1] == b"="]
    if lines[:1] == ["# service=git-upload-pack"]:
        del lines[0]
    expect(lines[:1] == ["version 2"], f"it begins with {lines[:1]}")
    offered = {line.partition("=")[0]: line.partition("=")[2] for line in lines[1:]}
    for name in ("ls-refs", "fetch", "object-format"):
        expect(name in offered, f"it does not offer {name}")
    expect("shallow" in offered["fetch"].split(), "fetch does not offer shallow")


def _headers(session: GitSession) -> None:
    for reply, kind in ((session.advertisement(), ADVERTISEMENT_TYPE), (session.list_refs(session.ref), RESULT_TYPE)):
        expect(reply.status == 200, f"the answer is {reply.status}")
        expect(reply.media_type == kind, f"it comes as {reply.media_type or 'nothing'}, not {kind}")
        expect(never_stale(reply), f"it has Cache-Control: {reply.header('cache-control') or 'none'}")
        expect(not reply.header("content-encoding"), f"it is encoded as {reply.header('content-encoding')}")


def _lists_exactly(session: GitSession) -> None:
    tip = session.tip()
    expect(session.refs(session.ref).get(session.ref) == tip, "the device's ref is not among the answers")
    reply = session.list_refs(f"{session.ref}-of-nobody")
    expect(
        reply.body == FLUSH, f"where there is no such ref, the answer has {len(reply.body)} bytes, not a flush packet"
    )


def _takes_bare_commands(session: GitSession) -> None:
    if session.object_format != "sha1":
        raise NotApplicable("the repository is of sha256")
    bare = session.post(command_bytes("ls-refs", [f"ref-prefix {session.ref}"]))
    told = ("agent=conformance", "object-format=sha1")
    full = session.post(command_bytes("ls-refs", [f"ref-prefix {session.ref}"], told))
    expect(read_refs(bare) == read_refs(full), "with agent and object-format, it answers something else")


def _sends_one_commit(session: GitSession) -> None:
    tip = session.tip()
    answer = session.fetch_one(tip)
    found = session.contents(answer)
    expect(found.objects.get(tip, (0, b""))[0] == COMMIT, "the commit that was asked for is not in the pack")
    parents = found.objects[tip][1].partition(b"\n\n")[0].count(b"\nparent ")
    sections = ("shallow-info", "packfile") if parents else ("packfile",)
    expect(answer.sections[-1:] == ("packfile",), f"the sections are {answer.sections}")
    if parents:
        expect(answer.sections == sections, f"the sections are {answer.sections}, not {sections}")
        expect(f"shallow {tip}" in answer.shallow, f"shallow-info does not name the commit: {answer.shallow}")
    left = _reachable(session, tip)
    expect(not left - found.objects.keys(), f"{len(left - found.objects.keys())} objects of the commit are missing")
    commits = [name for name, (kind, _) in found.objects.items() if kind == COMMIT]
    expect(commits == [tip], f"the pack holds {len(commits)} commits")


def _reachable(session: GitSession, tip: str) -> set[str]:
    found = session.state().objects
    names, left = set(), [found[tip][1][5 : 5 + len(tip)].decode()]
    while left:
        name = left.pop()
        names.add(name)
        kind, content = found.get(name, (0, b""))
        if kind == TREE and session.object_format == "sha1":
            left += tree_targets(content)
    return names | {tip}


def _bands(session: GitSession) -> None:
    reply = session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {session.tip()}", "done")
    longest = max(len(each) + 3 for each in lines_of(reply))
    expect(longest <= LONGEST_PACKET, f"a packet has {longest} bytes")
    bands = session.fetch_one(session.tip()).bands
    expect(bands == {1}, f"with no-progress, the side bands {sorted(bands)} are used")


def _sound_pack(session: GitSession) -> None:
    found = session.state()
    expect(found.version == 2, f"the pack is of version {found.version}")
    odd = set(found.kinds) - {COMMIT, TREE, BLOB, OFS_DELTA, REF_DELTA}
    expect(not odd, f"the pack holds objects of the types {sorted(odd)}")
    expect(not found.missing, "the pack is thin although that was not asked for")


def _leaves_out(session: GitSession) -> None:
    tip = session.tip()
    whole = session.contents(session.fetch_one(tip))
    again = session.contents(session.fetch_one(tip, "thin-pack", f"shallow {tip}", f"have {tip}"))
    expect(len(again.objects) < len(whole.objects), "what the device says it holds is sent again")


def _takes_the_answer(session: GitSession) -> None:
    session.fetch_one(session.refs(session.ref).get(session.ref, session.tip()))


def _takes_large_requests(session: GitSession) -> None:
    line = f"ref-prefix {session.ref}"
    prefixes = [line] * (_BODY // (len(line) + 5) - 2)
    body = command_bytes("ls-refs", prefixes)
    wanted = session.refs(session.ref)
    reply = session.post(body)
    expect(reply.status == 200, f"a request of {len(body)} bytes is answered with {reply.status}")
    expect(read_refs(reply) == wanted, "a large request is answered otherwise than a small one")
    small = command_bytes("ls-refs", [line])
    reply = session.post(chunked(small), {"Transfer-Encoding": "chunked"})
    expect(reply.status == 200 and read_refs(reply) == wanted, f"a chunked request is answered with {reply.status}")


def _takes_gzip(session: GitSession) -> None:
    body = gzip.compress(command_bytes("ls-refs", [f"ref-prefix {session.ref}"]), mtime=0)
    reply = session.post(body, {"Content-Encoding": "gzip"})
    if 400 <= reply.status < 500:
        raise NotApplicable("the server takes no compressed requests")
    expect(read_refs(reply) == session.refs(session.ref), "a compressed request is answered otherwise")


def _needs_no_state(session: GitSession) -> None:
    tip = session.tip()
    session.client.close()
    session.fetch_one(tip)
    session.client.close()
    read_refs(session.list_refs(session.ref))
    session.client.close()


def _keeps_connections(session: GitSession) -> None:
    reply = session.list_refs(session.ref)
    expect(reply.keeps, "the server closes the connection after an answer")


def _same_bytes(session: GitSession) -> None:
    session.tip()
    reply = session.list_refs(session.ref)
    lines = [each for each in lines_of(reply) if each[1:].removesuffix(b"\n").endswith(f" {session.ref}".encode())]
    size = len(lines[0]) + 3 + len(FLUSH) if lines else 0
    expect(len(reply.body) == size, f"an idle poll is answered by {len(reply.body)} bytes; {size} are about the ref")


def _waits(session: GitSession) -> None:
    tag = f'"{session.tip()}"'
    reply = session.list_refs(session.ref, headers={"Prefer": f"wait={_WAIT}", "If-None-Match": tag})
    expect(reply.status in (200, 304), f"a poll that waits is answered with {reply.status}")
    expect(reply.seconds < _LONGEST_WAIT, f"a wait of {_WAIT} s ends after {reply.seconds:.1f} s")
    if reply.seconds < _SHORTEST_WAIT:
        raise NotApplicable("the server does not keep polls waiting")


def _names_format(session: GitSession) -> None:
    said = [each[1:].strip().decode() for each in lines_of(session.advertisement()) if b"object-format=" in each]
    expect(said == [f"object-format={session.object_format}"], f"ids are of {session.object_format}, it says {said}")


def _other_format(session: GitSession) -> tuple[str, Reply]:
    other = "sha256" if session.object_format == "sha1" else "sha1"
    command = command_bytes("ls-refs", [f"ref-prefix {session.ref}"], (f"object-format={other}",))
    return other, session.post(command)


def _refuses_other_format(session: GitSession) -> None:
    other, reply = _other_format(session)
    expect(session.tip().encode() not in reply.body, f"a command of {other} is answered with the ref")


def _says_other_format(session: GitSession) -> None:
    other, reply = _other_format(session)
    expect(bool(error_of(reply)), f"a command of {other} is answered with {reply.status} and no ERR packet")


def _errors(session: GitSession) -> None:
    unknown = session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {session.nobody}", "done")
    expect(unknown.status == 200, f"a commit that is not there is answered with {unknown.status}")
    expect(bool(error_of(unknown)), "a commit that is not there is not answered by an ERR packet")


def _garbage(session: GitSession) -> None:
    reply = session.post(b"this is not a git request\n")
    expect(400 <= reply.status < 500, f"what is not a git request is answered with {reply.status}")


def _too_large(session: GitSession) -> None:
    reply = session.post(b"0014command=ls-refs\n0001" + b"000fref-prefix\n" * (_TOO_LARGE // 15))
    session.client.close()
    expect(reply.status == 413, f"a request of {_TOO_LARGE} bytes is answered with {reply.status}")


def _no_tags(session: GitSession) -> None:
    expect(TAG not in session.state().kinds, "the pack holds a tag")


def _offers_no_more(session: GitSession) -> None:
    said = b" ".join(each[1:] for each in lines_of(session.advertisement()) if each[:1] == b"=").decode()
    offered = [name for name in _FORBIDDEN if name in said.replace("=", " ").split()]
    expect(not offered, f"it offers {', '.join(offered)}")


def _takes_no_push(session: GitSession) -> None:
    reply = session.client.ask("GET", session.path("info/refs?service=git-receive-pack"))
    if reply.status == 200 and _declines(_idle_push(session)):
        raise NotApplicable("it takes pushes, and none of the device's state; see G-P-4")
    expect(reply.status in (401, 403, 404), f"who would push is answered with {reply.status}")
    reply = session.client.ask("POST", session.path("git-receive-pack"), body=FLUSH)
    expect(reply.status in (401, 403, 404, 405), f"a push is answered with {reply.status}")


def _idle_push(session: GitSession) -> Reply:
    """Ask to move the device's state from its commit to the same one: even a server that takes it changes nothing."""
    tip = session.tip()
    command = packet(f"{tip} {tip} {session.ref}\0 report-status".encode()) + FLUSH
    headers = {"Content-Type": "application/x-git-receive-pack-request"}
    return session.client.ask("POST", session.path("git-receive-pack"), headers, command + pack(()))


def _declines(reply: Reply) -> bool:
    return reply.status != 200 or b"ng refs/" in reply.body


def _takes_reports_alone(session: GitSession) -> None:
    expect(_declines(_taken_push(session)), "it lets a device push to the branch of its state")


def _takes_push_at_once(session: GitSession) -> None:
    expect(b"unpack " in _taken_push(session).body, "a push without an earlier request is not answered with a report")


def _taken_push(session: GitSession) -> Reply:
    reply = _idle_push(session)
    if reply.status in (401, 403, 404, 405):
        raise NotApplicable("it takes no pushes from this device")
    return reply


def _not_dumb(session: GitSession) -> None:
    for path in ("HEAD", "objects/info/packs", f"objects/{session.tip()[:2]}/{session.tip()[2:]}"):
        reply = session.client.ask("GET", session.path(path))
        expect(reply.status in (403, 404), f"/{path} is answered with {reply.status}")


def _needs_no_cookies(session: GitSession) -> None:
    # No request so far had one: what was answered needs none, also where the server sets it.
    given = [each.header("set-cookie").partition(";")[0] for each in session.client.replies]
    if not any(given):
        return
    without = session.list_refs(session.ref).status
    having = session.list_refs(session.ref, headers={"Cookie": next(filter(None, given))}).status
    expect(without == 200 or having != 200, f"it answers {having} with its cookie, and {without} without")


def _freshness(session: GitSession) -> None:
    names = session.refs(FRESHNESS_REFS)
    if not names:
        raise NotApplicable("no freshness statement is published")
    if len(names) > 1:
        raise CheckSkipped("several freshness refs are shown; see G-A-5")
    found = session.contents(session.fetch_one(next(iter(names.values()))))
    expect(
        any(b"freshness.json" in content for kind, content in found.objects.values() if kind == TREE),
        "it has no freshness.json",
    )


_PROTOCOL: Final = (
    "let the web server hand the header Git-Protocol on as GIT_PROTOCOL; git 2.18 or newer, and 2.28 for "
    "object-format. Only those who run the host can do that"
)
_UNUSED: Final = "On another's host it stays: devices never ask for it"
_READ_ONLY: Final = (
    "on a git host, let the device's user only read; on a server of your own, git config http.receivepack false"
)
_PROTECTED: Final = (
    "install the hook of docs/git-host.md; on a git host where you cannot, give reports a repository of their own, and "
    "let the device's user only read this one"
)
_BODIES: Final = (
    "raise the proxy's limit of bodies. Only those who run the host can do that; devices send less than 1 KiB"
)
_LIMIT: Final = (
    "set the proxy's limit of bodies, such as 1 MiB. Only those who run the host can do that; devices need less"
)
_MUTE: Final = (
    "an ordinary git host ends without a word, and no setting changes that; devices take an empty answer for an "
    "error, so nothing is lost but the reason"
)

OFFERING: Final[tuple[Check[GitSession], ...]] = (
    Check("G-S-1", "a command is answered without a request before it", _answers_at_once, _PROTOCOL),
    Check("G-S-2", "the capabilities are advertised", _advertises, _PROTOCOL),
    Check(
        "G-S-3",
        "headers of answers",
        _headers,
        "let no proxy cache or compress git's answers; only those who run the host can change its own headers",
    ),
    Check("G-S-4", "ls-refs answers what was asked for", _lists_exactly),
    Check("G-S-5", "commands need no capabilities", _takes_bare_commands),
    Check("G-S-6", "fetch sends one commit without its history", _sends_one_commit),
    Check("G-S-7", "the pack comes on side band 1", _bands),
    Check("G-S-8", "the pack is sound and whole", _sound_pack),
    Check("G-S-9", "what the device holds is left out", _leaves_out),
    Check("G-S-10", "what ls-refs answered can be fetched", _takes_the_answer),
    Check("G-S-11", "requests of 64 KiB, and chunked ones", _takes_large_requests, _BODIES),
    Check("G-S-11", "requests compressed by gzip, where they are taken", _takes_gzip),
    Check("G-S-12", "each request is complete in itself", _needs_no_state),
    Check("G-S-13", "connections are kept", _keeps_connections, "turn keep-alive on, 60 seconds or longer"),
    Check("G-S-14", "an idle poll is answered by the one line and nothing else", _same_bytes),
    Check("G-S-16", "ls-refs may wait for a change", _waits),
    Check("G-S-18", "the object format is named", _names_format),
    Check("G-S-19", "another object format is refused", _refuses_other_format),
    Check("G-S-20", "and the server says why", _says_other_format, _MUTE),
    Check("G-X-2", "no tags are sent", _no_tags),
    Check("G-X-3", "nothing else is offered", _offers_no_more, f"git config uploadpack.allowFilter false. {_UNUSED}"),
    Check("G-X-6", "no one can push", _takes_no_push, _READ_ONLY),
    Check("G-P-4", "no push reaches what devices read", _takes_reports_alone, _PROTECTED),
    Check("G-P-7", "a push is answered at once", _takes_push_at_once),
    Check("G-X-8", "no files of the dumb protocol", _not_dumb, f"git config http.getanyfile false. {_UNUSED}"),
    Check("G-R-1", "what is not there is answered by an ERR packet", _errors),
    Check("G-R-8", "a request that is too large is 413", _too_large, _LIMIT),
    Check("G-R-9", "what is not a git request is 4xx", _garbage, _MUTE),
    Check("G-F-12", "a freshness statement can be fetched", _freshness),
)
"""Checks of requests and answers."""

AFTERWARDS: Final[tuple[Check[GitSession], ...]] = (
    Check("G-X-7", "no cookie is needed", _needs_no_cookies),
    Check("G-R-2", "429 and 503 say when to come back", says_when_to_return),
)
"""Checks that look at all answers of a run."""

GIT_CHECKS: Final = (*OFFERING, *ACCESS, *WRITTEN, *AFTERWARDS)
"""Every check, in the order in which they are made."""


def check_git(
    target: ServerTarget, checked_at: str, told: Callable[[str], None] = lambda _line: None
) -> ConformanceReport:
    """Check a git server, as `check_server` does; the URL of the target is that of the repository."""
    return check_server("git", GitSession(target, RawClient(target)), GIT_CHECKS, checked_at, told)
