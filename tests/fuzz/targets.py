"""Every reader that bytes of a stranger reach, with valid inputs to start from, and what it may raise and need."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from support.signed_requests import PUBLIC_URL, SignedClient, private_key
from transport.pack_writing import BLOB, COMMIT, OFS_DELTA, REF_DELTA, TREE, copy, delta, distance, entry, insert, pack
from trust.device_states import DEVICE, RENDERER, DeviceState, allowed, deployment

from margo_gitops.appliers.archives import ArchiveBounds, unpack
from margo_gitops.digests import sha256
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.kinds import check_document, read_source
from margo_gitops.documents.manifest import gzip_stored, write_bundle
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.contracts import current, older
from margo_gitops.server.contracts.older import of_device
from margo_gitops.server.contracts.onboarding import read_onboarding_request
from margo_gitops.server.contracts.registry import ClientCertificate, read_certificate
from margo_gitops.server.contracts.signatures import PublicKey, SignatureVerifier, digest_fits
from margo_gitops.server.identity.certificates import AcceptedClients, accepted_caller
from margo_gitops.server.identity.tokens import with_bearer
from margo_gitops.server.problems import RequestRefused
from margo_gitops.server.reports.reading import read_capabilities, read_status
from margo_gitops.server.requests import accepts, holds, takes_gzip, wait_seconds
from margo_gitops.server.resources.git_wire import (
    LsRefs,
    NotGitError,
    RefusedError,
    old_acknowledgments,
    read_old_request,
    read_request,
    refs_answer,
)
from margo_gitops.server.routing import RouteTable
from margo_gitops.transport.git.device_tree import MANIFEST_NAME, read_snapshot
from margo_gitops.transport.git.pack import GitObject, Kind, ObjectID, object_id, read_pack
from margo_gitops.transport.git.pktline import Mark, PacketReader, packet
from margo_gitops.transport.git.protocol_v2 import check_capabilities, read_fetch, read_refs
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.transport.http.bundle import read_bundle
from margo_gitops.trust.allowed_signers import parse_allowed_signers
from margo_gitops.trust.floor import read_floor, write_floor
from margo_gitops.trust.git_commit import parse_commit, parse_trailers
from margo_gitops.trust.git_objects import blob_id, deployments_tree, device_tree
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_signature import parse_signature, sign
from margo_gitops.trust.trusted_state import TrustPolicy, judge

KIB = 1024
SEEDS = Path(__file__).parent / "seeds"
LIMITS = GitLimits(
    pack_bytes=64 * KIB,
    objects=64,
    object_bytes=64 * KIB,
    inflated_bytes=256 * KIB,
    deployments=16,
    listing_bytes=64 * KIB,
)
BOUNDS = Bounds(size=64 * KIB, depth=16, nodes=2_000)
ARCHIVES = ArchiveBounds(members=64, unpacked=256 * KIB)
STATE = DeviceState()
CURRENT_PATHS = RouteTable(current.ROUTES)
OLDER_PATHS = RouteTable(older.ROUTES)
REF = b"refs/heads/devices/press-07"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of the target, and of its folder of seeds.
        read: the reader; takes hostile bytes.
        valid: inputs that it takes.
        refuses: what it may raise.
        memory: bytes that it may need at most, whatever comes.
        mended: makes a changed input consistent again, so that changes reach beyond a checksum.
    """

    name: str
    read: Callable[[bytes], object]
    valid: tuple[bytes, ...]
    refuses: tuple[type[Exception], ...] = (MargoGitopsError,)
    memory: int = 2 * KIB * KIB
    mended: Callable[[bytes], bytes] | None = None

    @property
    def seeds(self) -> tuple[bytes, ...]:
        """Valid inputs, and those that once went wrong."""
        return (*self.valid, *(path.read_bytes() for path in sorted((SEEDS / self.name).glob("*"))))


def packets(content: bytes) -> PacketReader:
    return PacketReader(io.BytesIO(content).read, 64 * KIB)


def pieces(content: bytes) -> list[bytes]:
    return [content[at : at + 1000] for at in range(0, len(content), 1000)]


