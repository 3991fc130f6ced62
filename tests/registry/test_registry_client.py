"""What a client takes from a registry, and what a registry that misbehaves gets from it (OCI-1 to OCI-7)."""

import base64
import json
import ssl
from dataclasses import replace

import pytest
from support.faulty_http import Answer, only
from support.faulty_registry import faulty_registry

from margo_gitops.digests import sha256
from margo_gitops.errors import (
    RegistryLacks,
    RegistryMisbehaved,
    RegistryRefused,
    SourceBusy,
    SourceMisbehaved,
    SourceUnreachable,
    TransportError,
)
from margo_gitops.registry.authentication import parse_challenges
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.manifests import described, write_index
from margo_gitops.registry.references import Reference
from margo_gitops.registry.server import Patience
from margo_gitops.registry.settings import RegistryAccess, RegistrySettings

LAYER = bytes(range(256)) * 40
SECRET = "hunter2"
BASIC = "Basic " + base64.b64encode(f"press:{SECRET}".encode()).decode()


@pytest.fixture
def registry():
    with faulty_registry() as served:
        yield served


@pytest.fixture
def reference(registry):
    return registry.add("acme/hello", "1.4.0", LAYER)


@pytest.fixture
def client_of(tmp_path):
    """Return a client of some registries, whose credentials for each are the same."""
    made = []

    def make(*registries, mirrors=(), patience=None, credentials=False, **changes):
        first, *others = [replace(each.access, **changes) for each in registries]
        file = tmp_path / "config.json"
        auths = {each.host: {"auth": BASIC.partition(" ")[2]} for each in registries if credentials}
        file.write_text(json.dumps({"auths": auths}))
        made.append(
            RegistryClient(RegistrySettings((replace(first, mirrors=mirrors), *others), file), patience=patience)
        )
        return made[-1]

    yield make
    for client in made:
        client.close()


def read(client, reference, digest, **named):
    with client.blob(reference, digest, **{"limit": 1_000_000, **named}) as stream:
        parts = []
        while part := stream.read(1000):
            parts.append(part)
        return stream.start, b"".join(parts)


def test_a_version_and_its_layers_are_read(registry, reference, client_of):
    client = client_of(registry)
    manifest, content, digest = client.manifest(Reference(registry.host, "acme/hello", "1.4.0"))
    assert digest == sha256(content) == reference.digest
    assert read(client, reference, manifest.layers[0].digest) == (0, LAYER)
    assert client.content(reference, manifest.layers[0].digest, len(LAYER)) == LAYER
    assert client.tags(reference) == ["1.4.0"]
    with pytest.raises(RegistryLacks, match="unknown to the tests"):
        client.fetch(reference.at("9.9.9"))


def test_a_blob_goes_on_where_it_stopped(registry, reference, client_of):
    client = client_of(registry)
    assert read(client, reference, sha256(LAYER), start=10_000) == (10_000, LAYER[10_000:])
    registry.ranges = False
    assert read(client, reference, sha256(LAYER), start=10_000) == (0, LAYER)
    no_open_ranges = lambda request, _: Answer(416, [], b"") if "range" in request.headers else None  # noqa: E731
    registry.faults.append(no_open_ranges)
    assert read(client, reference, sha256(LAYER), start=10_000) == (0, LAYER)


def test_a_blob_may_be_read_in_part(registry, reference, client_of):
    client = client_of(registry)
    with client.blob(reference, sha256(LAYER), start=10, limit=100_000) as stream:
        assert stream.read(10) == LAYER[10:20]
    client.fetch(reference)
    assert len({request.connection for request in registry.requests}) == 2


def test_another_part_than_was_asked_for_is_refused(registry, reference, client_of):
    registry.faults.append(only(sha256(LAYER), lambda _: Answer(206, [("Content-Range", "bytes 5-9/10")], b"12345")))
    with pytest.raises(SourceMisbehaved, match="another part"):
        read(client_of(registry), reference, sha256(LAYER), start=10_000)


def test_a_token_is_asked_for_what_is_needed_and_again_when_it_expires(registry, reference, client_of):
    registry.token = "first"
    client = client_of(registry)
    client.fetch(reference)
    client.fetch(reference)
    tokens = [request.path for request in registry.requests if request.path.startswith("/token")]
    assert tokens == ["/token?service=tests&scope=repository%3Aacme%2Fhello%3Apull"]
    registry.token = "second"
    client.fetch(reference)
    assert len([request for request in registry.requests if request.path.startswith("/token")]) == 2


