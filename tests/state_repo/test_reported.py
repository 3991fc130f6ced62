"""Reading the branch of reports: what devices said, and nothing that a stranger wrote there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reporting import BEGIN, Reporter
from support.state_publishing import Renderer

from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.documents.status import SEVERITY
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.report_branch import ReportKey
from margo_gitops.state_repo.reported import Reports, key_of, read_status

DEVICES = {"press-01": {"hmi": b"hmi", "web": b"web"}, "Mixer_1": {"web": b"web"}}


@pytest.fixture
def reporter(renderer: Renderer) -> Reporter:
    renderer.publish(DEVICES)
    return Reporter(renderer.repo.folder)


@pytest.fixture
def objects(renderer: Renderer) -> StateObjects:
    return StateObjects(renderer.repo.folder)


def test_statuses_are_found_by_client(reporter: Reporter, objects: StateObjects):
    reporter.report("press-01", "failed", error="no space", only=0)
    reporter.report("Mixer_1")
    reports = Reports(objects)
    tip = reports.tip(objects.refs())
    assert tip is not None
    tree = reports.commit(tip).tree
    assert sorted(client for client, _ in reports.clients(tree)) == ["Mixer_1", "press-01"]
    folder = reports.client(tree, "press-01")
    assert folder is not None
    (status,) = reports.statuses(folder).values()
    assert (status.state, status.adopted, status.error) == ("failed", 1, "web: no space")
    assert status.deployment_id == reporter.deployments("press-01")[0]
    assert reports.client(tree, "press-02") is None


def test_the_history_says_who_reported_when_and_what_changed(reporter: Reporter, objects: StateObjects):
    reporter.report("press-01", "installing")
    reporter.report("press-01", "installed", only=1)
    reporter.report("Mixer_1")
    reports = Reports(objects)
    history = list(reports.history(objects.refs()[REPORTS_REF]))
    assert [each.time - BEGIN for each in history] == [180, 120, 60]
    assert dict(history[0].senders) == {"Mixer_1": ("token of Mixer_1",)}
    changed = [[each.key and each.key.client for each in reports.changes(commit)] for commit in history]
    assert changed == [["Mixer_1"], ["press-01"], ["press-01", "press-01"]]
    (change,) = reports.changes(history[1])
    assert change.before != change.after
    assert change.after is not None
    status = reports.status(change.after)
    assert status is not None
    assert status.state == "installed"


def test_a_removed_report_is_a_change_without_content(reporter: Reporter, objects: StateObjects):
    key = ReportKey("press-01", "capabilities", "press-01/axis")
    reporter.commit({key: b"{}"}, "press-01")
    reporter.commit({key: None}, "press-01")
    reports = Reports(objects)
    newest, older = reports.history(objects.refs()[REPORTS_REF])
    assert [(each.key, each.after) for each in reports.changes(newest)] == [(key, None)]
    assert [each.key for each in reports.changes(older)] == [key]


@given(st.sampled_from(["capabilities", "status"]), st.from_regex(r"[A-Za-z0-9._~-]{1,20}", fullmatch=True))
def test_every_key_has_one_path_and_every_path_one_key(kind: str, client: str):
    name = f"{client}/x" if kind == "capabilities" else "2541c588-2b5a-5659-898c-f2128302b9a5"
    key = ReportKey(client, kind, name)  # type: ignore[arg-type]
    assert key_of("/".join(key.path)) == key


@pytest.mark.parametrize(
    "path",
    [
        "press-01/status/x.json",
        "00/press-01/status/x.json",
        "zz/press-01/status/x.json",
        "aa/Press/status/x.json",
        "aa/press-01/notes/x.json",
        "aa/press-01/status/x.yaml",
        "aa/press-01/status",
    ],
)
def test_a_path_that_no_server_writes_is_no_key(path: str):
    assert key_of(path) is None


@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["deploymentId", "status", "state", "error", "message", "components"]), inner
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_what_is_no_status_is_none_and_never_an_exception(content: bytes):
    found = read_status(content)
    assert found is None or found.state in SEVERITY


def test_a_status_nested_too_deeply_is_none():
    assert read_status(b'{"status":' * 100_000) is None
