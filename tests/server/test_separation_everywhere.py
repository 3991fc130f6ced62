"""Device A on every path of device B, however it proves who it is: what is B's is answered like what nobody has.

Answers are compared as bytes, headers and lengths included. That nothing is to be learnt from time either follows from
what is read: the last tests show that no object and no commit of B is looked up, whatever A names.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest
from server.certificates import Authority, spiffe_id
from server.git_requests import REPOSITORY, command
from server.serving import ServedFleet, capabilities, served_fleet, status
from server.signing_fleet import SigningFleet
from server.test_separation_of_devices import variants
from support.fleet import write_signing_key
from support.signed_requests import SignedClient

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import FRESHNESS_REFS, device_ref
from margo_gitops.errors import StateTampered
from margo_gitops.server.resources.git_packs import plan_fetch
from margo_gitops.server.resources.git_wire import Fetch
from margo_gitops.state_repo.freshness_refs import Renewal, renew
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.served_state import ServedState
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.transport.git.pktline import FLUSH, packet
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.ssh_key import parse_signing_key

A, B, C = "press-01", "press-02", "press-0"
"""C's name begins like the others'."""

SECRET = b"id: only on B\n" + b"# what nobody else may see\n" * 20
FLEET = {
    A: {"hmi": b"id: hmi\n" * 40},
    B: {"hmi": b"id: hmi of B\n" * 40, "secret": SECRET},
    C: {"hmi": b"id: hmi of C\n" * 40},
    # Enough devices that the statement of freshness has several shards.
    **{f"cell-{number}": {"hmi": b"%d\n" % number} for number in range(66)},
}
NOBODYS_ID = "00000000-0000-4000-8000-000000000000"
NOBODYS_DIGEST = sha256(b"nobody has this")
NOWHERE = "5" * 40
LIMITS = {"requestsPerMinute": 1_000_000, "burst": 1_000_000}


@dataclass(frozen=True)
class Known:
    """What A may have heard of B: names and ids are no secrets."""

    deployment: str
    document: str
    bundle: str
    objects: dict[str, str]
    refs: tuple[str, ...]


@dataclass
class Way:
    """One way in which A proves who it is, to one server, on one kept connection.

    Attributes:
        fleet: the server.
        lines: headers that prove it, given method and target.
        tls: of A's connections; None for none.
        git_too: whether git's paths take it as well.
        connection: what is kept.
    """

    fleet: ServedFleet
    lines: Callable[[str, str], list[str]]
    tls: ssl.SSLContext | None = None
    git_too: bool = True
    connection: socket.socket | None = None

    def ask(self, method: str, path: str, body: bytes = b"", *more: str) -> bytes:
        """Return the whole answer to exactly these bytes, without its Date."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.fleet.host}", *more, *self.lines(method, path)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        if self.connection is None:
            plain = socket.create_connection((self.fleet.host, self.fleet.port), timeout=20)
            self.connection = self.tls.wrap_socket(plain, server_hostname=self.fleet.host) if self.tls else plain
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = self._receive(method)
        if b"connection: close\r\n" in answer:
            self.close()
        return re.sub(rb"date: [^\r]*\r\n", b"", answer)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _receive(self, method: str) -> bytes:
        assert self.connection is not None
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._some()
        stated = re.search(rb"\r\ncontent-length: ([0-9]+)\r\n", answer)
        length = int(stated[1]) if stated and method != "HEAD" else 0
        while len(answer) < end + 4 + length:
            answer += self._some()
        assert len(answer) == end + 4 + length
        return answer

    def _some(self) -> bytes:
        assert self.connection is not None
        part = self.connection.recv(65536)
        assert part, "the server hung up"
        return part

    def git(self, body: bytes, *, version: int = 2) -> bytes:
        more = ("Git-Protocol: version=2",) if version == 2 else ()
        return self.ask("POST", f"{REPOSITORY}/git-upload-pack", body, *more)


