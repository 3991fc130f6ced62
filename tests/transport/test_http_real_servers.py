"""The same state by git, from `margo-gitops serve`, and from static files behind nginx and Caddy: one set of bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.certificates import Authority, spiffe_id
from server.serving import ServedFleet, served_fleet
from support.published import Plant
from support.static_server import TOKENS, StaticServer, caddy, nginx

from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import SourceMisconfigured, SourceRefused, SourceUnreachable
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.transport.transport import Transport
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge
from margo_gitops.web.metering import Deadline

pytestmark = pytest.mark.real

DEVICE = "press-01"
SERVER = "spiffe://plant.example/margo/wfm/main"


def content(device: str, name: str, greeting: str = "hello") -> bytes:
    """Return a deployment document, whose id is the one that a render gives it."""
    component: Json = {"name": "web", "properties": {"repository": "oci://r.example/app", "revision": "1.0.0"}}
    target: Json = {"pointer": "GREETING", "components": ["web"]}
    return write_json(
        {
            "id": deployment_id("plant", device, name),
            "metadata": {"name": name, "namespace": "margo", "deviceId": device},
            "spec": {
                "applicationId": "com-example-app",
                "deploymentProfile": {"type": "compose", "components": [component]},
                "parameters": {"greeting": {"value": greeting, "targets": [target]}},
            },
        }
    )


FIRST = {DEVICE: {name: content(DEVICE, name) for name in ("hmi", "mes", "opc")}, "mixer-01": {}}
SECOND = {**FIRST, DEVICE: {**FIRST[DEVICE], "mes": content(DEVICE, "mes", "good morning")}}


def pulled(transport: Transport, held: Snapshot | None = None) -> Snapshot:
    with contextlib.closing(transport):
        snapshot = transport.pull(held).snapshot
    assert isinstance(snapshot, Snapshot)
    return snapshot


def trusted(snapshot: Snapshot) -> TrustedState:
    return judge(snapshot, TrustPolicy(DEVICE, None), None)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ServedFleet]:
    with served_fleet(tmp_path) as made:
        made.render(FIRST)
        made.token(DEVICE)
        yield made.start()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "token"


def from_server(fleet: ServedFleet, token_file: Path) -> HttpTransport:
    token_file.write_text(fleet.tokens[DEVICE])
    return HttpTransport(HttpSource(fleet.url, token_file=token_file))


def by_git(folder: Path) -> GitTransport:
    return GitTransport(GitSource(f"file://{folder}/state.git", device=DEVICE))


class TestServe:
    def test_the_bytes_and_the_verdict_are_those_of_git(
        self, fleet: ServedFleet, token_file: Path, tmp_path: Path
    ) -> None:
        git, http = pulled(by_git(tmp_path)), pulled(from_server(fleet, token_file))
        assert (http.manifest, http.deployments) == (git.manifest, git.deployments)
        assert trusted(http).deployments == trusted(git).deployments
        assert trusted(http).floor.manifest_digest == trusted(git).floor.manifest_digest

    def test_a_device_changes_its_transport_in_the_middle_and_fetches_nothing_twice(
        self, fleet: ServedFleet, token_file: Path, tmp_path: Path
    ) -> None:
        held = pulled(by_git(tmp_path))
        with contextlib.closing(from_server(fleet, token_file)) as http:
            assert http.pull(held).snapshot is None
            fleet.render(SECOND)
            before = http.cost
            newer = http.pull(held).snapshot
            assert isinstance(newer, Snapshot)
            assert (http.cost - before).requests == 2, "the manifest and the one deployment that changed"
        assert pulled(by_git(tmp_path), newer).manifest == newer.manifest

    def test_an_idle_poll_is_one_request_on_the_kept_connection(self, fleet: ServedFleet, token_file: Path) -> None:
        with contextlib.closing(from_server(fleet, token_file)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            before = http.cost
            assert http.pull(held).snapshot is None
            spent = http.cost - before
        assert (spent.requests, spent.connections) == (1, 0)
        assert spent.bytes_up + spent.bytes_down < 1000

    @pytest.mark.timeout(50)
    def test_a_change_ends_the_wait(self, fleet: ServedFleet, token_file: Path) -> None:
        with contextlib.closing(from_server(fleet, token_file)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            later = threading.Timer(0.3, fleet.render, [SECOND])
            later.start()
            answer = http.pull(held, 60)
            assert isinstance(answer.snapshot, Snapshot)
            later.join()
            assert answer.hints.waited

    def test_a_wait_without_a_change_ends_unchanged(self, fleet: ServedFleet, token_file: Path) -> None:
        with contextlib.closing(from_server(fleet, token_file)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            answer = http.pull(held, 1)
            assert answer.snapshot is None
            assert answer.hints.waited

    def test_reports_arrive(self, fleet: ServedFleet, token_file: Path) -> None:
        hmi = deployment_id("plant", DEVICE, "hmi")
        component: Json = {"name": "web", "state": "installed"}
        status: Json = {
            "deploymentId": hmi,
            "adoptedManifestVersion": 1,
            "status": {"state": "installed"},
            "components": [component],
        }
        properties: Json = {"id": DEVICE, "vendor": "acme", "modelNumber": "7", "serialNumber": "1"}
        with contextlib.closing(from_server(fleet, token_file)) as http:
            first = http.api.put_capabilities(DEVICE, write_json({"properties": properties}), Deadline(30, 30))
            again = [http.api.post_status(hmi, write_json(status), Deadline(30, 30)).status for _ in range(2)]
        assert (first.status, again) == (201, [201, 200])

    def test_the_wrong_token_is_refused(self, fleet: ServedFleet, tmp_path: Path) -> None:
        (tmp_path / "wrong").write_text("a" * 43)
        http = HttpTransport(HttpSource(fleet.url, token_file=tmp_path / "wrong"))
        with contextlib.closing(http), pytest.raises(SourceRefused):
            http.pull(None)

    def test_f12_a_server_that_restarts_is_found_again(self, fleet: ServedFleet, token_file: Path) -> None:
        with contextlib.closing(from_server(fleet, token_file)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            fleet.stop()
            with pytest.raises(SourceUnreachable):
                http.pull(held)
            fleet.render(SECOND)
            fleet.start(listen={"port": fleet.port})
            assert isinstance(http.pull(held).snapshot, Snapshot)


class TestMutualTls:
    """X.509-SVIDs on both sides, as the identity profile of the standard has them."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[HttpSource]:
        authority = Authority()
        with served_fleet(tmp_path) as fleet:
            fleet.render(FIRST)
            bundle, _ = authority.issued.write(tmp_path, "bundle")
            authority.server().write(tmp_path, "server")
            (tmp_path / "accepted").write_text(f"{spiffe_id(DEVICE)}\n")
            authority.client(spiffe_id(DEVICE)).write(tmp_path, "svid")
            fleet.scheme = "https"
            fleet.start(
                identity={"mutualTls": {"accepted": "accepted"}},
                tls={"certificate": "server.pem", "key": "server.key", "clientTrust": "bundle.pem"},
            )
            self.authority = authority
            # A name that the certificate of the server does not have: who it is counts, not where.
            yield HttpSource(
                f"https://localhost:{fleet.port}",
                ca_file=bundle,
                client_certificate=tmp_path / "svid.pem",
                client_key=tmp_path / "svid.key",
                server_spiffe_id=SERVER,
            )

    def test_both_sides_are_known_by_their_spiffe_ids(self, source: HttpSource) -> None:
        with contextlib.closing(HttpTransport(source)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            assert http.pull(held).snapshot is None
            assert http.cost.connections == 1
            http.close()
            assert http.pull(held).snapshot is None, "a resumed session is checked as well"

    @pytest.mark.parametrize("expected", [f"{SERVER}-2", f"{SERVER}/client/press-02", None])
    def test_a_server_that_is_somebody_else_is_sent_nothing(self, source: HttpSource, expected: str | None) -> None:
        http = HttpTransport(dataclasses.replace(source, server_spiffe_id=expected))
        with contextlib.closing(http), pytest.raises(SourceUnreachable):
            http.pull(None)
        assert http.cost.requests == 0

    def test_a_renewed_svid_is_used_without_a_restart(self, source: HttpSource, tmp_path: Path) -> None:
        with contextlib.closing(HttpTransport(source)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            self.authority.client(spiffe_id("nobody")).write(tmp_path, "svid")
            with pytest.raises(SourceRefused):
                http.pull(held)
            self.authority.client(spiffe_id(DEVICE)).write(tmp_path, "svid")
            assert http.pull(held).snapshot is None


@pytest.mark.parametrize(
    "name", ["plant.example", "spiffe://", "spiffe://plant.example", "spiffe://a/b?c", "https://a/b"]
)
def test_a_spiffe_id_that_is_none_is_a_mistake_in_the_settings(name: str) -> None:
    with pytest.raises(SourceMisconfigured):
        HttpSource("https://wfm.example.com", server_spiffe_id=name)


@pytest.mark.real
@pytest.mark.parametrize("serve", [nginx, caddy], ids=["nginx", "caddy"])
def test_static_files_hold_the_same_bytes(serve: type, tmp_path: Path, token_file: Path) -> None:
    plant = Plant(tmp_path)
    plant.publish(FIRST)
    token_file.write_text(TOKENS[DEVICE])
    (tmp_path / "server").mkdir()
    with serve(tmp_path / "server", plant.folder) as server:
        assert isinstance(server, StaticServer)
        source = HttpSource(server.https, token_file=token_file, ca_file=server.folder / "authority.pem")
        with contextlib.closing(HttpTransport(source)) as http:
            held = http.pull(None).snapshot
            assert isinstance(held, Snapshot)
            git = pulled(by_git(tmp_path))
            assert (held.manifest, held.deployments) == (git.manifest, git.deployments)
            assert http.pull(held).snapshot is None
            answer = http.pull(held, 600)  # static files wait for nothing
            assert answer.snapshot is None
            assert not answer.hints.waited
            plant.publish(SECOND)
            newer = http.pull(held).snapshot
            assert isinstance(newer, Snapshot)
            assert newer.deployments == pulled(by_git(tmp_path)).deployments
            assert http.cost.connections == 1
