"""Checks of what a Margo server gives and takes (docs/http.md, H-S)."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable
from typing import Final

from margo_gitops.conformance.report import ConformanceReport, shown
from margo_gitops.conformance.servers.checking import (
    Check,
    CheckFailed,
    CheckSkipped,
    NotApplicable,
    check_server,
    expect,
    never_stale,
    says_when_to_return,
)
from margo_gitops.conformance.servers.client import RawClient, Reply, ServerTarget
from margo_gitops.conformance.servers.enrolment_checks import ENROLLING
from margo_gitops.conformance.servers.http_session import HttpSession, check_problem, read_manifest, unknown_id
from margo_gitops.conformance.servers.report_checks import REPORTING
from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import COMMIT_HEADER
from margo_gitops.errors import TrustDocumentInvalid
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.trust.trust_document import read_envelope

MOST_FETCHED: Final = 50
"""Documents that are looked at; a fleet's largest device has more than anyone wants to wait for."""
_NOWHERE: Final = f"sha256:{'5' * 64}"
_NO_VERSION: Final = 999_999
_WAIT: Final = 2


def _serves_manifest(session: HttpSession) -> None:
    reply = session.get_manifest()
    read_manifest(reply)
    expect(reply.media_type == MANIFEST_MEDIA_TYPE, f"the manifest comes as {reply.media_type or 'nothing'}")


def _tags_manifest(session: HttpSession) -> None:
    reply = session.get_manifest()
    read_manifest(reply)
    wanted = f'"{sha256(reply.content())}"'
    expect(reply.header("etag") == wanted, f"the tag is {reply.header('etag') or 'missing'}, the digest {wanted}")


def _not_modified(session: HttpSession) -> None:
    session.manifest()
    tag = session.get_manifest().header("etag")
    if not tag:
        raise CheckSkipped("there is no tag to ask with")
    weak = tag if tag.startswith("W/") else f"W/{tag}"
    for asked in (tag, f'"other", {tag}', weak, "*"):
        reply = session.get_manifest(If_None_Match=asked)
        expect(reply.status == 304, f"If-None-Match: {asked} is answered with {reply.status}")
        expect(not reply.body, "304 has a body")
        expect(reply.header("etag").removeprefix("W/") == tag.removeprefix("W/"), "304 has another tag, or none")
    reply = session.get_manifest(If_None_Match='"another"')
    expect(reply.status == 200, f"a tag that is not current is answered with {reply.status}")


def _negotiates(session: HttpSession) -> None:
    for headers in ({}, {"Accept": "*/*"}):
        reply = session.get(session.deployments, headers)
        expect(reply.status == 200, f"Accept: {headers.get('Accept', 'absent')} is answered with {reply.status}")
    reply = session.get(session.deployments, {"Accept": "text/html"})
    expect(reply.status == 406, f"Accept: text/html is answered with {reply.status}")


def _serves_documents(session: HttpSession) -> None:
    for listed in session.manifest().deployments[:MOST_FETCHED]:
        reply = session.get(session.path_of(listed.url))
        expect(reply.status == 200, f"{listed.deployment_id} is answered with {reply.status}")
        digest = sha256(_content(reply))
        expect(digest == listed.digest, f"{listed.deployment_id} has {digest}, the manifest states {listed.digest}")


def _serves_bundle(session: HttpSession) -> None:
    manifest = session.manifest()
    if manifest.bundle is None:
        raise NotApplicable("the device has no deployment, and so no bundle")
    reply = session.get(session.path_of(manifest.bundle.url), {"Accept": BUNDLE_MEDIA_TYPE})
    expect(reply.status == 200, f"the bundle is answered with {reply.status}")
    content = _content(reply)
    digest = sha256(content)
    expect(digest == manifest.bundle.digest, f"it has {digest}, the manifest states {manifest.bundle.digest}")
    found = sorted(sha256(each) for each in _members(content))
    wanted = sorted(each.digest for each in manifest.deployments)
    expect(found == wanted, f"it holds {len(found)} files, which are not the {len(wanted)} that are listed")


