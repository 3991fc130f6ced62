"""Cases that only HTTP has: bundles, URLs in the manifest, content codings, status codes."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from margo_gitops.conformance.agents import faults
from margo_gitops.conformance.agents.case import Case, Fault, Place, by
from margo_gitops.conformance.agents.hosts import MANIFEST_PATH, PREFIX, MargoApi, problem
from margo_gitops.conformance.agents.loopback import Answer, Request
from margo_gitops.conformance.agents.state_cases import first_listed, tampered, with_manifest
from margo_gitops.conformance.agents.states import (
    BASE_VERSION,
    State,
    base_state,
    deployment_id,
    make_state,
    next_state,
)
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.state_layout import COMMITS_PATH
from margo_gitops.values import replace

_MIB: Final = 1024 * 1024
_BOMB_MEMBERS: Final = 12
_BOMB: Final = _BOMB_MEMBERS * 16 * _MIB


def _is_manifest(request: Request) -> bool:
    return request.path == f"{PREFIX}{MANIFEST_PATH}"


def _on(manifest: bool, fault: Fault) -> Fault:
    def apply(request: Request, answer: Answer, place: Place) -> Answer:
        return fault(request, answer, place) if _is_manifest(request) == manifest else answer

    return apply


def _instead(make: Callable[[Answer], Answer]) -> Fault:
    """Return the fault that makes another answer of the one that has the manifest."""
    return _on(True, lambda _request, answer, _place: make(answer))


def _coded(answer: Answer, coding: str, body: bytes | Iterable[bytes], note: str) -> Answer:
    return Answer(200, [*answer.headers, ("Content-Encoding", coding)], body, note=note)


def _member(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


def _zeros() -> bytes:
    """Return a gzip file of many members; together they unpack to `_BOMB` bytes."""
    return _member(bytes(16 * _MIB)) * _BOMB_MEMBERS


def _archive(*members: tuple[str, bytes, str]) -> bytes:
    """Return a tar.gz; a member is a name, its content, and where it links to."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def _bundled(make: Callable[[dict[str, bytes]], bytes]) -> Callable[[], State]:
    """Return a maker of a first state whose bundle has the digest that the manifest states, and a flaw inside."""
    return lambda: make_state(BASE_VERSION, base_state().documents, bundle=make(dict(base_state().documents)))


def _beside(*odd: tuple[str, bytes, str], instead_of: int = 0, most: int | None = None) -> Callable[[], State]:
    """Return a maker of such a state: odd members, then the sound ones from one on, and not more than so many."""
    return _bundled(
        lambda documents: _archive(
            *odd, *[(f"{name}.yaml", content, "") for name, content in documents.items()][instead_of:most]
        )
    )


def _bomb(documents: dict[str, bytes]) -> bytes:
    info = tarfile.TarInfo(f"{next(iter(documents))}.yaml")
    info.size = _BOMB
    return _member(info.tobuf(tarfile.GNU_FORMAT)) + _zeros()


def _other_bundle() -> State:
    """Return a first state whose bundle is not the one that the manifest names, nor are its documents."""
    sound = base_state()
    name = deployment_id("hmi")
    evil = {**sound.documents, name: sound.documents[name].replace(b"value: one", b"value: six")}
    return replace(sound, documents=evil, bundle=write_bundle(evil))


def _with_url(begin: str) -> Callable[[], State]:
    def change(fields: dict[str, Json]) -> None:
        listed = first_listed(fields)
        listed["url"] = f"{begin}{listed['url']}"

    # Without a bundle, from which the document could be had.
    return lambda: replace(with_manifest(change)(), bundle=None)


def _elsewhere(request: Request, answer: Answer, place: Place) -> Answer:
    """Write the address of the other host into the manifest."""
    if _is_manifest(request) and isinstance(answer.body, bytes):
        answer.body = answer.body.replace(b"OTHER-HOST", place.other_url.encode())
        answer.body = answer.body.replace(b"OTHER-NAME", place.other_url.partition(":")[2].encode())
    return answer


def _static(api: MargoApi, _place: Place) -> None:
    api.static = True


def _without_commit(api: MargoApi, _place: Place) -> None:
    api.commit = None


def _not_carried(api: MargoApi, _place: Place) -> None:
    api.carried = False


def _on_commit(fault: Fault) -> Fault:
    def apply(request: Request, answer: Answer, place: Place) -> Answer:
        return fault(request, answer, place) if f"{COMMITS_PATH}/" in request.path else answer

    return apply


