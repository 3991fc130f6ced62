"""`/.well-known/margo` and the trust bundle."""

import base64
import os
from pathlib import Path

import pytest
from cryptography import x509
from server.certificates import Authority, spiffe_id
from server.serving import ServedFleet

from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.resources.discovery import read_trust_bundle

DISCOVERY, BUNDLE = "/.well-known/margo", "/.well-known/margo/trust-bundle"


def discovered(fleet: ServedFleet) -> Authority:
    authority = Authority()
    authority.issued.write(fleet.folder, "bundle")
    fleet.start(
        discovery={
            "trustDomain": "plant.example",
            "publicUrl": "https://margo.plant.example",
            "trustBundle": "bundle.pem",
        }
    )
    return authority


def test_anybody_finds_the_trust_bundle(fleet: ServedFleet) -> None:
    authority = discovered(fleet)
    with fleet.client() as client:
        found = client.get(DISCOVERY)
        assert found.json() == {
            "trustDomain": "plant.example",
            "trustBundleUri": f"https://margo.plant.example{BUNDLE}",
        }
        bundle = client.get(BUNDLE)
        key = bundle.json()["keys"][0]
        assert (key["kty"], key["crv"], key["use"]) == ("EC", "P-256", "x509-svid")
        certificate = x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0]))
        assert certificate == authority.issued.certificate
        numbers = authority.issued.key.public_key().public_numbers()
        assert base64.urlsafe_b64decode(f"{key['x']}=") == numbers.x.to_bytes(32, "big")
        for answer in (found, bundle):
            again = client.get(answer.request.url.path, headers={"If-None-Match": answer.headers["ETag"]})
            assert again.status_code == 304
        assert client.post(DISCOVERY).status_code == 405


def test_a_new_bundle_is_served_at_once_with_a_greater_sequence(fleet: ServedFleet) -> None:
    discovered(fleet)
    with fleet.client() as client:
        before = client.get(BUNDLE)
        path, _ = Authority("new authority").issued.write(fleet.folder, "bundle")
        later = path.stat().st_mtime + 5
        os.utime(path, (later, later))
        after = client.get(BUNDLE, headers={"If-None-Match": before.headers["ETag"]})
        path.unlink()
        assert client.get(BUNDLE).status_code == 503
    assert after.status_code == 200
    assert after.json()["keys"] != before.json()["keys"]
    assert after.json()["spiffe_sequence"] > before.json()["spiffe_sequence"]


def test_without_discovery_there_is_nothing_to_find(reading: ServedFleet) -> None:
    with reading.client() as client:
        assert client.get(DISCOVERY).status_code == 404
        assert client.get(BUNDLE).status_code == 404


def test_what_is_no_authority_is_no_bundle(tmp_path: Path) -> None:
    leaf, _ = Authority().client(spiffe_id("press-01")).write(tmp_path, "leaf")
    for text in ("", "no certificate", leaf.read_text()):
        with pytest.raises(ServerMisconfigured):
            read_trust_bundle(text, tmp_path / "bundle.pem")
