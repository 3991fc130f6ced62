"""Over git, a device sees its own branch, gets its own commits, and learns nothing of others (G-A-3 to G-A-9)."""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Iterator

import httpx
import pytest
from server.git_requests import REPOSITORY, V2, command, fetch, ls_refs, objects, post, texts
from server.serving import FLEET, HMI, ServedFleet, served_fleet
from support.git_cli import Git

from margo_gitops.documents.state_layout import DEVICE_REFS, device_ref
from margo_gitops.transport.git.pktline import FLUSH, packet

MINE, OTHERS = device_ref("press-01"), device_ref("press-02")
UNKNOWN = "5" * 40


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A server over a fleet with some history."""
    with served_fleet(tmp_path_factory.mktemp("git")) as fleet:
        for number in range(8):
            content = HMI + b"# %d\n" % number
            fleet.render({**FLEET, "press-01": {"hmi": content, "mes": b"b: 1\n"}, "press-02": {"hmi": content}})
        for device in FLEET:
            fleet.token(device)
        yield fleet.start(limits={"requestsPerMinute": 1_000_000, "burst": 1_000_000})


@pytest.fixture(scope="module")
def device(served: ServedFleet) -> Iterator[httpx.Client]:
    """The device press-01."""
    with served.client("press-01") as client:
        yield client


def revision(served: ServedFleet, name: str) -> str:
    return served.renderer.git.run("rev-parse", name)


@pytest.mark.parametrize(
    "prefixes", [(), ("",), ("refs/",), (DEVICE_REFS,), (OTHERS, MINE), (MINE,), ("refs/heads/f", MINE[:-1])]
)
def test_g_a_5_no_prefix_shows_another_ref(
    served: ServedFleet, device: httpx.Client, prefixes: tuple[str, ...]
) -> None:
    found = ls_refs(device, *prefixes)
    assert found.keys() - {"HEAD"} == {MINE}
    assert set(found.values()) == {revision(served, MINE)}


@pytest.mark.parametrize("prefixes", [(OTHERS,), ("refs/heads/fleet",), ("refs/tags/",), (MINE + "0",)])
def test_g_s_4_where_there_is_no_such_ref_the_answer_is_empty(device: httpx.Client, prefixes: tuple[str, ...]) -> None:
    assert ls_refs(device, *prefixes) == {}


def test_g_a_5_version_0_shows_no_other_ref(served: ServedFleet, device: httpx.Client) -> None:
    found = device.get(f"{REPOSITORY}/info/refs?service=git-upload-pack")
    assert revision(served, MINE).encode() in found.content
    for name in (OTHERS, "refs/heads/fleet"):
        assert name.encode() not in found.content
        assert revision(served, name).encode() not in found.content


def test_g_a_6_what_is_anothers_what_is_too_old_and_what_is_nowhere_are_one_answer(
    served: ServedFleet, device: httpx.Client
) -> None:
    guesses = [
        UNKNOWN,
        revision(served, OTHERS),
        revision(served, "refs/heads/fleet"),
        revision(served, f"{OTHERS}^{{tree}}"),
        revision(served, f"{OTHERS}:manifest.json"),
        revision(served, f"{MINE}^{{tree}}"),
        revision(served, f"{MINE}:manifest.json"),
        revision(served, f"{MINE}~5"),
    ]
    answers = {}
    for guess in guesses:
        found = fetch(device, f"want {guess}", "deepen 1", "done")
        assert found.content == packet(f"ERR upload-pack: not our ref {guess}\n".encode())
        headers = {name: value for name, value in found.headers.items() if name != "date"}
        answers[guess] = (found.status_code, headers)
    assert all(answer == answers[UNKNOWN] for answer in answers.values())


def test_g_a_6_version_0_refuses_the_same(served: ServedFleet, device: httpx.Client) -> None:
    for guess in (UNKNOWN, revision(served, OTHERS)):
        body = packet(f"want {guess} ofs-delta\n".encode()) + FLUSH + packet(b"done\n")
        found = device.post(f"{REPOSITORY}/git-upload-pack", content=body)
        assert found.content == packet(f"ERR upload-pack: not our ref {guess}\n".encode())


def test_g_a_7_a_have_of_anothers_commit_changes_nothing(served: ServedFleet, device: httpx.Client) -> None:
    mine = revision(served, MINE)
    answers = {
        fetch(device, f"want {mine}", "deepen 1", "thin-pack", f"shallow {name}", f"have {name}", "done").content
        for name in (UNKNOWN, revision(served, OTHERS), revision(served, "refs/heads/fleet"))
    }
    assert len(answers) == 1
    assert len(objects(answers.pop())) == 6


def test_g_s_10_a_commit_that_the_ref_pointed_to_lately_is_still_given(
    served: ServedFleet, device: httpx.Client
) -> None:
    for back in range(5):
        name = revision(served, f"{MINE}~{back}")
        assert name.encode() in objects(fetch(device, f"want {name}", "deepen 1", "done").content)


def test_g_s_9_a_small_change_is_a_small_pack_against_what_is_held(served: ServedFleet, device: httpx.Client) -> None:
    new, old = revision(served, MINE), revision(served, f"{MINE}~1")
    held = objects(fetch(device, f"want {old}", "deepen 1", "done").content)
    whole = fetch(device, f"want {new}", "deepen 1", "done").content
    arguments = (f"want {new}", "deepen 1", "thin-pack", f"shallow {old}", f"have {old}", "done")
    change = fetch(device, *arguments)
    assert texts(change.content) == ["shallow-info", f"shallow {new}", "DELIMITER"]
    fetched = objects(change.content, held)
    assert len(fetched) == 5  # not the deployment that did not change
    assert {**held, **fetched}.keys() >= objects(whole).keys()
    assert len(change.content) < len(whole)
    assert fetch(device, *arguments).content == change.content


def test_g_s_5_commands_with_and_without_capabilities_are_answered_alike(device: httpx.Client) -> None:
    bare = post(device, command("ls-refs", f"ref-prefix {MINE}"))
    head = packet(b"command=ls-refs\n") + packet(b"agent=git/2.39.5\n") + packet(b"object-format=sha1\n")
    full = post(device, bare.request.content.replace(packet(b"command=ls-refs\n"), head))
    assert full.content == bare.content


def test_g_s_19_another_object_format_is_refused(device: httpx.Client) -> None:
    body = command("ls-refs").replace(b"0001", packet(b"object-format=sha256\n") + b"0001", 1)
    assert post(device, body).content.startswith(packet(b"ERR mismatched object format: the repository has sha1\n"))


def test_g_s_11_a_body_that_git_compressed_is_read(device: httpx.Client) -> None:
    body = command("ls-refs", f"ref-prefix {MINE}")
    found = post(device, gzip.compress(body), Content_Encoding="gzip")
    assert found.content == post(device, body).content


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        pytest.param(b"hello", "", 400, id="no packet"),
        pytest.param(b"0032want ", "", 400, id="cut"),
        pytest.param(command("ls-refs") + b"0000", "", 400, id="two requests"),
        pytest.param(b"\x1f\x8bnothing", "gzip", 400, id="no gzip"),
        pytest.param(gzip.compress(b"0" * 10_000_000), "gzip", 413, id="gzip bomb"),
        pytest.param(b"0" * 300_000, "", 413, id="too large"),
    ],
)
def test_g_r_1_what_is_no_request_of_git_is_refused(
    device: httpx.Client, body: bytes, encoding: str, status: int
) -> None:
    assert post(device, body, **({"Content_Encoding": encoding} if encoding else {})).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        command("push"),
        command("object-info"),
        command("fetch"),
        command("fetch", "want 1234"),
        command("fetch", "filter blob:none"),
        command("fetch", f"want {UNKNOWN}", "deepen 0"),
        command("fetch", f"want {UNKNOWN}", "deepen-since 1700000000"),
        command("ls-refs", "everything"),
        command("ls-refs", *["ref-prefix x"] * 9_000),
    ],
    ids=["push", "object-info", "no want", "short id", "filter", "depth 0", "since", "unknown", "many lines"],
)
def test_g_r_1_what_is_not_offered_is_refused_in_a_packet(device: httpx.Client, body: bytes) -> None:
    found = post(device, body)
    assert found.status_code == 200
    assert found.content[4:].startswith(b"ERR ")


@pytest.mark.parametrize(
    "path", ["/info/refs", "/info/refs?service=git-upload-archive", "/HEAD", "/objects/info/packs"]
)
def test_g_x_8_the_old_protocol_of_files_does_not_exist(device: httpx.Client, path: str) -> None:
    assert device.get(f"{REPOSITORY}{path}").status_code == 404


def test_g_x_6_nobody_pushes(device: httpx.Client) -> None:
    assert device.get(f"{REPOSITORY}/info/refs?service=git-receive-pack").status_code == 403
    assert device.post(f"{REPOSITORY}/git-receive-pack", content=FLUSH).status_code == 404


@pytest.mark.parametrize("user", ["press-01", "", "press-02", "x-access-token"])
def test_g_a_3_the_token_is_the_password_and_the_user_name_makes_nobody_another(served: ServedFleet, user: str) -> None:
    credentials = base64.b64encode(f"{user}:{served.tokens['press-01']}".encode()).decode()
    with served.client(headers={"Authorization": f"Basic {credentials}"}) as client:
        assert ls_refs(client).keys() == {"HEAD", MINE}


@pytest.mark.parametrize(
    "value", [None, "Basic", "Basic %%%", "Basic OnNlY3JldA==", "Bearer secret", "Basic " + "A" * 4000]
)
def test_g_a_4_who_is_nobody_is_asked_who_he_is_and_told_nothing(served: ServedFleet, value: str | None) -> None:
    with served.client(headers={"Authorization": value} if value else {}) as client:
        found = [
            post(client, command("ls-refs")),
            client.get(f"{REPOSITORY}/info/refs?service=git-upload-pack", headers=V2),
        ]
    assert [answer.status_code for answer in found] == [401, 401]
    assert len({answer.content for answer in found}) == 1
    assert found[0].headers["WWW-Authenticate"].startswith("Basic ")


def test_basic_is_for_git_alone(served: ServedFleet) -> None:
    credentials = base64.b64encode(f"press-01:{served.tokens['press-01']}".encode()).decode()
    with served.client(headers={"Authorization": f"Basic {credentials}"}) as client:
        assert client.get("/api/v1/deployments").status_code == 403


def test_a_device_without_state_sees_an_empty_repository(served: ServedFleet) -> None:
    with served.client("new-01") as client:
        served.write_tokens()
        assert ls_refs(client) == {}
        assert b"capabilities^{}" in client.get(f"{REPOSITORY}/info/refs?service=git-upload-pack").content


def test_g_s_16_ls_refs_waits_for_a_change_of_the_own_branch(fleet: ServedFleet) -> None:
    fleet.start()
    with fleet.client("press-01") as client:
        held = ls_refs(client, MINE)[MINE]
        before = time.monotonic()
        assert ls_refs(client, MINE, Prefer="wait=1", If_None_Match=f'"{held}"')[MINE] == held
        assert time.monotonic() - before >= 1
        assert ls_refs(client, MINE, Prefer="wait=60", If_None_Match=f'"{UNKNOWN}"')[MINE] == held
        fleet.render({**FLEET, "press-01": {"hmi": b"id: other\n"}})
        assert ls_refs(client, MINE, Prefer="wait=60", If_None_Match=f'"{held}"')[MINE] != held


def test_f26_a_state_older_than_what_the_device_adopted_is_not_served(fleet: ServedFleet) -> None:
    fleet.render({**FLEET, "press-01": {"hmi": b"id: newer\n"}})
    fleet.start()
    old = Git(fleet.folder / "state.git").run("rev-parse", f"{MINE}~1")
    with fleet.client("press-01") as client:
        manifest = fleet.manifest("press-01")
        deployment = manifest["deployments"][0]["deploymentId"]
        report = {
            "apiVersion": "device.margo/v1",
            "deploymentId": deployment,
            "adoptedManifestVersion": manifest["manifestVersion"],
            "status": {"state": "installed"},
            "components": [{"name": "hmi", "state": "installed"}],
        }
        report.pop("apiVersion")
        assert client.post(f"/api/v1/deployments/{deployment}/status", json=report).status_code == 201
        assert ls_refs(client, MINE)
        fleet.renderer.git.run("update-ref", MINE, old)
        found = post(client, command("ls-refs", f"ref-prefix {MINE}"))
        assert found.status_code == 503
        assert int(found.headers["Retry-After"]) > 0
