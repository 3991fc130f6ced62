"""Cases that are the same by git and by HTTP: sound states that are taken, flawed ones that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from margo_gitops.conformance.agents.case import Case, Look, Place, Seen, by
from margo_gitops.conformance.agents.loopback import Exchange
from margo_gitops.conformance.agents.states import (
    BASE_VERSION,
    OTHER_DEVICE,
    State,
    base_state,
    deployment_id,
    document,
    documents,
    make_state,
    manifest_fields,
    next_state,
)
from margo_gitops.documents.freshness import FRESHNESS_PATH
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.state_layout import COMMITS_PATH
from margo_gitops.values import replace

_ABOVE_DOUBLE: Final = 2**53 + 1
_DEEP: Final = 200_000


def with_manifest(change: Callable[[dict[str, Json]], None]) -> Callable[[], State]:
    """Return a maker of the next state whose manifest was changed; the rest is sound."""

    def offer() -> State:
        state = next_state()
        fields = manifest_fields(state.version, state.documents)
        change(fields)
        return replace(state, manifest=write_json(fields))

    return offer


def first_listed(fields: dict[str, Json]) -> dict[str, Json]:
    """Return the manifest's entry of the document that changed."""
    listed = fields["deployments"]
    if isinstance(listed, list):
        for each in listed:
            if isinstance(each, dict) and each["deploymentId"] == deployment_id("hmi"):
                return each
    raise ValueError("the manifest lists nothing")


def _wrong_sizes(fields: dict[str, Json]) -> None:
    first_listed(fields)["sizeBytes"] = 7
    if isinstance(fields["bundle"], dict):
        fields["bundle"]["sizeBytes"] = 7


def _other_algorithm(fields: dict[str, Json]) -> None:
    each = first_listed(fields)
    for name in ("digest", "url"):
        each[name] = str(each[name]).replace("sha256:", "sha512:")


def _listed_twice(fields: dict[str, Json]) -> None:
    listed = fields["deployments"]
    if isinstance(listed, list):
        listed.append(dict(first_listed(fields)))


def _without_deployments(fields: dict[str, Json]) -> None:
    del fields["deployments"]


def _version_as_text(fields: dict[str, Json]) -> None:
    fields["manifestVersion"] = str(fields["manifestVersion"])


def _version_of_65_bits() -> State:
    state = next_state()
    number = b'"manifestVersion":%d' % state.version
    return replace(
        state, manifest=state.manifest.replace(number, b'"manifestVersion":%d' % 2**64), version=BASE_VERSION + 1
    ).with_commit(version=str(2**64))


def _raw_manifest(content: bytes) -> Callable[[], State]:
    return lambda: replace(next_state(), manifest=content)


def _other_document(content: bytes) -> Callable[[], State]:
    return lambda: make_state(BASE_VERSION + 1, {**base_state().documents, deployment_id("hmi"): content})


def _for_other_device() -> State:
    name = deployment_id("hmi")
    evil = document("hmi", "two", device=OTHER_DEVICE)
    return make_state(BASE_VERSION + 1, {**base_state().documents, name: evil})


def tampered() -> State:
    """Return the next state with a document of the same length in place of the one that its manifest lists."""
    sound = next_state()
    name = deployment_id("hmi")
    evil = sound.documents[name].replace(b"value: two", b"value: six")
    # Without a bundle, from which the sound document could be had.
    return replace(sound, documents={**sound.documents, name: evil}, bundle=None)


def _bomb_of_aliases() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return ("\n".join(lines) + "\n").encode()


def _read(seen: Seen) -> list[Exchange]:
    """Return what was asked of the state: reports, freshness and commits are apart from it."""
    asked = (each for each in seen.exchanges if each.request.method == "GET" and COMMITS_PATH not in each.request.path)
    return [each for each in asked if not each.request.path.endswith(FRESHNESS_PATH)]


def _downloads_nothing(seen: Seen, place: Place) -> str:
    if place.transport == "git":
        fetched = [str(each) for each in seen.commands if each.name == "fetch"]
        return f"it fetched although nothing changed: {fetched[0]}" if fetched else ""
    content = [each for each in _read(seen) if each.status == 200]
    return f"it downloaded although nothing changed: {content[0]}" if content else ""


def _asks_once(seen: Seen, place: Place) -> str:
    asked = seen.exchanges if place.transport == "git" else _read(seen)
    return "" if len(asked) <= 1 else f"an idle poll takes {len(asked)} requests"