@pytest.mark.parametrize("challenge", ["bearer", "basic"])
def test_a_loop_of_401_ends_after_one_try(registry, reference, client_of, challenge):
    realm = f'Bearer realm="http://{registry.host}/token"' if challenge == "bearer" else 'Basic realm="x"'
    registry.faults.append(
        only("manifests/" + reference.digest, lambda _: Answer(401, [("WWW-Authenticate", realm)], b""))
    )
    with pytest.raises(RegistryRefused, match="answers 401"):
        client_of(registry, credentials=True).fetch(reference)
    assert len([request for request in registry.requests if "/manifests/" in request.path]) == 2


def test_credentials_that_are_missing_or_wrong_are_said(registry, reference, client_of):
    registry.authorization = BASIC
    client_of(registry, credentials=True).fetch(reference)
    with pytest.raises(RegistryRefused, match="wants credentials") as refused:
        client_of(registry).fetch(reference)
    assert f"registry login {registry.host}" in refused.value.remedy
    registry.authorization = "Basic other"
    with pytest.raises(RegistryRefused) as refused:
        client_of(registry, credentials=True).fetch(reference)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "realm", ["http://evil.example/token", "https://user:pw@evil.example/t", "file:///etc/passwd", "", "https://[/"]
)
def test_credentials_are_not_sent_to_a_token_server_of_another_domain(registry, reference, client_of, realm):
    registry.faults.append(
        only(reference.digest, lambda _: Answer(401, [("WWW-Authenticate", f'Bearer realm="{realm}"')], b""))
    )
    with pytest.raises((RegistryRefused, RegistryMisbehaved), match=r"another domain|token server that cannot be used"):
        client_of(registry, credentials=True).fetch(reference)
    assert len(registry.requests) == 1


def test_a_redirect_to_storage_on_another_host_goes_without_credentials(registry, reference, client_of, git_server):
    # The storage is https with a certificate of the testbed's; it must see no Authorization.
    pytest.importorskip("ssl")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    folder = git_server.ca_file.parent
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with faulty_registry(tls=context) as storage:
        storage.blobs["store", sha256(LAYER)] = LAYER
        target = f"https://localhost:{storage.port}/v2/store/blobs/{sha256(LAYER)}"
        registry.authorization = BASIC
        registry.faults.append(only(sha256(LAYER), lambda _: Answer(307, [("Location", target)], b"")))
        client = client_of(registry, credentials=True, ca_file=git_server.ca_file)
        client.fetch(reference)
        assert read(client, reference, sha256(LAYER), start=100) == (100, LAYER[100:])
    assert [request.headers.get("authorization") for request in storage.requests] == [None]


@pytest.mark.parametrize("target", ["http://evil.example/x", "file:///etc/passwd", "https://u:p@evil.example/", "//["])
def test_a_redirect_that_is_not_encrypted_is_not_followed(registry, reference, client_of, target):
    registry.faults.append(only(sha256(LAYER), lambda _: Answer(307, [("Location", target)], b"")))
    with pytest.raises(TransportError):
        read(client_of(registry), reference, sha256(LAYER))


def test_a_server_that_is_busy_is_waited_for_as_long_as_the_caller_says(registry, reference, client_of):
    busy = [Answer(429, [("Retry-After", "7")], b""), Answer(503, [], b"")]
    registry.faults.append(lambda *_: busy.pop(0) if busy else None)
    waited = []
    client_of(registry, patience=Patience(60, waited.append)).fetch(reference)
    assert waited == [7, 5]
    busy.append(Answer(429, [("Retry-After", "7")], b""))
    with pytest.raises(SourceBusy) as refused:
        client_of(registry).fetch(reference)
    assert refused.value.retry_after == 7


def test_a_server_that_is_always_busy_is_not_waited_for_without_end(registry, reference, client_of):
    registry.faults.append(lambda *_: Answer(429, [("Retry-After", "0")], b""))
    waited = []
    with pytest.raises(SourceBusy):
        client_of(registry, patience=Patience(3, waited.append)).fetch(reference)
    assert waited == [1, 1, 1]


@pytest.mark.parametrize("damage", ["cut", "other", "endless"])
def test_a_blob_that_is_cut_or_wrong_is_refused(registry, reference, client_of, damage):
    def fault(answer):
        if damage == "endless":
            return Answer(200, [], b"", repeat=b"x" * 65536)
        return Answer(200, [], LAYER, cut=100) if damage == "cut" else Answer(200, [], b"other")

    registry.faults.append(only(sha256(LAYER), fault))
    with pytest.raises(TransportError):
        client_of(registry).content(reference, sha256(LAYER), len(LAYER))


@pytest.mark.parametrize("content", [b"{}", b"[" * 5_000_000, b"x"])
def test_a_manifest_that_is_huge_or_wrong_is_refused(registry, reference, client_of, content):
    registry.faults.append(lambda *_: Answer(200, [], content))
    with pytest.raises(TransportError):
        client_of(registry).manifest(reference.at("1.4.0"))
    with pytest.raises(TransportError):
        client_of(registry).manifest(reference)


