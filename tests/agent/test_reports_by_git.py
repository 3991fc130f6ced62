"""Reports by git push (git subset, G-P; rules PUSHED-1 to PUSHED-3 and OWN-1 to OWN-4), against real git."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from device_world import DEVICE, World, deployment_bytes, deployment_id
from support.git_cli import Git
from testbed.ssh_server import SshServer
from transport.git_http_server import Answer, GitHttpServer, Request, serve

from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.report import git_reporter
from margo_gitops.agent.report.git_reporter import GitReporter
from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import SourceMisbehaved, SourceRefused, TransportError
from margo_gitops.transport.git.pktline import FLUSH, PacketReader, packet
from margo_gitops.transport.git.push import GitPush, file_objects, read_listing, read_result
from margo_gitops.transport.git.source import GitSource

REF = device_reports_ref(DEVICE)


@pytest.fixture
def repository(tmp_path: Path) -> Git:
    made = Git(tmp_path / "served" / "reports.git").init(bare=True)
    made.run("config", "http.receivepack", "true")
    return made


@pytest.fixture
def host(repository: Git) -> Iterator[GitHttpServer]:
    with serve(repository.path.parent) as running:
        yield running


@dataclass
class Device:
    """A reporter in a time of its own."""

    journal: Journal
    push: GitPush
    now: float = 1_790_000_000.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.reporter = GitReporter(
            transport=self.push,
            device=DEVICE,
            capabilities=(),
            journal=self.journal,
            record=self.events.append,
            timer=lambda: self.now,
            clock=lambda: self.now,
            abortable=contextlib.nullcontext,
        )

    def post(self, word: str, number: int = 1) -> None:
        self.journal.post(deployment_id(number), json.dumps({"state": word}).encode(), self.now)
        self.reporter.send()

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


@pytest.fixture
def device(tmp_path: Path, host: GitHttpServer) -> Iterator[Device]:
    push = GitPush(GitSource(host.url("reports.git"), ref=REF))
    with Journal.open(tmp_path / "journal.sqlite3", 0) as journal, contextlib.closing(push):
        yield Device(journal, push)


def pushes(host: GitHttpServer) -> int:
    return sum(request.path.endswith("/git-receive-pack") for request in host.requests)


def state(repository: Git, number: int = 1) -> str:
    return json.loads(repository.run("show", f"{REF}:status/{deployment_id(number)}.json"))["state"]


def test_a_device_pushes_what_it_reports_as_one_commit(tmp_path: Path, host: GitHttpServer, repository: Git) -> None:
    world = World(tmp_path / "world")
    for name, owner in (("own", DEVICE), ("child", f"{DEVICE}/plc-1")):
        properties = {"id": owner, "vendor": "acme", "modelNumber": "7", "serialNumber": "0815"}
        (world.folder / f"{name}.yaml").write_bytes(write_yaml({"properties": properties}))
    world.configure(
        reports={"git": {"url": host.url("reports.git")}, "origin": True}, capabilities=["own.yaml", "child.yaml"]
    )
    held = world.publish({1: deployment_bytes(1)})
    done = world.agent("once")
    assert done.returncode == 0, done.stderr
    status = f"status/{deployment_id(1)}.json"
    child = "capabilities/" + device_reports_ref(f"{DEVICE}/plc-1").rpartition("/")[2] + ".json"
    assert repository.run("ls-tree", "-r", "--name-only", REF).splitlines() == ["capabilities.json", child, status]
    document = json.loads(repository.run("show", f"{REF}:{status}"))
    assert document["status"]["state"] == "installed"
    assert document["x-margo-gitops-extensions"]["stateCommit"] == held.revision
    assert repository.run("rev-list", "--parents", REF) == repository.run("rev-parse", REF), "no parent"
    repository.run("fsck", "--strict")
    assert repository.run("for-each-ref", "--format=%(refname)") == REF
    before = len(host.requests)
    assert world.agent("once").returncode == 0
    assert len(host.requests) == before, "nothing changed: nothing is sent"
    world.publish({})
    assert world.agent("once").returncode == 0
    assert json.loads(repository.run("show", f"{REF}:{status}"))["status"]["state"] == "removed"
    assert [request.path.rpartition("/")[2] for request in host.requests[before:]] == ["git-receive-pack"]
    assert repository.run("rev-list", "--count", REF) == "1"


def test_a_change_is_one_request_and_a_restart_repeats_nothing(device: Device, host: GitHttpServer) -> None:
    device.post("pending")
    assert [request.path.rpartition("/")[2] for request in host.requests] == ["git-upload-pack", "git-receive-pack"]
    device.post("installed")
    assert len(host.requests) == 3
    device.restart()
    device.reporter.send()
    assert (len(host.requests), device.events) == (3, [])


def test_a_push_whose_answer_was_lost_is_known_as_its_own(device: Device, host: GitHttpServer, repository: Git) -> None:
    device.post("pending")

    def lost(request: Request, answer: Answer) -> Answer | None:
        answer.cut = 10
        return answer if request.path.endswith("receive-pack") else None

    host.faults.append(lost)
    device.post("installed")
    assert (state(repository), device.reasons()) == ("installed", [Reason.REPORT_FAILED])
    host.faults.clear()
    device.now += 3600
    device.restart()
    device.post("failed")
    assert (state(repository), device.reasons()) == ("failed", [Reason.REPORT_FAILED])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_moment_of_a_push_loses_nothing_and_accuses_nobody(
    device: Device, repository: Git, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    device.post("pending")
    real = GitPush.push

    def killed(self: GitPush, *arguments: object) -> None:
        if moment == "after":
            real(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GitPush, "push", killed)
        with pytest.raises(KeyboardInterrupt):
            device.post("installed")
    device.now += 5
    device.restart()
    device.reporter.send()
    assert (state(repository), device.events) == ("installed", [])


def test_what_another_program_pushed_is_replaced_and_told(device: Device, repository: Git) -> None:
    device.post("pending")
    tree = repository.run("mktree", content="")
    repository.run("update-ref", REF, repository.run("commit-tree", tree, "-m", "a clone"))
    device.post("installed")
    assert (state(repository), device.reasons()) == ("installed", [Reason.REPORT_REPLACED])
    assert Reason.REPORT_REPLACED.security
    repository.run("update-ref", "-d", REF)
    device.post("failed")
    assert (state(repository), device.reasons()) == ("failed", [Reason.REPORT_REPLACED]), "a host that lost it"


def test_a_device_that_lost_its_memory_takes_its_branch_again(device: Device, repository: Git, tmp_path: Path) -> None:
    device.post("installed")
    with Journal.open(tmp_path / "new.sqlite3", 0) as journal:
        again = Device(journal, device.push)
        again.post("pending")
    assert (state(repository), again.events) == ("pending", [])


def test_a_protected_branch_causes_no_storm_and_stops_nothing(
    device: Device, host: GitHttpServer, repository: Git
) -> None:
    hook = repository.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'branch is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    for _ in range(30):
        device.reporter.send()
        device.post("installed")
        device.now += 10
    assert set(device.reasons()) == {Reason.REPORT_FAILED}
    assert "pre-receive hook declined" in device.events[0].text
    assert "branch is protected" in device.events[0].text
    assert device.events[0].code == "MG1406"
    assert pushes(host) == 3, "after 0, 60 and 180 seconds"
    hook.unlink()
    device.now += 3600
    device.reporter.send()
    assert (state(repository), device.reasons()[-1]) == ("installed", Reason.REPORT_RECOVERED)


def test_credentials_that_may_only_read_are_told_with_what_to_do(device: Device, repository: Git) -> None:
    repository.run("config", "http.receivepack", "false")
    device.post("installed")
    assert "let this device's identity push to the repository" in device.events[0].text


def test_the_memory_of_pushes_is_bounded(device: Device, repository: Git) -> None:
    repository.run("config", "http.receivepack", "false")
    for number in range(20):
        device.now += 7200
        device.post(str(number))
    assert len(device.journal.facts()[git_reporter._TRIED].split()) <= 8


@pytest.mark.real
def test_over_ssh(tmp_path: Path, repository: Git, ssh_server: SshServer) -> None:
    source = GitSource(
        ssh_server.url(repository.path),
        ref=REF,
        ssh_identity=ssh_server.identity_file,
        ssh_known_hosts=ssh_server.known_hosts_file,
    )
    with Journal.open(tmp_path / "journal.sqlite3", 0) as journal:
        device = Device(journal, GitPush(source))
        for number in range(300):
            # More than a pipe takes at once, and not to be compressed.
            journal.post(deployment_id(number), json.dumps({"state": hash((number, "x")) ** 9}).encode(), number)
        device.post("pending")
        device.post("installed")
        assert (state(repository), device.events) == ("installed", [])
        repository.run("config", "receive.denyNonFastForwards", "true")
        device.post("failed")
        assert "non-fast-forward" in device.events[0].text


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({}, "must name exactly one of git and http"),
        ({"git": {"url": "https://h/r.git"}, "http": {"url": "https://h/"}}, "must name exactly one of git and http"),
        ({"git": {"url": "https://h/r.git", "ref": "refs/heads/main"}}, "the branch of the reports follows"),
        ({"git": {"url": "file:///r.git"}}, "reports are pushed over https or ssh"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, section: dict[str, object], problem: str) -> None:
    world = World(tmp_path / "world")
    world.configure(reports=section)  # type: ignore[arg-type]
    done = world.agent("once")
    assert (done.returncode, problem in done.stderr) == (2, True), done.stderr


def reader(content: bytes) -> PacketReader:
    from io import BytesIO

    return PacketReader(BytesIO(content).read, 1000)


OK = packet(b"unpack ok\n") + packet(b"ok " + REF.encode() + b"\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OK + FLUSH, None),
        (packet(b"\1" + OK[:9]) + packet(b"\2hello\n") + packet(b"\1" + OK[9:] + FLUSH) + FLUSH, None),
        (FLUSH, "it does not say why"),
        (packet(b"unpack index-pack abnormal exit\n") + FLUSH, "index-pack abnormal exit"),
        (packet(b"unpack ok\n") + packet(b"ok refs/heads/other\n") + FLUSH, "it does not say why"),
        (packet(b"unpack ok\n") + packet(b"ng " + REF.encode() + b" no\x1b[31m\n") + FLUSH, "no?[31m"),
        (b"", SourceMisbehaved),
        (packet(b"") + FLUSH, SourceMisbehaved),
        (packet(b"\3broken\n"), SourceRefused),
        (packet(b"ERR no\n") + FLUSH, SourceRefused),
        (packet(b"\1" + b"0003" + FLUSH) + FLUSH, SourceMisbehaved),
        (packet(b"\1" + bytes(2000)), SourceMisbehaved),
    ],
)
def test_every_answer_to_a_push_is_judged(answer: bytes, said: str | type[TransportError] | None) -> None:
    if isinstance(said, type):
        with pytest.raises(said):
            read_result(reader(answer), REF.encode())
    else:
        declined = read_result(reader(answer), REF.encode())
        assert declined is None if said is None else declined is not None and said in declined.what


@pytest.mark.parametrize(
    ("listing", "error"),
    [
        (packet(b"x" * 40 + b" " + REF.encode()) + FLUSH, SourceMisbehaved),
        (packet(b"0" * 64 + b" capabilities^{}\0object-format=sha256") + FLUSH, SourceRefused),
        (packet(b"a" * 40 + b" refs/heads/a\0caps"), SourceMisbehaved),
        (b"0001", SourceMisbehaved),
        (packet(b"ERR no such repository\n"), SourceRefused),
    ],
)
def test_every_list_of_refs_is_judged(listing: bytes, error: type[TransportError]) -> None:
    with pytest.raises(error):
        read_listing(reader(listing), REF.encode())


def test_a_name_that_no_file_has_is_refused() -> None:
    with pytest.raises(ValueError, match="not a name of a file"):
        file_objects({("status", ".git"): b""})
