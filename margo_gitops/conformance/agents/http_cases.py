"""Cases that only HTTP has: bundles, URLs in the manifest, content codings, status codes."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from margo_gitops.conformance.agents import faults
from margo_gitops.conformance.agents.case import Case, Fault, Place, by
from margo_gitops.conformance.agents.hosts import MANIFEST_PATH, PREFIX, MargoApi, problem
from margo_gitops.conformance.agents.loopback import Answer, Request
from margo_gitops.conformance.agents.state_cases import first_listed, tampered
from margo_gitops.conformance.agents.states import (
    BASE_VERSION,
    State,
    base_state,
    deployment_id,
    make_state,
    manifest_fields,
    next_state,
)
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import write_bundle

_MIB: Final = 1024 * 1024
_BOMB_MEMBERS: Final = 12
_BOMB: Final = _BOMB_MEMBERS * 16 * _MIB


def _is_manifest(request: Request) -> bool:
    return request.path == f"{PREFIX}{MANIFEST_PATH}"


def _on(manifest: bool, fault: Fault) -> Fault:
    def apply(request: Request, answer: Answer, place: Place) -> Answer:
        return fault(request, answer, place) if _is_manifest(request) == manifest else answer

    return apply


def _missing(_request: Request, _answer: Answer, _place: Place) -> Answer:
    return problem(404, "no such deployment")


def _not_modified(_request: Request, answer: Answer, _place: Place) -> Answer:
    return Answer(304, answer.headers, note="not modified, though nobody asked whether")


def _no_content(_request: Request, _answer: Answer, _place: Place) -> Answer:
    return Answer(204, note="no content")


def _gzip_bomb(_request: Request, answer: Answer, _place: Place) -> Answer:
    headers = [*answer.headers, ("Content-Encoding", "gzip")]
    return Answer(200, headers, _zeros(), note="192 MiB of zeros, compressed")


def _unasked_coding(_request: Request, answer: Answer, _place: Place) -> Answer:
    headers = [*answer.headers, ("Content-Encoding", "x-unheard-of")]
    return Answer(200, headers, answer.body, note="a content coding that nobody knows")


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


def _first_with_bundle(make: Callable[[dict[str, bytes]], bytes]) -> Callable[[], State]:
    """Return a maker of a first state whose bundle has the digest that the manifest states, and a flaw inside."""

    def offer() -> State:
        state = base_state()
        return make_state(state.version, state.documents, bundle=make(dict(state.documents)))

    return offer


def _sound_members(documents: dict[str, bytes]) -> list[tuple[str, bytes, str]]:
    return [(f"{name}.yaml", content, "") for name, content in documents.items()]


def _climbing(documents: dict[str, bytes]) -> bytes:
    return _archive(("../../escaped", b"out\n", ""), ("/escaped", b"out\n", ""), *_sound_members(documents))


def _linking(documents: dict[str, bytes]) -> bytes:
    return _archive(("out", b"", "../.."), ("out/escaped", b"out\n", ""), *_sound_members(documents))


def _link_for_document(documents: dict[str, bytes]) -> bytes:
    first, *others = _sound_members(documents)
    return _archive((first[0], b"", "/etc/passwd"), *others)


def _half(documents: dict[str, bytes]) -> bytes:
    return _archive(*_sound_members(documents)[:2])


def _more(documents: dict[str, bytes]) -> bytes:
    evil = (f"{deployment_id('evil')}.yaml", b"id: evil\n", "")
    return _archive(evil, *_sound_members(documents))


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


def _with_url(url: Callable[[str], str]) -> Callable[[], State]:
    def offer() -> State:
        state = next_state()
        fields = manifest_fields(state.version, state.documents)
        listed = first_listed(fields)
        listed["url"] = url(str(listed["url"]))
        return replace(state, manifest=write_json(fields))

    return offer


def _elsewhere(request: Request, answer: Answer, place: Place) -> Answer:
    """Write the address of the other host into the manifest."""
    if _is_manifest(request) and isinstance(answer.body, bytes):
        answer.body = answer.body.replace(b"OTHER-HOST", place.other_url.encode())
        answer.body = answer.body.replace(b"OTHER-NAME", place.other_url.partition(":")[2].encode())
    return answer


def _static(api: MargoApi, _place: Place) -> None:
    api.static = True


CONTENT: Final = (
    Case(
        "a listed deployment is answered with 404",
        by(http="H-C-12"),
        next_state,
        fault=_on(False, _missing),
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
        fault=_on(True, _gzip_bomb),
        looks=(faults.READ_LITTLE,),
    ),
    Case(
        "a content coding that nobody knows", by(http="H-C-13"), next_state, "either", fault=_on(True, _unasked_coding)
    ),
    Case("304 though nothing is held", by(http="H-C-3"), base_state, fault=_on(True, _not_modified), empty=True),
    Case("204 in place of a manifest", by(http="H-C-18"), next_state, fault=_on(True, _no_content)),
    Case(
        "a document's URL on another host",
        by(http="H-C-17"),
        _with_url(lambda url: f"OTHER-HOST{url}"),
        "either",
        fault=_elsewhere,
        looks=(faults.TOKEN_AT_HOME,),
    ),
    Case(
        "a document's URL that begins with two slashes and another host",
        by(http="H-C-17"),
        _with_url(lambda url: f"OTHER-NAME{url}"),
        "either",
        fault=_elsewhere,
        looks=(faults.TOKEN_AT_HOME,),
    ),
)

BUNDLES: Final = (
    Case("a bundle that has not the digest that the manifest states", by(http="H-C-9"), _other_bundle, empty=True),
    Case(
        "a bundle with names that lead out of the folder",
        by(http="H-C-11"),
        _first_with_bundle(_climbing),
        "either",
        empty=True,
    ),
    Case(
        "a bundle with a link and a file below it",
        by(http="H-C-11"),
        _first_with_bundle(_linking),
        "either",
        empty=True,
    ),
    Case(
        "a bundle with a link in place of a document",
        by(http="H-C-11"),
        _first_with_bundle(_link_for_document),
        "either",
        empty=True,
    ),
    Case("a bundle that lacks documents", by(http="H-C-13"), _first_with_bundle(_half), "either", empty=True),
    Case("a bundle with a file that nobody listed", by(http="H-C-11"), _first_with_bundle(_more), "either", empty=True),
    Case("a bundle that unpacks to 192 MiB", by(http="H-C-16"), _first_with_bundle(_bomb), "either", empty=True),
)

ONLY_HTTP: Final = (*CONTENT, *MANIFESTS, *BUNDLES)
"""Cases of HTTP, besides those that are the same by git."""
