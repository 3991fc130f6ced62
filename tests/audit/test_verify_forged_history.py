"""Whatever is forged, the first bad commit is found and named: ref, file, what is expected and what is there."""

from __future__ import annotations

import json
import re

import pytest
from audited_world import World
from forging import DEVICES

from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.digests import sha256
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import write_manifest

SET_P = 1
"""The commit that is forged: `Set p`, which changes every device."""


def first(world: World, **options: object) -> AuditFinding:
    """Return the first error; what is after the bad commit was not looked at."""
    result = world.verify(**options)
    assert result.errors, result
    assert len({each.commit for each in result.errors}) == 1
    return result.errors[0]


def at(world: World, index: int = SET_P) -> str:
    return world.forger.chain("fleet")[index]


def document(world: World, commit: str) -> str:
    """Return the path of the one deployment of a in a fleet commit."""
    (found,) = world.state.run("ls-tree", "-r", "--name-only", commit, "devices/north/a/deployments/").splitlines()
    return found


def content(world: World, commit: str, path: str) -> bytes:
    return world.state.run_bytes("cat-file", "blob", f"{commit}:{path}")


def test_one_blob(world: World):
    forger, commit = world.forger, at(world)
    path = document(world, commit)
    forged = content(world, commit, path).replace(b"value: one", b"value: two")
    assert forged != content(world, commit, path)
    forger.put(commit, {path: forged})
    forger.put(forger.commit_of("a", commit), {path.removeprefix("devices/north/a/"): forged})
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.ref, found.file) == (renamed[commit], "refs/heads/fleet", path)
    assert re.fullmatch(r"line \d+ is another one", found.what)
    assert "one" in (found.expected or "")
    assert "two" in (found.found or "")
    assert found.fleet_commit == world.fleet.git.run("rev-parse", "HEAD~5")


def test_the_same_blob_with_a_manifest_that_fits_it(world: World):
    forger, commit = world.forger, at(world)
    path = document(world, commit)
    forged = content(world, commit, path).replace(b"value: one", b"value: two")
    name = path.rpartition("/")[2].removesuffix(".yaml")
    written = write_manifest(2, {name: forged})
    forger.put(commit, {path: forged, "devices/north/a/manifest.json": written})
    mine = forger.commit_of("a", commit)
    forger.put(mine, {f"deployments/{name}.yaml": forged, "manifest.json": written})
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.file) == (renamed[commit], path)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("devices/north/a/more.txt", "no render writes this file"),
        ("devices/north/zz/manifest.json", "the fleet commit has no such device"),
        ("README", "no render writes"),
    ],
)
def test_one_tree_with_something_more(world: World, path: str, what: str):
    forger, commit = world.forger, at(world)
    forger.put(commit, {path: b"{}"})
    renamed = forger.write()
    found = first(world)
    assert found.commit == renamed[commit]
    assert what in found.what


def test_one_tree_without_a_device(world: World):
    forger, commit = world.forger, at(world)
    files = world.state.run("ls-tree", "-r", "--name-only", commit, "devices/north/a/").splitlines()
    forger.put(commit, dict.fromkeys(files))
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.file, found.what) == (
        renamed[commit],
        "devices/north/a",
        "the device is missing",
    )


def test_one_tree_on_the_device_branch_alone(world: World):
    forger, commit = world.forger, at(world)
    forger.put(forger.commit_of("a", commit), {"more.txt": b"x"})
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.ref) == (renamed[commit], f"{DEVICES}a")
    assert found.what == "the tree is not the fleet commit's"


@pytest.mark.parametrize("name", ["Fleet", "Fleet-Commit", "Rendered-By", "Applications-Lock"])
def test_one_trailer_of_a_fleet_commit(world: World, name: str):
    forger, commit = world.forger, at(world)
    value = world.state.run("log", "-1", f"--format=%(trailers:key={name},valueonly,separator=%x2C)", commit)
    forged = {"Fleet": "factory", "Rendered-By": "somebody"}.get(name, value[:-1] + ("0" if value[-1] != "0" else "1"))
    forger.replace(commit, f"{name}: {value}", f"{name}: {forged}")
    renamed = forger.write()
    found = first(world)
    assert found.commit == renamed[commit]
    assert f"the trailer {name} is wrong" in found.what
    assert found.found == forged


@pytest.mark.parametrize(
    "name",
    ["Fleet", "Fleet-Commit", "Rendered-By", "Applications-Lock", "Manifest-Digest", "Manifest-Version", "Device"],
)
def test_one_trailer_of_a_device_commit(world: World, name: str):
    forger, commit = world.forger, at(world)
    mine = forger.commit_of("a", commit)
    value = world.state.run("log", "-1", f"--format=%(trailers:key={name},valueonly,separator=%x2C)", mine)
    forger.replace(mine, f"\n{name}: {value}\n", f"\n{name}: {value}0\n")
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.ref) == (renamed[commit], f"{DEVICES}a")
    assert (found.what, found.expected, found.found) == (f"the trailer {name} is wrong", value, f"{value}0")


