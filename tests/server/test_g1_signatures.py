"""Requests of the older contract: signed by each algorithm, in both profiles, and every way to get it wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from server.serving import FLEET, served_fleet, status
from server.signing_fleet import SigningFleet
from support.signed_requests import ALGORITHMS, SignedClient, private_key

from margo_gitops.digests import sha256


@pytest.fixture(scope="module", params=["specification", "strict"])
def signing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningFleet]:
    with served_fleet(tmp_path_factory.mktemp("signed")) as fleet:
        fleet.render(FLEET)
        made = SigningFleet(fleet).start(request.param)
        with made.http:
            yield made


@pytest.fixture(scope="module")
def press(signing: SigningFleet) -> SignedClient:
    return signing.client()


def is_strict(signing: SigningFleet) -> bool:
    return '"strict"' in (signing.fleet.folder / "server.yaml").read_text()


@pytest.mark.parametrize("alg", ["named", "not named"])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_each_algorithm_reads_and_writes(signing: SigningFleet, algorithm: str, alg: str) -> None:
    client = replace(signing.client("press-01", algorithm, 1), include_alg=alg == "named")
    manifest = client.get("deployments")
    assert manifest.status_code == 200
    assert manifest.json() == signing.manifest(client)
    deployment = manifest.json()["deployments"][0]["deploymentId"]
    answer = client.send("POST", client.path(f"deployments/{deployment}/status"), status(deployment))
    assert answer.status_code == 200


def wrong_key(client: SignedClient) -> httpx.Request:
    return replace(client, key=private_key("ecdsa-p256-sha256", 77)).signed("GET", client.path("deployments"))


def own_key_of_another_kind(client: SignedClient) -> httpx.Request:
    other = replace(client, algorithm="rsa-v1_5-sha256", key=private_key("rsa-v1_5-sha256", 1))
    return other.signed("GET", client.path("deployments"))


def unknown_client_with_rsa(client: SignedClient) -> httpx.Request:
    other = replace(client, algorithm="rsa-pss-sha256", key=private_key("rsa-pss-sha256", 1))
    return other.signed("GET", "/api/v1/clients/5ac1a5c8-7f2f-4f7e-9c9b-9d41c5f6a111/deployments")


def unknown_client(client: SignedClient) -> httpx.Request:
    return client.signed("GET", "/api/v1/clients/5ac1a5c8-7f2f-4f7e-9c9b-9d41c5f6a111/deployments")


def no_client_id(client: SignedClient) -> httpx.Request:
    return client.signed("GET", "/api/v1/clients/a%20b/deployments")


def path_that_is_not_there(client: SignedClient) -> httpx.Request:
    return wrong_key(replace(client, client_id=f"{client.client_id}/nothing"))


def without(*names: str) -> Callable[[SignedClient], httpx.Request]:
    def strip(client: SignedClient) -> httpx.Request:
        request = client.signed("GET", client.path("deployments"))
        for name in names:
            del request.headers[name]
        return request

    return strip


def changed_signature(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    value = request.headers["signature"]
    request.headers["signature"] = value[:20] + ("A" if value[20] != "A" else "B") + value[21:]
    return request


def der_signature(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    raw = base64.b64decode(request.headers["signature"].partition("=:")[2].strip(":"))
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    request.headers["signature"] = f"sig1=:{base64.b64encode(der).decode()}:"
    return request


def other_method(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    request.method = "HEAD"
    return request


def other_path(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    request.url = request.url.copy_with(raw_path=client.path("deployments?all=1").encode())
    return request


def two_signatures(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    for name in ("signature", "signature-input"):
        request.headers[name] += f", {request.headers[name].replace('sig1', 'sig2', 1)}"
    return request


def test_two_signatures_are_refused_where_each_is_right(signing: SigningFleet) -> None:
    # RSA signatures have any length, so nothing but their number tells that there are two.
    client = signing.client("press-01", "rsa-v1_5-sha256", 1)
    one = client.signed("GET", client.path("deployments"))
    assert signing.http.send(one).status_code == 200
    assert signing.http.send(two_signatures(client)).status_code == 401


def header_of_any_length(client: SignedClient) -> httpx.Request:
    request = client.signed("GET", client.path("deployments"))
    request.headers["signature"] = f"sig1=:{'A' * 200_000}:"
    return request


def signed_as(**changes: object) -> Callable[[SignedClient], httpx.Request]:
    def request(client: SignedClient) -> httpx.Request:
        return replace(client, **changes).signed("GET", client.path("deployments"))  # type: ignore[arg-type]

    return request


REFUSED = {
    "wrong key": wrong_key,
    "a key of another kind": own_key_of_another_kind,
    "unknown client": unknown_client,
    "unknown client with an RSA key": unknown_client_with_rsa,
    "no client id": no_client_id,
    "a path that is not there, wrong key": path_that_is_not_there,
    "no signature": without("signature"),
    "no signature input": without("signature-input"),
    "nothing signed": without("signature", "signature-input"),
    "changed signature": changed_signature,
    "signature in DER": der_signature,
    "other method": other_method,
    "other path": other_path,
    "two signatures": two_signatures,
    "a header of any length": header_of_any_length,
    "too old": signed_as(age=400),
    "from the future": signed_as(age=-60),
    "for another server": signed_as(url="https://other.example"),
    "method not covered": signed_as(covered=("@target-uri", "@authority")),
    "target not covered": signed_as(covered=("@method", "@authority")),
    "path covered only": signed_as(covered=("@method", "@path", "@authority")),
}


@pytest.mark.parametrize("wrong", list(REFUSED))
def test_what_is_not_signed_right_is_one_refusal(signing: SigningFleet, press: SignedClient, wrong: str) -> None:
    usual = signing.http.send(wrong_key(press))
    answer = signing.http.send(REFUSED[wrong](press))
    assert answer.status_code == usual.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    if answer.request.method != "HEAD":
        assert answer.content == usual.content
    same = {name: value for name, value in answer.headers.items() if name != "date"}
    assert same == {name: value for name, value in usual.headers.items() if name != "date"}


def test_a_signature_that_has_expired_is_refused(signing: SigningFleet, press: SignedClient) -> None:
    ends = datetime.now(UTC) - timedelta(seconds=20)
    assert replace(press, age=60, parameters={"expires": ends}).get("deployments").status_code == 401
    ends = datetime.now(UTC) + timedelta(seconds=20)
    assert replace(press, age=60, parameters={"expires": ends}).get("deployments").status_code == 200


def test_the_profiles_differ_in_what_must_be_covered(signing: SigningFleet, press: SignedClient) -> None:
    less = replace(press, covered=("@method", "@target-uri"))
    named_otherwise = replace(press, key_id="press-01")
    expected = 401 if is_strict(signing) else 200
    assert less.get("deployments").status_code == expected
    assert named_otherwise.get("deployments").status_code == expected


def test_a_nonce_holds_once(signing: SigningFleet, press: SignedClient) -> None:
    client = replace(press, parameters={"nonce": "n-1"})
    assert [client.get("deployments").status_code for _ in range(2)] == [200, 401]
    assert replace(press, parameters={"nonce": "n-2"}).get("deployments").status_code == 200


def test_what_changes_something_is_taken_once(signing: SigningFleet, press: SignedClient) -> None:
    deployment = signing.fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    body = str(status(deployment, "installing")).replace("'", '"').encode()
    request = press.signed("POST", press.path(f"deployments/{deployment}/status"), body)
    assert [signing.http.send(request).status_code for _ in range(2)] == [200, 401]


def test_the_other_half_of_an_ecdsa_signature_is_no_other_signature(signing: SigningFleet, press: SignedClient) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
    deployment = signing.fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    body = str(status(deployment, "pending")).replace("'", '"').encode()
    request = press.signed("POST", press.path(f"deployments/{deployment}/status"), body)
    raw = base64.b64decode(request.headers["signature"].partition("=:")[2].strip(":"))
    assert signing.http.send(request).status_code == 200
    other = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    request.headers["signature"] = f"sig1=:{base64.b64encode(other).decode()}:"
    assert signing.http.send(request).status_code == 401


def test_reading_again_is_a_replay_in_the_strict_profile_only(signing: SigningFleet, press: SignedClient) -> None:
    request = press.signed("GET", press.path("deployments"))
    again = 401 if is_strict(signing) else 200
    assert [signing.http.send(request).status_code for _ in range(2)] == [200, again]
    assert press.get("deployments").status_code == 200


@pytest.mark.parametrize("wrong", ["changed body", "no digest", "another digest", "broken digest", "unknown algorithm"])
def test_a_body_that_its_digest_does_not_cover_is_400(signing: SigningFleet, press: SignedClient, wrong: str) -> None:
    deployment = signing.fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    request = press.signed("POST", press.path(f"deployments/{deployment}/status"), b"{}")
    headers = dict(request.headers)
    digests = {
        "another digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        "broken digest": "sha-256=:!:",
        "unknown algorithm": "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:",
    }
    headers["content-digest"] = digests.get(wrong, headers["content-digest"])
    if wrong == "no digest":
        del headers["content-digest"]
    content = b'{"x": 1}' if wrong == "changed body" else b"{}"
    headers["content-length"] = str(len(content))
    answer = signing.http.request("POST", request.url, headers=headers, content=content)
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("#invalid-request")


def test_a_digest_that_no_signature_covers_is_refused(signing: SigningFleet, press: SignedClient) -> None:
    deployment = signing.fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    path = press.path(f"deployments/{deployment}/status")
    covering = press.signed("POST", path, b"{}")
    request = press.signed("POST", path)
    request.headers["content-digest"] = covering.headers["content-digest"]
    request.headers.pop("content-length", None)
    answer = signing.http.request("POST", path, headers=request.headers, content=b"{}")
    assert answer.status_code == 401


def test_a_body_of_a_reading_request_is_refused(signing: SigningFleet, press: SignedClient) -> None:
    request = press.signed("GET", press.path("deployments"))
    answer = signing.http.request("GET", request.url, headers=request.headers, content=b"x")
    assert answer.status_code == 400


def test_another_clients_path_is_refused_as_one_that_nobody_has(signing: SigningFleet, press: SignedClient) -> None:
    other = signing.client("press-02", number=2)
    manifest = signing.fleet.manifest("press-01")
    paths = [press.path("deployments"), press.path(manifest["bundle"]["url"].removeprefix("/api/v1/"))]
    paths += [press.path(each["url"].removeprefix("/api/v1/")) for each in manifest["deployments"]]
    nobodys = replace(press, client_id="5ac1a5c8-7f2f-4f7e-9c9b-9d41c5f6a111").path("deployments")
    refusal = other.send("GET", nobodys)
    for path in paths:
        answer = other.send("GET", path)
        assert (answer.status_code, answer.content) == (401, refusal.content)
        assert press.send("GET", path).status_code == 200


def test_a_certificate_that_is_no_longer_accepted_is_403(signing: SigningFleet) -> None:
    client = signing.client("press-02", number=3)
    assert client.get("deployments").status_code == 200
    signing.write(client.fingerprint)
    refused = client.get("deployments")
    signing.write()
    assert refused.status_code == 403
    assert refused.json()["type"].endswith("#not-authorized")
    assert client.get("deployments").status_code == 200
    assert replace(client, key=private_key("ecdsa-p256-sha256", 78)).get("deployments").status_code == 401


def test_documents_and_bundles_are_found_where_the_manifest_says(signing: SigningFleet, press: SignedClient) -> None:
    manifest = press.get("deployments").json()
    for each in [manifest["bundle"], *manifest["deployments"]]:
        url = each["url"]
        assert url.startswith(press.path(""))
        assert sha256(press.send("GET", url).content) == each["digest"]
        assert signing.http.get(url).status_code == 401
        assert replace(press, key=private_key("ecdsa-p256-sha256", 79)).send("GET", url).status_code == 401
        other = signing.client("idle-01", number=4)
        assert other.send("GET", url).status_code == 401
        assert other.send("GET", url.replace(press.client_id, other.client_id)).status_code == 404
        assert press.send("GET", url.replace(press.path(""), "/api/v1/")).status_code == 403
