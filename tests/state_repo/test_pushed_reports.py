"""What devices push about themselves, read by those who trust none of it (rules CLAIM-1 to CLAIM-4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.git_cli import Git

from margo_gitops.audit.trace.adoption import adoptions, statuses_at
from margo_gitops.audit.verify.side_branches import check_pushed
from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReport, PushedReports
from margo_gitops.transport.git.push import file_objects
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT, object_id

DEPLOYMENT = "00000001-1111-5111-8111-111111111111"
STATUS = f"status/{DEPLOYMENT}.json"


def status(state: str = "installed", **more: object) -> bytes:
    document = {"deploymentId": DEPLOYMENT, "status": {"state": state}, "adoptedManifestVersion": 3, **more}
    return json.dumps(document).encode()


class Host:
    """A repository on a git host that takes what anyone pushes."""

    def __init__(self, folder: Path) -> None:
        self.git = Git(folder).init(bare=True)

    def push(
        self, device: str, files: dict[str, bytes], *, time: int = 1_790_000_000, message: bytes = b"Reports"
    ) -> str:
        objects = file_objects({tuple(path.split("/")): content for path, content in files.items()})
        who = Ident(device, "", 1)
        commit = build_commit(list(objects)[-1].decode(), (), who, who, "Reports\n")
        commit = commit.replace(b"> 1 ", b"> %d " % time).replace(b"Reports", message)
        for kind, content in [*objects.values(), (COMMIT, commit)]:
            self.git.run("hash-object", "-w", "--literally", "-t", kind.decode(), "--stdin", content=content)
        name = object_id(COMMIT, commit)
        self.git.run("update-ref", device_reports_ref(device), name)
        return name

    def reports(self) -> PushedReports:
        objects = StateObjects(self.git.path)
        return PushedReports(objects, objects.refs())

    def read(self, device: str) -> PushedReport | None:
        return self.reports().get(device)

    def warnings(self) -> list[str]:
        objects = StateObjects(self.git.path)
        found = list(check_pushed(objects, objects.refs()))
        assert {each.severity for each in found} <= {"warning"}
        return [each.what for each in found]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "reports.git")


def test_what_a_device_says_is_read(host: Host) -> None:
    commit = host.push(
        "gate",
        {
            STATUS: status(),
            "capabilities.json": b"own",
            "capabilities/gate_2fplc.json": b"child",
            "receipts/latest.json": b"[]",
            "later": b"",
        },
    )
    found = host.read("gate")
    assert found is not None
    assert (found.commit, found.time, found.capabilities) == (
        commit,
        1_790_000_000,
        {"gate": b"own", "gate/plc": b"child"},
    )
    assert [(each.state, each.adopted) for each in found.statuses.values()] == [("installed", 3)]
    assert (host.read("other"), host.warnings()) == (None, [])


@pytest.mark.parametrize(
    "files",
    [
        {f"status/2{DEPLOYMENT[1:]}.json": status()},
        {STATUS: b"no json"},
        {STATUS: b"[" * 100_000},
        {STATUS: b'{"deploymentId": 1}'},
        {STATUS: b" " * (1024 * 1024 + 1)},
        {f"status/{DEPLOYMENT}.json/deep": status()},
        {f"status/{number}.json": b"" for number in range(1001)},
        {f"capabilities/gate_2f{number}.json": bytes(1024 * 1024) + bytes([number]) * 0 for number in range(9)},
    ],
)
def test_a_branch_that_breaks_a_rule_counts_as_no_report_and_hides_no_other(
    host: Host, files: dict[str, bytes]
) -> None:
    host.push("gate", files)
    host.push("press", {STATUS: status()})
    assert host.read("gate") is None
    assert len(host.warnings()) == 1
    assert host.read("press") is not None


def test_a_commit_of_another_kind_counts_as_no_report(host: Host) -> None:
    host.push("gate", {STATUS: status()})
    ref = device_reports_ref("gate")
    tree = host.git.run("rev-parse", f"{ref}^{{tree}}")
    blob = host.git.run("rev-parse", f"{ref}:{STATUS}")
    grown = host.git.run("commit-tree", tree, "-p", ref, "-m", "again")
    link = host.git.run("mktree", content=f"120000 blob {blob}\tcapabilities.json\n")
    for bad in (grown, tree, blob, host.git.run("commit-tree", link, "-m", "a link")):
        (host.git.path / ref).write_text(f"{bad}\n")
        assert host.read("gate") is None
        assert len(host.warnings()) == 1
    host.push("gate", {STATUS: status()}, message=b"x" * 70_000)
    assert host.read("gate") is None


def test_no_device_speaks_for_another(host: Host) -> None:
    host.push(
        "gate",
        {
            STATUS: status(deviceId="press"),
            "capabilities/press.json": b"hostile",
            "capabilities/gate.json": b"twice",
            "capabilities/press_2fplc.json": b"hostile",
        },
    )
    found = host.read("gate")
    assert found is not None
    assert (found.statuses, found.capabilities) == ({}, {})


def test_a_branch_with_the_name_of_no_client_is_left_out_and_named(host: Host) -> None:
    commit = host.push("gate/plc", {STATUS: status()})
    for name in ("UPPER", "a%2fb", "gate_2g"):
        host.git.run("update-ref", f"refs/heads/device-reports/{name}", commit)
    assert host.reports().commits == {}
    assert len(host.warnings()) == 4


def test_a_time_that_no_calendar_has_counts_as_no_report(host: Host) -> None:
    host.push("gate", {STATUS: status()}, time=999_999_999_999)
    assert host.read("gate") is None


def test_a_trace_knows_what_was_pushed_last(host: Host) -> None:
    commit = host.push("gate", {STATUS: status("failed")})
    objects = StateObjects(host.git.path)
    found = statuses_at(objects, objects.refs(), "gate", None)[DEPLOYMENT]
    assert (found.state, found.commit, found.time) == ("failed", commit, 1_790_000_000)
    assert adoptions(objects, objects.refs(), None) == {"gate": [(3, 1_790_000_000)]}
    assert adoptions(objects, objects.refs(), "press") == {}


def test_a_folder_that_has_a_name_twice_counts_as_no_report(host: Host) -> None:
    """One folder of a thousand children, named a thousand times, was a million documents: 50 s of CPU for 80 KB."""
    host.push("gate", {"capabilities/gate_2fc1.json": b"{}"})
    tree = host.git.run("rev-parse", f"{device_reports_ref('gate')}:capabilities")
    twice = b"40000 capabilities\0%b" % bytes.fromhex(tree) * 2
    made = host.git.run("hash-object", "-w", "--literally", "-t", "tree", "--stdin", content=twice)
    host.git.run("update-ref", device_reports_ref("gate"), host.git.run("commit-tree", made, "-m", "Reports"))
    assert host.read("gate") is None
    assert any("a name twice" in each for each in host.warnings())