def test_the_trailer_state_commit(world: World):
    forger, commit = world.forger, at(world)
    mine = forger.commit_of("a", commit)
    forger.changes[mine] = [lambda raw: raw.replace(commit.encode(), b"1" * 40)]
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.ref) == (renamed[commit], f"{DEVICES}a")
    assert "of another render" in found.what


def test_a_trailer_that_stands_twice(world: World):
    forger, commit = world.forger, at(world)
    forger.replace(commit, "\nFleet: plant\n", "\nFleet: plant\nFleet: plant\n")
    renamed = forger.write()
    found = first(world)
    assert found.commit == renamed[commit]
    assert "is there twice" in found.what


@pytest.mark.parametrize("version", [1, 3, 7])
def test_one_version(world: World, version: int):
    forger, commit = world.forger, at(world)
    path = "devices/north/a/manifest.json"
    forged = content(world, commit, path).replace(b'"manifestVersion":2', b'"manifestVersion":%d' % version)
    forger.put(commit, {path: forged})
    mine = forger.commit_of("a", commit)
    forger.put(mine, {"manifest.json": forged})
    forger.replace(mine, "Manifest-Version: 2", f"Manifest-Version: {version}")
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.file, found.what) == (renamed[commit], path, "manifestVersion is wrong")
    assert (found.expected, found.found) == ("2", str(version))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("author Ada Author <ada@example.com>", "author Eve <eve@example.com>", "the author is wrong"),
        ("committer margo-gitops", "committer somebody", "the committer is wrong"),
        ("Render Set p", "Render Nothing", "the message or the headers are wrong"),
        ("a: manifest 2\n", "", "the message or the headers are wrong"),
    ],
)
def test_one_name_or_message(world: World, old: str, new: str, what: str):
    forger, commit = world.forger, at(world)
    forger.replace(commit, old, new)
    renamed = forger.write()
    found = first(world)
    assert (found.commit, found.what) == (renamed[commit], what)


def test_one_date(world: World):
    forger, commit = world.forger, at(world)
    date = world.state.run("log", "-1", "--format=%at", commit)
    forger.replace(commit, f"> {date} ", f"> {int(date) - 86_400} ")
    renamed = forger.write()
    assert (first(world).commit, first(world).what) == (renamed[commit], "the author is wrong")


def test_a_commit_in_between_that_changes_nothing(world: World):
    tip = at(world, -1)
    raw = world.state.run_bytes("cat-file", "commit", tip)
    parent = world.state.run("rev-parse", f"{tip}~1")
    raw = raw.replace(parent.encode(), tip.encode())
    forged = world.state.run("hash-object", "-t", "commit", "-w", "--stdin", content=raw)
    world.state.run("update-ref", "refs/heads/fleet", forged)
    found = first(world)
    assert found.commit == forged
    assert "changes nothing" in found.what


def test_a_version_raised_without_a_reason(world: World):
    forger, tip = world.forger, at(world, -1)
    mine = forger.chain(f"{DEVICES}gw")[-1]
    before = content(world, mine, "manifest.json")
    old = json.loads(before)
    version = old["manifestVersion"]
    written = write_json(old | {"manifestVersion": version + 1})
    assert written != before
    origin = world.state.run("rev-parse", f"{tip}~1")
    tree = forger.tree_of(tip, {"devices/north/gw/manifest.json": written})
    raw = world.state.run_bytes("cat-file", "commit", tip)
    old_tree = world.state.run("rev-parse", f"{tip}^{{tree}}")
    raw = raw.replace(old_tree.encode(), tree.encode()).replace(origin.encode(), tip.encode())
    title = raw[raw.index(b"\n\n") + 2 : raw.index(b"\n\nFleet:")]
    raw = raw.replace(title, b"Render Add db\n\ngw: manifest %d" % (version + 1))
    forged = world.state.run("hash-object", "-t", "commit", "-w", "--stdin", content=raw)
    world.state.run("update-ref", "refs/heads/fleet", forged)
    tree = forger.tree_of(mine, {"manifest.json": written})
    new = world.state.run_bytes("cat-file", "commit", tip)
    idents = re.search(rb"author .*\ncommitter .*\n", new)
    trailers = new[new.index(b"\nFleet:") + 1 :]
    assert idents
    message = b"Manifest %d for gw\n\nState-Commit: %b\n%bManifest-Digest: %b\nManifest-Version: %d\nDevice: gw\n" % (
        version + 1,
        forged.encode(),
        trailers,
        sha256(written).encode(),
        version + 1,
    )
    raw = b"tree %b\nparent %b\n%b\n%b" % (tree.encode(), mine.encode(), idents[0], message)
    world.state.run(
        "update-ref",
        f"{DEVICES}gw",
        world.state.run("hash-object", "-t", "commit", "-w", "--stdin", content=raw),
    )
    found = first(world)
    assert (found.commit, found.ref) == (forged, f"{DEVICES}gw")
    assert "without a change" in found.what


