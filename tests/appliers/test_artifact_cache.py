import os
import ssl
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.tunnel_proxy import tunnel_proxy
from workload_making import artifact_of, compose_archive, entry, folder_artifact, leftovers, tar_gz, tree, workload

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.archives import ArchiveBounds
from margo_gitops.appliers.artifacts import ArtifactCache
from margo_gitops.appliers.files import create
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import Artifact
from margo_gitops.documents.site_bundle import blob_path
from margo_gitops.errors import ApplierUnusable, ArtifactRefused, ArtifactUnavailable, StorageFailed
from margo_gitops.transport.stick.files import opened_blob

ARCHIVE = compose_archive("services: {}\n")


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture
def content(tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    return folder


def test_an_archive_is_fetched_once_and_used_without_its_source(tmp_path, cache, content):
    artifact = artifact_of(ARCHIVE, tmp_path)
    cache.place(artifact, content, seconds=10)
    Path(artifact.url.removeprefix("file://")).unlink()
    again = tmp_path / "again"
    again.mkdir()
    cache.place(artifact, again, seconds=10)
    assert (again / "app/compose.yaml").read_bytes() == (content / "app/compose.yaml").read_bytes() == b"services: {}\n"


def test_a_folder_is_taken_by_the_digest_that_sha256sum_gives(tmp_path, cache, content):
    source = tmp_path / "folder"
    (source / "conf").mkdir(parents=True)
    (source / "compose.yaml").write_text("services: {}\n")
    (source / "conf/ä b.txt").write_text("x")
    shell = "find * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    said = subprocess.run(["sh", "-c", shell], cwd=source, capture_output=True, check=True).stdout.decode()
    artifact = folder_artifact(source)
    assert artifact.digest == f"sha256:{said.split()[0]}"
    cache.place(artifact, content, seconds=10)
    assert tree(content) == {"compose.yaml", "conf", "conf/ä b.txt"}


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_tampered_content_is_refused_and_nothing_of_it_is_kept(tmp_path, cache, content, kind):
    if kind == "archive":
        artifact = artifact_of(ARCHIVE, tmp_path)
        Path(artifact.url.removeprefix("file://")).write_bytes(compose_archive("services: {evil: {}}\n"))
    else:
        source = tmp_path / "folder"
        source.mkdir()
        (source / "compose.yaml").write_text("services: {}\n")
        artifact = folder_artifact(source)
        (source / "compose.yaml").write_text("services: {evil: {}}\n")
    with pytest.raises(ArtifactRefused, match="not what the deployment promises") as caught:
        cache.place(artifact, content, seconds=10)
    assert artifact.digest in str(caught.value)
    assert tree(tmp_path / "cache") == tree(content) == set()


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_a_damaged_entry_of_the_cache_is_fetched_again(tmp_path, cache, content, kind):
    if kind == "archive":
        artifact = artifact_of(ARCHIVE, tmp_path)
    else:
        source = tmp_path / "folder"
        source.mkdir()
        (source / "compose.yaml").write_text("services: {}\n")
        artifact = folder_artifact(source)
    first = tmp_path / "first"
    first.mkdir()
    cache.place(artifact, first, seconds=10)
    kept = tmp_path / "cache" / artifact.digest.removeprefix("sha256:")
    damaged = kept if kept.is_file() else kept / "compose.yaml"
    damaged.write_bytes(b"damaged" + damaged.read_bytes())
    cache.place(artifact, content, seconds=10)
    assert tree(content) == tree(first)
    assert all(path.read_bytes() == b"services: {}\n" for path in content.rglob("compose.yaml"))


@pytest.mark.parametrize(
    "url", ["file:///nowhere/x.tar.gz", "file://host/x", "http://127.0.0.1/x", "https://127.0.0.1:1/x"]
)
def test_what_cannot_be_fetched_is_named_with_the_reason(cache, content, url):
    with pytest.raises(ArtifactUnavailable, match="cannot be fetched for component hmi"):
        cache.place(Artifact("hmi", url, sha256(b"")), content, seconds=5)


def test_a_pipe_is_no_source(tmp_path, cache, content):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactUnavailable, match="neither a file nor a folder"):
        cache.place(Artifact("hmi", (tmp_path / "pipe").as_uri(), sha256(b"")), content, seconds=5)