def rendered(folder: Path) -> ServedFleet:
    fleet = ServedFleet(folder)
    for number in range(2):
        fleet.render({**FLEET, A: {"hmi": b"id: hmi %d\n" % number}, B: {**FLEET[B], "other": b"%d\n" % number}})
    repo = StateRepo.open(fleet.renderer.git.path)
    key = parse_signing_key(write_signing_key(folder / "key").read_bytes())
    renew(repo, repo.refs.read(), Renewal(key, datetime.now(UTC)))
    return fleet


def by_token(fleet: ServedFleet) -> Way:
    token = fleet.token(A)
    fleet.token(B)
    fleet.start(limits=LIMITS)
    return Way(fleet, lambda _method, _path: [f"Authorization: Bearer {token}"])


def by_password(fleet: ServedFleet) -> Way:
    way = by_token(fleet)
    bearer = way.lines("", "")[0]
    # The user name is B's: it makes nobody another.
    basic = base64.b64encode(f"{B}:{fleet.tokens[A]}".encode()).decode()
    return replace(way, lines=lambda _, path: [f"Authorization: Basic {basic}"] if "git" in path.lower() else [bearer])


def by_proxy(fleet: ServedFleet) -> Way:
    (fleet.folder / "accepted").write_text(f"{spiffe_id('*')}\n")
    fleet.start(identity={"clientCert": {"proxies": ["127.0.0.1"], "accepted": "accepted"}}, limits=LIMITS)
    forwarded = base64.b64encode(Authority().client(spiffe_id(A)).der).decode()
    return Way(fleet, lambda _method, _path: [f"Client-Cert: :{forwarded}:", f"Margo-Device: {B}"])


def by_mutual_tls(fleet: ServedFleet) -> Way:
    authority = Authority()
    bundle = authority.issued.write(fleet.folder, "bundle")[0]
    authority.server().write(fleet.folder, "server")
    (fleet.folder / "accepted").write_text(f"{spiffe_id('*')}\n")
    fleet.start(
        identity={"mutualTls": {"accepted": "accepted"}},
        tls={"certificate": "server.pem", "key": "server.key", "clientTrust": "bundle.pem"},
        limits=LIMITS,
    )
    context = ssl.create_default_context(cafile=bundle)
    context.load_cert_chain(*authority.client(spiffe_id(A)).write(fleet.folder, "client"))
    theirs = base64.b64encode(authority.client(spiffe_id(B)).der).decode()
    return Way(fleet, lambda _method, _path: [f"Client-Cert: :{theirs}:", f"Margo-Device: {B}"], context)


def by_signature(fleet: ServedFleet) -> Way:
    made = SigningFleet(fleet).start()
    with made.http:
        client = made.client(A)

    def lines(method: str, path: str) -> list[str]:
        request = client.signed(method, path)
        return [f"{name}: {value}" for name, value in request.headers.items() if name.startswith("signature")]

    return Way(fleet, lines, git_too=False)