# refs


def test_a_device_branch_moved_back(world: World):
    world.state.run("update-ref", f"{DEVICES}a", f"{DEVICES}a~1")
    found = first(world)
    assert (found.commit, found.ref) == (at(world, -1), f"{DEVICES}a")
    assert "moved back" in found.what


def test_a_device_branch_that_is_gone(world: World):
    world.state.run("update-ref", "-d", f"{DEVICES}a")
    found = first(world)
    assert (found.commit, found.ref, found.what) == (at(world, 0), f"{DEVICES}a", "the branch is gone")


def test_a_device_branch_moved_to_another_device(world: World):
    world.state.run("update-ref", f"{DEVICES}a", f"{DEVICES}b")
    found = first(world)
    assert (found.commit, found.ref) == (at(world, 0), f"{DEVICES}a")


def test_the_fleet_branch_moved_back(world: World):
    world.state.run("update-ref", "refs/heads/fleet", "refs/heads/fleet~1")
    found = first(world)
    assert (found.commit, found.ref) == (at(world, -1), f"{DEVICES}a")
    assert "fleet was moved back" in found.what


def test_a_branch_that_no_render_made(world: World):
    world.state.run("update-ref", f"{DEVICES}zz", f"{DEVICES}a")
    assert first(world).ref == f"{DEVICES}zz"


def test_all_branches_moved_back_are_seen_by_whoever_verified_before(world: World):
    before = at(world, -1)
    assert not world.verify().errors
    for ref in ("fleet", "devices/a", "devices/b"):
        world.state.run("update-ref", f"refs/heads/{ref}", f"refs/heads/{ref}~1")
    found = first(world)
    assert (found.ref, found.expected) == ("refs/heads/fleet", before)
    assert "moved back or rewritten" in found.what


def test_a_branch_moved_before_the_first_commit_looked_at(world: World):
    since = at(world, 4)
    world.state.run("update-ref", f"{DEVICES}gw", f"{DEVICES}gw~1")
    found = first(world, since=since)
    assert (found.commit, found.ref) == (since, f"{DEVICES}gw")


def test_an_object_whose_bytes_are_others(world: World):
    world.state.run("unpack-objects", content=pack(world))
    tree = world.state.run("rev-parse", f"{at(world)}:devices/north/a/manifest.json")
    other = world.state.run("rev-parse", f"{at(world)}:devices/north/gw/manifest.json")
    objects = world.state.path / "objects"
    forged, real = (objects / name[:2] / name[2:] for name in (tree, other))
    for each in (objects / "pack").iterdir():
        each.unlink()
    forged.chmod(0o644)
    forged.write_bytes(real.read_bytes())
    found = first(world)
    assert found.commit == at(world)
    assert tree in found.what


def pack(world: World) -> bytes:
    """Return all objects as one pack, out of the repository's way."""
    objects = world.state.path / "objects" / "pack"
    listed = world.state.run("rev-list", "--objects", "--all", "--no-object-names")
    content = world.state.run_bytes("pack-objects", "--stdout", content=f"{listed}\n")
    for each in objects.iterdir():
        each.unlink()
    return content


# signatures


def test_a_signature_over_other_bytes(signed: World):
    forger, commit = signed.forger, at(signed)
    forger.replace(commit, "Render Set p", "Render Set x")
    renamed = forger.write()
    found = first(signed, signers=signed.signers(1))
    assert found.commit == renamed[commit]
    assert "the signature does not count" in found.what


def test_a_signature_of_another_key(signed: World):
    forger = signed.forger
    mine = forger.commit_of("a", at(signed))
    other = forger.commit_of("gw", at(signed))
    armor = re.compile(rb"gpgsig (?:.*\n)(?: .*\n)+")
    stolen = armor.search(signed.state.run_bytes("cat-file", "commit", other))
    assert stolen
    forger.changes[mine] = [lambda raw: armor.sub(stolen[0], raw)]
    forger.write()
    found = first(signed)
    assert found.ref == f"{DEVICES}a" or "signature" in found.what


