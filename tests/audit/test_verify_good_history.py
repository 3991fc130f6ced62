"""What renders made verifies: random edits, devices that leave and return, new keys, older commits, other versions."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from audited_world import World, new_world
from forging import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from support.properties import times

from margo_gitops.audit.verify.history_check import VerifyOptions, verify
from margo_gitops.errors import AuditUnusable, MargoGitopsError

LONG = int(os.environ.get("TEST_AUDIT_EDITS", "0"))
"""How many random edits one long history has; none in the usual run."""

NAMES = ("a", "b", "gw", "gw/child")
SITES = (None, "north", "south")
VALUES = st.sampled_from(["x", "y", "{{ device.id }}", 1, True])
EDITS = st.one_of(
    st.tuples(st.just("device"), st.sampled_from(NAMES), st.sampled_from(SITES), VALUES),
    st.tuples(st.just("gone"), st.sampled_from(["devices", "deployments"]), st.sampled_from([*NAMES, "web", "db"])),
    st.tuples(st.just("site"), st.sampled_from(SITES[1:]), VALUES),
    st.tuples(
        st.just("deployment"),
        st.sampled_from(["web", "db"]),
        st.sampled_from(["all", ["a"], ["b", "gw/child"]]),
        st.sampled_from(["compose", "other"]),
        st.sampled_from(["1.0.0", "2.0.0"]),
    ),
    st.tuples(st.just("key"), st.sampled_from([None, 1, 2])),
)
Edit = tuple[object, ...]


def apply(world: World, edit: Edit) -> World:
    """Change the fleet or the key, and render; what cannot be rendered is taken back."""
    fleet = world.fleet
    kind, *given_values = edit
    if kind == "key":
        world = replace(world, seed=given_values[0])  # type: ignore[arg-type]
        world.render(resign=True)
        return world
    if kind == "device":
        fleet.device(str(given_values[0]), site=given_values[1], p=given_values[2])  # type: ignore[arg-type]
    elif kind == "site":
        fleet.site(str(given_values[0]), p=given_values[1])
    elif kind == "deployment":
        name, on, chosen, version = given_values
        fleet.deployment(str(name), on=on, profiles=[chosen], version=version)
    elif (fleet.root / f"{given_values[0]}/{given_values[1]}.yaml").exists():
        fleet.remove(f"{given_values[0]}/{given_values[1]}.yaml")
    try:
        world.commit()
    except MargoGitopsError:
        fleet.git.run("reset", "--quiet", "--hard", "HEAD~1")
    return world


@settings(times(0.5), derandomize=True)
@given(st.lists(EDITS, min_size=1, max_size=6), st.sampled_from([None, 1]))
def test_a_history_of_random_edits_verifies(edits: list[Edit], seed: int | None):
    with TemporaryDirectory() as folder:
        world = new_world(Path(folder), seed)
        world.commit()
        for edit in edits:
            world = apply(world, edit)
        result = world.verify()
        assert not result.findings
        assert result.commits == int(world.state.run("rev-list", "--count", "fleet"))
        devices = world.state.run("rev-list", "--count", f"--glob={DEVICES}*")
        assert result.device_commits == int(devices)


def random_edit(chance: random.Random) -> Edit:
    """Return one of the edits that `EDITS` makes; a list of hundreds is too long for Hypothesis."""
    kind = chance.choice(["device", "gone", "site", "deployment", "deployment", "device", "key"])
    value = chance.choice(["x", "y", "{{ device.id }}", chance.randrange(1000), True])
    if kind == "device":
        return kind, chance.choice(NAMES), chance.choice(SITES), value
    if kind == "gone":
        folder = chance.choice(["devices", "deployments"])
        return kind, folder, chance.choice(NAMES if folder == "devices" else ("web", "db"))
    if kind == "site":
        return kind, chance.choice(SITES[1:]), value
    if kind == "key":
        return kind, chance.choice([None, 1, 2])
    on = chance.choice(["all", ["a"], ["b", "gw/child"]])
    return (
        kind,
        chance.choice(["web", "db"]),
        on,
        chance.choice(["compose", "other"]),
        chance.choice(["1.0.0", "2.0.0"]),
    )


@pytest.mark.skipif(not LONG, reason="TEST_AUDIT_EDITS=200 makes one long history")
def test_a_long_history_of_random_edits_verifies(tmp_path: Path):
    chance = random.Random(20261121)
    world = new_world(tmp_path)
    world.commit()
    for _ in range(LONG):
        world = apply(world, random_edit(chance))
    result = world.verify(jobs=2)
    assert not result.findings
    assert result.commits == int(world.state.run("rev-list", "--count", "fleet")) > LONG / 3


def test_every_commit_of_both_kinds_is_counted(world: World):
    result = world.verify()
    assert (result.commits, result.findings, result.signed_by) == (7, (), ())
    assert result.verified == result.tip == world.state.run("rev-parse", "fleet")


def test_a_first_signature_and_another_key_raise_versions_for_a_reason(world: World):
    for seed in (1, 2):
        replace(world, seed=seed).render(resign=True)
    result = world.verify()
    assert (result.commits, result.findings) == (9, ())
    assert len(result.signed_by) == 2
    assert not world.verify(signers=world.signers(1, 2), since="fleet~2").findings


def test_an_older_commit_is_a_warning(world: World):
    world.render("HEAD~2", allow_older=True)
    result = world.verify()
    assert not result.errors
    (warning,) = result.warnings
    assert "does not build on" in warning.what


def test_what_another_version_rendered_alike_is_told_once(world: World):
    forger = world.forger
    for ref in ("fleet", *world.state.run("for-each-ref", "--format=%(refname)", DEVICES).splitlines()):
        for commit in forger.chain(ref):
            forger.changes[commit] = [_of_version]
    forger.write()
    result = world.verify()
    assert (result.commits, result.errors) == (7, ())
    (warning,) = result.warnings
    assert "another version: this version renders the same" in warning.what
    assert warning.found == "margo-gitops 99.0"


def _of_version(raw: bytes) -> bytes:
    lines = [
        b"Rendered-By: margo-gitops 99.0" if line.startswith(b"Rendered-By") else line for line in raw.split(b"\n")
    ]
    return b"\n".join(lines)


def test_several_processes_find_the_same(world: World, monkeypatch: pytest.MonkeyPatch):
    for number in range(16):
        world.fleet.site("north", p=str(number))
        world.commit()
    monkeypatch.setattr("margo_gitops.audit.verify.history_check._RANGE", (4, 6))
    seen: list[tuple[int, int]] = []
    alone = world.verify()
    several = verify(world.request, VerifyOptions(jobs=2), lambda done, count: seen.append((done, count)))
    assert alone == several
    assert seen == [(6, 23), (12, 23), (18, 23), (23, 23)], "progress is told, and kept, part by part"
    assert alone.commits == 23
    world.state.run("update-ref", f"{DEVICES}gw", f"{DEVICES}gw~2")
    assert world.verify(jobs=2).errors == world.verify().errors


def test_what_was_verified_before_is_left_out_when_resumed(world: World):
    assert world.verify(resume=True).commits == 7
    world.fleet.site("north", p="new")
    tip = world.commit()
    result = world.verify(resume=True)
    assert (result.commits, result.verified, result.errors) == (1, tip, ())
    assert world.verify().commits == 8, "only who asks for it goes on"


def test_since_takes_commits_of_either_repo(world: World):
    assert world.verify(since="fleet~2").commits == 2
    fleet_commit = world.fleet.git.run("rev-parse", "HEAD~3")
    assert world.verify(since=fleet_commit).commits == 3
    assert world.verify(since=fleet_commit[:10]).commits == 3
    with pytest.raises(AuditUnusable):
        world.verify(since="nothing")


def test_a_clone_that_lacks_the_fleet_commits_cannot_prove_anything(world: World, tmp_path: Path):
    world.fleet.git.run("clone", "--quiet", "--depth=1", f"file://{world.fleet.root}", str(tmp_path / "shallow"))
    request = replace(world.request, fleet=tmp_path / "shallow", state=str(tmp_path / "state.git"))
    with pytest.raises(AuditUnusable, match="shallow clone") as caught:
        verify(request, VerifyOptions())
    assert "git fetch --unshallow" in caught.value.remedy
    world.fleet.git.run("-C", str(tmp_path / "shallow"), "fetch", "--quiet", "--unshallow")
    assert not verify(request, VerifyOptions()).errors


def test_nothing_is_written_to_either_repo(world: World):
    def files(folder: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    before = files(world.folder / "fleet"), files(world.folder / "state.git")
    world.verify()
    assert (files(world.folder / "fleet"), files(world.folder / "state.git")) == before