WAYS = {
    "bearer": by_token,
    "basic": by_password,
    "Client-Cert": by_proxy,
    "mutual TLS": by_mutual_tls,
    "signatures": by_signature,
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with served_fleet(tmp_path_factory.mktemp("separate")) as ended:
        fleet = rendered(ended.folder)
        try:
            made = WAYS[request.param](fleet)
            yield made
            made.close()
        finally:
            ended.process = fleet.process  # which `served_fleet` ends


@pytest.fixture(scope="module")
def known(way: Way) -> Known:
    git = way.fleet.renderer.git
    manifest = way.fleet.manifest(B)
    theirs = max(manifest["deployments"], key=lambda each: each["sizeBytes"])
    mine = {f"{FRESHNESS_REFS}{shard}" for shard in possible_shards(A)}
    shards = git.run("for-each-ref", "--format=%(refname)", FRESHNESS_REFS).split()
    others = next(ref for ref in shards if ref not in mine)
    names = {
        "tip": device_ref(B),
        "earlier commit": f"{device_ref(B)}~1",
        "tree": f"{device_ref(B)}^{{tree}}",
        "folder": f"{device_ref(B)}:deployments",
        "manifest": f"{device_ref(B)}:manifest.json",
        "device whose name is a prefix": device_ref(C),
        "fleet": "refs/heads/fleet",
        "freshness of others": others,
    }
    return Known(
        theirs["deploymentId"],
        theirs["url"],
        manifest["bundle"]["url"],
        {name: git.run("rev-parse", revision) for name, revision in names.items()},
        (device_ref(B), device_ref(C), "refs/heads/fleet", others, "refs/heads/reports"),
    )


def of_nobody(path: str, known: Known) -> str:
    """Return a path of the same form that leads to nothing."""
    return re.sub(r"[0-9a-f]{64}(?![0-9a-f])", NOBODYS_DIGEST.removeprefix("sha256:"), path).replace(
        known.deployment, NOBODYS_ID
    )


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_no_spelling_of_bs_paths_is_answered_otherwise_than_nobodys(way: Way, known: Known) -> None:
    documents = [known.document, known.bundle, known.document.replace("sha256:", "sha512:")]
    for path in documents:
        for theirs in variants(path):
            for method in ("GET", "HEAD"):
                answer = way.ask(method, theirs)
                assert answer == way.ask(method, of_nobody(theirs, known)), theirs
                assert status_of(answer) in {400, 401, 403, 404}, theirs


def test_a_guessed_digest_of_bs_content_finds_nothing_among_as(way: Way, known: Known) -> None:
    content = sha256(SECRET)
    mine = way.fleet.manifest(A)["deployments"][0]["deploymentId"]
    for theirs, nobodys in (
        (f"/api/v1/deployments/{mine}/{content}", f"/api/v1/deployments/{mine}/{NOBODYS_DIGEST}"),
        (f"/api/v1/bundles/{content}", f"/api/v1/bundles/{NOBODYS_DIGEST}"),
        (f"/api/v1/bundles/{sha256(b'')}", f"/api/v1/bundles/{NOBODYS_DIGEST}"),
    ):
        assert way.ask("GET", theirs) == way.ask("GET", nobodys)


def test_the_manifest_and_the_freshness_at_every_spelling_are_as(way: Way) -> None:
    for resource in ("/api/v1/deployments", "/api/v1/freshness"):
        for path in [*variants(resource), f"{resource}?device={B}", f"{resource}/{B}", f"/{B}{resource}"]:
            answer = way.ask("GET", path, b"", f"X-Margo-Device: {B}", f"X-Forwarded-User: {B}")
            assert SECRET not in answer
            assert way.fleet.manifest(B)["bundle"]["digest"].encode() not in answer
            assert status_of(answer) in {200, 400, 401, 403, 404}, path


def test_reports_on_b_are_refused_like_reports_on_nobody(way: Way, known: Known) -> None:
    for theirs, nobodys in ((B, "press-99"), (f"{B}/child", "press-99/child"), (f"{B}%2Fchild", "press-99%2Fchild")):
        for method in ("PUT", "DELETE"):
            answers = {
                way.ask(method, f"/api/v1/capabilities/{name}", body(name) if method == "PUT" else b"")
                for name in (theirs, nobodys)
            }
            assert [status_of(answer) for answer in answers] == [403]
    reports = {
        way.ask("POST", f"/api/v1/deployments/{name}/status", json.dumps(status(name)).encode())
        for name in (known.deployment, NOBODYS_ID)
    }
    assert [status_of(answer) for answer in reports] == [404 if way.git_too else 403]


def body(name: str) -> bytes:
    return json.dumps(capabilities(name.replace("%2F", "/"))).encode()


@pytest.mark.parametrize("version", [2, 0])
def test_no_object_of_b_can_be_wanted(way: Way, known: Known, version: int) -> None:
    for name, object_id in known.objects.items():
        forms: list[Callable[[str], bytes]] = (
            [
                lambda it: command("fetch", f"want {it}", "done"),
                lambda it: command("fetch", f"want {it}", "deepen 1", "done"),
                lambda it: command("fetch", f"want {it}", f"have {it}"),
                lambda it: command("fetch", f"want {it}", f"shallow {it}", "deepen 5", "deepen-relative", "done"),
            ]
            if version == 2
            else [
                lambda it: packet(f"want {it} multi_ack side-band-64k\n".encode()) + FLUSH + packet(b"done\n"),
                lambda it: packet(f"want {it}\n".encode()) + packet(b"deepen 1\n") + FLUSH + packet(b"done\n"),
            ]
        )
        for form in forms:
            theirs = way.git(form(object_id), version=version)
            assert theirs.replace(object_id.encode(), NOWHERE.encode()) == way.git(form(NOWHERE), version=version), name
            assert b"PACK" not in theirs
            assert status_of(theirs) == (200 if way.git_too else 403)


@pytest.mark.parametrize("version", [2, 0])
def test_what_a_says_it_has_of_b_changes_no_byte(way: Way, known: Known, version: int) -> None:
    mine = way.fleet.renderer.git.run("rev-parse", device_ref(A))
    forms: list[Callable[[str], bytes]] = (
        [
            lambda it: command("fetch", f"want {mine}", f"have {it}"),
            lambda it: command("fetch", f"want {mine}", "thin-pack", f"have {it}", "done"),
            lambda it: command("fetch", f"want {mine}", "deepen 1", "thin-pack", f"shallow {it}", f"have {it}", "done"),
            lambda it: command("fetch", f"want {mine}", "deepen 2", f"shallow {it}", "done"),
        ]
        if version == 2
        else [
            lambda it: packet(f"want {mine} multi_ack_detailed\n".encode()) + FLUSH + packet(f"have {it}\n".encode()),
            lambda it: (
                packet(f"want {mine} side-band-64k\n".encode())
                + packet(f"shallow {it}\n".encode())
                + packet(b"deepen 1\n")
                + FLUSH
                + packet(f"have {it}\n".encode())
                + packet(b"done\n")
            ),
        ]
    )
    for form in forms:
        answers = {way.git(form(name), version=version) for name in (NOWHERE, *known.objects.values())}
        assert len(answers) == 1
        assert SECRET not in answers.pop()


def test_no_prefix_and_no_version_lists_a_ref_of_b(way: Way, known: Known) -> None:
    listings = [way.git(command("ls-refs", *(f"ref-prefix {ref}" for ref in known.refs)))]
    listings += [way.git(command("ls-refs", f"ref-prefix {prefix}")) for prefix in ("", "refs/", device_ref(A)[:-1])]
    listings += [way.git(command("ls-refs", "symrefs", "peel", "unborn"))]
    listings += [way.ask("GET", f"{REPOSITORY}/info/refs?service=git-upload-pack", b"", *protocol) for protocol in OLD]
    for answer in listings:
        assert not any(ref.encode() in answer for ref in known.refs if ref != device_ref(C))
        assert not re.search(rb"refs/heads/devices/press-0\b(?!1)", answer)
        assert not any(name.encode() in answer for name in known.objects.values())


OLD = ((), ("Git-Protocol: version=0",), ("Git-Protocol: version=1",), ("Git-Protocol: version=2", "Git-Protocol: x"))


def test_no_spelling_of_the_repository_leads_to_more(way: Way, known: Known) -> None:
    request = command("ls-refs", f"ref-prefix {device_ref(B)}")
    folders = [f"{REPOSITORY}/", "//git/state.git", "/git//state.git", "/git/./state.git", "/git/x/../state.git"]
    folders += [
        "/git%2Fstate.git",
        "/git/state%2Egit",
        "/GIT/state.git",
        "/git/state.GIT",
        "/git/state",
        f"/git/{B}.git",
    ]
    folders += [f"{REPOSITORY}/../{B}.git", f"{REPOSITORY}/refs/heads/devices/{B}", f"{REPOSITORY}/objects/info"]
    for folder in folders:
        for path in (f"{folder}/git-upload-pack", f"{folder}/git-upload-pack/", f"{folder}/git-upload-pack;x"):
            answer = way.ask("POST", path, request, "Git-Protocol: version=2")
            assert status_of(answer) in {400, 401, 403, 404}, path
    for name in known.objects.values():
        for theirs in (f"objects/{name[:2]}/{name[2:]}", f"objects/pack/pack-{name}.idx"):
            nobodys = theirs.replace(name[:2] + "/" + name[2:], f"55/{NOWHERE[2:]}").replace(name, NOWHERE)
            assert way.ask("GET", f"{REPOSITORY}/{theirs}") == way.ask("GET", f"{REPOSITORY}/{nobodys}")


# The older contract: paths name clients.


@pytest.fixture(scope="module", params=["specification", "strict"])
def signing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningFleet]:
    with served_fleet(tmp_path_factory.mktemp("signing")) as ended:
        fleet = rendered(ended.folder)
        try:
            fleet.token(A)
            made = SigningFleet(fleet).start(request.param, {"bearer": {"tokens": "device-tokens"}})
            with made.http:
                yield made
        finally:
            ended.process = fleet.process


