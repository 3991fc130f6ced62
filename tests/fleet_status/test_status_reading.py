"""The status of a fleet, read from a state repo that a renderer and a server wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.git_cli import Git
from support.reporting import Reporter
from support.state_publishing import Renderer
from support.trust_documents import key

from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.errors import NoFleetRepo, StateTampered, StatusUnusable
from margo_gitops.fleet_status import reading, signers
from margo_gitops.fleet_status.desired import DesiredReader
from margo_gitops.fleet_status.reading import StatusReader, StatusRequest, read_status
from margo_gitops.fleet_status.status import FleetStatus, StatusFilter
from margo_gitops.fleet_status.text import status_lines
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.transport.git.push import file_objects
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.trust.ssh_key import SigningKey

OLD, NEW = key(1), key(2)


def document(device: str, name: str, application: str = "com-example-web") -> bytes:
    identifier = deployment_id("plant", device, name)
    return (
        f'id: "{identifier}"\nmetadata:\n  name: {name}\n  namespace: margo\n  deviceId: {device}\n'
        f"spec:\n  applicationId: {application}\n  deploymentProfile:\n    type: compose\n    components:\n"
        f'      - name: web\n        properties:\n          repository: "oci://example.com/web"\n'
        f'          revision: "1.0.0"\n'
    ).encode()


class Fleet:
    """A state repo of three devices, and their reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state.git"
        self.renderer = Renderer(self.folder)
        self.publish("a", "b", "c")
        self.reporter = Reporter(self.folder)

    def publish(self, *devices: str, revision: str = "") -> None:
        self.renderer.publish(
            {
                each: {
                    "web": document(each, "web") + revision.encode(),
                    "hmi": document(each, "hmi", "com-example-hmi"),
                }
                for each in devices
            }
        )

    def read(self, **chosen: object) -> FleetStatus:
        wanted = StatusFilter(**chosen)  # type: ignore[arg-type]
        return read_status(StatusRequest(self.folder.parent, str(self.folder), self.folder.parent / "cache", wanted))

    def states(self, **chosen: object) -> dict[str, str]:
        return {each.device: each.state for each in self.read(**chosen).devices}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_what_devices_should_run_stands_beside_what_they_report(fleet: Fleet):
    fleet.reporter.report("a")
    fleet.reporter.report("b", "failed", error="no space left", only=0)
    found = fleet.read()
    assert {each.device: (each.state, each.desired, each.adopted) for each in found.devices} == {
        "a": ("installed", 1, 1),
        "b": ("failed", 1, 1),
        "c": ("silent", 1, None),
    }
    assert (found.counts.devices, found.counts.installed, found.counts.failed, found.counts.silent) == (3, 1, 1, 1)
    assert [each.site for each in found.sites] == ["north"]
    assert not found.as_desired
    failed = [each for each in found.devices[1].deployments if each.state == "failed"]
    assert [each.error for each in failed] == ["web: no space left"]
    assert {each.name for each in found.devices[0].deployments} == {"hmi", "web"}
    assert found.devices[0].last_seen == "2027-01-15T08:01:00+00:00"
    assert found.devices[2].last_seen is None


