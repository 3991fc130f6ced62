"""The client against Debian's registry (no referrers) and go-containerregistry's (referrers, no open ranges)."""

import io
import json
import os
import secrets
import subprocess

import pytest
from support.real import require_program

from margo_gitops.digests import sha256
from margo_gitops.errors import (
    PackageKeyUnusable,
    PackageSignatureRefused,
    PackageUnsigned,
    RegistryLacks,
    RegistryRefused,
    SourceUnreachable,
)
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.manifests import DESCRIPTION_LAYER, PACKAGE, TITLE, described, write_manifest
from margo_gitops.registry.pushing import push, push_blob
from margo_gitops.registry.references import Reference
from margo_gitops.registry.settings import RegistryAccess, RegistrySettings
from margo_gitops.registry.signatures import payload_problem, sign, verify, write_payload

DESCRIPTION = b"apiVersion: v1\nid: hello\n"


@pytest.fixture(params=["oci_registry", "referrers_registry"])
def registry(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(registry):
    return Reference(registry.host, f"acme/{secrets.token_hex(4)}", "1.4.0")


@pytest.fixture
def client(registry):
    with client_of(registry) as made:
        yield made


def client_of(registry, *, credentials=True):
    access = RegistryAccess(registry.host, ca_file=registry.ca_file)
    return RegistryClient(RegistrySettings((access,), registry.credentials_file if credentials else None))


def push_package(client, place):
    layer = described(DESCRIPTION_LAYER, DESCRIPTION, {TITLE: "margo.yaml"})
    return push(client, place, write_manifest(PACKAGE, (layer,)), [(layer, DESCRIPTION)])


@pytest.fixture(scope="module")
def keys():
    def made(*arguments, given=b""):
        return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout

    private = made("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    other = made("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    return private, made("ec", "-pubout", given=private), made("ec", "-pubout", given=other)


def test_a_package_is_pushed_and_read_byte_for_byte(client, place):
    pushed = push_package(client, place)
    manifest, content, digest = client.manifest(place)
    assert digest == pushed.digest == sha256(content)
    assert manifest.kind == PACKAGE
    assert client.content(place, manifest.layers[0].digest, 100) == DESCRIPTION
    assert client.tags(place) == ["1.4.0"]
    assert push_package(client, place) == pushed
    with pytest.raises(RegistryLacks):
        client.fetch(place.at("2.0.0"))


def test_a_large_blob_is_pushed_from_a_file_and_read_from_the_middle(client, place):
    content = os.urandom(3_000_000)
    assert push_blob(client, place, sha256(content), io.BytesIO(content))
    assert not push_blob(client, place, sha256(content), io.BytesIO(content))
    with client.blob(place, sha256(content), start=2_000_000, limit=4_000_000) as stream:
        assert stream.read(4_000_000) == content[stream.start :]
        assert stream.start in (2_000_000, 0)


def test_who_is_not_logged_in_or_does_not_know_the_authority_is_refused(registry, place):
    with client_of(registry, credentials=False) as stranger, pytest.raises(RegistryRefused, match="wants credentials"):
        stranger.fetch(place)
    with RegistryClient() as stranger, pytest.raises(SourceUnreachable, match="not trusted"):
        stranger.fetch(place)


@pytest.mark.parametrize("by_tag", [False, True], ids=["referrers", "tag"])
def test_a_signature_is_found_and_verified(client, place, keys, by_tag):
    private, public, other = keys
    pushed = push_package(client, place)
    with pytest.raises(PackageUnsigned):
        verify(client, place, public)
    sign(client, pushed, private, by_tag=by_tag)
    assert verify(client, place, public) == pushed.digest
    with pytest.raises(PackageSignatureRefused, match="no signature"):
        verify(client, place, other)
    with pytest.raises(PackageKeyUnusable):
        verify(client, place, private)


def test_a_signature_counts_for_its_own_manifest_only(keys):
    import base64

    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private, public, _ = keys
    payload = write_payload(Reference("r.example", "a"), sha256(b"one"))

    def signed(text):
        return base64.b64encode(load_pem_private_key(private, None).sign(text, ECDSA(SHA256()))).decode()

    assert payload_problem(payload, signed(payload), sha256(b"one"), public) is None
    assert "another manifest" in payload_problem(payload, signed(payload), sha256(b"two"), public)
    assert "another key" in payload_problem(payload + b" ", signed(payload), sha256(b"one"), public)
    assert "another form" in payload_problem(b"{}", signed(b"{}"), sha256(b"one"), public)
    assert "another key" in payload_problem(payload, "no base64", sha256(b"one"), public)


def test_skopeo_reads_what_was_pushed(client, place, registry, tmp_path):
    skopeo = require_program("skopeo", "skopeo")
    pushed = push_package(client, place)
    certificates = tmp_path / "certs.d"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(registry.ca_file.read_bytes())
    named = [f"--authfile={registry.credentials_file}", f"--cert-dir={certificates}"]
    target = f"docker://{place.host}/{place.repository}:1.4.0"
    raw = subprocess.run([skopeo, "inspect", "--raw", *named, target], capture_output=True, check=True).stdout
    assert sha256(raw) == pushed.digest
    assert json.loads(raw)["artifactType"] == PACKAGE