@pytest.fixture(scope="module")
def clients(signing: SigningFleet) -> tuple[SignedClient, SignedClient]:
    return signing.client(A, number=1), signing.client(B, number=2)


def told(client: SignedClient, method: str, path: str, document: object = None) -> tuple[object, ...]:
    answer = client.send(method, path, document)
    headers = [(name, value) for name, value in answer.headers.multi_items() if name != "date"]
    return answer.status_code, headers, answer.content


RESOURCES = ("deployments", "freshness", "capabilities", "nothing", "capabilities/press-02", "deployments/x/status")
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.mark.parametrize("key_id", ["a's key", "b's key", "b's id", "nobody's"])
def test_the_paths_of_client_b_are_those_of_nobody(clients: tuple[SignedClient, SignedClient], key_id: str) -> None:
    a, b = clients
    ids = {"a's key": None, "b's key": signed_key_id(b), "b's id": b.client_id, "nobody's": "f" * 64}
    impostor = replace(a, key_id=ids[key_id])
    manifest = b.get("deployments").json()
    links = [each["url"].removeprefix(b.path("")) for each in (*manifest["deployments"], manifest["bundle"])]
    for resource in (*RESOURCES, *links):
        for method in METHODS:
            document = {} if method in ("PUT", "POST") else None
            theirs = told(impostor, method, f"/api/v1/clients/{b.client_id}/{resource}", document)
            assert theirs == told(impostor, method, f"/api/v1/clients/{NOBODYS_ID}/{resource}", document)
            assert theirs[0] == 401


