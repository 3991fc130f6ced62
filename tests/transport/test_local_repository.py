"""Pulling from a folder of this machine, without git: the same state, rules and bounds as over a network."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, REF, SECOND, DeviceRepository, files_of, git
from git_http_server import serve

from margo_gitops.errors import SourceMisbehaved, SourceRefused, SourceUnreachable
from margo_gitops.transport import GitLimits, GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot


@pytest.fixture
def repository(tmp_path: Path) -> DeviceRepository:
    repository = DeviceRepository.create(tmp_path / "state repo.git")
    repository.commit(MANIFEST, {FIRST: b"x"})
    return repository


@pytest.fixture
def transport(repository: DeviceRepository) -> Iterator[GitTransport]:
    made = GitTransport(source_of(repository))
    yield made
    made.close()


def source_of(repository: DeviceRepository) -> GitSource:
    return GitSource(repository.path.as_uri(), device=DEVICE)


def test_the_state_is_the_one_that_http_yields(repository: DeviceRepository, transport: GitTransport) -> None:
    repository.commit(MANIFEST, {FIRST: os.urandom(1000), SECOND: b"y"})
    with serve(repository.path.parent) as server:
        over_http = GitTransport(GitSource(server.url("state%20repo.git"), device=DEVICE))
        assert transport.pull(None).snapshot == over_http.pull(None).snapshot
        over_http.close()


def test_nothing_new_is_unchanged_and_a_new_commit_is_seen(
    repository: DeviceRepository, transport: GitTransport
) -> None:
    held = transport.pull(None).snapshot
    assert isinstance(held, Snapshot)
    assert transport.pull(held).snapshot is None
    tip = repository.commit(b"{}", {})
    assert transport.pull(held).snapshot == Snapshot(b"{}", {}, git(repository.path, "cat-file", "commit", tip), tip)


def test_packed_refs_and_chains_of_deltas_are_read(repository: DeviceRepository, transport: GitTransport) -> None:
    content = os.urandom(20_000).hex().encode()
    for number in range(20):
        repository.commit(MANIFEST, {FIRST: content + b"%d" % number})
    git(repository.path, "gc", "--quiet", "--prune=now")
    git(repository.path, "repack", "-adfq", "--depth=50", "--window=50")
    for number in range(20):
        back = git(repository.path, "rev-parse", f"{REF}~{19 - number}").decode().strip()
        repository.point("refs/heads/devices/at", back)
        at = GitTransport(GitSource(repository.path.as_uri(), ref="refs/heads/devices/at"))
        found = at.pull(None).snapshot
        assert isinstance(found, Snapshot)
        assert found.deployments[FIRST] == content + b"%d" % number
    assert isinstance(transport.pull(None).snapshot, Snapshot)


def test_a_repository_that_borrows_objects_is_read(repository: DeviceRepository, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "--shared", str(repository.path), "borrower.git")
    found = GitTransport(GitSource((tmp_path / "borrower.git").as_uri(), device=DEVICE)).pull(None).snapshot
    assert isinstance(found, Snapshot)
    assert found.revision == repository.tip()


def test_a_work_tree_is_a_repository_too(repository: DeviceRepository, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "-b", "devices/press-07", str(repository.path), "checkout")
    found = GitTransport(GitSource((tmp_path / "checkout").as_uri(), ref=REF)).pull(None).snapshot
    assert isinstance(found, Snapshot)


def test_a_ref_that_vanished_is_refused(repository: DeviceRepository, transport: GitTransport) -> None:
    transport.pull(None)
    repository.remove()
    with pytest.raises(SourceRefused, match=REF):
        transport.pull(None)


def test_no_folder_and_no_repository_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="no folder"):
        GitTransport(GitSource((tmp_path / "none").as_uri(), device=DEVICE)).pull(None)
    with pytest.raises(SourceRefused, match="not a git repository"):
        GitTransport(GitSource(tmp_path.as_uri(), device=DEVICE)).pull(None)


def test_sha256_objects_and_other_extensions_are_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "--object-format=sha256", "new.git")
    git(tmp_path, "init", "--quiet", "--bare", "other.git")
    git(tmp_path / "other.git", "config", "core.repositoryFormatVersion", "1")
    git(tmp_path / "other.git", "config", "extensions.unheardOf", "true")
    for name in ("new.git", "other.git"):
        with pytest.raises(SourceRefused, match="sha256 objects, or an extension"):
            GitTransport(GitSource((tmp_path / name).as_uri(), device=DEVICE)).pull(None)


def test_the_rules_of_the_tree_hold_here_too(repository: DeviceRepository, transport: GitTransport) -> None:
    repository.commit_files(files_of(MANIFEST, {}) | {"extra": ("120000", b"/etc/passwd")})
    with pytest.raises(SourceMisbehaved, match="symbolic link"):
        transport.pull(None)


@pytest.mark.parametrize("packed", [False, True])
def test_the_bounds_hold_here_too(repository: DeviceRepository, packed: bool) -> None:
    bomb = git(repository.path, "hash-object", "-w", "--stdin", stdin=bytes(5_000_000)).decode().strip()
    folder = git(repository.path, "mktree", stdin=f"100644 blob {bomb}\tmanifest.json\n".encode()).decode().strip()
    environment = ["-c", "user.name=x", "-c", "user.email=x"]
    commit = git(repository.path, *environment, "commit-tree", "-m", "x", folder).decode().strip()
    repository.point(REF, commit)
    if packed:
        git(repository.path, "gc", "--quiet", "--prune=now")
    with pytest.raises(SourceMisbehaved, match="larger than"):
        GitTransport(source_of(repository), GitLimits(object_bytes=1_000_000)).pull(None)


def loose_file(repository: DeviceRepository, name: str) -> Path:
    return repository.path / "objects" / name[:2] / name[2:]


def unpack(repository: DeviceRepository) -> None:
    for pack in list((repository.path / "objects/pack").glob("*.pack")):
        content = pack.read_bytes()
        for file in pack.parent.glob(f"{pack.stem}.*"):
            file.unlink()
        git(repository.path, "unpack-objects", "-q", stdin=content)


@pytest.mark.parametrize("damage", [b"", b"no zlib", zlib.compress(b"blob 1\0y"), zlib.compress(b"tag 1\0y")])
def test_a_damaged_object_is_found(repository: DeviceRepository, transport: GitTransport, damage: bytes) -> None:
    unpack(repository)
    blob = git(repository.path, "rev-parse", f"{REF}:manifest.json").decode().strip()
    file = loose_file(repository, blob)
    file.chmod(0o644)
    file.write_bytes(damage)
    with pytest.raises(SourceMisbehaved):
        transport.pull(None)


def test_a_missing_object_is_found(repository: DeviceRepository, transport: GitTransport) -> None:
    unpack(repository)
    blob = git(repository.path, "rev-parse", f"{REF}:manifest.json").decode().strip()
    loose_file(repository, blob).unlink()
    with pytest.raises(SourceMisbehaved, match=r"manifest\.json is missing"):
        transport.pull(None)


@pytest.mark.parametrize("suffix", ["pack", "idx"])
@pytest.mark.parametrize("place", [0, 4, 60, 300, -10])
def test_a_damaged_pack_is_found(repository: DeviceRepository, suffix: str, place: int) -> None:
    repository.commit(MANIFEST, {FIRST: os.urandom(2000)})
    git(repository.path, "gc", "--quiet", "--prune=now")
    (file,) = (repository.path / "objects/pack").glob(f"*.{suffix}")
    content = bytearray(file.read_bytes())
    content[place] ^= 0x55
    file.chmod(0o644)
    file.write_bytes(content)
    try:
        found = GitTransport(source_of(repository)).pull(None).snapshot
    except (SourceMisbehaved, SourceUnreachable):
        return
    # A byte that nothing needed: then what came is right.
    assert isinstance(found, Snapshot)
    assert found.manifest == MANIFEST


@pytest.mark.parametrize("beyond", [100, 0x55000000])
def test_an_index_that_leads_beyond_its_end_is_damage_and_no_crash(repository: DeviceRepository, beyond: int) -> None:
    tip = repository.commit(MANIFEST, {FIRST: b"content"})
    git(repository.path, "gc", "--quiet", "--prune=now")
    (file,) = (repository.path / "objects/pack").glob("*.idx")
    content = bytearray(file.read_bytes())
    objects = int.from_bytes(content[8 + 255 * 4 : 8 + 256 * 4], "big")
    # The fan-out table: the commit is looked for among more names than there are.
    place = 8 + int(tip[:2], 16) * 4
    content[place : place + 4] = (objects + beyond).to_bytes(4, "big")
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(SourceMisbehaved):
        GitTransport(source_of(repository)).pull(None)


@pytest.mark.parametrize(
    "content", [b"", b"../../../../../../etc/passwd", b"ref: refs/heads/devices/press-07\n", b"z" * 41]
)
def test_a_ref_that_holds_no_id_is_refused(
    repository: DeviceRepository, transport: GitTransport, content: bytes
) -> None:
    repository.remove()
    file = repository.path / REF
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises((SourceRefused, SourceMisbehaved, SourceUnreachable)):
        transport.pull(None)
