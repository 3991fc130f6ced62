"""What a render leaves in the state repo (PUBLICATION-1 to PUBLICATION-4), and what any git program sees of it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import write_signing_key
from support.git_cli import Git, GitFailedError
from support.real import require_program
from support.state_publishing import Renderer

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import decode_device_id, encode_device_id, is_device_id
from margo_gitops.documents.state_layout import DEVICE_REFS, device_ref
from margo_gitops.errors import RenderingRefused, StateMoved, StateRepoUnusable, StateTampered
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.state_repo.publication import differences
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key

DEVICES = {"a": {"web": b"1"}, "b": {"web": b"2", "db": b"3"}, "c": {}}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return parse_signing_key(write_signing_key(tmp_path / "key").read_bytes())


def count(renderer: Renderer, ref: str) -> int:
    return int(renderer.git.run("rev-list", "--count", ref))


def test_git_finds_nothing_wrong(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "a": {"web": b"4"}})
    renderer.git.run("fsck", "--strict", "--full")
    assert renderer.git.run("symbolic-ref", "HEAD") == "refs/heads/fleet"


def test_g_t_4_a_device_commit_has_the_tree_that_the_fleet_commit_holds_for_it(renderer: Renderer):
    renderer.publish(DEVICES)
    for device in DEVICES:
        mine = renderer.git.run("rev-parse", f"devices/{device}^{{tree}}")
        assert mine == renderer.git.run("rev-parse", f"fleet:devices/north/{device}")


def test_a_device_without_site_lies_below_an_underscore(renderer: Renderer):
    renderer.publish(DEVICES, site=None)
    assert renderer.git.run("rev-parse", "fleet:devices/_/a") == renderer.git.run("rev-parse", "devices/a^{tree}")


def test_a_plain_clone_of_a_device_branch_shows_manifest_and_deployments(renderer: Renderer, tmp_path: Path):
    renderer.publish(DEVICES)
    Git(tmp_path).run("clone", "--quiet", "--branch", "devices/b", renderer.git.path, tmp_path / "clone")
    clone = tmp_path / "clone"
    files = {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts}
    web, db = (deployment_id("plant", "b", name) for name in ("web", "db"))
    assert files == {"manifest.json", f"deployments/{web}.yaml", f"deployments/{db}.yaml"}
    assert (clone / f"deployments/{web}.yaml").read_bytes() == b"2"
    assert {path.stat().st_mode & 0o111 for path in clone.rglob("*.yaml")} == {0}


def test_g_m_3_commits_say_where_they_come_from(renderer: Renderer):
    fleet = renderer.publish(DEVICES).fleet_commit
    message = renderer.git.run("log", "-1", "--format=%(trailers:only,unfold)", "devices/a").splitlines()
    trailers = dict(line.split(": ", 1) for line in message if line)
    manifest = renderer.git.run_bytes("cat-file", "blob", "devices/a:manifest.json")
    assert trailers == {
        "State-Commit": fleet,
        "Fleet": "plant",
        "Fleet-Commit": "c" * 40,
        "Rendered-By": "margo-gitops test",
        "Manifest-Digest": sha256(manifest),
        "Manifest-Version": "1",
        "Device": "a",
    }
    assert renderer.git.run("log", "-1", "--format=%an|%ae|%ai", "devices/a") == (
        "Ada|ada@example.com|2023-11-14 23:13:20 +0100"
    )


@pytest.mark.parametrize("subject", ["", "Fleet-Commit: ffff", "x\n\nDevice: evil", "Grüezi ✓", "-m evil", "x" * 5000])
def test_a_subject_can_fake_no_trailer(renderer: Renderer, subject: str):
    renderer.publish(DEVICES, subject=subject.split("\n")[0])
    found = renderer.git.run("log", "-1", "--format=%(trailers:key=Fleet-Commit,valueonly)", "fleet").split()
    assert found == ["c" * 40]
    assert renderer.repo.objects.commit(renderer.refs()["refs/heads/fleet"]).trailers["Fleet-Commit"] == "c" * 40


def test_g_m_4_signed_commits_are_verified_by_git(renderer: Renderer, key: SigningKey, tmp_path: Path):
    require_program("ssh-keygen", "openssh-client")
    renderer.publish(DEVICES, key=key)
    options = ("-c", f"gpg.ssh.allowedSignersFile={tmp_path / 'key.allowed'}")
    for ref in ("fleet", "devices/a", "devices/b", "devices/c"):
        renderer.git.run(*options, "verify-commit", ref)
        assert "G renderer" in renderer.git.run(*options, "log", "-1", "--format=%G? %GS", ref)
    write_signing_key(tmp_path / "other", seed=2)
    with pytest.raises(GitFailedError):
        renderer.git.run("-c", f"gpg.ssh.allowedSignersFile={tmp_path / 'other.allowed'}", "verify-commit", "fleet")


@pytest.mark.parametrize("signed", [False, True])
def test_equal_input_gives_equal_commit_ids(tmp_path: Path, key: SigningKey, signed: bool):
    refs = []
    for name in ("one", "two"):
        renderer = Renderer(tmp_path / name)
        renderer.publish(DEVICES, key=key if signed else None)
        renderer.time += 60
        renderer.publish({**DEVICES, "a": {"web": b"4"}}, key=key if signed else None)
        refs.append(renderer.refs())
    assert refs[0] == refs[1]


def test_f21_g_v_1_rendering_nothing_new_makes_no_commit(renderer: Renderer):
    """F21: no churn."""
    renderer.publish(DEVICES)
    before = renderer.refs()
    renderer.time += 60
    publication = renderer.publish(DEVICES)
    assert (publication.fleet_commit, publication.changes, publication.unchanged) == (None, (), 3)
    assert renderer.refs() == before
    assert differences(renderer.repo, renderer.states(DEVICES), renderer.refs()) == []


def test_only_devices_that_changed_get_a_commit(renderer: Renderer):
    renderer.publish(DEVICES)
    before = renderer.refs()
    publication = renderer.publish({**DEVICES, "a": {"web": b"4"}})
    assert [(change.device, change.version) for change in publication.changes] == [("a", 2)]
    after = renderer.refs()
    assert {name for name in after if after[name] != before[name]} == {"refs/heads/fleet", "refs/heads/devices/a"}
    assert renderer.git.run("rev-parse", "devices/a^") == before["refs/heads/devices/a"]
    assert renderer.git.run("rev-parse", "fleet^") == before["refs/heads/fleet"]


def test_a_render_writes_only_what_changed(renderer: Renderer):
    """F21: the trees of other sites, and files that stay, are in the repository already."""
    elsewhere = {"b": "south", "c": "south"}
    aliases = {"b": "press 2"}
    renderer.publish({**DEVICES, "left": {"web": b"x"}}, elsewhere=elsewhere, aliases=aliases)
    renderer.publish(DEVICES, elsewhere=elsewhere, aliases=aliases)
    folder = renderer.git.path / "objects" / "pack"
    before = set(folder.glob("*.idx"))
    renderer.publish({**DEVICES, "b": {"web": b"4", "db": b"3"}}, elsewhere=elsewhere, aliases=aliases)
    (index,) = set(folder.glob("*.idx")) - before
    lines = renderer.git.run("show-index", content=index.read_bytes()).splitlines()
    kinds = [renderer.git.run("cat-file", "-t", line.split()[1]) for line in lines]
    # Commits of the fleet and of b; the root, devices, south, b and its deployments; b's manifest and one deployment.
    assert sorted(kinds) == ["blob"] * 2 + ["commit"] * 2 + ["tree"] * 5
    renderer.git.run("fsck", "--strict", "--full")


def test_a_render_of_a_few_devices_gives_the_same_commits(tmp_path: Path):
    """Only sites that these devices enter or leave are read; the others are taken as they are."""
    whole, part = (Renderer(tmp_path / name) for name in ("whole", "part"))
    fleet: dict[str, tuple[str, bytes]] = {f"d{number}": (f"site-{number % 3}", b"1") for number in range(9)}
    steps: list[tuple[str, tuple[str, bytes] | None]] = [
        ("d1", ("site-1", b"2")),  # another content
        ("d1", ("site-2", b"2")),  # another site
        ("d1", None),  # leaves
        ("d1", ("site-1", b"3")),  # comes back
        ("new", ("site-9", b"1")),  # at a new site
        ("new", None),  # and the site is empty
        ("d2", ("site-2", b"1")),  # nothing new
    ]
    for number, (device, place) in enumerate([("", None), *steps]):
        fleet = {name: each for name, each in {**fleet, device: place}.items() if each}  # type: ignore[dict-item]
        devices = {name: {"web": content} for name, (_, content) in fleet.items()}
        elsewhere = {name: site for name, (site, _) in fleet.items()}
        one = whole.publish(devices, elsewhere=elsewhere)
        few = part.publish(devices, elsewhere=elsewhere, only=frozenset({device}) if number else None)
        assert (one, whole.refs()) == (few, part.refs())


def test_f20_a_removed_deployment_leaves_no_file_in_any_tree(renderer: Renderer):
    """F20: a stale rendered file would keep a removed application alive."""
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "b": {"web": b"2"}})
    gone = deployment_id("plant", "b", "db")
    for ref in ("devices/b", "fleet"):
        assert gone not in renderer.git.run("ls-tree", "-r", "--name-only", ref)
    renderer.publish({**DEVICES, "b": {}})
    assert renderer.git.run("ls-tree", "-r", "--name-only", "devices/b") == "manifest.json"


def test_g_t_2_a_device_that_leaves_keeps_its_branch_and_goes_on_with_its_version(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "a": {"web": b"9"}})
    before = renderer.refs()["refs/heads/devices/a"]
    publication = renderer.publish({"b": DEVICES["b"], "c": {}})
    assert publication.left == ("a",)
    assert renderer.refs()["refs/heads/devices/a"] == before
    assert "devices/north/a" not in renderer.git.run("ls-tree", "-r", "-d", "--name-only", "fleet").splitlines()
    back = renderer.publish(DEVICES)
    assert [(change.device, change.version) for change in back.changes] == [("a", 3)]
    assert renderer.git.run("rev-parse", "devices/a^") == before


def test_a_device_that_moves_to_another_site_gets_no_commit(renderer: Renderer):
    renderer.publish(DEVICES)
    before = renderer.refs()
    states = renderer.states(DEVICES, "south")
    assert differences(renderer.repo, states, before) == [
        f"{name} would move from site north to south" for name in DEVICES
    ]
    publication = renderer.publish(DEVICES, site="south")
    assert publication.fleet_commit
    assert publication.changes == ()
    assert renderer.git.run("rev-parse", "fleet:devices/south/a") == renderer.git.run("rev-parse", "devices/a^{tree}")


def test_an_empty_fleet_can_be_rendered(renderer: Renderer):
    assert renderer.publish({}).fleet_commit
    assert renderer.publish({}).fleet_commit is None
    assert renderer.git.run("ls-tree", "fleet") == ""
    renderer.publish(DEVICES)
    assert renderer.publish({}).left == ("a", "b", "c")
    renderer.git.run("fsck", "--strict")


def test_ten_thousand_changes_fit_into_one_commit_message(renderer: Renderer):
    renderer.publish({f"d{number}": {} for number in range(300)})
    assert "and 280 more devices" in renderer.git.run("log", "-1", "--format=%B", "fleet")


def test_g_t_3_a_ref_that_somebody_moves_while_rendering_stops_the_render(renderer: Renderer):
    renderer.publish(DEVICES)
    values = renderer.refs()
    moved = renderer.git.run("commit-tree", "devices/b^{tree}", "-m", "mine")
    renderer.git.run("update-ref", "refs/heads/devices/a", moved)
    with pytest.raises(StateMoved):
        renderer.publish({**DEVICES, "a": {"web": b"9"}}, values=values)
    assert renderer.refs() == values | {"refs/heads/devices/a": moved}


def test_a_repack_between_objects_and_refs_removes_nothing(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    """`git gc` does the same: it removed a pack that came while it looked, and branches led to nothing."""
    move = renderer.repo.refs.move

    def later(changes: Mapping[str, str | None], expected: Mapping[str, str]) -> None:
        renderer.git.run("repack", "-a", "-d", "-q")
        move(changes, expected)

    monkeypatch.setattr(renderer.repo.refs, "move", later)
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "a": {"web": b"4"}})
    renderer.git.run("fsck", "--full")
    assert not list((renderer.git.path / "objects" / "pack").glob("*.keep"))


# F27: somebody else wrote the state repo


def tampered(renderer: Renderer) -> list[StateTampered]:
    return list(renderer.repo.tampered(renderer.refs()))


def test_a_render_is_what_was_rendered(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.publish({"b": DEVICES["b"]})
    assert tampered(renderer) == []


def test_a_device_branch_that_was_moved_is_named_with_both_commits(renderer: Renderer):
    renderer.publish(DEVICES)
    other = renderer.git.run("commit-tree", "devices/b^{tree}", "-p", "devices/a", "-m", "mine")
    renderer.git.run("update-ref", "refs/heads/devices/a", other)
    (error,) = tampered(renderer)
    assert error.device == "a"
    assert "refs/heads/devices/a is not what the fleet branch holds at devices/north/a" in str(error)
    assert other in str(error)
    assert error.exit_code == 4


def test_f27_a_device_branch_that_was_set_back_is_found(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "a": {"web": b"9"}})
    renderer.git.run("update-ref", "refs/heads/devices/a", "refs/heads/devices/a^")
    assert [error.device for error in tampered(renderer)] == ["a"]


def test_a_device_branch_that_was_deleted_is_found(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.git.run("update-ref", "-d", "refs/heads/devices/a")
    (error,) = tampered(renderer)
    assert "the branch is gone" in str(error)


def test_f27_a_fleet_branch_that_was_set_back_is_found(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.publish({**DEVICES, "a": {"web": b"9"}})
    renderer.git.run("update-ref", "refs/heads/fleet", "refs/heads/fleet^")
    assert [error.device for error in tampered(renderer)] == ["a"]


def test_a_fleet_branch_that_was_deleted_is_found(renderer: Renderer):
    renderer.publish(DEVICES)
    renderer.git.run("update-ref", "-d", "refs/heads/fleet")
    (error,) = tampered(renderer)
    assert "refs/heads/fleet is gone" in str(error)


@pytest.mark.parametrize("path", ["devices/north/UPPER/x", "devices/north/b%/x", "devices/north/file", "other/x"])
def test_a_fleet_branch_that_holds_something_else_is_an_error_and_no_crash(renderer: Renderer, path: str):
    renderer.publish(DEVICES)
    blob = renderer.git.run("hash-object", "-w", "--stdin", content="x")
    index = {"GIT_INDEX_FILE": str(renderer.git.path / "other-index")}
    renderer.git.run("read-tree", "fleet", environment=index)
    renderer.git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
    tree = renderer.git.run("write-tree", environment=index)
    commit = renderer.git.run("commit-tree", tree, "-p", "fleet", "-m", "mine")
    renderer.git.run("update-ref", "refs/heads/fleet", commit)
    if path == "other/x":
        assert tampered(renderer) == []
        return
    with pytest.raises(StateTampered):
        raise tampered(renderer)[0]


@pytest.mark.parametrize("name", ["manifest.json", "deployments"])
def test_a_device_branch_without_manifest_is_no_state(renderer: Renderer, name: str):
    renderer.publish(DEVICES)
    tree = renderer.git.run("mktree", content=b"")
    commit = renderer.git.run("commit-tree", tree, "-m", "mine")
    renderer.git.run("update-ref", "refs/heads/devices/a", commit)
    with pytest.raises(StateTampered, match=r"holds no manifest\.json"):
        renderer.repo.held("a", renderer.refs())


def test_a_branch_that_leads_to_no_commit_is_an_error(renderer: Renderer):
    renderer.publish(DEVICES)
    blob = renderer.git.run("hash-object", "-w", "--stdin", content="x")
    (renderer.git.path / "refs/heads/devices").mkdir(parents=True, exist_ok=True)
    for value in (blob, "e" * 40):
        (renderer.git.path / "refs/heads/devices/a").write_text(f"{value}\n")
        with pytest.raises(StateTampered, match=r"it is not a commit|missing or damaged"):
            tampered(renderer)


def test_a_tree_in_the_place_of_a_file_is_an_error(renderer: Renderer):
    renderer.publish(DEVICES)
    empty = renderer.git.run("mktree", content=b"")
    entry = b"100644 manifest.json\0" + bytes.fromhex(empty)
    tree = renderer.git.run("hash-object", "-w", "-t", "tree", "--literally", "--stdin", content=entry)
    commit = renderer.git.run("commit-tree", tree, "-m", "mine")
    renderer.git.run("update-ref", "refs/heads/devices/a", commit)
    with pytest.raises(StateTampered, match="it is not a blob"):
        renderer.repo.held("a", renderer.refs())


# F22: two devices never share a path

DEVICE_IDS = st.from_regex(r"[A-Za-z0-9._~-]{1,8}(/[A-Za-z0-9._~-]{1,8}){0,2}", fullmatch=True).filter(is_device_id)


@given(st.sets(DEVICE_IDS, min_size=2, max_size=30))
def test_f22_g_t_1_no_two_devices_share_a_ref_or_path_even_on_a_disk_that_folds_case(devices: set[str]):
    """F22."""
    encoded = {encode_device_id(device).casefold() for device in devices}
    assert len(encoded) == len(devices)
    assert {decode_device_id(name) for name in encoded} == devices
    assert not any("/" in name for name in encoded)


ODD = ["A", "a", "a.lock", "a..b", ".a", "a.", "~a", "-a", "con", "CON", "a@{", "press~1", "x/y", "x_y", "x_2fy"]


def test_git_takes_the_ref_of_every_device_id(renderer: Renderer):
    devices = {device: {"web": device.encode()} for device in ODD if is_device_id(device)}
    renderer.publish(devices)
    for device, content in devices.items():
        renderer.git.run("check-ref-format", device_ref(device))
        name = deployment_id("plant", device, "web")
        ref = device_ref(device).removeprefix("refs/heads/")
        assert renderer.git.run_bytes("cat-file", "blob", f"{ref}:deployments/{name}.yaml") == content["web"]
    renderer.git.run("fsck", "--strict")
    assert len([name for name in renderer.refs() if name.startswith(DEVICE_REFS)]) == len(devices)


# opening


def test_a_state_repo_is_bare(git, tmp_path: Path):
    git("work").init()
    with pytest.raises(StateRepoUnusable, match="work tree"):
        StateRepo.open(tmp_path / "work")


def test_a_folder_with_other_things_is_not_taken(tmp_path: Path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things/file").write_text("mine")
    with pytest.raises(StateRepoUnusable):
        StateRepo.open_or_create(tmp_path / "things")
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_place_where_none_can_be_made_is_an_error(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateRepoUnusable):
        StateRepo.open_or_create(tmp_path / name)


def test_several_branches_that_were_moved_are_all_named(renderer: Renderer):
    renderer.publish(DEVICES)
    for device in ("a", "b"):
        renderer.git.run("update-ref", "-d", f"refs/heads/devices/{device}")
    errors = tampered(renderer)
    assert "devices/b" in str(RenderingRefused("the state repo was changed", errors))
    assert len(errors) == 2


def test_a_device_that_left_cannot_come_back_with_an_older_version(renderer: Renderer):
    for content in (b"1", b"2", b"3"):
        renderer.publish({"a": {"web": content}, "b": {}})
    renderer.publish({"b": {}})
    ref = device_ref("a")
    renderer.git.run("update-ref", ref, f"{ref}~1")
    (error,) = tampered(renderer)
    assert "left/a" in error.what
    renderer.git.run("update-ref", "-d", ref)
    (error,) = tampered(renderer)
    assert "the branch is gone" in error.why


def test_a_branch_that_no_render_made_is_found(renderer: Renderer):
    renderer.publish({"a": {}})
    renderer.git.run("update-ref", device_ref("zzz"), device_ref("a"))
    (error,) = tampered(renderer)
    assert "no render made" in error.what