def signed_key_id(client: SignedClient) -> str:
    found = re.search(r'keyid="([^"]*)"', client.signed("GET", "/").headers["signature-input"])
    assert found
    return found[1]


def test_bs_content_below_as_own_paths_is_nobodys(
    clients: tuple[SignedClient, SignedClient],
) -> None:
    a, b = clients
    manifest = b.get("deployments").json()
    for each in (*manifest["deployments"], manifest["bundle"]):
        rest = each["url"].removeprefix(b.path(""))
        known = Known(each.get("deploymentId", "-" * 36), "", "", {}, ())
        # The current contract knows no signatures: whoever signs is a stranger there, for every path.
        for prefix, refusal in ((a.path(""), 404), ("/api/v1/", 403)):
            theirs, nobodys = prefix + rest, prefix + of_nobody(rest, known)
            assert told(a, "GET", theirs) == told(a, "GET", nobodys)
            assert told(a, "GET", theirs)[0] == refusal
    deployment = manifest["deployments"][0]["deploymentId"]
    reports = [told(a, "POST", a.path(f"deployments/{name}/status"), status(name)) for name in (deployment, NOBODYS_ID)]
    assert reports[0] == reports[1]
    assert reports[0][0] == 404
    for theirs, nobodys in ((B, "press-99"), (f"{B}/child", "press-99/child"), (b.client_id, NOBODYS_ID)):
        for method, document in (("PUT", capabilities), ("POST", capabilities), ("DELETE", None)):
            answers = [
                told(a, method, a.path(f"capabilities/{name}"), document(name) if document else None)
                for name in (theirs, nobodys)
            ]
            assert answers[0] == answers[1]
            assert answers[0][0] == 403