def _objects() -> dict[ObjectID, GitObject]:
    files = {name: blob_id(content) for name, content in STATE.deployments.items()}
    folder = deployments_tree(files)
    folder_id = object_id(Kind.TREE, folder)
    contents = [
        (Kind.COMMIT, STATE.commit),
        (Kind.TREE, device_tree(blob_id(STATE.manifest_bytes), folder_id.decode())),
        (Kind.TREE, folder),
        (Kind.BLOB, STATE.manifest_bytes),
        *((Kind.BLOB, content) for content in STATE.deployments.values()),
    ]
    return {object_id(kind, content): GitObject(kind, content) for kind, content in contents}


OBJECTS = _objects()
TIP = ObjectID(STATE.commit_id.encode())
HELD = GitObject(Kind.BLOB, b"a text that deltas are made to " * 8)
HELD_ID = object_id(Kind.BLOB, HELD.content)


def valid_pack() -> bytes:
    return pack([entry(each.kind, each.content) for each in OBJECTS.values()])


def delta_pack() -> bytes:
    base = b"0123456789" * 20
    near = delta(len(base), 210, copy(0, 200) + insert(b"x" * 10))
    first = entry(BLOB, base)
    thin = delta(len(HELD.content), 32, copy(0, 31) + insert(b"!"))
    return pack(
        [
            first,
            entry(OFS_DELTA, near, base=distance(len(first))),
            entry(REF_DELTA, thin, base=bytes.fromhex(HELD_ID.decode())),
        ]
    )


def odd_pack() -> bytes:
    return pack([entry(COMMIT, b""), entry(TREE, b"100644 a\0" + bytes(20)), entry(BLOB, b"", size=10**12)])


def resummed(content: bytes) -> bytes:
    """Return a pack with the checksum of its content."""
    return content[:-20] + hashlib.sha1(content[:-20], usedforsecurity=False).digest()


def repacked(content: bytes) -> bytes:
    """Return an archive compressed again, so that changes are in the archive and not in its compression."""
    return gzip_stored(content)


def read_packets(content: bytes) -> None:
    reader = packets(content)
    while reader.line() is not Mark.FLUSH:
        pass


def pull(content: bytes) -> None:
    """Read a pack's objects as a device tree, and judge it: the whole way of an answer to fetch."""
    found = read_pack(iter(pieces(content)), {HELD_ID: HELD}.get, LIMITS)
    tip = next((name for name, each in found.items() if each.kind == Kind.COMMIT), TIP)
    judge(read_snapshot(tip, found.get, LIMITS), TrustPolicy(DEVICE, allowed()), None)


def tree(content: bytes) -> None:
    """Read a device tree whose root is these bytes."""
    name = object_id(Kind.TREE, content)
    commit = b"tree " + name + b"\n" + STATE.commit.partition(b"\n")[2]
    objects = {**OBJECTS, name: GitObject(Kind.TREE, content)}
    tip = object_id(Kind.COMMIT, commit)
    read_snapshot(tip, {**objects, tip: GitObject(Kind.COMMIT, commit)}.get, LIMITS)


def manifest(content: bytes) -> None:
    judge(Snapshot(content, STATE.over_http().deployments, None, "x"), TrustPolicy(DEVICE, None), None)


def document(content: bytes) -> None:
    judge(STATE.but(files={next(iter(STATE.deployments)): content}).over_http(), TrustPolicy(DEVICE, None), None)


