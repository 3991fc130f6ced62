"""Ranges from a real HTTP server over one kept connection, and from one that answers in other ways."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from margo_gitops.content.sources import Reach, local_path
from margo_gitops.digests import sha256
from margo_gitops.errors import SourceBusy, SourceMisbehaved, SourceRefused
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.ranged import RangedFile

CONTENT = bytes(range(256)) * 400


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, wanted = self.path.strip("/"), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        self.server.seen.append(kind)
        start, end = int(wanted[1]), int(wanted[2]) + 1
        if kind.startswith("to/") or (kind == "signed" and "gone" not in self.server.seen):
            return self.answer(302, b"", Location=f"http://127.0.0.1:{self.server.server_port}/{kind[3:] or 'file'}")
        if kind == "busy":
            return self.answer(429, b"later", **{"Retry-After": "7"})
        if kind in ("none", "gone"):
            return self.answer(404, b"no")
        if kind == "whole":
            return self.answer(200, CONTENT)
        if kind == "other":
            start += 1
        more = {"Content-Encoding": "gzip"} if kind == "gzip" else {}
        said = f"bytes {start}-{end - 1}/{len(CONTENT)}"
        return self.answer(206, CONTENT[start:end], **{"Content-Range": said}, **more)

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.seen, server.handle_error = [], lambda *_: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def file_at(server, path, meter=None, plain=True):
    server.seen.clear()
    return RangedFile(f"http://127.0.0.1:{server.server_port}/{path}", plain=plain, meter=meter or Meter())


def read(file, start, end):
    with file.read(start, end, len(CONTENT), Deadline(10, 10)) as (begins, reader):
        return begins, reader(end - begins if begins else len(CONTENT))


def test_ranges_come_over_one_connection(server):
    meter = Meter()
    file = file_at(server, "file", meter)
    assert [read(file, start, start + 50) for start in (0, 300, 70)] == [
        (start, CONTENT[start : start + 50]) for start in (0, 300, 70)
    ]
    assert (meter.connections, meter.requests) == (1, 3)
    file.close()


def test_who_reads_may_stop_anywhere(server):
    file = file_at(server, "file")
    with file.read(0, 60_000, len(CONTENT), Deadline(10, 10)) as (_, reader):
        assert reader(10) == CONTENT[:10]
    assert read(file, 5, 7) == (5, CONTENT[5:7])
    file.close()


def test_a_server_without_ranges_gives_the_whole_file(server):
    file = file_at(server, "whole")
    assert read(file, 300, 350) == (0, CONTENT)
    file.close()


def test_where_a_redirect_led_is_asked_first_and_the_first_place_again_when_that_is_gone(server):
    file = file_at(server, "to/file")
    read(file, 0, 5)
    assert read(file, 5, 9) == (5, CONTENT[5:9])
    assert server.seen == ["to/file", "file", "file"]
    file._found = file.url.replace("to/file", "gone")
    assert read(file, 5, 9) == (5, CONTENT[5:9])
    assert server.seen[3:] == ["gone", "to/file", "file"]
    file.close()


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("none", SourceRefused, "404"),
        ("other", SourceMisbehaved, "another range"),
        ("gzip", SourceRefused, "compresses"),
        ("to/to/to/to/to/file", SourceMisbehaved, "more than 3 times"),
        ("busy", SourceBusy, "429"),
    ],
)
def test_what_a_server_does_instead_is_said(server, path, error, said):
    file = file_at(server, path)
    with pytest.raises(error, match=said):
        read(file, 10, 20)
    file.close()


def test_http_is_only_for_mirrors(server, tmp_path):
    with pytest.raises(SourceMisbehaved, match="only https"):
        read(file_at(server, "file", plain=False), 0, 5)
    assert server.seen == []
    base = f"http://127.0.0.1:{server.server_port}/"
    mirror, own, disk = Reach(mirrors=[base]).sources(
        sha256(CONTENT), len(CONTENT), [base + "file", (tmp_path / "f").as_uri()]
    )
    assert mirror.name == base + sha256(CONTENT).removeprefix("sha256:")
    with mirror.open(3, 6, Deadline(10, 10)) as incoming:
        assert (incoming.start, incoming.read(3)) == (3, CONTENT[3:6])
    with pytest.raises(SourceMisbehaved), own.open(3, 6, Deadline(10, 10)):
        pass
    with pytest.raises(SourceRefused, match="No such file"), disk.open(3, 6, Deadline(10, 10)):
        pass
    (tmp_path / "f").write_bytes(CONTENT)
    with disk.open(3, 6, Deadline(10, 10)) as incoming:
        assert incoming.read(10) == CONTENT[3:6]
    mirror.close()


@pytest.mark.parametrize("url", ["file://host/x", "file:///a%00b", "https://host/x"])
def test_a_file_of_another_machine_is_no_place(url):
    with pytest.raises(SourceMisbehaved):
        local_path(url)


def test_what_may_be_a_credential_is_not_shown():
    place = Reach().sources(sha256(b""), 0, ["https://user:secret@files.example/x?token=secret"])[0]
    assert place.name == "https://files.example/x"