COMMITS: Final = (
    Case("a state without a commit", by(http="H-C-25"), next_state, http=_without_commit),
    Case("a first state without a commit", by(http="H-C-25"), base_state, http=_without_commit, empty=True),
    Case("a commit that is a resource of its own", by(http="H-C-27"), next_state, "takes", http=_not_carried),
    Case(
        "the commit comes byte by byte, without an end",
        by(http="H-C-27"),
        next_state,
        fault=_on_commit(faults.drip),
        http=_not_carried,
    ),
    Case(
        "the commit is endless",
        by(http="H-C-27"),
        next_state,
        fault=_on_commit(faults.endless_spaces),
        http=_not_carried,
        looks=(faults.READ_LITTLE,),
    ),
)

CONTENT: Final = (
    Case(
        "a listed deployment is answered with 404",
        by(http="H-C-12"),
        next_state,
        fault=_on(False, lambda _request, _answer, _place: problem(404, "no such deployment")),
        then=lambda: next_state(BASE_VERSION + 2),
    ),
    Case("all content is answered with 500", by(http="H-C-13"), next_state, fault=_on(False, faults.status(500))),
    Case("content breaks off in the middle", by(http="H-C-13"), next_state, fault=_on(False, faults.cut)),
    Case("content comes byte by byte, without an end", by(http="H-C-16"), next_state, fault=_on(False, faults.drip)),
    Case(
        "content is endless",
        by(http="H-C-16"),
        next_state,
        fault=_on(False, faults.endless_spaces),
        looks=(faults.READ_LITTLE,),
    ),
    Case("a first state with tampered documents", by(http="H-C-8"), tampered, empty=True),
    Case("files behind a plain web server", by(http="H-C-22"), next_state, "takes", http=_static),
    Case(
        "files behind a plain web server, nothing held",
        by(http="H-C-22"),
        base_state,
        "takes",
        http=_static,
        empty=True,
    ),
)

MANIFESTS: Final = (
    Case(
        "the manifest has 192 MiB of zeros, compressed",
        by(http="H-C-16"),
        next_state,
        fault=_instead(lambda answer: _coded(answer, "gzip", _zeros(), "192 MiB of zeros, compressed")),
        looks=(faults.READ_LITTLE,),
    ),
    Case(
        "an unknown content coding",
        by(http="H-C-13"),
        next_state,
        "either",
        fault=_instead(lambda answer: _coded(answer, "x-unheard-of", answer.body, "an unknown content coding")),
    ),
    Case(
        "304 though nothing is held",
        by(http="H-C-3"),
        base_state,
        fault=_instead(
            lambda answer: Answer(304, answer.headers, note="not modified, without a condition in the request")
        ),
        empty=True,
    ),
    Case(
        "204 in place of a manifest",
        by(http="H-C-18"),
        next_state,
        fault=_instead(lambda _answer: Answer(204, note="no content")),
    ),
    *(
        Case(name, by(http="H-C-17"), _with_url(begin), "either", fault=_elsewhere, looks=(faults.TOKEN_AT_HOME,))
        for name, begin in (
            ("a document's URL on another host", "OTHER-HOST"),
            ("a document's URL that begins with two slashes and another host", "OTHER-NAME"),
        )
    ),
)

BUNDLES: Final = (
    Case("a bundle without the digest in the manifest", by(http="H-C-9"), _other_bundle, empty=True),
    *(
        Case(name, by(http=requirement), offer, "either", empty=True)
        for requirement, name, offer in (
            (
                "H-C-11",
                "a bundle with names that lead out of the folder",
                _beside(("../../escaped", b"out\n", ""), ("/escaped", b"out\n", "")),
            ),
            (
                "H-C-11",
                "a bundle with a link and a file below it",
                _beside(("out", b"", "../.."), ("out/escaped", b"out\n", "")),
            ),
            (
                "H-C-11",
                "a bundle with a link in place of a document",
                _beside((f"{deployment_id('hmi')}.yaml", b"", "/etc/passwd"), instead_of=1),
            ),
            ("H-C-13", "a bundle that lacks documents", _beside(most=2)),
            (
                "H-C-11",
                "a bundle with a file that is not listed",
                _beside((f"{deployment_id('evil')}.yaml", b"id: evil\n", "")),
            ),
            ("H-C-16", "a bundle that unpacks to 192 MiB", _bundled(_bomb)),
        )
    ),
)

ONLY_HTTP: Final = (*COMMITS, *CONTENT, *MANIFESTS, *BUNDLES)
"""Cases that only HTTP has."""
