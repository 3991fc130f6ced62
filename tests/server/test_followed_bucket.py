"""Servers that follow a bucket: `publish --history` fills it, and each keeps a mirror."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from server.serving import FLEET, ServedFleet, capabilities, until
from support.bucket_store import BUCKET, URL, environment, keys, store_client
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from support.trust_documents import key

from margo_gitops.digests import Digest
from margo_gitops.errors import (
    PublishBusy,
    PublishGoesBack,
    PublishTargetUnusable,
    StateRepoUnusable,
    StateTampered,
    StateUnreachable,
    StatusUnusable,
)

pytest.importorskip("boto3")

from botocore.awsrequest import AWSResponse
from botocore.config import Config

from margo_gitops.audit.verify.history_check import VerifyOptions, verify
from margo_gitops.fleet_status.reading import StatusRequest, read_status
from margo_gitops.operations.fleet_input import StateRequest
from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.operations.render.freshness_statements import renew_statement
from margo_gitops.publishing.history import PublishedHistory, history_differences, publish_history
from margo_gitops.state_repo import bucket as bucket_module
from margo_gitops.state_repo.bucket import Bucket
from margo_gitops.state_repo.followed_bucket import FollowedBucket
from margo_gitops.state_repo.freshness_refs import Renewal
from margo_gitops.state_repo.history_bundles import History, HistoryBundle, write_history
from margo_gitops.state_repo.state_repo import StateRepo

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("endpoint")]
LIST = "state/_history/list.json"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def target(endpoint: str) -> Iterator[Bucket]:
    with closing(Bucket(URL, PublishTargetUnusable)) as bucket:
        yield bucket


@pytest.fixture
def rendered(tmp_path: Path) -> ServedFleet:
    fleet = ServedFleet(tmp_path)
    fleet.render(FLEET)
    return fleet


def edit(fleet: ServedFleet, content: str) -> None:
    fleet.render(FLEET | {"press-01": {"hmi": content.encode()}})


def send(fleet: ServedFleet, target: Bucket, **more: Any) -> PublishedHistory:
    return publish_history(fleet.renderer.repo, target, 86_400.0, **more)


def follower(fleet: ServedFleet, name: str = "one") -> FollowedBucket:
    return FollowedBucket(URL, fleet.folder / f"{name}.git", (fleet.folder / "reports.git").as_uri())


def served(state: FollowedBucket) -> dict[str, str]:
    listed = Git(state.mirror).run("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads")
    return dict(line.split() for line in listed.splitlines())


def bundles() -> list[str]:
    return sorted(key for key in keys() if key.endswith(".bundle"))


def answered(bucket: Bucket, answer: Callable[[Any], AWSResponse | None]) -> None:
    bucket._client.meta.events.register("before-send.s3", lambda request, **_: answer(request))  # type: ignore[attr-defined]


def refusal(status: int, code: str) -> Callable[[Any], AWSResponse]:
    class Raw:
        def stream(self) -> Iterator[bytes]:
            yield f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    return lambda request: AWSResponse(request.url, status, {}, Raw())


def dying_after(real: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        raise Killed

    return dying


def test_a_mirror_has_what_was_published_and_only_changes_are_sent(rendered: ServedFleet, target: Bucket) -> None:
    state = follower(rendered)
    first = send(rendered, target)
    assert [state.follow(), state.follow()] == [True, False]
    assert served(state) == rendered.renderer.refs()
    assert send(rendered, target).sent == 0
    before = keys()
    edit(rendered, "two\n")
    second = send(rendered, target)
    assert (second.moved, second.bundles) == (2, 2)
    assert second.sent < first.sent
    assert {key for key, held in keys().items() if before.get(key) != held} == {LIST, *(set(bundles()) - set(before))}
    assert [state.follow(), state.follow()] == [True, False]
    new = follower(rendered, "two")
    new.start()
    assert served(state) == served(new) == rendered.renderer.refs()
    Git(new.mirror).run("fsck", "--strict", "--connectivity-only")
    assert history_differences(rendered.renderer.repo, target) == []


def test_many_changes_are_followed_by_a_whole_one_that_only_new_servers_fetch(
    rendered: ServedFleet, target: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("margo_gitops.publishing.history.MOST_BUNDLES", 4)
    state = follower(rendered)
    for number in range(7):
        edit(rendered, f"{number}\n")
        send(rendered, target)
        state.follow()
    assert len(json.loads(target.get(LIST.removeprefix("state/")).content)["bundles"]) == 4  # type: ignore[union-attr]
    fetched: list[str] = []
    monkeypatch.setattr(
        Bucket,
        "download",
        lambda self, key, *rest, real=Bucket.download: (fetched.append(key), real(self, key, *rest))[1],
    )
    edit(rendered, "last\n")
    send(rendered, target)
    state.follow()
    assert len(fetched) == 1
    new = follower(rendered, "two")
    new.follow()
    assert served(state) == served(new) == rendered.renderer.refs()
    late = lambda: (datetime.now(tz=UTC) + timedelta(days=2)).timestamp()  # noqa: E731
    gone = len(bundles()) - 4
    assert send(rendered, target, clock=late).collected == gone > 0
    assert len(bundles()) == 4


def test_a_publisher_that_dies_at_any_call_leaves_a_whole_history(
    rendered: ServedFleet, target: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(rendered, target)
    state, left = follower(rendered), iter(())
    state.follow()

    def dying(request: Any) -> None:
        if next(left, None) is None:
            raise Killed

    edit(rendered, "two\n")
    after = 0
    dies = Bucket(URL, PublishTargetUnusable)
    answered(dies, dying)
    while True:
        left = iter(range(1, 1 + after))
        before = served(state)
        try:
            send(rendered, dies)
        except Killed:
            state.follow()
            new = follower(rendered, f"new{after}")
            new.follow()
            assert served(state) == served(new)
            assert served(state) in (before, rendered.renderer.refs())
            after += 1
        else:
            break
    assert after > 3
    state.follow()
    assert served(state) == rendered.renderer.refs()


def test_a_follower_that_dies_at_any_step_serves_what_it_had_and_goes_on(
    rendered: ServedFleet, target: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(rendered, target)
    state = follower(rendered)
    state.follow()
    before = served(state)
    edit(rendered, "two\n")
    send(rendered, target)
    for place in ("_downloaded", "_fetch_from", "_unfinished"):
        with monkeypatch.context() as patch:
            patch.setattr(FollowedBucket, place, dying_after(getattr(FollowedBucket, place)))
            with pytest.raises(Killed):
                state.follow()
        assert served(state) == before
        state = follower(rendered)  # a new process
    assert state.follow()
    assert served(state) == rendered.renderer.refs()


def test_of_two_publishers_at_once_one_is_refused(rendered: ServedFleet, target: Bucket) -> None:
    send(rendered, target)
    edit(rendered, "two\n")
    other = Bucket(URL, PublishTargetUnusable)
    sent = []

    def meanwhile(request: Any) -> None:
        if request.method == "PUT" and not sent:
            sent.append(request)
            edit(rendered, "three\n")
            send(rendered, target)

    answered(other, meanwhile)
    with pytest.raises(PublishBusy, match="faster"):
        send(rendered, other)
    state = follower(rendered)
    state.follow()
    assert served(state) == rendered.renderer.refs()


def test_a_state_repo_from_an_old_backup_publishes_nothing(
    rendered: ServedFleet, target: Bucket, tmp_path: Path
) -> None:
    old = ServedFleet(tmp_path / "old")
    old.render(FLEET)
    edit(rendered, "two\n")
    send(rendered, target)
    before = keys()
    with pytest.raises(PublishGoesBack, match="not in this history"):
        send(old, target)
    assert keys() == before
    assert history_differences(old.renderer.repo, target)


def test_history_that_was_rewritten_and_a_mirror_that_is_damaged(rendered: ServedFleet, target: Bucket) -> None:
    edit(rendered, "two\n")
    send(rendered, target)
    state = follower(rendered)
    state.follow()
    had = served(state)
    (state.mirror / "margo-gitops-bundle").unlink()
    (state.mirror / "HEAD").unlink()
    edit(rendered, "three\n")
    send(rendered, target)
    assert state.follow()
    assert served(state) == rendered.renderer.refs() != had
    other = ServedFleet(rendered.folder / "other")
    other.render(FLEET)
    with store_client() as client:
        client.delete_object(Bucket=BUCKET, Key=LIST)
    send(other, target)
    with pytest.raises(StateTampered, match="rewritten"):
        state.follow()
    assert served(state) == rendered.renderer.refs()


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (503, "SlowDown"), (404, "NoSuchBucket")])
def test_a_store_that_refuses_is_said_and_what_is_here_stays(
    rendered: ServedFleet, target: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    send(rendered, target)
    monkeypatch.setattr(bucket_module, "_CONFIG", bucket_module._CONFIG.merge(Config(retries={"max_attempts": 1})))
    state, other = follower(rendered), Bucket(URL, PublishTargetUnusable)
    state.follow()
    for bucket in (state._bucket, other):
        answered(bucket, refusal(status, code))
    with pytest.raises(StateUnreachable, match="cannot be used") as refused:
        state.follow()
    assert code in str(refused.value.why)
    state.start()
    assert served(state) == rendered.renderer.refs()
    with pytest.raises(PublishTargetUnusable, match="cannot be used"):
        send(rendered, other)


def test_a_store_that_is_slow_for_a_moment_is_asked_again(rendered: ServedFleet, target: Bucket) -> None:
    refusals = iter([refusal(503, "SlowDown")])
    answered(target, lambda request: next(refusals, lambda _: None)(request))
    assert send(rendered, target).bundles == 1


@pytest.mark.parametrize("content", [b"", b"# v2 git bundle\n", None])
def test_a_bundle_that_is_cut_or_gone_moves_nothing(
    rendered: ServedFleet, target: Bucket, content: bytes | None
) -> None:
    send(rendered, target)
    state = follower(rendered)
    state.follow()
    had, before = served(state), set(bundles())
    edit(rendered, "two\n")
    send(rendered, target)
    (key,) = set(bundles()) - before
    with store_client() as client:
        whole = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        client.delete_object(Bucket=BUCKET, Key=key)
        if content is not None:
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
    with pytest.raises(StateUnreachable):
        state.follow()
    assert served(state) == had
    with store_client() as client:
        client.put_object(Bucket=BUCKET, Key=key, Body=whole)
    assert state.follow()
    assert served(state) == rendered.renderer.refs()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"refs": "x", "bundles": []}', b" " * 2_000_000])
def test_a_list_that_no_publisher_wrote_is_refused(rendered: ServedFleet, target: Bucket, content: bytes) -> None:
    with store_client() as client:
        client.put_object(Bucket=BUCKET, Key=LIST, Body=content)
    with pytest.raises(StateUnreachable):
        follower(rendered).follow()
    with pytest.raises(PublishTargetUnusable):
        send(rendered, target)


@pytest.mark.parametrize(
    ("status", "headers"), [(200, {}), (204, {"date": "today"}), (307, {"location": "http://[::1]"})]
)
def test_an_answer_that_is_not_s3s_is_said(rendered: ServedFleet, status: int, headers: dict[str, str]) -> None:
    class Raw(BytesIO):
        def stream(self) -> Iterator[bytes]:
            yield b""

    state = follower(rendered)
    answered(state._bucket, lambda request: AWSResponse(request.url, status, headers, Raw()))
    with pytest.raises(StateUnreachable, match="cannot be used"):  # another error would end the server's watch
        state.follow()


@pytest.mark.parametrize(("many", "size"), [(101, 1), (1, 10**15)])
def test_a_list_that_would_fill_the_disk_is_refused(
    rendered: ServedFleet, target: Bucket, many: int, size: int
) -> None:
    bundle = HistoryBundle(Digest(f"sha256:{'0' * 64}"), size, 1, whole=True)
    target.replace(LIST.removeprefix("state/"), write_history(History(bundle.digest, (bundle,) * many)), None)
    with pytest.raises(StateUnreachable, match="is not whole"):
        follower(rendered).follow()


def test_a_store_that_ignores_conditions_is_found_out(rendered: ServedFleet, target: Bucket) -> None:
    def ignore(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop("If-None-Match", None)

    target._client.meta.events.register("before-call.s3.PutObject", ignore)  # type: ignore[attr-defined]
    with pytest.raises(PublishTargetUnusable, match="ignores the conditions"):
        send(rendered, target)


def test_a_write_whose_answer_was_lost_is_known_again(target: Bucket) -> None:
    tag = target.replace("lock", b"mine", None)
    assert target.replace("lock", b"mine", None) == tag
    with pytest.raises(bucket_module.ObjectMoved):
        target.replace("lock", b"another's", None)


def test_a_clock_that_is_ahead_collects_nothing_of_others(
    rendered: ServedFleet, target: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.put("_history/of-another-publisher.bundle", b"", "", "")
    late = datetime.now(tz=UTC).timestamp() + 7 * 86_400
    monkeypatch.setattr(bucket_module, "time", SimpleNamespace(time=lambda: late))
    assert send(rendered, target, clock=lambda: late).collected == 0


def test_a_password_in_an_endpoint_is_not_shown(rendered: ServedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:s3cret@127.0.0.1:1")
    monkeypatch.setattr(bucket_module, "_CONFIG", bucket_module._CONFIG.merge(Config(retries={"max_attempts": 1})))
    with pytest.raises(StateUnreachable) as refused:
        follower(rendered).follow()
    assert "127.0.0.1" in str(refused.value.why)
    assert "s3cret" not in str(refused.value.why)


def test_the_command_and_a_server(fleet: ServedFleet, endpoint: str) -> None:
    def publish(*more: str) -> str:
        done = margo_gitops(
            "publish",
            URL,
            "--history",
            "--state-repo",
            "state.git",
            *more,
            cwd=fleet.folder,
            environment=environment(endpoint),
        )
        assert done.code == 0, done
        return done.stdout

    assert "1 bundle in the bucket" in publish()
    fleet.environment = {**fleet.environment, **environment(endpoint)}
    mirror = {"url": URL, "reportsUrl": (fleet.folder / "state.git").as_uri(), "fetchSeconds": 0.2}
    fleet.start(stateRepo="mirror.git", mirror=mirror, reports={"folder": "journal", "commitSeconds": 0.2})
    with fleet.client("press-01") as client:
        held = client.get("/api/v1/deployments")
        edit(fleet, "two\n")
        publish()
        answer = client.get("/api/v1/deployments", headers={"If-None-Match": held.headers["ETag"], "Prefer": "wait=30"})
        assert answer.json()["manifestVersion"] == held.json()["manifestVersion"] + 1
        assert client.put("/api/v1/capabilities/press-01", json=capabilities("press-01")).status_code == 201
    until(lambda: "press-01/capabilities/press-01.json" in fleet.reports())
    assert "is what the state repo holds" in publish("--check")


def test_a_bucket_without_a_place_for_reports_is_refused(tmp_path: Path) -> None:
    fleet = ServedFleet(tmp_path)
    fleet.write_tokens()
    file = fleet.configure(mirror={"url": URL}, reports={"folder": "j"})
    done = margo_gitops("serve", "--config", file, "--check", cwd=tmp_path)
    assert (done.code, "a bucket takes no reports" in done.stderr) == (2, True), done


def test_a_history_that_ends_at_a_checkpoint_is_not_published_as_a_whole_one(
    rendered: ServedFleet, target: Bucket
) -> None:
    edit(rendered, "two\n")
    git = rendered.renderer.git
    (git.path / "shallow").write_text(git.run("rev-parse", "fleet", "devices/press-01"))
    with pytest.raises(StateRepoUnusable, match="needs the whole history"):
        send(rendered, target)


def test_what_only_reads_takes_a_bucket_and_the_rest_says_why_not(tmp_path: Path, target: Bucket) -> None:
    fleet, cache = FleetFolder.from_template(tmp_path / "fleet"), tmp_path / "cache"
    fleet.commit("Make the fleet")
    render_fleet(RenderRequest(fleet.root, "HEAD", str(tmp_path / "state.git"), cache))
    publish_history(StateRepo.open(tmp_path / "state.git"), target, 86_400.0)
    assert not plan_fleet(PlanRequest(fleet.root, "HEAD", None, URL, cache)).devices
    verified = verify(StateRequest(fleet.root, URL, cache), VerifyOptions())
    assert (verified.device_commits, verified.findings) == (4, ())
    with pytest.raises(StateRepoUnusable, match="is only read"):
        render_fleet(RenderRequest(fleet.root, "HEAD", URL, cache))
    with pytest.raises(StateRepoUnusable, match="is only read"):
        renew_statement(URL, cache, Renewal(key(1), datetime.now(UTC), timedelta(days=1)))
    with pytest.raises(StatusUnusable, match="holds no reports"):
        read_status(StatusRequest(fleet.root, URL, cache))