def _fetches_only_what_changed(seen: Seen, place: Place) -> str:
    if place.transport == "git":
        named = [each for each in seen.commands if each.name == "fetch" and each.values("have")]
        return "" if named else "it does not name the commit that it holds, and is sent everything again"
    content = [each for each in _read(seen) if each.status == 200]
    return "" if len(content) <= 2 else f"one document changed, and it downloaded {len(content) - 1}"


SOUND: Final = (
    Case(
        "nothing changed",
        by("G-V-8", "H-C-3"),
        base_state,
        "takes",
        looks=(
            Look("an idle poll downloads nothing", by("G-C-4", "H-C-3"), _downloads_nothing),
            Look("an idle poll is one request", by("G-C-3", "H-C-20"), _asks_once),
        ),
    ),
    Case(
        "one document changed",
        by("G-C-5", "H-C-8"),
        next_state,
        "takes",
        looks=(Look("only what changed is downloaded", by("G-C-6", "H-C-20"), _fetches_only_what_changed),),
    ),
    Case(
        "a deployment was added",
        by("G-C-5", "H-C-8"),
        lambda: make_state(BASE_VERSION + 1, documents(hmi="one", mes="one", edge="one", opc="one", vision="one")),
        "takes",
    ),
    Case(
        "a deployment was removed",
        by("G-C-5", "H-C-14"),
        lambda: make_state(BASE_VERSION + 1, documents(hmi="one", mes="one", edge="one")),
        "takes",
    ),
    Case("all deployments were removed", by("G-C-5", "H-C-14"), lambda: make_state(BASE_VERSION + 1, {}), "takes"),
    Case(
        "the device was away for many versions",
        by("G-V-5", "H-C-5"),
        lambda: next_state(BASE_VERSION + 40).with_commit(descends=False),
        "takes",
    ),
    Case("sizes are wrong, digests are right", by("G-M-6", "H-C-10"), with_manifest(_wrong_sizes), "takes"),
    Case(
        "versions that differ beyond the precision of a double",
        by("G-V-6", "H-C-7"),
        lambda: next_state(_ABOVE_DOUBLE),
        "takes",
        before=lambda: replace(make_state(_ABOVE_DOUBLE - 1, base_state().documents)),
    ),
)
"""States that every agent takes."""

FLAWED: Final = (
    Case("an older version, soundly made", by("G-V-3", "H-C-5"), lambda: next_state(BASE_VERSION - 1), then=next_state),
    Case("the same version with other content", by("G-V-4", "H-C-6"), lambda: next_state(BASE_VERSION)),
    Case(
        "a lower version beyond the precision of a double",
        by("G-V-6", "H-C-7"),
        lambda: next_state(_ABOVE_DOUBLE - 1),
        before=lambda: make_state(_ABOVE_DOUBLE, base_state().documents),
    ),
    Case("a document without the digest in the manifest", by("G-M-6", "H-C-8"), tampered),
    Case("a digest of another algorithm than sha256", by("G-M-6", "H-C-4"), with_manifest(_other_algorithm)),
    Case("a deployment that is listed twice", by("G-V-7", "H-C-4"), with_manifest(_listed_twice)),
    Case("a version that is text", by("G-V-6", "H-C-4"), with_manifest(_version_as_text)),
    Case("a version of 65 bits", by("G-V-6", "H-C-7"), _version_of_65_bits),
    Case("a manifest that is not JSON", by("G-V-7", "H-C-4"), _raw_manifest(b"{not json at all\n")),
    Case("a manifest that is not UTF-8", by("G-V-7", "H-C-4"), _raw_manifest(b'{"manifestVersion": \xff\xfe}')),
    Case(
        "a manifest with brackets nested 200,000 deep",
        by("G-C-9", "H-C-16"),
        _raw_manifest(b"[" * _DEEP + b"]" * _DEEP),
    ),
    Case("a manifest that lacks its deployments", by("G-V-7", "H-C-4"), with_manifest(_without_deployments)),
    Case("documents for another device", by("G-M-7", "H-C-15"), _for_other_device),
    Case("a document that is not YAML", by("G-V-7", "H-C-15"), _other_document(b"id: [unclosed\n\t: {\n")),
    Case(
        "a document whose YAML aliases grow without bound", by("G-C-9", "H-C-15"), _other_document(_bomb_of_aliases())
    ),
)
"""States that no agent takes from any source."""