def test_a_brief_status_says_the_same_and_reads_only_the_documents_of_what_failed_or_waits(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    fleet.reporter.report("a")
    fleet.reporter.report("b", "failed", error="no space left\n  remedy: free some", only=0)
    fleet.reporter.report("c", "pending", error="the window is closed", only=1)
    whole = fleet.read()
    read: list[str] = []
    named = DesiredReader.named
    monkeypatch.setattr(DesiredReader, "named", lambda self, blob: read.append(blob) or named(self, blob))
    request = StatusRequest(fleet.folder.parent, str(fleet.folder), fleet.folder.parent / "cache", brief=True)
    brief = read_status(request)
    assert list(status_lines(brief)) == list(status_lines(whole))
    assert [[each.name for each in device.deployments] for device in brief.devices] == [[], ["web"], ["hmi"]]
    assert len(read) == 2
    assert "    web: no space left; remedy: free some" in status_lines(brief)
    assert "  web: the window is closed: north/c" in status_lines(brief)


def test_a_new_version_leaves_devices_behind_until_they_adopt_it(fleet: Fleet):
    for each in "abc":
        fleet.reporter.report(each)
    assert fleet.read().as_desired
    fleet.publish("a", "b", "c", revision="# 2\n")
    assert set(fleet.states().values()) == {"behind"}
    fleet.reporter.report("a", "installing", only=0)
    assert fleet.states() == {"a": "applying", "b": "behind", "c": "behind"}
    fleet.reporter.report("a")
    assert fleet.states()["a"] == "installed"


def test_f6_a_device_that_is_away_holds_up_no_other(fleet: Fleet):
    fleet.reporter.report("a")
    for number in (2, 3):
        fleet.publish("a", "b", "c", revision=f"# {number}\n")
        fleet.reporter.report("a")
        found = {each.device: (each.state, each.desired, each.adopted) for each in fleet.read().devices}
        assert found == {
            "a": ("installed", number, number),
            "b": ("silent", number, None),
            "c": ("silent", number, None),
        }


def test_filters_choose_devices(fleet: Fleet):
    fleet.reporter.report("a")
    assert fleet.states(states=frozenset({"installed"})) == {"a": "installed"}
    assert fleet.states(devices=frozenset({"b/axis"})) == {"b": "silent"}
    assert list(fleet.states(sites=frozenset({"north"}))) == ["a", "b", "c"]
    assert list(fleet.states(applications=frozenset({"com-example-hmi"}))) == ["a", "b", "c"]
    assert fleet.states(applications=frozenset({"com-example-none"})) == {}
    with pytest.raises(StatusUnusable, match="z is not a device"):
        fleet.states(devices=frozenset({"z"}))
    with pytest.raises(StatusUnusable, match="south is not the site of any device"):
        fleet.states(sites=frozenset({"south"}))


def test_a_device_that_left_is_shown_on_request_and_does_not_count(fleet: Fleet):
    for each in "ab":
        fleet.reporter.report(each)
    fleet.publish("a", "b")
    assert fleet.read().as_desired
    assert fleet.states() == {"a": "installed", "b": "installed"}
    assert fleet.states(states=frozenset({"left"})) == {"c": "left"}
    assert fleet.read(devices=frozenset({"c"})).counts.devices == 0


def test_labels_need_a_fleet_repo(fleet: Fleet):
    with pytest.raises(NoFleetRepo):
        fleet.read(labels=(partial(parse_selector, "line=3"),))


def test_a_device_that_is_asked_for_costs_no_other_devices_objects(fleet: Fleet):
    fleet.reporter.report("a")
    fleet.reporter.report("b")
    objects = StateObjects(fleet.folder)
    read: list[str] = []
    original = objects.read

    class Counting(StateObjects):
        def read(self, name: str, kind: bytes) -> bytes:
            read.append(name)
            return original(name, kind)

    request = StatusRequest(fleet.folder, str(fleet.folder), fleet.folder, StatusFilter(devices=frozenset({"a"})))
    StatusReader(Counting(fleet.folder), "state", request).read()
    others = {
        line.split()[2]
        for device in "bc"
        for line in fleet.renderer.git.run("ls-tree", "-r", f"refs/heads/devices/{device}").splitlines()
    }
    assert read
    assert not others.intersection(read)


class TestSigners:
    @pytest.fixture
    def rotated(self, fleet: Fleet) -> Fleet:
        """Another key signed the newest state of a; b and c have what the first one signed; d is new."""
        contents: dict[str, dict[str, bytes]] = {}

        def publish(signer: SigningKey, *reporting: str, **revisions: int) -> None:
            for each, revision in revisions.items():
                contents[each] = {"web": document(each, "web") + f"# {revision}".encode()}
            fleet.renderer.publish(contents, key=signer)
            for each in reporting:
                fleet.reporter.report(each)

        publish(OLD, "a", "c", a=2, b=2, c=2)
        publish(NEW, a=3)
        publish(NEW, "d", d=1)
        return fleet

    def signers(self, fleet: Fleet, **chosen: object) -> dict[str, str | None]:
        return {each.device: each.signer for each in fleet.read(**chosen).devices}

    def test_each_device_has_the_key_that_signed_what_it_adopted(self, rotated: Fleet):
        found = rotated.read()
        assert found.signer == NEW.public.fingerprint
        assert {each.device: each.state for each in found.devices} == {
            "a": "behind",
            "b": "silent",
            "c": "installed",
            "d": "installed",
        }
        old, new = OLD.public.fingerprint, NEW.public.fingerprint
        assert self.signers(rotated) == {"a": old, "b": None, "c": old, "d": new}
        for each, signer in (("a", old), ("c", old), ("d", new)):
            assert self.signers(rotated, devices=frozenset({each})) == {each: signer}
        lines = list(status_lines(found))
        at = lines.index("keys")
        assert lines[at : at + 4] == [
            "keys",
            f"  {new} signed the newest render",
            f"  {old} signed what 2 devices adopted",
            "    not adopted yet what was signed since: north/a",
        ]

    def test_one_key_is_not_worth_a_line(self, fleet: Fleet):
        fleet.reporter.report("a")
        assert fleet.read().signer is None
        assert "keys" not in list(status_lines(fleet.read()))

    def test_a_device_that_has_its_newest_state_costs_no_object(self, rotated: Fleet):
        read: list[str] = []

        class Counting(StateObjects):
            def read(self, name: str, kind: bytes, limit: int = 2**20) -> bytes:
                read.append(name)
                return super().read(name, kind, limit)

        request = StatusRequest(rotated.folder, str(rotated.folder), rotated.folder)
        StatusReader(Counting(rotated.folder), "state", request).read()
        refs = rotated.renderer.refs()
        assert {each for each in "abcd" if refs[f"refs/heads/devices/{each}"] in read} == {"a"}

    def test_renders_that_are_lost_do_not_stop_a_status(self, rotated: Fleet):
        lost = rotated.renderer.git.run("rev-list", "--skip=1", "refs/heads/fleet").split()
        lost += rotated.renderer.git.run("rev-list", "--skip=1", "refs/heads/devices/a").split()

        class Lossy(StateObjects):
            def read(self, name: str, kind: bytes, limit: int = 2**20) -> bytes:
                if name in lost:
                    raise bad_object(name, "it is missing")
                return super().read(name, kind, limit)

        request = StatusRequest(rotated.folder, str(rotated.folder), rotated.folder)
        found = StatusReader(Lossy(rotated.folder), "state", request).read()
        assert found.signer == NEW.public.fingerprint
        assert {each.device: each.signer for each in found.devices} == dict.fromkeys("abcd")

    def test_what_was_signed_before_all_that_is_read_is_not_known(
        self, rotated: Fleet, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(signers, "_FLEET_COMMITS", 1)
        monkeypatch.setattr(signers, "_DEVICE_COMMITS", 1)
        assert self.signers(rotated) == dict.fromkeys("abcd")
        assert self.signers(rotated, devices=frozenset({"c"})) == {"c": OLD.public.fingerprint}


def test_a_reader_sees_what_came_since_its_last_look(fleet: Fleet):
    request = StatusRequest(fleet.folder, str(fleet.folder), fleet.folder)
    reader = StatusReader(StateObjects(fleet.folder), "state", request)
    fleet.reporter.report("a")
    first = reader.read()
    fleet.reporter.report("b")
    fleet.reporter.report("a", "failed", error="later")
    second = reader.read()
    fresh = StatusReader(StateObjects(fleet.folder), "state", request).read()
    assert second == fresh
    assert [each.last_seen for each in first.devices] == ["2027-01-15T08:01:00+00:00", None, None]
    assert [each.last_seen for each in second.devices] == [
        "2027-01-15T08:03:00+00:00",
        "2027-01-15T08:02:00+00:00",
        None,
    ]


def test_a_long_branch_of_reports_is_searched_so_far_and_the_status_says_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "_SEARCHED", 3)
    fleet.reporter.report("b")
    for number in range(5):
        fleet.reporter.report("a", adopted=number + 1)
    found = fleet.read()
    assert found.searched_to == "2027-01-15T08:03:00+00:00"
    assert [each.last_seen for each in found.devices][1:] == [None, None]


def test_a_tree_that_no_render_wrote_is_an_error_that_names_the_audit(fleet: Fleet):
    git = fleet.renderer.git
    index = {"GIT_INDEX_FILE": str(fleet.folder / "index")}
    git.run("read-tree", "fleet", environment=index)
    blob = git.run("hash-object", "-w", "--stdin", content=b"[]")
    git.run("update-index", "--cacheinfo", f"100644,{blob},devices/north/a/manifest.json", environment=index)
    tree = git.run("write-tree", environment=index)
    raw = git.run_bytes("cat-file", "commit", "fleet")
    old = git.run("rev-parse", "fleet^{tree}")
    forged = git.run("hash-object", "-t", "commit", "-w", "--stdin", content=raw.replace(old.encode(), tree.encode()))
    git.run("update-ref", "refs/heads/fleet", forged)
    with pytest.raises(StateTampered, match="not a state manifest"):
        fleet.read()


def test_an_empty_state_repo_has_a_status(tmp_path: Path):
    Renderer(tmp_path / "state.git")
    request = StatusRequest(tmp_path, str(tmp_path / "state.git"), tmp_path)
    found = read_status(request)
    assert found.devices == ()
    assert "nothing was rendered yet" in "\n".join(status_lines(found))


def test_text_tells_the_same_failure_once(fleet: Fleet):
    for each in "abc":
        fleet.reporter.report(each, "failed", error="pull access \x1b[31mdenied", only=1)
    text = "\n".join(status_lines(fleet.read()))
    assert text.count("denied") == 1
    assert "\x1b" not in text
    assert "failed on north/a, north/b, north/c" in text
    assert text.index("stuck") < text.index("last report")


def test_text_is_short_for_many_devices(tmp_path: Path):
    fleet = Fleet(tmp_path)
    fleet.publish(*(f"press-{number:03}" for number in range(200)))
    fleet.reporter.report("press-150", "failed", error="broken")
    lines = list(status_lines(fleet.read()))
    assert len(lines) < 40
    assert "and 180 more devices: see them with --details" in lines[-1]
    table = next(index for index, line in enumerate(lines) if "last report" in line)
    assert "press-150" in lines[table + 1]
    assert len(list(status_lines(fleet.read(), details=True))) > 600


def test_devices_that_left_are_shown_by_name_or_state_only():
    assert not StatusFilter().place("a", None, left=True)
    assert StatusFilter(devices=frozenset({"a/child"})).place("a", None, left=True)
    assert StatusFilter(states=frozenset({"left"})).place("a", None, left=True)
    assert not StatusFilter(sites=frozenset({"north"})).place("a", "south", left=False)


class TestPushed:
    """Reports that devices pushed themselves (docs/git-host.md)."""

    def push(self, folder: Path, device: str, *, time: int, state: str = "installed") -> None:
        documents = {
            ("status", f"{deployment_id('plant', device, name)}.json"): json.dumps(
                {
                    "deploymentId": deployment_id("plant", device, name),
                    "status": {"state": state},
                    "adoptedManifestVersion": 1,
                }
            ).encode()
            for name in ("web", "hmi")
        }
        objects = file_objects(documents)
        who = Ident(device, "", time)
        commit = build_commit(list(objects)[-1].decode(), (), who, who, "Reports\n")
        git = Git(folder)
        for kind, content in [*objects.values(), (COMMIT, commit)]:
            git.run("hash-object", "-w", "-t", kind.decode(), "--stdin", content=content)
        git.run("update-ref", device_reports_ref(device), object_id(COMMIT, commit))

    def test_they_count_like_those_of_a_server_and_the_newer_statement_wins(self, fleet: Fleet):
        fleet.reporter.report("b", "failed", error="no space left", only=0)
        self.push(fleet.folder, "a", time=1_800_000_000)
        self.push(fleet.folder, "b", time=1)
        found = fleet.read()
        assert {each.device: each.state for each in found.devices} == {"a": "installed", "b": "failed", "c": "silent"}
        assert (found.pushing, found.devices[0].last_seen) == (2, "2027-01-15T08:00:00+00:00")
        self.push(fleet.folder, "b", time=1_900_000_000)
        assert fleet.states()["b"] == "installed"

    def test_without_a_server_nothing_says_that_no_device_reports(self, fleet: Fleet):
        assert any("no device ever reported" in line for line in status_lines(fleet.read()))
        self.push(fleet.folder, "a", time=1_800_000_000)
        assert not any("no device ever reported" in line for line in status_lines(fleet.read()))

    def test_they_are_fetched_from_a_git_host(self, fleet: Fleet, tmp_path: Path):
        request = StatusRequest(tmp_path, fleet.folder.as_uri(), tmp_path / "cache", StatusFilter())
        for time, state in ((1_800_000_000, "failed"), (1_800_000_060, "installed")):
            self.push(fleet.folder, "a", time=time, state=state)
            assert [each.state for each in read_status(request).devices] == [state, "silent", "silent"]
        Git(fleet.folder).run("update-ref", "-d", device_reports_ref("a"))
        assert [each.state for each in read_status(request).devices] == ["silent", "silent", "silent"]

    @pytest.mark.parametrize("named", ["../reports.git", "URL"])
    def test_they_are_in_a_repository_of_their_own(self, fleet: Fleet, tmp_path: Path, named: str):
        made = Git(tmp_path / "fleet").init()
        made.commit(
            {
                "margo-gitops.yaml": FLEET.format(
                    state=fleet.folder, reports=named.replace("URL", (tmp_path / "reports.git").as_uri())
                )
            }
        )
        reports = Git(tmp_path / "reports.git").init(bare=True)
        self.push(reports.path, "a", time=1_800_000_000)
        request = StatusRequest(made.path, None, tmp_path / "cache", StatusFilter())
        assert [each.state for each in read_status(request).devices] == ["installed", "silent", "silent"]
        same = replace(request, state=str(fleet.folder))
        assert [each.state for each in read_status(same).devices] == ["installed", "silent", "silent"]
        made.commit({"margo-gitops.yaml": FLEET.format(state=fleet.folder, reports=fleet.folder)})
        assert [each.state for each in read_status(request).devices] == ["silent", "silent", "silent"]
        other = Fleet(tmp_path / "other")
        foreign = replace(request, state=str(other.folder))
        assert [each.state for each in read_status(foreign).devices] == ["silent", "silent", "silent"]


FLEET = """\
apiVersion: margo-gitops/v1
kind: Fleet
metadata:
  name: plant
spec:
  stateRepo: {state}
  reportsRepo: {reports}
"""