def test_mirrors_are_asked_first_and_only_for_digests(registry, reference, client_of):
    with faulty_registry() as mirror:
        mirror.add("cache/acme/hello", "1.4.0", LAYER)
        client = client_of(registry, mirror, mirrors=("127.0.0.1:1", f"{mirror.host}/cache"))
        client.fetch(reference)
        assert read(client, reference, sha256(LAYER)) == (0, LAYER)
        assert not registry.requests
        client.fetch(reference.at("1.4.0"))
        assert [request.path for request in registry.requests] == ["/v2/acme/hello/manifests/1.4.0"]


def test_a_mirror_that_lies_is_passed_over(registry, reference, client_of):
    with faulty_registry() as mirror:
        mirror.faults.append(lambda *_: Answer(200, [], b"a lie"))
        client = client_of(registry, mirror, mirrors=(mirror.host,))
        assert client.manifest(reference)[2] == reference.digest
        assert client.content(reference, sha256(LAYER), len(LAYER)) == LAYER


def test_credentials_of_a_registry_are_not_for_its_mirror(registry, reference, client_of, tmp_path):
    with faulty_registry() as mirror:
        mirror.authorization = BASIC
        registry.authorization = BASIC
        client = client_of(registry, mirror, mirrors=(mirror.host,))
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": BASIC.partition(" ")[2]}}}))
        client.fetch(reference)
        assert [request.headers.get("authorization") for request in mirror.requests] == [None]


def test_a_registry_that_is_gone_says_what_every_mirror_said(client_of, registry, reference):
    client = client_of(registry, mirrors=("127.0.0.1:1", "127.0.0.1:2"))
    registry.faults.append(lambda *_: Answer(500, [], b""))
    with pytest.raises(RegistryMisbehaved) as refused:
        client.fetch(reference)
    assert [reason.partition(": ")[0] for reason in refused.value.why] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_tags_come_in_pages_that_end(registry, client_of):
    for number in range(7):
        registry.add("a", f"1.{number}.0", b"")
    registry.page = 3
    assert client_of(registry).tags(Reference(registry.host, "a")) == [f"1.{number}.0" for number in range(7)]
    endless = Answer(200, [("Link", '</v2/a/tags/list?last=1>; rel="next"')], b'{"tags":["1"]}')
    registry.faults.append(only("tags/list", lambda _: endless))
    with pytest.raises(RegistryMisbehaved, match="without an end"):
        client_of(registry).tags(Reference(registry.host, "a"))
    endless.headers[:] = [("Link", '<https://evil.example/x>; rel="next"')]
    with pytest.raises(RegistryMisbehaved, match="somewhere else"):
        client_of(registry).tags(Reference(registry.host, "a"))


def test_referrers_come_from_the_tag_where_there_is_no_api(registry, reference, client_of):
    client = client_of(registry)
    assert client.referrers(reference, reference.digest).manifests == ()
    index = write_index((described("application/x", b"signature"),))
    registry.manifests["acme/hello", reference.digest.replace(":", "-")] = ("application/json", index)
    assert [each.size for each in client.referrers(reference, reference.digest).manifests] == [9]


def test_a_plain_registry_elsewhere_gets_no_credentials(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {"r.example": {"auth": BASIC.partition(" ")[2]}}}))
    from margo_gitops.registry.authentication import Authentication
    from margo_gitops.registry.credentials import find_credentials
    from margo_gitops.web.metering import Deadline

    access = RegistryAccess("r.example", plain_http=True)
    asked = Authentication(access, lambda: find_credentials(file, "r.example"), proxy_from_environment=False)
    with pytest.raises(RegistryRefused, match="unencrypted"):
        asked.renew("Basic realm=x", "", Deadline(1, 1))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="a",scope="x:y,z"', {"bearer": {"realm": "a", "scope": "x:y,z"}}),
        ("Basic realm=x, Bearer realm=y", {"basic": {"realm": "x"}, "bearer": {"realm": "y"}}),
        ('basic realm="a\\"b"', {"basic": {"realm": 'a"b'}}),
        ("", {}),
        ("=,=,", {}),
        ("Bearer " + "a" * 100_000, {"bearer": {}}),
    ],
)
def test_challenges_are_read_as_the_standard_writes_them(header, expected):
    assert parse_challenges(header) == expected


def test_a_proxy_of_a_registry_that_is_down_is_a_connection_error(client_of, registry, reference):
    client = RegistryClient(RegistrySettings((RegistryAccess("127.0.0.1:1", plain_http=True),)))
    with client, pytest.raises(SourceUnreachable):
        client.fetch(Reference("127.0.0.1:1", "a", "1"))
