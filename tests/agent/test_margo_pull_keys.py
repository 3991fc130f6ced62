"""scripts/margo-pull.sh follows trust documents: its own parser against the agent's, and one device over the years."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from attacks import HONEST, NOW, SECOND_DOCUMENT, state
from device_world import DEVICE, RENDERER, STRANGER
from support.command_line import Outcome
from support.hostile_origin import HostileServer, Shown, hostile_server
from support.pull_script import SCRIPT, SHELLS, small_device
from support.trust_documents import ROOTS, document, key, signed

from margo_gitops.documents.trust_document import (
    FloorChange,
    RevokedKey,
    TrustDocument,
    write_document,
    write_envelope,
)
from margo_gitops.errors import TrustRefused
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import ROOT_NAMESPACE, FleetTrust, first, follow

pytestmark = pytest.mark.real
FAR = "2999-12-31T23:59:59Z"
SECOND, THIRD = key(11), key(12)
NEW_ROOTS = (ROOTS[2], key(104), key(105))
HELD = signed(document(1), *ROOTS[:2])
RICH = document(
    2,
    render=(RENDERER, SECOND),
    revoked=(
        RevokedKey(str(RENDERER.public), "retired", "2026-05-01T00:00:00Z"),
        RevokedKey(str(STRANGER.public), "compromised", "2024-02-29T23:59:59Z"),
    ),
    floors=(
        FloorChange("all", 'Der "Server" war weg: \\ \U0001f642\n', highest=5),
        FloorChange("mine", "x", devices=("press-01", DEVICE), highest=7, next=2**64 - 1),
        FloorChange("other", "x", devices=("press-01",), next=8),
    ),
)
TEXT = write_document(RICH)


def by_roots(text: str, *keys: SigningKey) -> bytes:
    return write_envelope(text, tuple(sign(text.encode(), each, ROOT_NAMESPACE) for each in keys or ROOTS))


def texts() -> Iterator[str]:
    """Yield hostile texts; the root keys sign each of them."""
    yield from (TEXT[:cut] for cut in (0, 1, -1))
    yield from (TEXT + more for more in ("\n", " ", "{}", "\0", ","))
    for old, new in [
        ('"version":2', '"version":02'),
        ('"version":2', '"version":2.0'),
        ('"version":2', '"version":"2"'),
        ('"version":2', '"version":1,"version":2'),
        ('"version":2', '"version": 2'),
        ('"version":2', '"version":2147483648'),
        ('"version":2', '"version":2,"zz":[[[[[[[[[[[[1]]]]]]]]]]]]'),
        ('"fleet":', '"flee\\u0074":'),
        ('"fleet":"plant"', '"fleet":"pl\\u0061nt"'),
        ('"fleet":"plant"', '"fleet":"other"'),
        ('"fleet":"plant"', '"fleet":"plant\\n"'),
        ('"fleet":"plant"', '"fleet":"pl\u00e4nt"'),
        ('"kind":"TrustDocument"', '"kind":"Other"'),
        ('"threshold":2', '"threshold":0'),
        ('"threshold":2', '"threshold":4'),
        ('"threshold":2', '"threshold":101'),
        (f'"render":{{"keys":[{{"key":"{RENDERER.public}"', f'"render":{{"keys":[{{"key":"{STRANGER.public}"'),
        (f'"{SECOND.public}"', f'"{RENDERER.public}"'),
        (f'"{SECOND.public}"', f'"{str(SECOND.public)[:-2]}"'),
        (f'"{SECOND.public}"', f'"{str(SECOND.public)[:-1]}B"'),
        (f'"{SECOND.public}"', f'"{str(SECOND.public).replace("ssh-ed25519", "ssh-rsa")}"'),
        ('"name":"renderer-2"', '"name":"renderer-1"'),
        ('"name":"renderer-2"', '"name":"renderer 2"'),
        ('"since":"2024-02-29', '"since":"2023-02-29'),
        ('"expires":"2027-01-01T00:00:00Z"', '"expires":"2026-01-01T00:00:00Z"'),
        ('"expires":"2027-01-01T00', '"expires":"2027-01-01T24'),
        ('"id":"mine"', '"id":"all"'),
        ('"highest":7', '"highest":18446744073709551615'),
        ('"next":8', '"next":18446744073709551616'),
        ('"next":8', '"highest":8,"next":8'),
        ('"next":8,', ""),
        ('"reason":"x"', '"reason":""'),
        ('"reason":"x"', '"reason":"' + "\u00e4" * 501 + '"'),
        ('"reason":"x"', '"reason":"' + "\u00e4" * 500 + '"'),
        ('"reason":"x"', '"reason":"\\",\\"next\\":9,\\"version\\":7,\\"x\\":\\"\\u001f\\b"'),
        ('"reason":"x"', '"reason":"\\u0009"'),
        ('"reason":"x"', '"reason":"\\/"'),
        ('"reason":"retired"', '"reason":"lost"'),
        ('"revoked":', '"revokee":[],"revoked":'),
        ('"devices":["press-01"],', '"devices":[],'),
        ('"devices":["press-01"],', '"devices":null,'),
    ]:
        assert old in TEXT, old
        yield TEXT.replace(old, new, 1)


def envelopes() -> Iterator[bytes]:
    good = signed(RICH, *ROOTS[:2])
    yield good
    yield from (by_roots(text) for text in texts())
    yield from (by_roots(TEXT, *keys) for keys in (ROOTS[:1], (ROOTS[0], ROOTS[0]), (ROOTS[0], STRANGER), ROOTS[1:]))
    yield signed(RICH, *ROOTS, namespace="git")
    yield signed(replace(RICH, version=3), *ROOTS)
    yield signed(document(2, roots=(*ROOTS[:2], key(104)), threshold=3), *ROOTS)
    text, start = TEXT.replace('"version":2', '"version":2,"z":1'), sign(TEXT.encode(), ROOTS[0], ROOT_NAMESPACE)
    yield write_envelope(text, (start, sign(TEXT.encode(), ROOTS[1], ROOT_NAMESPACE)))
    bad_first = sign(b"other", ROOTS[0], ROOT_NAMESPACE)
    yield write_envelope(TEXT, (bad_first, start, sign(TEXT.encode(), ROOTS[1], ROOT_NAMESPACE)))
    for old, new in [
        (b'{"document"', b'{ "document"'),
        (b'"signatures":', b'"signaturen":'),
        (b'"signatures":["', b'"signatures":["",'),
        (b'"signatures":[', b'"signatures":[],"x":['),
        (b'\\n"]}', b'\\n\\n"]}'),
        (b'\\n"]}', b'"]}'),
        (b'\\n"]}', b'\\r\\n"]}'),
        (b"==\\n-----END", b"=\\n-----END"),
        (b"U1NIU0lH", b"U1NIU0lI"),
        (b"plant", b"pl\xffnt"),
        (b"\xc3", b"") if b"\xc3" in good else (b"war", b"w\xa4r"),
        (b"]}\n", b"]}"),
        (b"]}", b"]}\n"),
        (b"]}", b"]}" + b" " * 65_536),
        (b"fleet", b"fl\0et"),
    ]:
        assert old in good, old
        yield good.replace(old, new, 1)


def judged(content: bytes) -> FleetTrust | None:
    try:
        return follow(first(HELD), content)
    except TrustRefused:
        return None


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_takes_no_document_that_the_agent_refuses(tmp_path: Path, shell: str) -> None:
    device = small_device(tmp_path / "device", shell)
    device.can_verify()
    tried = [*envelopes()]
    for number, content in enumerate(tried):
        (tmp_path / f"{number}.json").write_bytes(content)
    (tmp_path / "held.json").write_bytes(HELD)
    functions = SCRIPT.read_text().partition('\nread_settings "$@"')[0]
    judge = f"""
        device={DEVICE} work={tmp_path}
        count_document "$work/held.json" && cp "$work/trust" "$work/first"
        for number in {" ".join(str(each) for each in range(len(tried)))}; do
            cp "$work/first" "$work/trust"
            trust_version=1 trust_fleet=plant
            ! count_document "$work/$number.json" || {{
                printf 'taken %s ' "$number"
                sed -n 's/^\\(version\\|floor\\|render\\|threshold\\) //p' "$work/trust" | tr '\\n' '|'
                echo
            }}
        done"""
    done = subprocess.run(
        [*device.shell, "-c", functions + judge],
        env=device.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    taken = dict(line.split(" ", 2)[1:] for line in done.stdout.splitlines())
    for number, content in enumerate(tried):
        theirs, ours = judged(content), taken.get(str(number))
        if ours is not None:
            assert theirs is not None, content
            assert ours == said(theirs.document), content
        elif theirs is not None:
            # The agent reads JSON of any spelling; the script, only what `margo-gitops keys` writes.
            again = write_envelope(write_document(theirs.document), tuple(re.findall("-", "")))
            assert content.partition(b'","signatures"')[0] != again.partition(b'","signatures"')[0], content
    assert len(taken) > 5


def said(document: TrustDocument) -> str:
    """Return what the script keeps of a document."""
    revoked = {each.key: re.sub("[^0-9]", "", each.since) for each in document.revoked}
    lines = [str(document.version)]
    lines += [f"{each.name} {revoked.get(each.key, '-')} {each.key}" for each in document.keys_of("render")]
    mine = [each for each in document.floors if each.devices is None or DEVICE in each.devices]
    lines += [f"{each.id} {each.highest or 0} {each.next or 0}" for each in mine]
    return "|".join([*lines, str(document.roles.root.threshold), ""])


ONE = state(1, "one", trust="1")
TWO = state(2, "two", ONE, key=THIRD, trust="3")
CHAIN = {
    1: signed(document(1, expires=FAR), *ROOTS[:2]),
    2: signed(document(2, roots=(*ROOTS[1:], NEW_ROOTS[1]), render=(SECOND,), expires=FAR), *ROOTS[1:]),
    3: signed(document(3, roots=NEW_ROOTS, render=(THIRD,), expires=FAR), ROOTS[2], NEW_ROOTS[1]),
}
KILLED = (9, 14, 19)
"""At every program that changes the disk or asks the server it was tried by hand."""
LOST = FloorChange("lost", "the state repo was lost", next=1000)
TAKEN_BACK = FloorChange("attack", "a key was stolen", highest=3)
AGAIN = signed(document(4, roots=NEW_ROOTS, render=(THIRD,), expires=FAR, floors=(LOST,)), *NEW_ROOTS)
LATER = signed(document(5, roots=NEW_ROOTS, render=(THIRD,), expires=FAR, floors=(LOST, TAKEN_BACK)), *NEW_ROOTS)


class Plant:
    """A small device, and what the origin shows it."""

    def __init__(self, folder: Path, shell: str, server: HostileServer) -> None:
        self.device, self.server = small_device(folder / "device", shell), server
        self.given = self.device.folder / "root.json"
        self.given.write_bytes(CHAIN[1])

    def pull(self, *options: str) -> Outcome:
        options = ("--trust-document", str(self.given), "--device", DEVICE, *options)
        return self.device.pull(self.server.url("static"), "token", *options)

    def takes(self, shown: Shown) -> bool:
        """Return whether the device runs this state after a poll."""
        self.server.shown = shown
        outcome = self.pull()
        assert shown.state is not None
        taken = self.device.current.exists() and self.device.manifest() == shown.state.manifest
        assert outcome.code == (0 if taken else 4), outcome
        return taken


@pytest.fixture(params=SHELLS)
def plant(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Plant]:
    with hostile_server(DEVICE, Shown(ONE, CHAIN)) as server:
        yield Plant(tmp_path, request.param, server)


def test_a_device_follows_rotations_and_floors_that_it_was_off_for(plant: Plant) -> None:
    plant.device.can_verify()
    assert plant.takes(Shown(ONE, {1: CHAIN[1]}))
    assert plant.takes(Shown(TWO, CHAIN))
    kept = plant.device.state / "trust"
    assert [(kept / f"{version}.json").read_bytes() for version in (2, 3)] == [CHAIN[2], CHAIN[3]]
    # A damaged copy is fetched again, where a state names its version or one after it.
    (kept / "2.json").write_bytes(CHAIN[2].replace(b"plant", b"plans"))
    (kept / "3.json").write_bytes(CHAIN[3][:500])
    # The state repo was lost, and begins again at 1000; nothing below is taken after that.
    lost = {**CHAIN, 4: AGAIN}
    assert not plant.takes(Shown(state(4, "low", key=THIRD, trust="4"), lost))
    assert {path.name for path in kept.iterdir()} == {"newest", *(f"{version}.json" for version in lost if version > 1)}
    assert plant.takes(Shown(state(2000, "evil", key=THIRD, trust="4"), lost))
    # The root takes all versions above 3 back. The state with the highest of them comes again, and is refused.
    back = {**lost, 5: LATER}
    assert not plant.takes(Shown(state(2, "low", key=THIRD, trust="5"), back))
    plant.server.shown = Shown(state(2000, "evil", key=THIRD, trust="5"), back)
    assert "took back this state" in plant.pull().stderr
    assert plant.takes(Shown(state(4, "four", key=THIRD, trust="5"), back))
    assert plant.takes(Shown(state(6, "six", key=THIRD, trust="5"), back))
    assert "changes lost attack\n" in (plant.device.state / "held").read_text()


def test_an_expired_document_takes_nothing_new_whatever_the_clock_shows_later(tmp_path: Path) -> None:
    with hostile_server(DEVICE, HONEST) as server:
        plant = Plant(tmp_path, "dash", server)
        plant.given.write_bytes(HONEST.documents[1])
        plant.device.can_verify(NOW)
        assert plant.takes(HONEST)
        newer = Shown(state(3, "three", HONEST.state, trust="1"), HONEST.documents)
        plant.device.can_verify(NOW + timedelta(days=100))
        assert not plant.takes(newer)
        plant.device.can_verify(NOW)
        assert not plant.takes(newer)
        # The next one counts, by the old one's root keys; it needs not be named.
        follower = state(3, "three", HONEST.state, key=SECOND)
        assert plant.takes(Shown(follower, {**HONEST.documents, 2: SECOND_DOCUMENT}))


def test_wherever_it_is_killed_the_next_run_follows(tmp_path: Path) -> None:
    with hostile_server(DEVICE, Shown(ONE, CHAIN)) as server:
        plant = Plant(tmp_path, "dash", server)
        plant.device.can_verify()
        before = plant.device.state.with_name("before")
        assert plant.pull().code == 0
        plant.device.state.rename(before)
        server.shown = Shown(TWO, CHAIN)
        for number in KILLED:
            subprocess.run(["rm", "-rf", plant.device.state], check=True)
            subprocess.run(["cp", "-a", before, plant.device.state], check=True)
            plant.device.crash_at(number)
            assert plant.pull().code == -9, number
            plant.device.crash_at(0)
            assert plant.pull().code == 0
            assert plant.device.manifest() == TWO.manifest


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    with hostile_server(DEVICE, HONEST) as server:
        plant = Plant(tmp_path, "dash", server)
        assert "the program ssh-keygen is missing" in plant.pull().stderr
        plant.device.can_verify()
        assert "name one of" in plant.pull("--allowed-signers", "x").stderr
        assert "contradict each other" in plant.pull("--unsigned", "yes").stderr
        plant.given.write_bytes(signed(document(1), ROOTS[0]))
        outcome = plant.pull()
        assert (outcome.code, "it is signed by 1 root keys of version 1, it needs 2" in outcome.stderr) == (2, True)