def _members(archive: bytes) -> list[bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
            opened = (members.extractfile(each) for each in members if each.isfile())
            return [each.read() for each in opened if each is not None]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CheckFailed(f"the bundle is not a tar.gz: {error}") from error


def _missing_is_404(session: HttpSession) -> None:
    listed = session.first()
    for path in (
        session.document_path(unknown_id(), listed.digest),
        session.document_path(listed.deployment_id, _NOWHERE),
        session.document_path(listed.deployment_id, listed.digest.replace("sha256", "sha512")),
        session.bundle_path(_NOWHERE),
    ):
        reply = session.get(path)
        expect(reply.status == 404, f"it is answered with {reply.status}")


def _other_spellings(session: HttpSession) -> None:
    base = session.target.prefix
    for path in (
        f"{base}//api/v1/deployments",
        f"{base}/api/v1//deployments",
        f"{base}/api/v1/./deployments",
        f"{base}/api/v1/bundles/../deployments",
        f"{base}/api/v1/bundles/%2e%2e/deployments",
        f"{base}/api/v1/bundles%2f..%2fdeployments",
        f"{base}/api/v1/%64eployments",
    ):
        reply = session.get(path, {"Accept": MANIFEST_MEDIA_TYPE})
        expect(reply.status != 200, f"{path} is answered as the manifest")


def _cache_control(session: HttpSession) -> None:
    session.manifest()
    reply = session.get_manifest()
    expect(never_stale(reply), f"the manifest has Cache-Control: {reply.header('cache-control') or 'none'}")


def _compresses_soundly(session: HttpSession) -> None:
    listed = session.manifest().deployments[:3]
    compressed = False
    for path in (session.deployments, *(session.path_of(each.url) for each in listed)):
        plain = session.get(path, {"Accept": "*/*"})
        packed = session.get(path, {"Accept": "*/*", "Accept-Encoding": "gzip"})
        if not packed.header("content-encoding"):
            continue
        compressed = True
        expect(not plain.header("content-encoding"), "it compresses although that was not asked for")
        expect(_content(packed) == plain.body, "compressed, it is another content")
        tags = {each.header("etag").removeprefix("W/") for each in (plain, packed)}
        expect(len(tags) == 1, f"compressed, it has another tag: {', '.join(sorted(tags))}")
        vary = packed.header("vary").lower()
        expect("accept-encoding" in vary or "*" in vary, f"compressed, it has Vary: {vary or 'none'}")
    if not compressed:
        raise NotApplicable("nothing that was asked for is compressed")


def _heads(session: HttpSession) -> None:
    listed = session.first()
    for path in (session.deployments, session.path_of(listed.url)):
        got = session.get(path, {"Accept": "*/*"})
        reply = session.client.ask("HEAD", path, {"Accept": "*/*"})
        expect(reply.status == got.status, f"HEAD is answered with {reply.status}, GET with {got.status}")
        expect(reply.header("etag") == got.header("etag"), "HEAD has another tag than GET")


def _problems(session: HttpSession) -> None:
    check_problem(session.get(session.document_path(unknown_id(), _NOWHERE)))
    check_problem(session.get(session.bundle_path(_NOWHERE)))


def _isolates(session: HttpSession) -> None:
    target = session.target
    if not target.other_token:
        raise CheckSkipped("name another device, with --other-device and --other-token-file")
    theirs = read_manifest(session.get_manifest(token=target.other_token))
    mine = {each.digest for each in session.manifest().deployments}
    own_ids = {each.deployment_id for each in session.manifest().deployments}
    foreign = [each for each in theirs.deployments if each.deployment_id not in own_ids]
    if not foreign or theirs.bundle is None:
        raise CheckSkipped("the other device has no deployment of its own: name one that has")
    own = session.first()
    guesses = [session.path_of(each.url) for each in foreign[:5]] + [session.path_of(theirs.bundle.url)]
    guesses += [
        session.document_path(own.deployment_id, each.digest) for each in foreign[:5] if each.digest not in mine
    ]
    for path in guesses:
        reply = session.get(path)
        nowhere = session.get(path.rpartition("/")[0] + f"/{_NOWHERE}")
        expect(_public(reply, path) == _public(nowhere, path), f"{path} is answered unlike what does not exist")
        expect(reply.status != 200, f"{path} is answered to a device that it does not belong to")


def _public(reply: Reply, path: str) -> tuple[object, ...]:
    """Return what of an answer must not differ; what was sent may be echoed."""
    body = reply.body
    for part in (path, path.rpartition("/")[2], _NOWHERE):
        body = body.replace(part.encode(), b"")
    headers = {name: value for name, value in reply.headers.items() if name not in ("date", "content-length")}
    return reply.status, sorted(headers.items()), body


def _refuses_strangers(session: HttpSession) -> None:
    if not session.target.token:
        raise CheckSkipped("the device is known by a certificate, and cannot come without one")
    listed = session.first()
    paths = [session.deployments, session.path_of(listed.url), session.bundle_path(_NOWHERE)]
    for token in ("", "x" * 48):
        answers = [session.get(path, {"Accept": MANIFEST_MEDIA_TYPE}, token=token) for path in paths]
        for reply in answers:
            expect(reply.status in (401, 403), f"a stranger is answered with {reply.status}")
        expect(len({each.body for each in answers}) == 1, "a stranger gets different answers from different paths")


def _other_methods(session: HttpSession) -> None:
    reply = session.client.ask("DELETE", session.deployments)
    expect(reply.status == 405, f"DELETE of the manifest is answered with {reply.status}")
    expect(bool(reply.header("allow")), "405 has no Allow")


def _true_sizes(session: HttpSession) -> None:
    for listed in session.manifest().deployments[:MOST_FETCHED]:
        if listed.size_bytes is not None:
            size = len(_content(session.get(session.path_of(listed.url))))
            expect(size == listed.size_bytes, f"{listed.deployment_id} has {size} bytes, not {listed.size_bytes}")


def _waits(session: HttpSession) -> None:
    session.manifest()
    tag = session.get_manifest().header("etag")
    reply = session.get_manifest(If_None_Match=tag, Prefer=f"wait={_WAIT}")
    if "wait" not in reply.header("preference-applied"):
        raise NotApplicable("the server does not keep polls waiting")
    expect(reply.status in (200, 304), f"a poll that waits is answered with {reply.status}")
    if reply.status == 304:
        expect(reply.seconds >= _WAIT / 2, f"it says that it waited, and answered after {reply.seconds:.1f} s")


def _content(reply: Reply) -> bytes:
    try:
        return reply.content()
    except ValueError as error:
        raise CheckFailed(str(error)) from error


def _offered(session: HttpSession, path: str, what: str, absent: str) -> bytes:
    """Return what a server may offer; NotApplicable where it answers 404."""
    reply = session.get(path)
    if reply.status == 404:
        raise NotApplicable(absent)
    expect(reply.status == 200, f"{what} is answered with {reply.status}")
    return reply.content()


def _serves_commit(session: HttpSession) -> None:
    digest = sha256(session.get_manifest().content())
    content = _offered(session, session.commit_path(digest), "the commit", "the server offers no commits")
    try:
        commit = parse_commit(content)
    except ValueError as error:
        raise CheckFailed(f"it is not a commit: {error}") from error
    stated = StateCommit.of(commit).manifest_digest
    expect(stated == digest, f"the commit states the manifest {shown(stated or 'none')}, the manifest has {digest}")
    expect(commit.signature is not None, "the commit is not signed")
    reply = session.get(session.commit_path(_NOWHERE))
    expect(reply.status == 404, f"the commit of no manifest is answered with {reply.status}")


def _carries_commit(session: HttpSession) -> None:
    found = session.get_manifest()
    if not (carried := found.header(COMMIT_HEADER.lower())):
        raise NotApplicable("the manifest carries no commit")
    reply = session.get(session.commit_path(sha256(found.content())))
    expect(carried.encode() == base64.b64encode(reply.content()), "it is not the commit of the manifest, in base64")
    idle = session.get_manifest(If_None_Match=found.header("etag"))
    expect(idle.status != 304 or not idle.header(COMMIT_HEADER.lower()), "304 carries the commit too")


def _serves_trust_document(session: HttpSession) -> None:
    content = _offered(session, session.trust_path(1), "version 1", "the fleet has no trust document")
    try:
        found = read_envelope(content)
    except TrustDocumentInvalid as error:
        raise CheckFailed(f"version 1 is not a trust document: {shown(error.what)}") from error
    expect(found.version == 1, f"the path of version 1 has version {found.version}")
    reply = session.get(session.trust_path(_NO_VERSION))
    expect(reply.status == 404, f"a version that does not exist is answered with {reply.status}")


READING: Final[tuple[Check[HttpSession], ...]] = (
    Check("H-S-1", "the manifest is served, and follows its contract", _serves_manifest),
    Check("H-S-2", "the tag of the manifest is its digest", _tags_manifest, "send the digest as ETag; no weak tags"),
    Check("H-S-3", "If-None-Match is answered by 304", _not_modified),
    Check("H-S-4", "Accept is looked at", _negotiates),
    Check("H-S-5", "every deployment has its digest", _serves_documents, "serve stored bytes, never written again"),
    Check("H-S-6", "the bundle holds what is listed", _serves_bundle),
    Check("H-S-7", "what is not there is 404", _missing_is_404),
    Check("H-S-8", "paths have one spelling", _other_spellings, "let the proxy pass paths on as they are"),
    Check("H-S-9", "the manifest is checked for each use", _cache_control),
    Check("H-S-10", "compression changes nothing", _compresses_soundly),
    Check("H-S-11", "HEAD answers as GET", _heads),
    Check("H-S-12", "errors are problem documents", _problems),
    Check("H-S-13", "what belongs to another device is as what does not exist", _isolates),
    Check("H-S-14", "strangers learn nothing", _refuses_strangers),
    Check("H-S-15", "other methods are 405", _other_methods),
    Check("H-S-21", "sizes are true", _true_sizes),
    Check("H-S-22", "a poll that waits is kept waiting", _waits),
    Check("H-S-23", "the commit signs the manifest", _serves_commit),
    Check("H-S-24", "the manifest carries its commit", _carries_commit),
    Check("H-S-25", "the trust document is served", _serves_trust_document),
)
"""Checks that read."""

AFTERWARDS: Final[tuple[Check[HttpSession], ...]] = (
    Check("H-S-20", "429 and 503 say when to come back", says_when_to_return),
)
"""Checks that look at all answers of a run."""

HTTP_CHECKS: Final = (*READING, *REPORTING, *ENROLLING, *AFTERWARDS)
"""Every check, in the order in which they are made."""


def check_http(
    target: ServerTarget, checked_at: str, told: Callable[[str], None] = lambda _line: None
) -> ConformanceReport:
    """Check a server of the Margo API, as `check_server` does; its URL is what precedes /api/v1/deployments."""
    return check_server("http", HttpSession(target, RawClient(target)), HTTP_CHECKS, checked_at, told)