def test_an_archive_beyond_the_bound_is_refused(tmp_path, content):
    cache = ArtifactCache(tmp_path / "cache", bounds=ArchiveBounds(packed=100))
    with pytest.raises(ArtifactRefused, match="larger than 100 bytes"):
        cache.place(artifact_of(ARCHIVE, tmp_path), content, seconds=10)
    assert leftovers(tmp_path) == []


def test_what_no_revision_uses_is_pruned(tmp_path, cache):
    artifacts = [artifact_of(compose_archive(f"# {number}\nservices: {{}}\n"), tmp_path) for number in range(3)]
    for number, artifact in enumerate(artifacts):
        folder = tmp_path / str(number)
        folder.mkdir()
        cache.place(artifact, folder, seconds=10)
    cache.prune({artifacts[1].digest})
    assert tree(tmp_path / "cache") == {artifacts[1].digest.removeprefix("sha256:")}


def test_what_a_killed_fetch_left_is_swept_by_the_next(tmp_path, cache, content):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/.new-0123").write_bytes(b"half")
    (tmp_path / "cache/.new-folder").mkdir()
    cache.place(artifact_of(ARCHIVE, tmp_path), content, seconds=10)
    assert leftovers(tmp_path) == []


@pytest.mark.real
def test_a_full_disk_is_told_and_leaves_nothing_half_done(tmp_path, content):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "x", disk]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        cache = ArtifactCache(disk / "cache")
        artifact = artifact_of(tar_gz(entry("compose.yaml", os.urandom(600_000))), tmp_path)
        with pytest.raises(StorageFailed, match="no space left") as caught:
            cache.place(artifact, content, seconds=10)
        assert "free space" in caught.value.remedy
        assert tree(disk / "cache") == set()
        small = artifact_of(ARCHIVE, tmp_path)
        cache.place(small, content, seconds=10)
    finally:
        subprocess.run(["umount", disk], check=True)


class _Server(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.seen.append(self.path)
        if self.path.startswith("/to"):
            self.send_response(302)
            self.send_header("Location", server.target)
            self.end_headers()
        elif self.path == "/hmi.tar.gz":
            self.send_response(200)
            self.send_header("Content-Length", str(len(ARCHIVE)))
            self.end_headers()
            self.wfile.write(ARCHIVE)
        elif self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(600_000))
            self.end_headers()
            self.wfile.write(bytes(600_000))
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(ARCHIVE)))
            self.end_headers()
            self.wfile.write(ARCHIVE[:50])
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            while not server.stopping.is_set():
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                server.stopping.wait(0.05)
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "ca.pem"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", names]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def server(authority):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.daemon_threads = False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "ca.pem", authority / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = []
    server.stopping = threading.Event()
    server.handle_error = lambda *_: None
    server.url = f"https://127.0.0.1:{server.server_port}"
    server.target = f"{server.url}/hmi.tar.gz"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def trusting(tmp_path, authority):
    return ArtifactCache(tmp_path / "cache", ca_file=authority / "ca.pem")


def remote(server, path):
    return Artifact("hmi", f"{server.url}{path}", sha256(ARCHIVE))


@pytest.mark.parametrize("path", ["/hmi.tar.gz", "/to"])
def test_an_archive_comes_by_https_also_through_a_redirect(server, trusting, content, path):
    trusting.place(remote(server, path), content, seconds=10)
    assert (content / "app/compose.yaml").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/none", "404"), ("/short", "bytes too early"), ("/drip", "did not finish")],
)
def test_a_server_that_fails_is_named_with_the_reason(tmp_path, server, trusting, content, path, reason):
    with pytest.raises(ArtifactUnavailable, match=reason):
        trusting.place(remote(server, path), content, seconds=1)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_never_leaves_https(server, trusting, content, target):
    server.target = target
    with pytest.raises(ArtifactUnavailable):
        trusting.place(remote(server, "/to"), content, seconds=5)


