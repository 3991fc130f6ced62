"""Evidence holds without either repo, and nothing in it can be changed: not by a stranger, and not by its exporter."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from audited_world import World
from forging import Forger
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import Outcome, margo_gitops
from support.fleet import write_signing_key
from support.git_cli import Git
from support.properties import times

from margo_gitops.audit.evidence.check import CheckedEvidence, check_evidence
from margo_gitops.audit.evidence.envelope import sealed
from margo_gitops.audit.evidence.export import ExportRequest, export_evidence
from margo_gitops.audit.evidence.predicate import PAYLOAD_TYPE
from margo_gitops.audit.repos import opened
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.json_text import write_json
from margo_gitops.errors import EvidenceRefused, EvidenceUnusable, FleetCommitUnknown
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
from margo_gitops.trust.git_objects import BLOB, object_id
from margo_gitops.trust.ssh_key import SigningKey

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
RENDERER, AUDITOR, STRANGER = 1, 7, 8
Payload = dict[str, Any]


@cache
def key(folder: Path, seed: int) -> SigningKey:
    return read_signing_key(write_signing_key(folder / f"key-{seed}", seed))


@cache
def signers(
    folder: Path, renderer: str = 'namespaces="git"', auditor: str = 'namespaces="margo-gitops-evidence"'
) -> AllowedSigners:
    lines = [
        f"{who} {options} {key(folder, seed).public}"
        for who, options, seed in (
            ("renderer", renderer, RENDERER),
            ("auditor", auditor, AUDITOR),
        )
    ]
    return parse_allowed_signers("\n".join(lines).encode(), "allowed_signers")


def export(
    world: World,
    device: str | None = None,
    *,
    at: datetime | None = None,
    since: str | None = None,
    seed: int = AUDITOR,
) -> bytes:
    with opened(world.request) as (repo, objects, _):
        return export_evidence(repo, objects, ExportRequest(device, at, since, NOW), key(world.folder, seed))


def check(world: World, content: bytes, listed: AllowedSigners | None = None, **options: bool) -> CheckedEvidence:
    return check_evidence(content, "evidence.json", listed or signers(world.folder), **options)


def refused(world: World, content: bytes, listed: AllowedSigners | None = None) -> str:
    with pytest.raises(EvidenceRefused) as caught:
        check(world, content, listed)
    return "\n".join(caught.value.why)


def payload_of(content: bytes) -> Payload:
    found: Payload = json.loads(base64.b64decode(json.loads(content)["payload"]))
    return found


def told_otherwise(world: World, content: bytes, change: Callable[[Payload], object]) -> bytes:
    """Return evidence that its own exporter forged: other content, signed with the right key."""
    payload = payload_of(content)
    before = copy.deepcopy(payload)
    change(payload)
    assert payload != before
    return sealed(write_json(payload), key(world.folder, AUDITOR))


def test_evidence_of_the_whole_fleet_holds(signed: World):
    checked = check(signed, export(signed))
    assert (checked.exporter, checked.signed_by, checked.unsigned) == ("auditor", ("renderer",), 0)
    assert [(each.device, each.manifest_version) for each in checked.evidence.states] == [
        ("a", "4"),
        ("b", "4"),
        ("gw", "2"),
    ]
    head = signed.state.run("rev-parse", "fleet")
    assert {each.in_force for each in checked.evidence.states} == {head}
    assert checked.evidence.states[2].fleet_commit.subject == "Set p"


def test_evidence_of_one_device_holds_no_other_devices_content(signed: World):
    payload = payload_of(export(signed, "gw"))
    check(signed, export(signed, "gw"))
    ids = {each["id"] for each in payload["predicate"]["objects"]}
    for device in "ab":
        others = signed.state.run("ls-tree", "-r", f"refs/heads/devices/{device}").splitlines()
        assert not ids.intersection(line.split()[2] for line in others)
    assert {each["name"].partition("/")[0] for each in payload["subject"]} == {"gw", "refs"}


def test_a_device_that_left_and_one_that_moved_have_evidence(signed: World):
    chain = signed.forger.chain("fleet")
    moved = check(signed, export(signed, "a", since=chain[4]))
    assert [each.place for each in moved.evidence.states] == ["devices/south/a"]
    signed.fleet.deployment("db", on=["a"], profiles=["other"], version="2.0.0")
    signed.fleet.remove("devices/b.yaml")
    signed.commit("Take b out again")
    left = check(signed, export(signed, "b"))
    assert [each.place for each in left.evidence.states] == ["left/b"]


def test_evidence_since_a_commit_has_every_state_after_it(signed: World):
    chain = signed.forger.chain("fleet")
    checked = check(signed, export(signed, since=chain[0]))
    found = [(each.device, each.manifest_version) for each in checked.evidence.states]
    assert found == [("a", "2"), ("a", "3"), ("a", "4"), ("b", "2"), ("b", "3"), ("b", "4"), ("gw", "2")]
    with pytest.raises(EvidenceUnusable):
        export(signed, since=chain[-1])


def test_evidence_at_a_time_is_of_then(signed: World):
    for day in (1, 2):
        signed.fleet.site("north", p=f"then {day}")
        signed.fleet.git.run("add", "--all")
        signed.fleet.git.run("commit", "--quiet", "--date", f"2030-01-0{day}T12:00:00+00:00", "-m", f"Day {day}")
        signed.render()
    checked = check(signed, export(signed, "gw", at=datetime(2030, 1, 1, 18, tzinfo=UTC)))
    assert [each.fleet_commit.subject for each in checked.evidence.states] == ["Day 1"]
    with pytest.raises(EvidenceUnusable, match="had no state then"):
        export(signed, "gw", at=datetime(1999, 1, 1, tzinfo=UTC))


def test_approvals_are_told_and_bound_to_the_fleet_commit(signed: World):
    signed.fleet.site("north", p="approved")
    message = "Approve it\n\nReviewed-by: Bob <bob@example.com>\nReviewed-by: Eve <eve@example.com>\n"
    signed.fleet.git.commit({}, message)
    signed.render()
    content = export(signed, "gw")
    (state,) = check(signed, content).evidence.states
    assert [(each.name, each.value) for each in state.fleet_commit.trailers] == [
        ("Reviewed-by", "Bob <bob@example.com>"),
        ("Reviewed-by", "Eve <eve@example.com>"),
    ]

    def approve(payload: Payload) -> None:
        payload["predicate"]["states"][0]["fleetCommit"]["trailers"][0]["value"] = "The Boss <boss@example.com>"

    assert "EVIDENCE-7" in refused(signed, told_otherwise(signed, content, approve))


@times(2)
@given(st.data())
def test_no_byte_of_the_file_can_change(evidence_file: tuple[World, bytes], data: st.DataObject):
    world, content = evidence_file
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    refused(world, content[:at] + bytes([byte]) + content[at + 1 :])


@pytest.fixture(scope="module")
def evidence_file(_signed: World) -> tuple[World, bytes]:
    return _signed, export(_signed, "gw")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content[: len(content) // 2],
        lambda content: json.dumps(json.loads(content), indent=2).encode(),
        lambda _: b"",
        lambda _: b"{}",
        lambda _: b"[" * 100_000,
        lambda content: content.replace(PAYLOAD_TYPE.encode(), b"application/json"),
        lambda content: re.sub(rb'"signatures":\[.*\]', b'"signatures":[]', content),
        lambda content: content.replace(b'"signatures":[', b'"signatures":[{"keyid":"x","sig":"AAAA"},'),
    ],
    ids=[
        "cut",
        "longer",
        "half",
        "spelled-otherwise",
        "empty",
        "no-envelope",
        "deep",
        "type",
        "unsigned",
        "two-signatures",
    ],
)
def test_another_envelope_is_refused(signed: World, change: Callable[[bytes], bytes]):
    assert "EVIDENCE-1" in refused(signed, change(export(signed, "gw")))


def test_only_listed_keys_for_this_use_at_this_time_count(signed: World):
    folder = signed.folder
    assert "EVIDENCE-1" in refused(signed, export(signed, "gw", seed=STRANGER))
    # The key that signs commits vouches for no evidence, and the other way round.
    assert "not for 'margo-gitops-evidence'" in refused(signed, export(signed, "gw", seed=RENDERER))
    swapped = signers(folder, renderer='namespaces="margo-gitops-evidence"')
    assert "not for 'git'" in refused(signed, export(signed, "gw"), swapped)
    over = signers(folder, auditor='namespaces="margo-gitops-evidence",valid-before="20260101Z"')
    assert "was valid until" in refused(signed, export(signed, "gw"), over)


def test_unsigned_commits_need_an_explicit_yes(world: World):
    content = export(world)
    assert "EVIDENCE-4" in refused(world, content)
    checked = check(world, content, unsigned=True)
    assert (checked.signed_by, checked.unsigned > 0) == ((), True)


def state(payload: Payload) -> Payload:
    found: Payload = payload["predicate"]["states"][0]
    return found


def spare(payload: Payload) -> None:
    content = b"anything"
    added = {"id": object_id(BLOB, content), "type": "blob", "content": base64.b64encode(content).decode()}
    payload["predicate"]["objects"].append(added)


def other_bytes(kind: str) -> Callable[[Payload], None]:
    def change(payload: Payload) -> None:
        item = next(each for each in payload["predicate"]["objects"] if each["type"] == kind)
        raw = base64.b64decode(item["content"])
        item["content"] = base64.b64encode(raw[:-2] + b"~" + raw[-1:]).decode()

    return change


def other_type(payload: Payload) -> None:
    next(each for each in payload["predicate"]["objects"] if each["type"] == "tree")["type"] = "blob"


def other_subject(name: str, value: str) -> Callable[[Payload], None]:
    def change(payload: Payload) -> None:
        next(each for each in payload["subject"] if name in each["digest"])["digest"][name] = value

    return change


FORGERIES: dict[str, tuple[str, Callable[[Payload], object]]] = {
    "blob": ("EVIDENCE-3", other_bytes("blob")),
    "tree": ("EVIDENCE-3", other_bytes("tree")),
    "commit": ("EVIDENCE-3", other_bytes("commit")),
    "no-base64": ("not base64", lambda payload: payload["predicate"]["objects"][0].update(content="*")),
    "spare-object": ("EVIDENCE-3", spare),
    "object-twice": (
        "EVIDENCE-3",
        lambda payload: payload["predicate"]["objects"].append(payload["predicate"]["objects"][0]),
    ),
    "object-missing": ("not in the evidence", lambda payload: payload["predicate"]["objects"].pop()),
    "object-type": ("EVIDENCE-3", other_type),
    "device": ("E-", lambda payload: state(payload).update(device="b")),
    "version": ("EVIDENCE-6", lambda payload: state(payload).update(manifestVersion="9")),
    "rendered-by": ("EVIDENCE-6", lambda payload: state(payload).update(renderedBy="margo-gitops 9")),
    "lock": ("EVIDENCE-6", lambda payload: state(payload).update(applicationsLock=f"sha256:{'0' * 64}")),
    "no-lock": ("EVIDENCE-6", lambda payload: state(payload).update(applicationsLock=None)),
    "signer": ("EVIDENCE-6", lambda payload: state(payload).update(signer="SHA256:somebody")),
    "fleet": ("EVIDENCE-6", lambda payload: payload["predicate"].update(fleet="another")),
    "place": ("EVIDENCE-5", lambda payload: state(payload).update(place="devices/south/gw")),
    "in-force": ("E-", lambda payload: state(payload).update(inForce=state(payload)["deviceCommit"])),
    "state-commit": ("EVIDENCE-6", lambda payload: state(payload).update(stateCommit=state(payload)["inForce"])),
    "device-commit": ("E-", lambda payload: state(payload).update(deviceCommit=state(payload)["stateCommit"])),
    "author": ("EVIDENCE-7", lambda payload: state(payload)["fleetCommit"].update(author="Eve <eve@example.com>")),
    "date": ("EVIDENCE-7", lambda payload: state(payload)["fleetCommit"].update(date="1999-01-01T00:00:00+00:00")),
    "subject": ("EVIDENCE-7", lambda payload: state(payload)["fleetCommit"].update(subject="Nothing")),
    "sha256": ("EVIDENCE-8", other_subject("sha256", hashlib.sha256(b"").hexdigest())),
    "git-blob": ("EVIDENCE-8", other_subject("gitBlob", "0" * 40)),
    "git-tree": ("EVIDENCE-8", other_subject("gitTree", "0" * 40)),
    "subject-missing": ("EVIDENCE-8", lambda payload: payload["subject"].pop()),
    "subject-added": (
        "EVIDENCE-8",
        lambda payload: payload["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}),
    ),
    "subjects-turned": ("EVIDENCE-8", lambda payload: payload["subject"].reverse()),
    "statement-type": ("EVIDENCE-2", lambda payload: payload.update(_type="https://in-toto.io/Statement/v0.1")),
    "predicate-type": ("EVIDENCE-2", lambda payload: payload.update(predicateType="https://slsa.dev/provenance/v1")),
    "unknown-key": ("EVIDENCE-2", lambda payload: payload["predicate"].update(more="x")),
    "no-states": ("EVIDENCE-2", lambda payload: payload["predicate"].update(states=[])),
    "time": ("EVIDENCE-2", lambda payload: payload["predicate"].update(exportedAt="2027-01-15T08:00:00")),
    "object-id": ("EVIDENCE-2", lambda payload: state(payload).update(deviceCommit="HEAD")),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_an_exporter_cannot_tell_otherwise(evidence_file: tuple[World, bytes], name: str):
    world, content = evidence_file
    rule, change = FORGERIES[name]
    assert rule in refused(world, told_otherwise(world, content, change))


def test_a_rewritten_state_repo_gives_evidence_of_its_signatures_being_wrong(signed: World):
    forger = Forger(signed.state)
    commit = forger.chain("fleet")[-1]
    path = "devices/south/a/manifest.json"
    raw = signed.state.run_bytes("cat-file", "blob", f"{commit}:{path}")
    forged = raw.replace(b'"manifestVersion":4', b'"manifestVersion":5')
    forger.put(commit, {path: forged})
    mine = forger.commit_of("a", commit)
    forger.put(mine, {"manifest.json": forged})
    forger.write()
    assert "EVIDENCE-4" in refused(signed, export(signed, "a"))


def test_a_shallow_fleet_repo_cannot_export(signed: World, tmp_path: Path):
    shallow = tmp_path / "shallow"
    Git(tmp_path).run("clone", "--quiet", "--depth", "1", signed.fleet.root.as_uri(), str(shallow))
    request, auditor = ExportRequest("gw", None, None, NOW), key(tmp_path, AUDITOR)
    with opened(signed.request) as (_, objects, _), pytest.raises(FleetCommitUnknown, match="lacks the commit"):
        export_evidence(FleetRepo.find(shallow), objects, request, auditor)


def run(world: World, *arguments: str | Path) -> Outcome:
    return margo_gitops("audit", *arguments, cwd=world.folder)


def test_the_commands_write_check_and_refuse(signed: World):
    listed = signed.folder / "signers"
    listed.write_text("\n".join(f"{each.principals} {each.key}" for each in signers(signed.folder).signers))
    key(signed.folder, AUDITOR)
    out = signed.folder / "gw.evidence.json"
    made = run(
        signed, "export", "gw", "--fleet", signed.fleet.root, "--signing-key", signed.folder / "key-7", "-o", out
    )
    assert made.code == 0, made
    signed.fleet.root.rename(signed.folder / "gone")
    checked = run(signed, "check-evidence", out, "--allowed-signers", listed)
    assert checked.code == 0, checked
    assert "gw  manifest 2" in checked.stdout.splitlines()
    as_json = run(signed, "check-evidence", out, "--allowed-signers", listed, "--output", "json")
    assert json.loads(as_json.stdout)["states"][0]["device"] == "gw"
    out.write_bytes(out.read_bytes().replace(b"SHA256", b"SHA257"))
    bad = run(signed, "check-evidence", out, "--allowed-signers", listed)
    assert bad.code == 4, bad
    assert "[MG2202]" in bad.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--signing-key", "key-7", "-o", "x"),
        ("export", "gw", "--all", "--signing-key", "key-7", "-o", "x"),
        ("export", "nobody", "--signing-key", "key-7", "-o", "x"),
        ("export", "gw", "--signing-key", "key-7", "-o", "no/such/folder/x"),
        ("export", "gw", "--since", "nothing", "--signing-key", "key-7", "-o", "x"),
        ("check-evidence", "x"),
        ("check-evidence", "x", "--allowed-signers", "key-7.allowed"),
    ],
    ids=lambda arguments: "-".join(arguments).replace("/", "-"),
)
def test_what_cannot_be_done_is_an_error_with_a_remedy(signed: World, arguments: tuple[str, ...]):
    key(signed.folder, AUDITOR)
    where = ("--fleet", signed.fleet.root) if arguments[0] == "export" else ()
    outcome = run(signed, *arguments, *where)
    assert outcome.code == 2, outcome
    assert "remedy: " in outcome.stderr
    assert not list(signed.folder.glob(".x-*"))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, child in inner for each in places(child, (*path, key)))][bool(not path) :]


@times(2)
@given(st.data())
def test_whatever_an_exporter_puts_in_another_ones_place_is_refused(
    evidence_file: tuple[World, bytes], data: st.DataObject
):
    world, content = evidence_file
    payload = payload_of(content)
    # When and with what the export was made is the exporter's own word.
    free = {("predicate", "exportedAt"), ("predicate", "exportedBy")}
    path = data.draw(st.sampled_from([each for each in places(payload) if each not in free]))
    *above, last = path
    target: Any = payload
    for each in above:
        target = target[each]
    old = target[last]
    target[last] = data.draw(ANYTHING.filter(lambda value: value != old or type(value) is not type(old)))
    refused(world, sealed(write_json(payload), key(world.folder, AUDITOR)))


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_a_file_of_a_stranger_is_refused_and_never_a_crash(evidence_file: tuple[World, bytes], content: bytes):
    refused(evidence_file[0], content)


@given(ANYTHING)
def test_a_signed_payload_of_any_form_is_refused_and_never_a_crash(evidence_file: tuple[World, bytes], value: object):
    world, _ = evidence_file
    refused(world, sealed(json.dumps(value).encode(), key(world.folder, AUDITOR)))
