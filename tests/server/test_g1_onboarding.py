"""Onboarding in the older contract: a certificate gets a client id, once and for good."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from server.serving import FLEET, ServedFleet, served_fleet
from server.signing_fleet import SigningFleet, pem
from support.signed_requests import certificate, private_key

from margo_gitops.digests import sha256
from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.contracts.registry import read_accepted_certificates
from margo_gitops.server.service.configuration import load_server_configuration


@pytest.fixture
def signing(tmp_path: Path) -> Iterator[SigningFleet]:
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        made = SigningFleet(fleet)
        yield made
        made.http.close()


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_a_certificate_has_one_id_however_often_it_asks(signing: SigningFleet, form: str) -> None:
    client = signing.start().stranger()
    signing.accept(client, "press-01")
    answers = [client.onboard(pem(client) if form == "PEM" else None) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert client.get("deployments").json() == signing.manifest(client)


def test_many_who_ask_at_once_get_one_id(signing: SigningFleet) -> None:
    client = signing.start().stranger()
    signing.accept(client, "press-01")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: replace(client).onboard().json()["clientId"], range(16)))
    assert len(set(answers)) == 1


def test_an_id_survives_a_kill_and_the_renewal_of_a_certificate(signing: SigningFleet) -> None:
    client = signing.start().client("press-01")
    signing.fleet.stop(signal.SIGKILL)
    signing.start()
    client.http = signing.http
    assert client.get("deployments").status_code == 200
    known = client.client_id
    assert client.onboard().json()["clientId"] == known
    renewed = replace(client, certificate=certificate(client.key))
    signing.accept(renewed, "press-01")
    assert renewed.onboard().status_code == 201
    assert renewed.client_id != known
    assert [each.get("deployments").status_code for each in (client, renewed)] == [200, 200]


def test_the_strict_profile_tells_that_a_certificate_is_known(signing: SigningFleet) -> None:
    client = signing.start("strict").client("press-01")
    again = client.onboard()
    assert (again.status_code, again.json()) == (409, {"error": "Client is onboarded already"})
    assert client.get("deployments").status_code == 200


def test_who_is_not_accepted_gets_no_id(signing: SigningFleet) -> None:
    signing.start()
    stranger = signing.stranger()
    late = signing.stranger(number=1, days=(-9, -1))
    signing.accept(late, "press-02")
    for client in (stranger, late):
        answer = client.onboard()
        assert (answer.status_code, answer.json()) == (403, {"error": "Client rejected"})
    signing.accept(stranger, "press-01")
    assert stranger.onboard().status_code == 201


def test_a_certificate_alone_is_no_proof(signing: SigningFleet) -> None:
    signing.start()
    client = signing.stranger()
    signing.accept(client, "press-01")
    thief = replace(client, key=private_key("ecdsa-p256-sha256", 9))
    assert thief.onboard().status_code == 401
    document = {
        "apiVersion": "onboarding.margo.org/v1alpha1",
        "kind": "OnboardingRequest",
        "certificate": base64.b64encode(client.der).decode(),
    }
    assert signing.http.post("/api/v1/onboarding", json=document).status_code == 400
    signed = client.signed("POST", "/api/v1/onboarding", b"{}")
    del signed.headers["signature"]
    signed.headers["content-length"] = "2"
    answer = signing.http.send(signed)
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid certificate"})
    assert client.onboard().status_code == 201


def test_onboarding_without_signature_is_for_who_asks_for_it(signing: SigningFleet) -> None:
    signing.start(unsignedOnboarding=True)
    client = signing.stranger()
    signing.accept(client, "press-01")
    document = {
        "apiVersion": "onboarding.margo.org/v1alpha1",
        "kind": "OnboardingRequest",
        "certificate": base64.b64encode(client.der).decode(),
    }
    answer = signing.http.post("/api/v1/onboarding", json=document)
    assert answer.status_code == 201
    client.client_id = answer.json()["clientId"]
    assert client.get("deployments").status_code == 200
    assert replace(client, key=private_key("ecdsa-p256-sha256", 9)).onboard().status_code == 401


NO_CERTIFICATES = {
    "nothing": b"",
    "no certificate": b"hello",
    "half of one": certificate(private_key("ecdsa-p256-sha256")).tbs_certificate_bytes,
    "broken PEM": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningFleet]:
    folder = tmp_path_factory.mktemp("onboarding")
    with served_fleet(folder) as fleet:
        fleet.render(FLEET)
        made = SigningFleet(fleet)
        (folder / "root.pem").write_bytes(pem(made.stranger()))
        made.start(rootCertificate="root.pem")
        with made.http:
            yield made


@pytest.mark.parametrize("content", list(NO_CERTIFICATES))
def test_what_is_no_certificate_is_400(running: SigningFleet, content: str) -> None:
    answer = running.stranger().onboard(NO_CERTIFICATES[content])
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid certificate"})


def test_a_key_that_no_algorithm_works_with_is_400(running: SigningFleet) -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    der = replace(running.stranger(), certificate=certificate(key)).der
    answer = running.stranger().onboard(der)
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid certificate"})


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"kind": "OnboardingRequest"}', b'{"kind": 1, "apiVersion": {}, "certificate": []}', b"\xff"],
    ids=["empty", "a list", "cut off", "no certificate", "other types", "no text"],
)
def test_what_is_no_request_is_400(running: SigningFleet, body: bytes) -> None:
    answer = running.http.send(running.stranger().signed("POST", "/api/v1/onboarding", body))
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid certificate"})


def test_the_root_certificate_is_there_for_everybody(running: SigningFleet) -> None:
    answer = running.http.get("/api/v1/onboarding/certificate")
    assert answer.status_code == 200
    assert base64.b64decode(answer.json()["certificate"]) == (running.folder / "root.pem").read_bytes()
    assert running.http.head("/api/v1/onboarding/certificate").status_code == 200
    assert running.http.post("/api/v1/onboarding/certificate").status_code == 405
    assert running.http.get("/api/v1/onboarding").status_code == 405


def test_a_server_of_this_contract_alone_refuses_the_other_one(running: SigningFleet) -> None:
    assert running.http.get("/api/v1/deployments").status_code == 403
    assert running.http.get("/healthz").status_code == 200


def test_both_contracts_live_side_by_side(signing: SigningFleet) -> None:
    signing.fleet.token("press-01")
    client = signing.start(identity={"bearer": {"tokens": "device-tokens"}}).client("press-01")
    with signing.fleet.client("press-01") as current:
        answers = [current.get("/api/v1/deployments"), client.get("deployments")]
        proofs = [current.get("/api/v1/freshness"), client.get("freshness")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].json() == signing.manifest(client)
    assert answers[1].headers["etag"] == f'"{sha256(answers[1].content)}"'
    assert (proofs[0].status_code, proofs[0].content) == (proofs[1].status_code, proofs[1].content)


def test_the_older_contract_is_off_unless_it_is_asked_for(fleet: ServedFleet) -> None:
    fleet.start()
    with httpx.Client(base_url=fleet.url, trust_env=False) as http:
        answers = [http.get(path) for path in ("/api/v1/onboarding/certificate", "/api/v1/clients/x/deployments", "/x")]
    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"accepted": "c", "publicUrls": []}, "publicUrls"),
        ({"accepted": "c", "publicUrls": ["wfm.plant.example"]}, "not a URL of a server"),
        ({"accepted": "c", "publicUrls": ["https://wfm.plant.example/"]}, "not a URL of a server"),
        ({"accepted": "c", "publicUrls": ["https://wfm"], "profile": "lenient"}, "profile"),
    ],
    ids=["no URL", "no scheme", "slash at the end", "unknown profile"],
)
def test_mistakes_in_the_configuration_are_told(tmp_path: Path, settings: object, said: str) -> None:
    file = ServedFleet(tmp_path).configure(identity={"signatures": settings})
    with pytest.raises(ServerMisconfigured, match="mistakes") as raised:
        load_server_configuration(file)
    assert said in "\n".join(raised.value.why)


def test_clear_text_to_other_machines_is_refused(tmp_path: Path) -> None:
    signatures = {"accepted": "c", "publicUrls": ["https://wfm"]}
    file = ServedFleet(tmp_path).configure(
        identity={"signatures": signatures}, listen={"address": "0.0.0.0", "port": 1}
    )
    with pytest.raises(ServerMisconfigured) as raised:
        load_server_configuration(file)
    assert "clear text" in "\n".join(raised.value.why)


GOOD = f"press-01 sha256:{'a' * 64}"


@pytest.mark.parametrize(
    "lines",
    ["press-01", f"{GOOD} until=tomorrow", "press-01 sha1:00", f"a/b sha256:{'a' * 64}", f"{GOOD}\n{GOOD}"],
    ids=["one field", "three fields", "no digest", "no client", "twice"],
)
def test_mistakes_in_the_list_of_certificates_are_told_with_their_line(lines: str) -> None:
    with pytest.raises(ServerMisconfigured) as raised:
        read_accepted_certificates(f"# devices\n{lines}\n", Path("certificates"))
    assert raised.value.where is not None
    assert raised.value.where.line in (2, 3)


def test_comments_and_blank_lines_say_nothing() -> None:
    assert read_accepted_certificates(f"\n# x\n{GOOD}  # the press\n", Path("c")) == {f"sha256:{'a' * 64}": "press-01"}
