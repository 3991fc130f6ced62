"""Freshness on a device: rules PROOF-1 to PROOF-6 of margo_gitops.agent.pull.proof_keeper, from real state repos."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from device_world import DEVICE, STRANGER, World, deployment_bytes, deployment_id, signing_key
from support.margo_server import margo_server
from transport.git_http_server import serve

from margo_gitops.agent.agent import Parts, working_agent
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, FRESHNESS_PATH, MAX_PROOF_BYTES, FreshnessLeaf
from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.errors import ExitCode, FreshnessContradicted, StateNotFresh
from margo_gitops.state_repo.freshness_refs import Renewal, add_statement, leaf_of
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, device_key, possible_shards
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey

CI = signing_key(3)
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class Line:
    """A device that asks for freshness, its state repo, and a clock that the test sets."""

    world: World
    now: datetime = NOW
    events: list[tuple[str, str]] = field(default_factory=list)

    def configure(self, **freshness: object) -> None:
        lines = (self.world.folder / "allowed_signers").read_text()
        lines += f'ci@example.com namespaces="{FRESHNESS_NAMESPACE}" {CI.public}\n'
        (self.world.folder / "allowed_signers").write_text(lines)
        self.world.configure(freshness={"onExpiry": "report", **freshness})  # type: ignore[dict-item]

    def publish(self, greeting: str, **options: object) -> Snapshot:
        return self.world.publish({1: deployment_bytes(1, values={"GREETING": greeting})}, **options)

    def renew(
        self, *leaves: FreshnessLeaf, key: SigningKey = CI, issued: datetime | None = None, fleet: str = "plant"
    ) -> None:
        """Let the source hold a statement about these devices; about the newest state by default."""
        about = leaves or (leaf_of(DEVICE, self.world.versions[-1].manifest),)
        pack, refs = ObjectPack(), Refs(self.world.repository.path)
        renewed = add_statement(pack, about, fleet, "c" * 40, Renewal(key, issued or self.now), refs.read())
        pack.write(self.world.repository.path / "objects" / "pack")
        refs.move(renewed.moves, refs.read())

    def made(self, *leaves: FreshnessLeaf, shard: str = "all", **options: Any) -> bytes:
        """Return the proof of a shard, as a renewal makes it."""
        self.renew(*leaves, **options)
        return self.world.repository.run_bytes("cat-file", "blob", f"{FRESHNESS_REFS}{shard}:freshness.json")

    def forget(self) -> None:
        """Let the source hold no statement any more."""
        refs = Refs(self.world.repository.path)
        held = refs.read()
        refs.move({name: None for name in held if name.startswith(FRESHNESS_REFS)}, held)

    @contextlib.contextmanager
    def agent(self) -> Iterator[Parts]:
        configuration = load_configuration(self.world.config, Environment())
        with (
            Interruptions() as interruptions,
            working_agent(configuration, "text", interruptions, clock=lambda: self.now.timestamp()) as parts,
        ):
            yield parts

    def cycle(self, **options: bool) -> Outcome:
        """Do one cycle of a new agent."""
        with self.agent() as parts:
            return self.run(parts, **options)

    def run(self, parts: Parts, **options: bool) -> Outcome:
        before = {(item.reason, item.text): item.count for item in parts.journal.events(1000)}
        outcome = parts.cycle.run(**options)
        after = {(item.reason, item.text): item.count for item in parts.journal.events(1000)}
        self.events = [key for key, count in after.items() if count > before.get(key, 0)]
        return outcome

    def told(self, reason: str) -> list[str]:
        return [text for found, text in self.events if found == reason]

    @property
    def proof(self) -> bytes | None:
        path = self.world.state / "freshness.json"
        return path.read_bytes() if path.exists() else None

    @property
    def greeting(self) -> str | None:
        return self.world.value(1)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    line = Line(World(tmp_path))
    line.configure()
    return line


Hostile = tuple[Callable[[str], bytes], Callable[[bytes], None]]


@pytest.fixture(params=["git", "http"])
def hostile(line: Line, request: pytest.FixtureRequest) -> Iterator[Hostile]:
    """Yield how a server over the wire shows the next state, whose manifest is returned, and how it shows a proof."""
    settings: dict[str, Any] = {"freshness": {"onExpiry": "hold", "allowedSigners": "allowed_signers"}}
    if request.param == "git":
        git = line.world.repository

        def offer(proof: bytes) -> None:
            line.forget()
            blob = git.run("hash-object", "-w", "--stdin", content=proof)
            tree = git.run("mktree", content=f"100644 blob {blob}\tfreshness.json\n")
            git.run("update-ref", f"{FRESHNESS_REFS}all", git.run("commit-tree", "-m", "Forge", tree))

        with serve(line.world.folder) as git_server:
            line.world.configure(source={"git": {"url": git_server.url("state.git")}}, **settings)
            yield lambda greeting: line.publish(greeting).manifest, offer
    else:
        with margo_server() as server:
            line.world.configure(source={"http": {"url": server.base()}}, trust={"unsigned": True}, **settings)
            versions = iter((1, 2))
            yield (
                lambda greeting: server.publish(
                    next(versions), {deployment_id(1): deployment_bytes(1, values={"GREETING": greeting})}
                ),
                lambda proof: server.resources.update({FRESHNESS_PATH: (FRESHNESS_MEDIA_TYPE, proof)}),
            )


def test_what_a_hostile_server_says_of_freshness_changes_nothing(line: Line, hostile: Hostile) -> None:
    publish, offer = hostile
    first = leaf_of(DEVICE, publish("one"))
    offer(line.made(first))
    with line.agent() as parts:
        assert line.run(parts).version == 1
        held = line.greeting, line.proof
        line.now += 8 * DAY
        leaf = leaf_of(DEVICE, publish("two"))
        right = line.made(leaf)
        others = [FreshnessLeaf(device_key(f"other-{number}"), 1, leaf.manifest) for number in range(80)]
        shard = next(name for digit in range(16) if (name := f"1-{digit:x}") not in possible_shards(DEVICE))
        forged = {
            "MG1522": line.made(first, issued=NOW - DAY),
            "in which this device is not": line.made(leaf, *others, shard=shard),
            "is the fleet other's": line.made(leaf, fleet="other"),
            "MG1503": line.made(leaf, key=STRANGER),
            "MG1502": right.replace(b"plant", b"plane"),
            "MG1520": right.replace(leaf.manifest.encode(), first.manifest.encode()),
            "1048576": right + b" " * MAX_PROOF_BYTES,
        }
        for why, content in forged.items():
            offer(content)
            outcome = line.run(parts)
            assert outcome.poll_error is not None, why
            assert (outcome.version, line.greeting, line.proof) == (1, *held), why
            assert any(why in text for _, text in line.events), (why, line.events)
        # A listed key signed these; they are kept, and do not keep the right one out.
        signed = {
            "behind": line.made(replace(leaf, version=3)),
            "not-yet-known": line.made(*others[:3]),
            "MG1523": line.made(replace(leaf, manifest=first.manifest)),
            "clock-suspect": line.made(leaf, issued=line.now + 3650 * DAY),
        }
        for why, content in signed.items():
            offer(content)
            outcome = line.run(parts)
            assert (outcome.poll, outcome.version, line.greeting) == ("refused", 1, held[0]), why
            assert why in str(outcome.poll_error)
        offer(right)
        outcome = line.run(parts)
        assert (outcome.poll, outcome.version) == ("new", 2)
        assert line.greeting != held[0]


def test_a_device_that_is_shown_nothing_new_for_too_long_knows_it(line: Line) -> None:
    line.publish("one")
    line.renew()
    assert line.cycle().exit_code == ExitCode.OK
    assert line.told("FreshnessLost") == []
    line.now += 8 * DAY
    assert line.cycle().exit_code == ExitCode.OK
    assert [text.partition(":")[0] for text in line.told("FreshnessLost")] == ["expired"]
    assert line.greeting is not None


def test_g_f_4_a_renewal_wakes_nobody_and_is_fetched_when_it_is_time(line: Line) -> None:
    line.publish("one")
    line.renew()
    with line.agent() as parts:
        line.run(parts)
        first = line.proof
        line.now += 3 * DAY
        line.renew()
        assert line.run(parts).poll == "unchanged"
        assert line.proof == first
        line.now += 3 * DAY
        assert line.run(parts).poll == "unchanged"
        assert line.proof != first
        line.now += 3 * DAY
        line.run(parts)
        assert line.told("FreshnessLost") == []


def test_an_expired_device_that_is_shown_a_statement_again_says_so(line: Line) -> None:
    line.publish("one")
    line.renew()
    with line.agent() as parts:
        line.run(parts)
        line.now += 8 * DAY
        line.run(parts)
        assert line.told("FreshnessLost")
        line.run(parts)
        assert line.events == []
        line.now += DAY
        line.renew()
        line.run(parts)
        assert [text.partition(":")[0] for text in line.told("FreshnessRegained")] == ["fresh"]


def test_expiry_is_noticed_without_a_poll(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    line.now += 8 * DAY
    line.cycle(poll=False)
    assert line.told("FreshnessLost")


def test_a_source_without_statements_is_asked_again_after_a_while_only(line: Line) -> None:
    line.publish("one")
    with line.agent() as parts:
        line.run(parts)
        assert [text.partition(":")[0] for text in line.told("FreshnessLost")] == ["not-yet-known"]
        line.renew()
        line.now += timedelta(minutes=5)
        line.run(parts)
        assert line.proof is None
        line.now += timedelta(minutes=15)
        line.run(parts)
        assert line.proof is not None


def test_where_freshness_is_not_required_a_missing_statement_is_no_event(line: Line) -> None:
    line.configure(required=False)
    line.publish("one")
    line.cycle()
    assert line.told("FreshnessLost") == []
    line.renew()
    line.now += DAY
    line.cycle()
    line.now += 8 * DAY
    line.forget()
    line.cycle()
    assert line.told("FreshnessLost")


def test_without_the_section_nothing_is_asked(line: Line) -> None:
    line.configure()
    line.world.configure()
    line.publish("one")
    line.renew()
    line.cycle()
    assert line.proof is None
    assert line.told("FreshnessLost") == []


def test_an_old_branch_beside_a_new_statement_is_behind_at_the_next_poll(line: Line) -> None:
    first = line.publish("one")
    line.publish("two")
    line.renew()
    line.world.put(first)  # the source shows the device an old state
    with line.agent() as parts:
        line.run(parts)
        assert line.told("FreshnessLost") == []  # a render may have come between poll and statement
        line.run(parts)
        assert [text.partition(":")[0] for text in line.told("FreshnessLost")] == ["behind"]


def test_a_render_between_poll_and_statement_is_no_event(line: Line) -> None:
    first = line.publish("one")
    second = line.publish("two")
    line.renew()
    line.world.put(first)
    with line.agent() as parts:
        line.run(parts)
        line.world.put(second)
        assert line.run(parts).version == 2
        assert line.told("FreshnessLost") == []


def test_g_f_10_hold_takes_no_new_state_without_proof_and_stops_nothing(line: Line) -> None:
    line.configure(onExpiry="hold")
    line.publish("one")
    line.renew()
    assert line.cycle().version == 1
    held = line.greeting
    line.now += 8 * DAY
    line.publish("two")
    outcome = line.cycle()
    assert isinstance(outcome.poll_error, StateNotFresh)
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("refused", 1, ExitCode.TRUST)
    assert line.greeting == held
    assert line.told("StateRefused")
    line.renew()
    outcome = line.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("new", 2, ExitCode.OK)
    assert line.greeting != held


def test_hold_mends_what_was_taken_before(line: Line) -> None:
    line.configure(onExpiry="hold")
    line.publish("one")
    line.renew()
    line.cycle()
    held = line.greeting
    shutil.rmtree(line.world.output / deployment_id(1))
    line.now += 30 * DAY
    line.cycle()
    assert line.greeting == held


def test_hold_takes_a_state_that_came_with_its_statement(line: Line) -> None:
    line.configure(onExpiry="hold")
    line.publish("one")
    line.renew()
    assert line.cycle().version == 1
    line.publish("two")
    line.renew()
    assert line.cycle().version == 2


@pytest.mark.parametrize("shown", ["report", "hold"])
def test_a_state_that_the_statement_contradicts_is_refused(line: Line, shown: str) -> None:
    line.configure(onExpiry=shown)
    line.publish("one")
    line.renew()
    line.cycle()
    forged = leaf_of(DEVICE, line.world.versions[-1].manifest)
    line.renew(FreshnessLeaf(device_key(DEVICE), 2, forged.manifest), issued=line.now + timedelta(minutes=1))
    line.now += 5 * DAY
    line.cycle()
    line.publish("two")
    outcome = line.cycle()
    assert isinstance(outcome.poll_error, FreshnessContradicted)
    assert outcome.version == 1


def test_a_statement_that_contradicts_what_is_held_is_renewed_at_once(line: Line) -> None:
    line.publish("one")
    line.renew(FreshnessLeaf(device_key(DEVICE), 1, sha256(b"other")))
    with line.agent() as parts:
        line.run(parts)
        assert "MG1523" in line.told("FreshnessLost")[0]
        line.now += timedelta(minutes=2)
        line.renew()
        line.run(parts)
        assert line.told("FreshnessRegained")


@pytest.mark.parametrize("key", [STRANGER, signing_key(1)], ids=["stranger", "renderer"])
def test_a_statement_of_a_key_that_may_not_is_refused(line: Line, key: SigningKey) -> None:
    line.publish("one")
    line.renew(key=key)
    line.cycle()
    assert len(line.told("FreshnessRefused")) == 1
    assert line.proof is None


def test_an_older_statement_is_refused_and_the_newer_one_stays(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    newer = line.proof
    line.now += 6 * DAY
    line.renew(issued=NOW - DAY)
    line.cycle()
    assert "MG1522" in line.told("FreshnessRefused")[0]
    assert line.proof == newer


def test_the_copy_beside_the_floor_keeps_what_was_seen(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    (line.world.state / "freshness.json").unlink()
    line.now += 6 * DAY
    line.renew(issued=NOW - DAY)
    line.cycle()
    assert line.told("FreshnessRefused")


def test_a_damaged_proof_is_no_proof_and_is_fetched_again(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    whole = line.proof
    for path in (line.world.state / "freshness.json", line.world.folder / "elsewhere" / "floor.json.freshness.json"):
        path.write_bytes(b"{")
    line.cycle()
    assert line.proof == whole


def test_a_key_that_is_taken_off_the_list_takes_its_proof_along(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    signers = line.world.folder / "allowed_signers"
    signers.write_text(signers.read_text().replace("ci@example.com", "# "))
    line.cycle()
    assert "may not sign statements" in line.told("FreshnessRefused")[0]


def test_g_f_11_a_device_whose_clock_is_wrong_tells_that_from_expiry(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.now = datetime(1970, 1, 2, tzinfo=UTC)
    line.cycle()
    assert [text.partition(":")[0] for text in line.told("FreshnessLost")] == ["clock-suspect"]
    line.now = NOW
    line.cycle()
    assert line.told("FreshnessLost") == []


def test_a_clock_that_is_set_back_makes_nothing_fresh_that_has_expired(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    line.now += 8 * DAY
    line.cycle()
    assert line.told("FreshnessLost")[0].startswith("expired")
    line.now -= 6 * DAY
    line.cycle()
    assert line.told("FreshnessLost")[0].startswith("expired")


@pytest.mark.parametrize("lost", ["nothing", "the state folder's copy", "what it says"])
def test_a_clock_that_is_set_back_makes_no_older_statement_acceptable(line: Line, lost: str) -> None:
    line.publish("one")
    older = line.made()
    line.now += 3 * DAY
    newer = line.made()
    line.cycle()
    assert line.proof == newer
    match lost:
        case "the state folder's copy":
            (line.world.state / "clock.txt").unlink()
        case "what it says":
            (line.world.state / "clock.txt").write_bytes(b"\xff")
    line.renew(issued=NOW)
    assert older != newer
    line.now = NOW + timedelta(hours=1)
    line.cycle()
    assert line.told("FreshnessRefused")
    assert line.proof == newer
    assert line.told("FreshnessLost")[0].startswith("clock-suspect"), "the clock is known to be wrong"


def test_a_wrong_clock_is_told_once(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.now = datetime(1970, 1, 2, tzinfo=UTC)
    with line.agent() as parts:
        line.run(parts)
        assert line.told("FreshnessLost")
        line.now += timedelta(minutes=1)
        line.run(parts)
        assert line.told("FreshnessLost") == []


def test_a_source_that_breaks_off_at_the_statement_cannot_hide_that_it_expired(line: Line) -> None:
    line.publish("one")
    line.renew()
    line.cycle()
    line.now += 8 * DAY
    line.world.repository.run("update-ref", f"{FRESHNESS_REFS}all", line.world.versions[0].revision)
    outcome = line.cycle()
    assert outcome.poll == "unchanged"
    assert "does not hold the file freshness.json alone" in line.told("PollFailed")[0]
    assert line.told("FreshnessLost")


def test_a_file_that_is_carried_by_hand_counts_like_a_fetched_one(line: Line, tmp_path: Path) -> None:
    line.now = datetime.now(UTC)
    line.publish("one")
    line.cycle()
    assert line.world.agent("freshness", "show").returncode == 1
    line.renew()
    file = tmp_path / "proof"
    file.write_bytes(line.world.repository.run_bytes("cat-file", "blob", f"{FRESHNESS_REFS}all:freshness.json"))
    done = line.world.agent("freshness", "import", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("proven as of ")
    shown = line.world.agent("freshness", "show", "--output", "json")
    assert (shown.returncode, json.loads(shown.stdout)["verdict"]) == (0, "fresh")
    status = json.loads(line.world.agent("status", "--output", "json").stdout)
    assert status["freshness"]["verdict"] == "fresh"
    assert "fresh    fresh: the statement of" in line.world.agent("status").stdout
    file.write_bytes(file.read_bytes().replace(b"plant", b"other"))
    refused = line.world.agent("freshness", "import", str(file))
    assert (refused.returncode, "MG1502" in refused.stderr) == (4, True)


def test_a_device_that_does_not_ask_says_how_to(line: Line) -> None:
    line.world.configure()
    done = line.world.agent("freshness", "show")
    assert done.returncode == 2
    assert "add freshness: {}" in done.stderr


def test_a_section_without_anybody_to_sign_is_a_mistake(line: Line) -> None:
    line.world.configure(trust={"unsigned": True}, freshness={})
    done = line.world.agent("status")
    assert done.returncode == 2
    assert "no list says who may sign statements" in done.stderr