def test_a_token_is_no_signature(clients: tuple[SignedClient, SignedClient], signing: SigningFleet) -> None:
    fleet = signing.fleet
    for resource in RESOURCES:
        answers = {
            fleet.get_raw(f"/api/v1/clients/{client}/{resource}", fleet.tokens[A])
            for client in (clients[0].client_id, clients[1].client_id, NOBODYS_ID)
        }
        assert [status_of(answer) for answer in answers] == [401]


def test_no_spelling_of_a_path_signed_by_a_is_one_of_bs(clients: tuple[SignedClient, SignedClient]) -> None:
    a, b = clients
    middle = f"/clients/{a.client_id}/../{b.client_id}/"
    for path in (
        f"/api/v1{middle}deployments",
        f"/api/v1{middle.replace('..', '%2e%2e')}deployments",
        f"/api/v1/clients/{a.client_id}%2F..%2F{b.client_id}/deployments",
        f"/api/v1/clients//{b.client_id}/deployments",
        f"/api/v1//clients/{b.client_id}/deployments",
        f"/api/v1/clients/{b.client_id.upper()}/deployments",
        f"/api/v1/clients/{b.client_id};x/deployments",
        f"/api/v1/Clients/{b.client_id}/deployments",
        f"{a.path('deployments')}/../../{b.client_id}/deployments",
    ):
        request = a.signed("GET", path)
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in request.headers.items() if name.startswith("signature")]
        answer = SignedRaw(a).send(lines)
        assert status_of(answer) in {400, 401, 403, 404}, path
        assert b"manifestVersion" not in answer


@dataclass(frozen=True)
class SignedRaw:
    """Sends lines to the server of a client."""

    client: SignedClient

    def send(self, lines: list[str]) -> bytes:
        url = self.client.http.base_url
        with socket.create_connection((url.host, url.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))


# What is read while A asks: by construction, time tells nothing of B.


class RecordedObjects(StateObjects):
    """Writes down which objects are looked up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read_ids: set[str] = set()

    def content(self, name: str, *limit: int) -> tuple[bytes, bytes]:
        self.read_ids.add(name)
        return super().content(name, *limit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(tmp_path_factory.mktemp("read")).renderer.git.path


def test_what_a_fetch_names_of_b_is_never_looked_up(folder: Path) -> None:
    repository = pygit2.Repository(str(folder))
    theirs = {str(commit.id) for commit in repository.walk(repository.references[device_ref(B)].target)}
    mine = str(repository.references[device_ref(A)].target)
    for depth, relative in ((None, False), (1, False), (1, True), (3, False)):
        objects = RecordedObjects(folder)
        names = (*theirs, NOWHERE)
        request = Fetch((mine,), haves=names, shallow=frozenset(names), depth=depth, relative=relative, done=True)
        plan_fetch(objects, request)
        assert mine in objects.read_ids
        assert not objects.read_ids & {*theirs, NOWHERE}


def test_what_a_path_names_of_b_is_looked_up_below_a_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = ServedState(StateRepo.open(folder))
    view = state.view()
    theirs = view.state(B)
    assert theirs is not None
    read: list[str] = []
    objects = view._objects
    genuine = objects.state
    monkeypatch.setattr(objects, "state", lambda commit, client: read.append(client) or genuine(commit, client))
    deployment, content = next(iter(theirs.deployments.items()))
    assert view.deployment(A, deployment, sha256(content)) is None
    assert view.bundle(A, sha256(content)) is None
    assert not view.deployed_lately(A, deployment)
    assert set(read) == {A}


def test_an_object_that_is_missing_is_an_error_and_no_answer(folder: Path) -> None:
    with pytest.raises(StateTampered):
        RecordedObjects(folder).content(NOWHERE)