def archive(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpack(io.BytesIO(content), Path(folder), ARCHIVES)


def text(content: bytes) -> str:
    return content.decode("utf-8", errors="surrogateescape")


def capabilities_packets() -> bytes:
    lines = (
        b"version 2\n",
        b"agent=git/2.39.5\n",
        b"ls-refs=unborn\n",
        b"fetch=shallow wait-for-done\n",
        b"object-format=sha1\n",
    )
    return b"".join(map(packet, lines)) + b"0000"


def fetch_packets() -> bytes:
    content = valid_pack()
    band = b"".join(packet(b"\x01" + piece) for piece in pieces(content))
    shallow = packet(b"shallow-info\n") + packet(b"shallow " + TIP + b"\n") + b"0001"
    return shallow + packet(b"packfile\n") + packet(b"\x02Counting\n") + band + b"0000"


BUNDLE = write_bundle(STATE.deployments)
STATUS = (
    b'{"deploymentId":"x","adoptedManifestVersion":1,"status":{"state":"installed"},'
    b'"components":[{"name":"hmi","state":"installed"}]}'
)
CAPABILITIES = (
    b'{"properties":{"id":"press-01","vendor":"N","modelNumber":"M","serialNumber":"1","cpus":[{"cores":4,"architecture":"amd64"}],'
    b'"memory":"8 Gi","storage":"64 Gi","peripherals":[],"interfaces":[{"type":"ethernet"}],"otelCollector":true,'
    b'"supportedRuntimes":["oci"],"supportedDeploymentTypes":["compose"]},"labels":{"line":"3"}}'
)
SIGNERS = f'ada@example.com namespaces="git",valid-before="20300101" {RENDERER.public}\n# nobody\n'.encode()

KEY = private_key("ecdsa-p256-sha256")
SIGNED = SignedClient(httpx.Client(), covered=("@method", "@target-uri", "@authority"), client_id="c-1")
VERIFIER = SignatureVerifier((PUBLIC_URL,), "specification", 300, lambda: 1_800_000_000)
HEADERS = b"""authorization: Basic eDp5
accept: application/*;q=0.5, text/html
accept-encoding: gzip;q=0, *
if-none-match: W/"a", "b"
prefer: respond-async, wait=10
client-cert: :AAAA:"""


def git_request(content: bytes) -> None:
    request = read_request(content)
    if isinstance(request, LsRefs):
        refs_answer(request, {"refs/heads/a": "1" * 40}, "refs/heads/a")


def git_request_0(content: bytes) -> None:
    read = read_old_request(content)
    if read is not None:
        request, spoken = read
        old_acknowledgments(request, spoken, request.haves[::2])


def git_commands() -> tuple[bytes, ...]:
    """Return what git, and devices, ask for."""
    head = packet(b"agent=git/2.39.5\n") + packet(b"object-format=sha1\n") + b"0001"
    refs = packet(b"peel\n") + packet(b"symrefs\n") + packet(b"ref-prefix refs/heads/\n") + b"0000"
    want = packet(b"deepen 1\n") + packet(b"want " + TIP + b"\n") + packet(b"have " + TIP + b"\n")
    return (
        packet(b"command=ls-refs\n") + head + refs,
        packet(b"command=fetch\n") + head + packet(b"thin-pack\n") + want + packet(b"done\n") + b"0000",
    )


def git_old() -> bytes:
    want = packet(b"want " + TIP + b" multi_ack_detailed side-band-64k ofs-delta\n") + packet(b"deepen 2\n")
    return want + b"0000" + packet(b"have " + TIP + b"\n") + b"0000" + packet(b"done\n")


def header_lines(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return lines as a server has them: names in small letters, values as they came."""
    pairs = (line.partition(b":") for line in content.split(b"\n"))
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


def signed_headers() -> bytes:
    request = SIGNED.signed("POST", SIGNED.path("capabilities"), STATUS)
    return b"\n".join(b"%s: %s" % pair for pair in request.headers.raw)


def signature(content: bytes) -> None:
    """Read the headers of a signed request; a wrong signature is no error but an answer."""
    scope = {
        "method": "POST",
        "raw_path": SIGNED.path("capabilities").encode(),
        "query_string": b"",
        "headers": header_lines(content),
    }

    def find(_: str) -> PublicKey:
        return KEY.public_key()

    digest_fits(scope, STATUS)
    VERIFIER.verify(scope, find, has_body=True)


def headers(content: bytes) -> None:
    scope = {"headers": header_lines(content)}
    with_bearer(scope)
    for _, value in scope["headers"]:
        line = value.decode("latin-1")
        accepts(line, "application/json")
        takes_gzip(line)
        holds(line, "a")
        wait_seconds(line, 10)


def path(content: bytes) -> None:
    CURRENT_PATHS.find(content)
    OLDER_PATHS.find(content)
    older.client_of_path(content, "")


def onboarding_request() -> bytes:
    return json.dumps(
        {
            "apiVersion": "onboarding.margo.org/v1alpha1",
            "kind": "OnboardingRequest",
            "certificate": base64.b64encode(SIGNED.der).decode(),
        }
    ).encode()


def certificate(content: bytes) -> ClientCertificate | None:
    accepted_caller(content, AcceptedClients(), 0)
    return read_certificate(content)


TARGETS = (
    Target("pkt-line", read_packets, (packet(b"hello\n") + b"0001" + packet(b"x" * 300) + b"0000",)),
    Target("git-capabilities", lambda content: check_capabilities(packets(content)), (capabilities_packets(),)),
    Target(
        "ls-refs",
        lambda content: read_refs(packets(content), (REF,)),
        (packet(TIP + b" " + REF + b"\n") + packet(TIP + b" " + REF + b"0\n") + b"0000", packet(b"ERR no\n")),
    ),
    Target("fetch", lambda content: list(read_fetch(packets(content))), (fetch_packets(),)),
    Target(
        "pack",
        pull,
        (valid_pack(), delta_pack(), odd_pack()),
        memory=4 * KIB * KIB,
        mended=resummed,
    ),
    Target("device-tree", tree, (OBJECTS[list(OBJECTS)[1]].content, OBJECTS[list(OBJECTS)[2]].content)),
    Target("commit", parse_commit, (STATE.commit,), refuses=(ValueError,)),
    Target(
        "trailers",
        lambda content: parse_trailers(text(content)),
        (STATE.commit.partition(b"\n\n")[2],),
        refuses=(ValueError,),
    ),
    Target("ssh-signature", lambda content: parse_signature(text(content)), (sign(b"content", RENDERER).encode(),)),
    Target("allowed-signers", lambda content: parse_allowed_signers(content, "allowed_signers"), (SIGNERS,)),
    Target("floor", lambda content: read_floor(content, "floor"), (write_floor(STATE.floor),)),
    Target(
        "json",
        lambda content: read_json(content, "x.json", BOUNDS),
        (STATE.manifest_bytes, b'[1.5e3,"\\ud83d\\ude00",null]'),
    ),
    Target(
        "yaml",
        lambda content: read_yaml(content, "x.yaml", BOUNDS),
        (deployment("a"), b"a: &x [1, *x]\n? b\n: |\n  c\n"),
    ),
    Target(
        "documents",
        lambda content: check_document(read_source(content, "x.yaml", BOUNDS)),
        (deployment("a"), CAPABILITIES),
    ),
    Target("manifest", manifest, (STATE.manifest_bytes,)),
    Target("deployment", document, tuple(STATE.deployments.values())),
    Target(
        "bundle",
        lambda content: read_bundle(content, {sha256(each) for each in STATE.deployments.values()}, 256 * KIB),
        (BUNDLE, gzip.compress(b"x" * 200_000)),
        refuses=(ValueError,),
    ),
    Target(
        "bundle-content",
        lambda content: read_bundle(content, {sha256(each) for each in STATE.deployments.values()}, 256 * KIB),
        (zlib.decompress(BUNDLE, wbits=31),),
        refuses=(ValueError,),
        mended=repacked,
    ),
    Target("archive", archive, (BUNDLE,)),
    Target("archive-content", archive, (zlib.decompress(BUNDLE, wbits=31),), mended=repacked),
    Target(
        "capabilities",
        lambda content: read_capabilities(content, "press-01", "lenient"),
        (CAPABILITIES,),
        refuses=(MargoGitopsError, RequestRefused),
    ),
    Target(
        "status",
        lambda content: read_status(content, "x", "lenient"),
        (STATUS,),
        refuses=(MargoGitopsError, RequestRefused),
    ),
    Target("git-request", git_request, git_commands(), refuses=(NotGitError, RefusedError)),
    Target("git-request-0", git_request_0, (git_old(),), refuses=(NotGitError, RefusedError)),
    Target("signature-headers", signature, (signed_headers(),), refuses=()),
    Target("request-headers", headers, (HEADERS,), refuses=()),
    Target(
        "request-path",
        path,
        (b"/api/v1/deployments/a3e2f5dc-912e-494f-8395-52cf3769bc06/sha256%3A" + b"a" * 64, b"/api/v1/clients/c/x"),
        refuses=(),
    ),
    Target("onboarding", read_onboarding_request, (onboarding_request(),), refuses=(ValueError,)),
    Target("client-certificate", certificate, (SIGNED.der,), refuses=(ValueError,)),
    Target(
        "older-capabilities",
        lambda content: of_device(content, "press-01", "press-01", "strict", own=True),
        (CAPABILITIES,),
        refuses=(RequestRefused,),
    ),
)
assert MANIFEST_NAME == b"manifest.json"
