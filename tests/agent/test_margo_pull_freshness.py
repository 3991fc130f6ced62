"""scripts/margo-pull.sh with `--freshness`: its verdicts against the agent's, and one device as time passes."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attacks import DAY, HONEST, NOW, TWO, honest, proof, state
from device_world import DEVICE, RENDERER, STRANGER
from support.command_line import Outcome
from support.hostile_origin import HostileServer, Shown, hostile_server
from support.pull_script import SCRIPT, SHELLS, small_device
from support.trust_documents import FRESHNESS

from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, write_statement
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.errors import TrustRefused
from margo_gitops.trust.allowed_signers import parse_allowed_signers
from margo_gitops.trust.freshness import FreshnessPolicy, read_freshness
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, build_tree, device_key, shard_name
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign

pytestmark = pytest.mark.real
SIGNERS = (
    f'renderer namespaces="git" {RENDERER.public}\nfreshness namespaces="{FRESHNESS_NAMESPACE}" {FRESHNESS.public}\n'
)
KILLED = (15, 16, 17, 19)
"""At every program that changes the disk or asks the server it was tried by hand."""


def made(
    others: int,
    *,
    change: Callable[[str], str] = str,
    key: SigningKey = FRESHNESS,
    namespace: str = FRESHNESS_NAMESPACE,
    version: int = 2,
    days: int = 7,
) -> bytes:
    """Return a proof of a fleet with this device (none with version 0) and others; what `change` makes is signed."""
    leaves = [FreshnessLeaf(device_key(f"other-{at}"), at + 1, f"sha256:{at:064x}") for at in range(others)]
    leaves += [FreshnessLeaf(device_key(DEVICE), version, f"sha256:{'a' * 64}")] if version else []
    tree = build_tree(leaves)
    text = change(write_statement("plant", NOW, NOW + days * DAY, "c" * 40, tree.count, tree.root, 1).decode())
    shard = shard_name(device_key(DEVICE), {1: 0, 16: 1, 256: 2}[tree.count])
    signature = sign(text.encode(), key, namespace)
    return write_json(write(FreshnessProof(text, signature, shard, tree.path(shard), tree.shards[shard])))


def proofs() -> Iterator[bytes]:
    """Yield honest proofs of fleets of many sizes, and what was changed in them, before or after it was signed."""
    yield from (made(others, version=version) for others in (0, 1, 2, 3, 4, 6, 8, 63, 64, 70) for version in (2, 0))
    yield from (made(1, version=version) for version in (2**53 + 1, 2**63, 2**64 - 1))
    yield made(1, key=STRANGER)
    yield made(1, key=RENDERER)
    yield made(1, namespace="git")
    yield from (made(1, days=days) for days in (-1, 0, 366, 367))
    for old, new in [
        ('"fleet":"plant"', '"fleet":"other"'),
        ('"fleet":"plant"', '"fleet":"pl\\u0061nt"'),
        ('"fleet":"plant"', '"fleet": "plant"'),
        ('"fleet":"plant"', '"fleet":"plant","fleet":"plant"'),
        ('"fleet":"plant"', '"fleet":"plant","more":1'),
        ('"fleet":"plant",', ""),
        ('"fleet":"plant"', '"fleet":["plant"]'),
        ('"kind":"FreshnessStatement"', '"kind":"FreshnessProof"'),
        ("2026-10-21T", "2026-02-30T"),
        ("2026-10-21T10", "2026-10-21T24"),
        ("2026-10-21T10:00:00Z", "2026-10-21T10:00:00+00:00"),
        ("2026-10-21T", "2025-10-27T"),
        ('"shards":1', '"shards":16'),
        ('"shards":1', '"shards":0'),
        ('"root":"', '"root":"0'),
        ('"trustVersion":1', '"trustVersion":0'),
        ('"trustVersion":1', '"trustVersion":2147483648'),
        (',"trustVersion":1', ""),
        ("ccccc", "ccccC"),
        ("}", "}\n"),
        ("}", "} "),
        ("}", "}{}"),
        ("{", "["),
    ]:
        assert old in made(1)[0:].decode().replace('\\"', '"'), old
        yield made(1, change=lambda text, old=old, new=new: text.replace(old, new, 1))  # type: ignore[misc]
    for good in (made(2), made(70)):
        text = good.decode()
        for old, new in [
            ('"shard":"', '"shard":"0-'),
            ('"shard":"', '"shard":"2-ff","x":"'),
            ('"path":[', '"path":["' + "0" * 64 + '",'),
            ('"path":[', '"path":[[],'),
            ('"leaves":[', '"leaves":[{},'),
            ('"leaves":[', '"leaves":[],"x":['),
            ('"version":2', '"version":3'),
            ('"version":2', '"version":02'),
            ('"version":2', '"version":2.0'),
            ('"version":2', '"version":18446744073709551618'),
            ("sha256:", "sha512:"),
            ("==\\n-----END", "=\\n-----END"),
            ("\\n-----END", "-----END"),
            ("U1NIU0lH", "U1NIU0lI"),
            ('-----\\n"', '-----\\n\\n"'),
            ('-----\\n"', '-----"'),
            ('-----\\n"', '-----\\n\\""'),
            ('\\"fleet', '\\\\"fleet'),
            ('\\"fleet', "\\u0022fleet"),
            ('{"apiVersion"', '{ "apiVersion"'),
            ('"kind":"FreshnessProof",', ""),
        ]:
            if old in text:
                yield text.replace(old, new, 1).encode()
        yield good + b"\n"
        yield good + b" " * 2**20
        entries = text.index('{"device"'), text.index("},{") + 1
        yield text.replace(
            text[entries[0] : entries[1]], text[entries[0] : entries[1]] + "," + text[entries[0] : entries[1]]
        ).encode()
        chance = random.Random(7)
        for _ in range(60):
            at = chance.randrange(len(good))
            piece = chance.choice([b"", bytes([chance.randrange(256)]), good[at : at + chance.randrange(40)] * 2])
            yield good[:at] + piece + good[at + chance.randrange(3) :]


def judged(content: bytes) -> str | None:
    try:
        found = read_freshness(
            content, FreshnessPolicy(DEVICE, parse_allowed_signers(SIGNERS.encode(), "list"), "plant")
        )
    except TrustRefused:
        return None
    lines = [found.statement.issued.translate({ord(each): None for each in "-:TZ"})]
    lines += [str(int(moment.timestamp())) for moment in (found.issued, found.expires)]
    return " ".join(lines + ([str(found.leaf.version), found.leaf.manifest] if found.leaf else []))


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_judges_proofs_as_the_agent_does(tmp_path: Path, shell: str) -> None:
    device = small_device(tmp_path / "device", shell)
    device.can_verify()
    tried = [*proofs()]
    for number, content in enumerate(tried):
        (tmp_path / f"{number}.json").write_bytes(content)
    (tmp_path / "signers").write_text(SIGNERS)
    functions = SCRIPT.read_text().partition('\nread_settings "$@"')[0]
    judge = f"""
        device={DEVICE} work={tmp_path} trust_document= allowed_signers={tmp_path}/signers fleet=plant new_fleet=
        for number in {" ".join(str(each) for each in range(len(tried)))}; do
            (check_proof "$work/$number.json") && printf 'taken %s ' "$number" &&
                sed -n 's/^\\(issued\\|from\\|until\\|version\\|manifest\\) //p' "$work/proof" | tr '\\n' ' ' && echo
        done
        true"""
    done = subprocess.run(
        [*device.shell, "-c", functions + judge],
        env=device.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert {line[:29] for line in done.stderr.splitlines()} == {"margo-pull: error: security e"}
    taken = dict(line.strip().split(" ", 2)[1:] for line in done.stdout.splitlines())
    for number, content in enumerate(tried):
        theirs, ours = judged(content), taken.get(str(number))
        if ours is not None:
            assert ours == theirs, content
        elif theirs is not None:
            # The agent reads JSON of any spelling; the script, only what `margo-gitops` writes.
            assert not is_ours(content), content
    assert len(taken) > 20


def is_ours(content: bytes) -> bool:
    """Return whether `margo-gitops` would write these bytes."""
    said = json.loads(content)
    return write_json(said) == content and write_json(json.loads(said["statement"])).decode() == said["statement"]


class Plant:
    """A small device that asks for freshness, its clock, and what the origin shows it."""

    def __init__(self, folder: Path, shell: str, server: HostileServer) -> None:
        self.device, self.server = small_device(folder / "device", shell), server
        self.signers = folder / "signers"
        self.signers.write_text(SIGNERS)
        self.at(NOW)

    def at(self, now: datetime) -> None:
        self.device.can_verify(now)

    def pull(self, freshness: str = "hold", *options: str) -> Outcome:
        options = ("--allowed-signers", str(self.signers), "--device", DEVICE, "--freshness", freshness, *options)
        return self.device.pull(self.server.url("static"), "token", *options)

    def says(self, words: str, freshness: str = "hold") -> bool:
        outcome = self.pull(freshness)
        return outcome.code == 4 and words in outcome.stderr

    def asked(self) -> list[str]:
        paths = [request.path.rpartition("/")[2] for request in self.server.requests]
        self.server.requests.clear()
        return paths


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    # The shell of busybox runs its own date, so another clock can be shown only to dash.
    with hostile_server(DEVICE, HONEST) as server:
        yield Plant(tmp_path, "dash", server)


THREE = state(3, "three", TWO, trust="1")


def test_a_device_asks_after_half_of_a_life_and_says_at_each_poll_what_is_not_proven(plant: Plant) -> None:
    assert plant.pull().code == 0
    before = {path: path.read_bytes() for path in plant.device.state.glob("fresh*")}
    assert before[plant.device.state / "freshness.json"] == HONEST.proof
    plant.asked()
    assert (plant.pull().code, plant.asked()) == (0, ["deployments"])
    plant.at(NOW + 6 * DAY)
    assert (plant.pull().code, plant.asked()) == (0, ["deployments", "freshness"])
    assert {path: path.read_bytes() for path in plant.device.state.glob("fresh*")} == before
    plant.at(NOW + 8 * DAY)
    assert all(plant.says("FreshnessLost: expired") for _ in range(2))
    # A clock that is set back revives nothing, and new state is not taken; with `report` it is.
    plant.at(NOW + DAY)
    plant.server.shown = replace(HONEST, state=THREE)
    assert plant.says("version 3 is not taken: nothing proves that it is the newest; expired")
    assert plant.device.manifest() == TWO.manifest
    assert plant.says("FreshnessLost: expired", "report")
    assert plant.device.manifest() == THREE.manifest
    plant.server.shown = honest(THREE, 3, NOW + DAY)
    assert plant.pull().code == 0


def test_what_contradicts_a_statement_is_never_taken(plant: Plant) -> None:
    assert plant.pull().code == 0
    other = state(4, "other", THREE, trust="1")
    plant.server.shown = Shown(THREE, {}, proof(other, NOW + 4 * DAY, version=4))
    plant.at(NOW + 6 * DAY)
    # A render may have come between the poll and the statement.
    assert plant.pull("report").code == 0
    assert plant.says("behind: the statement of freshness lists version 4, this device is given version 3", "report")
    plant.server.shown = replace(plant.server.shown, state=state(4, "four", THREE, trust="1"))
    assert plant.says("version 4 is not taken", "report")
    assert plant.device.manifest() == THREE.manifest
    plant.server.shown = replace(plant.server.shown, state=other)
    assert plant.pull().code == 0


def test_without_a_statement_hold_takes_nothing_and_a_wrong_clock_is_told(plant: Plant) -> None:
    plant.server.shown = replace(HONEST, proof=None)
    assert plant.says("no statement of freshness has come yet")
    assert not plant.device.current.exists()
    plant.server.shown = HONEST
    plant.at(NOW - DAY)
    assert plant.says("clock-suspect")
    plant.at(NOW)
    assert plant.pull().code == 0
    # A key that is taken off the list ends its statements.
    plant.signers.write_text(SIGNERS.splitlines(keepends=True)[0])
    assert plant.says("by a key that may not sign it")
    plant.server.shown = honest(THREE, 3)
    assert plant.says("version 3 is not taken")


def test_wherever_it_is_killed_the_newest_proof_counts(tmp_path: Path) -> None:
    newer = replace(HONEST, proof=proof(TWO, NOW + 5 * DAY, version=2))
    with hostile_server(DEVICE, HONEST) as server:
        plant = Plant(tmp_path, "dash", server)
        assert plant.pull().code == 0
        plant.at(NOW + 6 * DAY)
        before = plant.device.state.with_name("before")
        plant.device.state.rename(before)
        for number in KILLED:
            subprocess.run(["rm", "-rf", plant.device.state], check=True)
            subprocess.run(["cp", "-a", before, plant.device.state], check=True)
            server.shown = newer
            plant.device.crash_at(number)
            assert plant.pull().code == -9, number
            plant.device.crash_at(0)
            assert plant.pull().code == 0
            assert (plant.device.state / "freshness.json").read_bytes() == newer.proof
            server.shown = HONEST
            plant.at(NOW + 11 * DAY)
            assert plant.says("is older than the one that is held")
            plant.at(NOW + 6 * DAY)


@pytest.mark.parametrize("shell", SHELLS)
def test_in_any_shell_an_idle_poll_is_one_request_and_nothing_is_taken_without_proof(
    tmp_path: Path, shell: str
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    with hostile_server(DEVICE, honest(TWO, 2, now)) as server:
        plant = Plant(tmp_path, shell, server)
        plant.at(now)
        assert plant.pull().code == 0
        plant.asked()
        assert (plant.pull().code, plant.asked()) == (0, ["deployments"])
        server.shown = honest(THREE, 3, now - 8 * DAY)
        plant.device.state.joinpath("freshness.json").unlink()
        assert plant.says("version 3 is not taken: nothing proves that it is the newest; expired")


def test_settings_that_cannot_work_are_told(plant: Plant) -> None:
    assert plant.pull("yes").code == 2
    outcome = plant.device.pull(plant.server.url("static"), "token", "--freshness", "hold")
    assert (outcome.code, "--freshness needs --trust-document or --allowed-signers" in outcome.stderr) == (2, True)
