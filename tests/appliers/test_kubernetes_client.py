"""The client of clusters against a server that misbehaves: each answer is an error of ours, or what it says."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from support.faulty_http import Answer, FaultyServer, listening

from margo_gitops.appliers.kubernetes import client as module
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.errors import ApplyError, ClusterRefusesAgent, EngineUnavailable, ListExpired

CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps", namespaced=True, verbs=())
LIST = {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": [{"metadata": {"name": "a"}}]}
BUSY = {"kind": "Status", "message": "busy"}


@dataclass(kw_only=True)
class Server(FaultyServer):
    def _backend(self, _):
        return json_answer(LIST)


def json_answer(content, status=200, *headers):
    return Answer(status, [("Content-Type", "application/json"), *headers], json.dumps(content).encode())


def html(status):
    return Answer(status, [("Content-Type", "text/html")], b"<html>Please log in</html>")


@pytest.fixture
def server(tmp_path):
    made = Server()
    with listening(made):
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [{"name": "a", "cluster": {"server": made.url("").rstrip("/")}}],
            "users": [{"name": "a", "user": {"token": "t"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        yield made


@pytest.fixture
def client(server, tmp_path):
    return ClusterClient(tmp_path / "kubeconfig")


@pytest.fixture
def clock(monkeypatch):
    """Replaces the client's clock; sleeping takes no time."""
    made = SimpleNamespace(now=0.0, slept=[])

    def sleep(seconds):
        made.slept.append(seconds)
        made.now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=sleep))
    return made


NO_ANSWERS = {
    "no JSON": Answer(200, [], b'{"kind": '),
    "a page of a portal": html(200),
    "nothing": Answer(200, [], b""),
    "null": json_answer(None),
    "no object": json_answer([LIST]),
    "an empty object": json_answer({}),
    "another kind": json_answer({"kind": "ConfigMap", "metadata": {}}),
    "not UTF-8": Answer(200, [], b'{"kind": "\xff"}'),
    "too deep": Answer(200, [], b"[" * 100_000),
    "a redirect": Answer(302, [("Location", "https://192.0.2.1/")], b""),
    "a missing page": html(404),
    "a page that refuses": html(403),
    "a broken gateway": html(502),
    "a server that is stopping": json_answer(BUSY, 503),
    "a server that is busy": json_answer(BUSY, 429),
    "half of an answer": Answer(200, [], json.dumps(LIST).encode(), cut=40),
    "half of an answer without a length": Answer(
        0, [], b"", raw=b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LIST).encode()[:40]
    ),
    "half of a chunk": Answer(0, [], b"", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"),
    "a closed connection": Answer(0, [], b"", raw=b""),
    "no HTTP": Answer(0, [], b"", raw=b"SSH-2.0-OpenSSH\r\n"),
    "too many headers": Answer(0, [], b"", raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n{}"),
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_of_an_api_server_is_no_empty_cluster(server, client, answer):
    server.faults.append(lambda *_: answer)
    with pytest.raises(EngineUnavailable) as caught:
        client.list_objects(CONFIG_MAPS, "plant")
    assert caught.value.why
    assert len(server.requests) == 1
    server.faults.clear()
    assert [each["metadata"]["name"] for each in client.list_objects(CONFIG_MAPS, "plant")] == ["a"]


def test_an_answer_ends_by_bytes_and_by_time(server, client, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    server.faults.append(lambda *_: Answer(200, [], b"", repeat=b"[" * 65536))
    with pytest.raises(EngineUnavailable, match="more than 1000000 bytes"):
        client.list_objects(CONFIG_MAPS, "plant")
    server.faults[:] = [lambda _, answer: Answer(200, [], answer.body * 100, drip_seconds=0.02)]
    with pytest.raises(EngineUnavailable, match="does not end in time"):
        client.request("GET", "/api/v1/configmaps", seconds=0.2)


@pytest.mark.parametrize(
    ("told", "slept"), [("0", [1, 2, 4, 8]), ("1", [1, 2, 4, 8]), ("7", [7, 14]), ("60", []), ("²", [])]
)
def test_a_busy_server_is_asked_again_when_it_says_and_ever_more_rarely(server, client, clock, told, slept):
    server.faults.append(lambda *_: json_answer(BUSY, 429, ("Retry-After", told)))
    with pytest.raises(EngineUnavailable, match="busy"):
        client.list_objects(CONFIG_MAPS, "plant")
    assert clock.slept == slept
    assert len(server.requests) == len(slept) + 1
    server.faults[:] = [lambda *_: server.faults.clear() or json_answer(BUSY, 503, ("Retry-After", "1"))]
    assert client.list_objects(CONFIG_MAPS, "plant")


def test_an_expired_list_is_read_from_its_start(server, client):
    page = {**LIST, "metadata": {"continue": "x"}}
    gone = json_answer({"kind": "Status", "message": "too old"}, 410)
    server.faults.append(lambda request, _: gone if "continue" in request.path else json_answer(page))
    with pytest.raises(EngineUnavailable, match="ends before it is read"):
        client.list_objects(CONFIG_MAPS, "plant")
    assert len(server.requests) == 6
    server.faults[:] = [lambda *_: gone]
    with pytest.raises(ListExpired):
        client.request("GET", "/api/v1/configmaps")


def test_a_token_that_is_renewed_is_read_again_at_once(server, client, tmp_path):
    refused = json_answer({"kind": "Status", "message": "Unauthorized"}, 401)
    server.faults.append(lambda request, _: None if request.headers["authorization"] == "Bearer new" else refused)
    with pytest.raises(ClusterRefusesAgent, match="renew the token"):
        client.list_objects(CONFIG_MAPS, "plant")
    assert len(server.requests) == 2
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace('"t"', '"new"'))
    assert client.list_objects(CONFIG_MAPS, "plant")


def test_a_plug_in_that_fails_is_an_error_of_ours(server, client):
    client.list_objects(CONFIG_MAPS, "plant")

    def fails(_):
        raise RuntimeError("the plug-in ends with 1")

    client._api.configuration.refresh_api_key_hook = fails
    with pytest.raises(ApplyError, match="cannot be used"):
        client.list_objects(CONFIG_MAPS, "plant")


def test_a_kind_with_other_versions_than_before_is_asked_for_again(server, client):
    """A CRD that drops the version that was listed does not make its objects look removed."""
    served = ["example.com/v1alpha1"]

    def cluster(request, _):
        path = request.path.partition("?")[0]
        if path == "/apis/example.com":
            preferred = {"groupVersion": served[0]}
            return json_answer({"kind": "APIGroup", "preferredVersion": preferred, "versions": [preferred]})
        if path == f"/apis/{served[0]}":
            widgets = {"name": "widgets", "kind": "Widget", "namespaced": True, "verbs": ["list"]}
            return json_answer({"kind": "APIResourceList", "resources": [widgets]})
        if path == f"/apis/{served[0]}/namespaces/plant/widgets":
            return json_answer({"kind": "WidgetList", "items": [{"metadata": {"name": "a"}}]})
        return Answer(404, [], b"404 page not found\n")

    server.faults.append(cluster)
    widget = module.ObjectId("example.com", "Widget", "plant", "a")
    before = client.resource_for(widget)
    served[0] = "example.com/v1"
    [found] = client.list_objects(before, "plant")
    assert found["apiVersion"] == "example.com/v1"
    served[0] = "example.com/v2"
    served.append("gone")
    server.faults[:] = [lambda *_: Answer(404, [], b"404 page not found\n")]
    assert client.list_objects(before, "plant") == []