def test_redirects_that_go_round_end(server, trusting, content):
    server.target = f"{server.url}/to-again"
    with pytest.raises(ArtifactUnavailable, match="more than 3 times"):
        trusting.place(remote(server, "/to"), content, seconds=5)
    assert len(server.seen) == 4


def test_a_redirect_without_a_host_stays_at_its_server(server, trusting, content):
    server.target = "/hmi.tar.gz"
    trusting.place(remote(server, "/to?key=of-the-first-alone"), content, seconds=10)
    assert server.seen == ["/to?key=of-the-first-alone", "/hmi.tar.gz"]


def test_a_url_with_credentials_is_not_asked_for(server, trusting, content):
    server.target = f"{server.url.replace('://', '://user:verysecret@')}/hmi.tar.gz"
    with pytest.raises(ArtifactUnavailable, match="a user name or a password") as caught:
        trusting.place(remote(server, "/to"), content, seconds=5)
    assert "verysecret" not in str(caught.value)
    assert server.seen == ["/to"]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_proxy_of_the_environment_is_used_only_where_the_settings_say_so(
    tmp_path, server, authority, content, monkeypatch, allowed
):
    def applier():
        settings = {"folder": str(tmp_path / "out"), "caFile": str(authority / "ca.pem")}
        return create(ApplierContext("press-07", tmp_path, settings, proxy_from_environment=allowed))

    monkeypatch.setenv("no_proxy", "")
    with tunnel_proxy(server.server_port) as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        applier().prepare(workload(remote(server, "/hmi.tar.gz")))
    assert server.seen == ["/hmi.tar.gz"]
    assert len(proxy.seen) == allowed


def test_a_proxy_that_is_not_one_is_a_mistake_in_the_settings(server, authority, tmp_path, content, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    cache = ArtifactCache(tmp_path / "cache", ca_file=authority / "ca.pem", proxy_from_environment=True)
    with pytest.raises(ApplierUnusable, match="https_proxy"):
        cache.place(remote(server, "/hmi.tar.gz"), content, seconds=5)


@pytest.mark.real
def test_a_disk_that_fills_during_a_download_is_told_as_such(tmp_path, server, authority, content):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "x", disk]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        cache = ArtifactCache(disk / "cache", ca_file=authority / "ca.pem")
        with pytest.raises(StorageFailed, match="no space left"):
            cache.place(remote(server, "/large"), content, seconds=10)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unknown_authority_is_not_trusted(tmp_path, server, content):
    with pytest.raises(ArtifactUnavailable, match="certificate is not trusted"):
        ArtifactCache(tmp_path / "other").place(remote(server, "/hmi.tar.gz"), content, seconds=5)


def test_credentials_in_a_url_are_not_shown(cache, content):
    url = "https://user:verysecret@127.0.0.1:1/x?token=alsosecret"
    with pytest.raises(ArtifactUnavailable) as caught:
        cache.place(Artifact("hmi", url, sha256(b"")), content, seconds=5)
    assert "secret" not in str(caught.value)


def test_what_a_person_brought_is_taken_before_any_address_is_asked(tmp_path, content):
    artifact = Artifact("hmi", "https://127.0.0.1:1/hmi.tar.gz", sha256(ARCHIVE))
    blob = tmp_path / "stick" / blob_path(artifact.digest)
    blob.parent.mkdir(parents=True)
    cache = ArtifactCache(tmp_path / "cache", carried=partial(opened_blob, tmp_path / "stick"))
    with pytest.raises(ArtifactUnavailable, match="127"):
        cache.place(artifact, content, seconds=5)
    blob.write_bytes(ARCHIVE[:-1])
    with pytest.raises(ArtifactRefused, match="not what the deployment promises"):
        cache.place(artifact, content, seconds=5)
    blob.write_bytes(ARCHIVE)
    cache.place(artifact, content, seconds=5)
    assert (content / "app/compose.yaml").exists()
    assert cache.file(artifact, seconds=5).read_bytes() == ARCHIVE