def test_a_signature_that_is_missing_or_of_nobody_allowed(signed: World):
    assert not signed.verify(signers=signed.signers(1)).errors
    assert signed.verify(signers=signed.signers(1)).signed_by == ("renderer-1",)
    found = first(signed, signers=signed.signers(2))
    assert found.commit == at(signed, 0)
    assert "does not list the key" in found.what


def test_a_key_that_was_not_valid_at_the_commits_date(signed: World):
    late = signed.signers(1, options='valid-after="20900101Z" ')
    assert "valid from 2090" in first(signed, signers=late).what


def test_an_unsigned_history_where_signers_are_wanted(world: World):
    assert "not signed" in first(world, signers=world.signers(1)).what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\nauthor ", "\nauthor <", "in the header author"),
        ("> 1", "> 99999999999999999991", "in the header author"),
        ("\ncommitter ", "\nencoding latin-1\ncommitter ", "headers"),
        ("Render Set p", "Render \x00", "NUL"),
    ],
)
def test_a_commit_that_no_renderer_writes_is_named_with_what_is_wrong(world: World, old: str, new: str, what: str):
    forger, commit = world.forger, at(world)
    forger.literally = True
    forger.replace(commit, old, new)
    renamed = forger.write()
    found = first(world)
    assert found.commit == renamed[commit]
    assert what in found.what


def test_a_folder_that_is_no_devices_name(world: World):
    forger, commit = world.forger, at(world)
    forger.put(commit, {"devices/north/a%b/manifest.json": b"{}"})
    forger.replace(commit, "Rendered-By: margo-gitops ", "Rendered-By: margo-gitops 9.")
    renamed = forger.write()
    found = first(world)
    assert found.commit == renamed[commit]
    assert "a%b" in (found.file or "") + found.what


def of_another_version(world: World, *, sound: bool) -> dict[str, str]:
    """Forge a deployment as another version might have rendered it; sound: with the manifest that belongs to it."""
    forger, commit = world.forger, at(world)
    path = document(world, commit)
    forged = content(world, commit, path).replace(b"value: one", b"value: two")
    name = path.rpartition("/")[2].removesuffix(".yaml")
    old = content(world, commit, "devices/north/a/manifest.json")
    written = write_manifest(2, {name: forged}) if sound else old
    forger.put(commit, {path: forged, "devices/north/a/manifest.json": written})
    mine = forger.commit_of("a", commit)
    forger.put(mine, {f"deployments/{name}.yaml": forged, "manifest.json": written})
    forger.replace(mine, sha256(old), sha256(written))
    for each in (commit, *(forger.commit_of(device, commit) for device in ("a", "b", "gw"))):
        forger.replace(each, "Rendered-By: margo-gitops ", "Rendered-By: margo-gitops 9.")
    return forger.write()


def test_what_another_version_rendered_otherwise_is_a_warning_that_names_the_file(world: World):
    of_another_version(world, sound=True)
    result = world.verify()
    assert (result.errors, result.commits) == ((), 7)
    assert {each.commit for each in result.warnings} == {at(world)}
    assert any(each.file and "/a/deployments/" in each.file for each in result.warnings)
    assert any("this version renders it otherwise" in each.what for each in result.warnings)


def test_another_version_is_no_excuse_for_files_that_the_manifest_does_not_name(world: World):
    of_another_version(world, sound=False)
    found = first(world)
    assert found.what == "the file is not what the manifest names"


def test_strict_takes_no_other_version_as_an_excuse(world: World):
    of_another_version(world, sound=True)
    found = first(world, strict=True)
    assert found.commit == at(world)
    assert found.file is not None
    assert "/a/deployments/" in found.file


def test_strict_accepts_what_another_version_rendered_the_same(world: World):
    forger, commit = world.forger, at(world)
    for each in (commit, *(forger.commit_of(device, commit) for device in ("a", "b", "gw"))):
        forger.replace(each, "Rendered-By: margo-gitops ", "Rendered-By: margo-gitops 9.")
    forger.write()
    result = world.verify(strict=True)
    assert (result.errors, result.commits) == ((), 7)
    assert ["this version renders the same" in each.what for each in result.warnings] == [True]


def test_strict_compares_messages_to_the_byte(world: World):
    forger, commit = world.forger, at(world)
    for each in (commit, *(forger.commit_of(device, commit) for device in ("a", "b", "gw"))):
        forger.replace(each, "Rendered-By: margo-gitops ", "Rendered-By: margo-gitops 9.")
    forger.replace(commit, "a: manifest 2", "a: manifest 3")
    forger.write()
    assert world.verify().errors == ()
    assert first(world, strict=True).what == "the message or the headers are wrong"
