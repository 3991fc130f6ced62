"""What an agent asked, gave away and reported is judged by what the servers saw; what it holds, by its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from support.receipts import receipt, signed

from margo_gitops.conformance.agents import faults
from margo_gitops.conformance.agents.case import Case, Place, Seen, by
from margo_gitops.conformance.agents.conduct import CONDUCT
from margo_gitops.conformance.agents.hosts import Command
from margo_gitops.conformance.agents.loopback import Exchange, Request
from margo_gitops.conformance.agents.program import Ended, Held, filled_in, read_held
from margo_gitops.conformance.agents.pushes import OWN_REF, push_listing, read_push, take_push
from margo_gitops.conformance.agents.states import DEVICE, base_state, deployment_id, next_state
from margo_gitops.conformance.report import shown
from margo_gitops.documents.receipt import write_receipts
from margo_gitops.documents.state_layout import TRUST_REF, device_ref
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.pktline import FLUSH, PacketReader
from margo_gitops.transport.git.push import NOTHING, file_objects, push_request, read_listing, read_result
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT, object_id, pack_bytes, pack_entry

REF = device_ref(DEVICE)
PLACE = Place("git", REF, "http://127.0.0.2/state.git", lambda _seconds: False)
CASE = Case("a case", by("G-V-3", "H-C-5"), base_state)


def asked(
    target: str = "/state.git/x", *, elsewhere: bool = False, authorized: bool = True, **headers: str
) -> Exchange:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(Request("GET", target, named, b""), elsewhere, authorized, 200)


def seen(*exchanges: Exchange, commands: tuple[Command, ...] = (), statuses: tuple[Any, ...] = ()) -> Seen:
    bodies = tuple((deployment_id("hmi"), json.dumps(each).encode()) for each in statuses)
    return Seen(Ended(0, 0.1, ""), Held(), exchanges, commands, bodies)


def verdict(name: str, what: Seen, versions: frozenset[int] = frozenset({5})) -> str:
    conduct = next(each for each in CONDUCT if each.name == name)
    return conduct.judge([(CASE, what, versions)], PLACE).verdict


def ls_refs(*arguments: str) -> Seen:
    return seen(commands=(Command("ls-refs", arguments),))


def fetch(*arguments: str) -> Seen:
    return seen(commands=(Command("fetch", arguments),))


def status(**changes: Any) -> dict[str, Any]:
    return {
        "deploymentId": deployment_id("hmi"),
        "adoptedManifestVersion": 5,
        "status": {"state": "installed"},
        "components": [{"name": "hmi", "state": "installed"}],
        **changes,
    }


PUSHED = "nothing is pushed but the device's own reports"
FORM = "what is pushed has the form of reports"
MORE = "what is pushed of children, and as receipts, is that"
KEYS = "trust documents are asked for alone, and only where one is named"
REPORTS = {"capabilities.json": b"{}", f"status/{deployment_id('hmi')}.json": b"{}"}


def pushed(
    files: dict[str, bytes] = REPORTS,
    *,
    ref: str = OWN_REF,
    new: bytes | None = None,
    parents: tuple[str, ...] = (),
    cut: int | None = None,
) -> Exchange:
    objects = file_objects({tuple(path.split("/")): content for path, content in files.items()})
    who = Ident("device", "", 1)
    commit = build_commit(list(objects)[-1].decode(), parents, who, who, "Reports\n")
    objects[ObjectID(object_id(COMMIT, commit).encode())] = COMMIT, commit
    pack = pack_bytes([pack_entry(*each) for each in objects.values()])
    body = push_request(ref.encode(), NOTHING, ObjectID(new or list(objects)[-1])) + pack[:cut]
    return Exchange(Request("POST", "/state.git/git-receive-pack", {}, body), False, True, 200)


def test_the_host_takes_a_push_to_the_own_ref_alone_and_only_with_what_it_holds() -> None:
    refs: dict[str, str] = {}
    own = pushed().request
    assert read_result(reader(take_push(refs, own)), OWN_REF.encode()) is None
    assert list(refs) == [OWN_REF]
    for again in (own, pushed(cut=40).request, pushed(ref=REF).request):
        assert read_result(reader(take_push(refs, again)), OWN_REF.encode()) is not None
    assert list(refs) == [OWN_REF]
    listing = push_listing(refs).partition(FLUSH)[2]
    assert read_listing(reader(listing), OWN_REF.encode()).decode() == refs[OWN_REF]
    assert read_listing(reader(push_listing({}).partition(FLUSH)[2]), OWN_REF.encode()) == NOTHING
    assert read_push(Request("POST", "/x", {}, b"garbage")).problem


def reader(content: bytes) -> PacketReader:
    return PacketReader(BytesIO(content).read, 10_000)


ONE_FETCH = ("no-progress", "ofs-delta", "deepen 1", f"want {'1' * 40}", "done")
MANIFEST = "/margo/api/v1/deployments"
TYPE = "application/vnd.margo.manifest.v1+json"


@pytest.mark.parametrize(
    ("name", "what", "expected"),
    [
        ("credentials go out with the first request", seen(asked()), "pass"),
        ("credentials go out with the first request", seen(asked(authorized=False), asked()), "fail"),
        ("credentials go to no other host", seen(asked(), asked(elsewhere=True, authorized=False)), "pass"),
        ("credentials go to no other host", seen(asked(elsewhere=True)), "fail"),
        ("ls-refs has the device's ref as its only prefix", ls_refs(f"ref-prefix {REF}"), "pass"),
        ("ls-refs has the device's ref as its only prefix", ls_refs("ref-prefix refs/heads/freshness/all"), "pass"),
        ("ls-refs has the device's ref as its only prefix", ls_refs("ref-prefix refs/heads/devices/"), "fail"),
        ("ls-refs has the device's ref as its only prefix", ls_refs(), "fail"),
        ("ls-refs has the device's ref as its only prefix", seen(), "not-applicable"),
        ("ls-refs asks for nothing else", ls_refs("peel", f"ref-prefix {REF}"), "fail"),
        ("no ref of others is asked for", ls_refs("ref-prefix refs/tags/"), "fail"),
        ("no ref of others is asked for", ls_refs(f"ref-prefix {REF}"), "pass"),
        ("freshness is asked for by the names that it can have", ls_refs("ref-prefix refs/heads/freshness/"), "fail"),
        ("fetch has the one form", fetch(*ONE_FETCH), "pass"),
        ("fetch has the one form", fetch(*ONE_FETCH[:2], *ONE_FETCH[3:]), "fail"),
        ("fetch has the one form", fetch(*ONE_FETCH, "filter blob:none"), "fail"),
        ("fetch has the one form", fetch(*ONE_FETCH, f"want {'2' * 40}"), "fail"),
        (PUSHED, seen(asked()), "pass"),
        (PUSHED, seen(pushed()), "pass"),
        (PUSHED, seen(pushed(ref=REF)), "fail"),
        (PUSHED, seen(pushed(new=b"0" * 40)), "fail"),
        (FORM, seen(pushed()), "pass"),
        (FORM, seen(pushed({"status/later.json": b"{}"})), "fail"),
        (FORM, seen(pushed({"more": b""})), "fail"),
        (FORM, seen(pushed(cut=30)), "fail"),
        (FORM, seen(asked()), "not-applicable"),
        (MORE, seen(pushed()), "not-applicable"),
        (MORE, seen(pushed({"receipts/latest.json": write_receipts((signed(receipt(1, device=DEVICE)),))})), "pass"),
        (MORE, seen(pushed({"receipts/latest.json": write_receipts((signed(receipt(1)),))})), "fail"),
        (MORE, seen(pushed({"capabilities/plc-1.json": b"{}"})), "fail"),
        (KEYS, ls_refs(f"ref-prefix {REF}"), "not-applicable"),
        (KEYS, ls_refs(f"ref-prefix {TRUST_REF}"), "pass"),
        (KEYS, ls_refs(f"ref-prefix {TRUST_REF}", f"ref-prefix {REF}"), "fail"),
        ("a push is one commit without parents", seen(pushed()), "pass"),
        ("a push is one commit without parents", seen(pushed(parents=("1" * 40,))), "fail"),
        ("no push is repeated", seen(pushed(), pushed()), "pass"),
        ("no push is repeated", seen(pushed(), pushed(), pushed()), "fail"),
        ("the manifest is asked for by its media type", seen(asked(MANIFEST, accept=TYPE)), "pass"),
        ("the manifest is asked for by its media type", seen(asked(MANIFEST, accept="*/*")), "fail"),
        ("reports are valid", seen(statuses=(status(),)), "pass"),
        ("reports are valid", seen(statuses=(status(status={"state": "asleep"}),)), "fail"),
        ("reports are valid", seen(statuses=(status(deploymentId=deployment_id("mes")),)), "fail"),
        ("only what was adopted is reported as adopted", seen(statuses=(status(),)), "pass"),
        ("only what was adopted is reported as adopted", seen(statuses=(status(adoptedManifestVersion=6),)), "fail"),
        ("only what was adopted is reported as adopted", seen(), "not-applicable"),
    ],
)
def test_conduct(name: str, what: Seen, expected: str) -> None:
    assert verdict(name, what) == expected


@pytest.mark.parametrize(
    ("judge", "bad", "good"),
    [
        (faults.no_credentials_elsewhere, seen(asked(elsewhere=True)), seen(asked(elsewhere=True, authorized=False))),
        (faults.not_elsewhere, seen(asked(elsewhere=True, authorized=False)), seen(asked())),
        (faults.no_storm, seen(*[asked()] * 5), seen(*[asked()] * 4)),
    ],
)
def test_what_is_looked_at_besides(judge: Callable[[Seen, Place], str], bad: Seen, good: Seen) -> None:
    assert judge(bad, PLACE)
    assert not judge(good, PLACE)


def hold(folder: Path) -> Path:
    for path, content in base_state().files().items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o644)
    return folder


def test_what_is_held_is_compared_byte_for_byte(tmp_path: Path) -> None:
    held = read_held(hold(tmp_path))
    assert held.differences(base_state().files(), frozenset()) == []
    name = f"deployments/{deployment_id('hmi')}.yaml"
    found = held.differences(next_state().files(), frozenset())
    assert [each.partition(" ")[0] for each in found] == [name, "manifest.json"]
    assert read_held(tmp_path / "nowhere") == Held()


def _link(folder: Path) -> None:
    (folder / "deployments" / "link.yaml").symlink_to("/etc/passwd")


def _run(folder: Path) -> None:
    (folder / "manifest.json").chmod(0o755)


def _beside(folder: Path) -> None:
    (folder / "run.sh").write_text("true\n")


def _below(folder: Path) -> None:
    (folder / "deployments" / "deep").mkdir()
    (folder / "deployments" / "deep" / "more.yaml").write_text("more\n")


def _less(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_link, "link.yaml is a symbolic link"),
        (_run, "manifest.json is executable"),
        (_beside, "run.sh is held, but should not be"),
        (_below, "deployments/deep/more.yaml is held, but should not be"),
        (_less, "manifest.json is not held"),
    ],
)
def test_what_should_not_be_held_is_told(tmp_path: Path, change: Callable[[Path], None], told: str) -> None:
    change(hold(tmp_path))
    assert told in " ".join(read_held(tmp_path).differences(base_state().files(), frozenset()))


def test_placeholders_are_replaced_and_other_braces_stay() -> None:
    values = {"url": "http://127.0.0.1", "folder": "/tmp/x"}
    assert filled_in(["{url}/a", "{unknown}", "${HOME}", "{folder}{url}"], values) == [
        "http://127.0.0.1/a",
        "{unknown}",
        "${HOME}",
        "/tmp/xhttp://127.0.0.1",
    ]


def test_an_exchange_shows_no_credential() -> None:
    text = str(asked("/x?token=secret-of-the-device"))
    assert "secret" not in shown(text, ("secret-of-the-device",))
