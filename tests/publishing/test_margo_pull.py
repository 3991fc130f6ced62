"""scripts/margo-pull.sh against published files behind nginx, under dash and under busybox."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Outcome
from support.fleet import write_signing_key
from support.published import FIRST, SECOND, Plant
from support.pull_script import SHELLS, Device, small_device
from support.static_server import TOKENS, StaticServer, nginx

from margo_gitops.digests import sha256
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key

pytestmark = pytest.mark.real
DEVICE = "press-01"


class Site:
    """A device, its server, and the published files between them."""

    def __init__(self, plant: Plant, server: StaticServer, device: Device) -> None:
        self.plant, self.server, self.device = plant, server, device
        self.published = plant.folder / DEVICE

    def pull(self, *options: str) -> Outcome:
        return self.device.pull(self.server.http, TOKENS[DEVICE], *options)

    def requests(self) -> list[str]:
        lines = (self.server.folder / "access.log").read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines]

    def manifest(self) -> Any:
        return json.loads((self.published / "api/v1/deployments/manifest").read_bytes())

    def serve(self, manifest: Any) -> bytes:
        """Publish a manifest as nobody of ours would."""
        content = manifest if isinstance(manifest, bytes) else write_json(manifest)
        self.plant.target.switch(DEVICE, content)
        return content

    def serve_bundle(self, files: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        """Publish version + 1 with the same deployments and another bundle."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for member, content in files:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.serve_bundle_bytes(gzip.compress(archive.getvalue()))

    def serve_bundle_bytes(self, content: bytes) -> None:
        manifest = self.manifest()
        digest = sha256(content)
        (self.published / f"api/v1/bundles/{digest}").write_bytes(content)
        manifest["bundle"] |= {"digest": digest, "url": f"/api/v1/bundles/{digest}"}
        manifest["manifestVersion"] += 1
        self.serve(manifest)

    def documents(self) -> dict[str, bytes]:
        """Return what the served manifest lists, as it was rendered."""
        listed = {each["deploymentId"]: each["digest"] for each in self.manifest()["deployments"]}
        return {
            f"{name}.yaml": (self.published / f"api/v1/deployments/{name}/{digest}").read_bytes()
            for name, digest in sorted(listed.items())
        }


@pytest.fixture(params=SHELLS)
def site(plant: Plant, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    device = small_device(tmp_path / "device", request.param)
    plant.publish(FIRST)
    with nginx(tmp_path / "nginx", plant.folder) as server:
        yield Site(plant, server, device)


@pytest.fixture
def adopted(site: Site) -> Site:
    """A site whose device holds version 1."""
    assert site.pull().code == 0
    return site


def assert_kept(site: Site, outcome: Outcome, code: int, *words: str) -> None:
    """Assert that a poll failed and changed nothing: version 1 stays, and the hook was not called again."""
    assert outcome.code == code, outcome
    for word in words:
        assert word in outcome.stderr, outcome
    assert json.loads(site.device.manifest())["manifestVersion"] == 1
    assert len(site.device.documents()) == 4
    assert len(site.device.hooks()) == 1
    held = (site.device.state / "held").read_text()
    assert "version 1\n" in held
    assert "applied yes\n" in held


def test_the_first_pull_adopts_the_very_bytes_and_calls_the_hook(site: Site):
    outcome = site.pull()
    assert outcome.code == 0, outcome
    assert site.device.documents() == site.documents()
    assert sha256(site.device.manifest()) == sha256((site.published / "api/v1/deployments/manifest").read_bytes())
    [(folder, previous, version)] = site.device.hooks()
    assert (Path(folder), previous, version) == (site.device.current.resolve(), "", "1")
    assert [path.rpartition("/")[0] for path in site.requests()] == ["/api/v1", "/api/v1/bundles"]


def test_nothing_new_is_one_request_and_no_hook(adopted: Site):
    before = len(adopted.requests())
    outcome = adopted.pull()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert adopted.requests()[before:] == ["/api/v1/deployments"]
    assert "304 0" in (adopted.server.folder / "access.log").read_text()
    assert len(adopted.device.hooks()) == 1


def test_a_change_fetches_only_the_changed_document(adopted: Site):
    first = adopted.device.current.resolve()
    adopted.plant.publish(SECOND)
    before = len(adopted.requests())
    assert adopted.pull().code == 0
    assert [path.count("/") for path in adopted.requests()[before:]] == [3, 5]
    assert adopted.device.documents() == adopted.documents()
    assert adopted.device.hooks()[1] == [str(adopted.device.current.resolve()), str(first), "2"]


def test_absence_from_the_manifest_removes(adopted: Site):
    adopted.plant.publish({**FIRST, DEVICE: {"hmi": b"a: 1\n"}})
    assert adopted.pull().code == 0
    assert list(adopted.device.documents().values()) == [b"a: 1\n"]
    adopted.plant.publish({**FIRST, DEVICE: {}})
    assert adopted.pull().code == 0
    assert adopted.device.documents() == {}
    assert len(list((adopted.device.state / "states").iterdir())) == 2


def test_f2_a_failed_document_keeps_the_old_etag_so_the_next_poll_tries_again(adopted: Site):
    adopted.plant.publish(SECOND)
    [changed] = [path for path in adopted.published.glob("api/v1/deployments/*/*") if path.read_bytes() == b"a: 2\n"]
    changed.write_bytes(b"a: 3\n")
    assert_kept(adopted, adopted.pull(), 4, "security event", "does not have the digest")
    changed.write_bytes(b"a: 2\n")
    assert adopted.pull().code == 0
    assert b"a: 2\n" in adopted.device.documents().values()


def test_f2_a_tampered_bundle_adopts_nothing(site: Site):
    [bundle] = (site.published / "api/v1/bundles").iterdir()
    good = bundle.read_bytes()
    for bad in (good[:-1], good.replace(b"a: 1", b"a: 9"), b""):
        bundle.write_bytes(bad)
        outcome = site.pull()
        assert (outcome.code, site.device.hooks()) == (4, []), outcome
        assert not site.device.current.exists()
    bundle.write_bytes(good)
    assert site.pull().code == 0
    assert site.device.documents() == site.documents()


def test_f2_a_failing_hook_is_called_again_although_nothing_is_new(site: Site):
    site.device.hook("exit 7")
    for _ in range(2):
        outcome = site.pull()
        assert outcome.code == 5, outcome
        assert "status 7" in outcome.stderr
    site.device.hook()
    assert site.pull().code == 0
    assert site.pull().code == 0
    assert [call[2] for call in site.device.hooks()] == ["1", "1", "1"]


def test_f3_an_older_version_is_refused(site: Site):
    site.serve(site.manifest() | {"manifestVersion": 5})
    assert site.pull().code == 0
    for version in (4, 1):
        site.serve(site.manifest() | {"manifestVersion": version})
        outcome = site.pull()
        assert outcome.code == 4, outcome
        assert f"security event: version {version} is older than the held version 5" in outcome.stderr
    assert json.loads(site.device.manifest())["manifestVersion"] == 5


def test_f3_the_same_version_with_other_content_is_refused(adopted: Site):
    manifest = adopted.manifest()
    adopted.serve(manifest | {"deployments": manifest["deployments"][:-1]})
    assert_kept(adopted, adopted.pull(), 4, "another manifest of the same version 1")


def test_f3_versions_are_64_bits_and_never_a_float(site: Site):
    for version in (9, 10, 2**53, 2**53 + 1, 2**64 - 2, 2**64 - 1):
        site.serve(json.dumps(site.manifest() | {"manifestVersion": version}, separators=(",", ":")).encode())
        outcome = site.pull()
        assert outcome.code == 0, outcome
    held = site.device.manifest()
    for version in ("18446744073709551616", "99999999999999999999", "100000000000000000000"):
        site.serve(held.replace(b"18446744073709551615", version.encode()))
        assert site.pull().code == 4
    site.serve(held.replace(b"18446744073709551615", b"9007199254740993"))
    assert "is older than" in site.pull().stderr
    assert site.device.manifest() == held


def test_f3_the_floor_survives_that_the_documents_are_lost(adopted: Site):
    adopted.plant.publish(SECOND)
    assert adopted.pull().code == 0
    for path in (adopted.device.current / "deployments").iterdir():
        path.unlink()
    adopted.serve(adopted.manifest() | {"manifestVersion": 1})
    assert "is older than the held version 2" in adopted.pull().stderr


def test_lost_and_changed_documents_are_fetched_again(adopted: Site):
    wanted = adopted.device.documents()
    first, second = sorted((adopted.device.current / "deployments").iterdir())[:2]
    first.unlink()
    second.write_bytes(b"x")
    assert adopted.pull().code == 0
    assert adopted.device.documents() == wanted
    assert len(adopted.device.hooks()) == 2


def test_a_listed_document_that_is_404_removes_nothing(adopted: Site):
    adopted.plant.publish(SECOND)
    [changed] = [path for path in adopted.published.glob("api/v1/deployments/*/*") if path.read_bytes() == b"a: 2\n"]
    changed.unlink()
    assert_kept(adopted, adopted.pull(), 3, "nothing is removed")


def test_a_wrong_size_with_the_right_digest_is_accepted(site: Site):
    manifest = site.manifest()
    for each in (manifest["bundle"], *manifest["deployments"]):
        each["sizeBytes"] += 1
    site.serve(manifest | {"manifestVersion": 2})
    assert site.pull().code == 0
    for each in (manifest["bundle"], *manifest["deployments"]):
        del each["sizeBytes"]
    site.serve(manifest | {"manifestVersion": 3})
    assert site.pull().code == 0
    assert json.loads(site.device.manifest())["manifestVersion"] == 3


def other_forms(good: bytes) -> dict[str, bytes]:
    """Return manifests that differ from the expected form, by what is wrong with them."""
    manifest = json.loads(good)
    digest = manifest["deployments"][0]["digest"].encode()
    name = manifest["deployments"][0]["deploymentId"].encode()
    entry = json.dumps(manifest["deployments"][0], separators=(",", ":"), sort_keys=True).encode()
    version = b'"manifestVersion":2}'
    assert entry in good
    return {
        "another algorithm": good.replace(b"sha256:", b"sha512:"),
        "one digest of another algorithm": good.replace(digest, digest.replace(b"sha256", b"sha512")),
        "upper-case digits": good.replace(digest, digest[:7] + digest[7:].upper()),
        "a short digest": good.replace(digest, digest[:-1]),
        "white space": good.replace(b",", b", "),
        "a line end at the end": good + b"\n",
        "two lines": good.replace(b",", b",\n", 1),
        "a NUL": good.replace(b",", b"\0,", 1),
        "something after the end": good + b"{}",
        "cut": good[:-1],
        "cut in the middle": good[: len(good) // 2],
        "empty": b"",
        "no JSON": b"<html>Please sign in</html>",
        "an unknown key twice": good.replace(version, version[:-1] + b',"x":1,"x":1}'),
        "an unknown key without a value": good.replace(version, version[:-1] + b',"x":tru}'),
        "an unknown key with much in it": good.replace(version, version[:-1] + b',"x":' + b"[" * 99_999 + b"}"),
        "members for a list": write_json(manifest | {"deployments": {"1": manifest["deployments"][0]}}),
        "a key twice": good.replace(version, b'"manifestVersion":9,' + version),
        "keys in another order": b'{"manifestVersion":2,' + good[1:].replace(b"," + version, b"}"),
        "an escape": good.replace(b'"bundle"', b'"b\\u0075ndle"'),
        "a deployment twice": good.replace(entry, entry + b"," + entry),
        "a deployment twice, in upper case": good.replace(entry, entry + b"," + entry.replace(name, name.upper())),
        "an id that is a path": good.replace(name, b"../../../../../../../../../../etc/passwd"),
        "a url elsewhere": good.replace(b'"url":"/api', b'"url":"http://127.0.0.1/api', 1),
        "a url of another": good.replace(b"/api/v1/deployments/" + name, b"/api/v1/deployments/" + name[::-1]),
        "no bundle": b'{"bundle":null,' + good[good.index(b'"deployments"') :],
        "a bundle of nothing": good[: good.index(b'"deployments"')] + b'"deployments":[],' + version,
        "a version as text": good.replace(version, b'"manifestVersion":"2"}'),
        "a version as float": good.replace(version, b'"manifestVersion":2.0}'),
        "version 0": good.replace(version, b'"manifestVersion":0}'),
        "a negative version": good.replace(version, b'"manifestVersion":-2}'),
        "a leading zero": good.replace(version, b'"manifestVersion":02}'),
        "larger than a mebibyte": good.replace(entry, b",".join([entry] * 5000)),
    }


def with_unknown_members(good: bytes) -> bytes:
    """Return a manifest with members that the standard does not name, wherever it leaves the schema open."""
    manifest = json.loads(good)
    for each in (manifest, manifest["bundle"], *manifest["deployments"]):
        each |= {"a": {"digest": [1, -2, True, None, {}, []]}, "x-note": "text, with [{}]: in it", "zz": [{"url": "x"}]}
    return write_json(manifest)


def test_any_other_form_of_the_manifest_is_refused_and_unknown_members_are_skipped(adopted: Site):
    good = adopted.serve(adopted.manifest() | {"manifestVersion": 2})
    for what, bad in other_forms(good).items():
        assert bad != good, what
        adopted.serve(bad)
        outcome = adopted.pull()
        assert outcome.code == 4, (what, outcome)
        assert_kept(adopted, outcome, 4, "security event")
    content = adopted.serve(with_unknown_members(good))
    assert adopted.pull().code == 0
    assert adopted.device.manifest() == content


def test_a_bundle_holds_the_listed_files_and_nothing_else(site: Site):
    files = site.documents()
    escaped = site.device.folder / "escaped.yaml"

    def members(**extra: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [(tarfile.TarInfo(name), content) for name, content in {**files, **extra}.items()]

    link = tarfile.TarInfo(min(files))
    link.type, link.linkname = tarfile.SYMTYPE, str(escaped)
    outside = {"../../../escaped.yaml": b"x", str(escaped): b"x", "extra.yaml": b"x", f"./{min(files)}": b"x"}
    bundles = {name: members(**{name: content}) for name, content in outside.items()}
    bundles["twice"] = [*members(), (tarfile.TarInfo(min(files)), b"x")]
    bundles["a link"] = [(link, b""), *members()[1:]]
    bundles["a link, then through it"] = [(link, b""), *members()]
    bundles["one missing"] = members()[1:]
    bundles["other content"] = [(tarfile.TarInfo(min(files)), b"x"), *members()[1:]]
    bundles["empty"] = []
    for what, content in bundles.items():
        site.serve_bundle(content)
        outcome = site.pull()
        assert (outcome.code, site.device.current.exists()) == (4, False), (what, outcome)
        assert not escaped.exists()
    site.serve_bundle([(tarfile.TarInfo(name), content) for name, content in reversed(files.items())])
    assert site.pull().code == 0
    assert site.device.documents() == files


def test_what_a_bundle_unpacks_to_is_bounded(site: Site):
    bomb = tarfile.TarInfo(min(site.documents()))
    site.serve_bundle([(bomb, b"\0" * 40_000_000)])
    outcome = site.pull("--max-bytes", "1000000")
    assert outcome.code == 4, outcome
    assert "unpacks to more" in outcome.stderr
    site.serve_bundle_bytes(b"no archive")
    assert "not a gzip file" in site.pull().stderr
    site.serve_bundle_bytes(gzip.compress(b"no archive"))
    assert site.pull().code == 4


def test_an_answer_is_bounded(site: Site):
    outcome = site.pull("--max-bytes", "3")
    assert outcome.code == 4, outcome
    assert "larger than 3 bytes" in outcome.stderr
    assert not site.device.current.exists()


def assert_whole(device: Device) -> None:
    """Assert that what is adopted is exactly what its manifest lists."""
    listed = {f"{each['deploymentId']}.yaml": each["digest"] for each in json.loads(device.manifest())["deployments"]}
    assert {name: sha256(content) for name, content in device.documents().items()} == listed


def test_wherever_it_is_killed_the_next_run_finishes(adopted: Site):
    """Killed at each program that touches the disk or the server, in turn, until one run gets through."""
    versions = 1
    for number in range(1, 200):
        fresh = {**FIRST[DEVICE], "hmi": b"run: %d\n" % number, "mes": b"run: %d\n" % number}
        adopted.plant.publish({**FIRST, DEVICE: fresh})
        versions += 1
        adopted.device.crash_at(number)
        killed = adopted.pull().code == -9
        assert_whole(adopted.device)
        adopted.device.crash_at(0)
        outcome = adopted.pull()
        assert outcome.code == 0, (number, outcome)
        assert adopted.device.documents() == adopted.documents()
        assert adopted.device.hooks()[-1][2] == str(versions), number
        assert {path.name for path in adopted.device.state.iterdir()} >= {"held", "current", "states"}
        assert not list(adopted.device.state.glob("work.*"))
        if not killed:
            break
    # The shell of busybox runs its own programs without looking for them: there only curl can be made to die.
    assert number > (3 if "busybox" in adopted.device.shell[0] else 12)


def test_two_at_once_are_one(site: Site):
    site.device.hook("read line <gate")
    gate = site.device.folder / "gate"
    subprocess.run(["mkfifo", gate], check=True)
    first = subprocess.Popen(
        site.device.command(site.server.http, TOKENS[DEVICE]),
        env=site.device.environment(),
        cwd=site.device.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not site.device.hooks():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = site.pull()
    assert (second.code, f"process {first.pid}" in second.stderr) == (75, True), second
    with gate.open("w") as opened:
        opened.write("go\n")
    assert first.wait(timeout=30) == 0
    site.device.hook()
    assert site.pull().code == 0


def test_the_token_is_in_no_argument_and_no_output(site: Site):
    curl = site.device.folder / "bin" / "curl"
    real = curl.readlink()
    curl.unlink()
    curl.write_text(f'#!/bin/sh\necho "$@" >>{site.device.folder}/arguments\nexec {real} "$@"\n')
    curl.chmod(0o755)
    outcome = site.pull()
    assert outcome.code == 0
    said = outcome.stdout + outcome.stderr + (site.device.folder / "arguments").read_text()
    assert TOKENS[DEVICE] not in said


def test_settings_that_cannot_work_are_told_before_anything_is_sent(site: Site):
    bad = {
        "misspelt variable": ([], {"MARGO_PULL_HOKO": "x"}, "MARGO_PULL_HOKO means nothing here"),
        "unknown option": (["--urll", "x"], {}, "--urll is not an option"),
        "option without value": (["--every"], {}, "--every needs a value"),
        "no URL": (["--url", "ftp://x"], {}, "must start with https://"),
        "credentials in the URL": (["--url", "https://u:p@x"], {}, "credentials go into files"),
        "a token in the clear": (["--url", "http://plant.example"], {}, "unencrypted"),
        "a period of nothing": (["--every", "0"], {}, "not a positive whole number"),
        "no hook": (["--hook", "/nonexistent/hook"], {}, "cannot be run"),
    }
    for what, (options, variables, words) in bad.items():
        outcome = site.device.pull(site.server.http, TOKENS[DEVICE], *options, variables=variables)
        assert (outcome.code, words in outcome.stderr) == (2, True), (what, outcome)
    assert site.requests() == []


def test_wrong_credentials_change_nothing(adopted: Site):
    outcome = adopted.device.pull(adopted.server.http, "0" * 64)
    assert_kept(adopted, outcome, 3, "HTTP 401")


def test_a_client_certificate_and_an_own_authority(site: Site):
    tls = ["--ca-file", str(site.server.folder / "authority.pem"), "--token-file", ""]
    client = [
        "--cert-file",
        str(site.server.folder / "client.pem"),
        "--key-file",
        str(site.server.folder / "client.key"),
    ]
    token = TOKENS[DEVICE]
    assert site.device.pull(site.server.https, token).code == 3
    assert site.device.pull(site.server.https, token, *tls).code == 3
    outcome = site.device.pull(site.server.https, token, *tls, *client)
    assert outcome.code == 0, outcome
    assert site.device.documents() == site.documents()


def test_damaged_memory_is_never_taken_for_a_first_start(adopted: Site):
    (adopted.device.state / "held").write_text("")
    outcome = adopted.pull()
    assert outcome.code == 4
    assert "damaged" in outcome.stderr


class TestSignatures:
    """With `--allowed-signers`, files are believed only with the commit that the renderer signed."""

    key: SigningKey

    @pytest.fixture
    def signed(self, site: Site) -> Site:
        key = write_signing_key(site.device.folder / "key")
        self.key = parse_signing_key(key.read_bytes())
        (site.device.folder / "allowed_signers").write_text(f'render@example namespaces="git" {self.key.public}\n')
        site.device.can_verify()
        self.render(site, SECOND)
        return site

    def render(self, site: Site, devices: dict[str, dict[str, bytes]]) -> None:
        site.plant.renderer.publish(devices, key=self.key)
        site.plant.publish()

    def pull(self, site: Site, device: str = DEVICE) -> Outcome:
        return site.pull("--allowed-signers", str(site.device.folder / "allowed_signers"), "--device", device)

    def test_a_signed_state_is_taken_followed_and_remembered(self, signed: Site) -> None:
        first = self.pull(signed)
        assert (first.code, len(signed.device.hooks())) == (0, 1), first
        asked = len(signed.requests())
        assert self.pull(signed).code == 0
        assert len(signed.requests()) == asked + 1
        self.render(signed, FIRST)
        assert self.pull(signed).code == 0
        held = (signed.device.state / "held").read_text()
        assert f"commit {signed.plant.renderer.refs()[device_ref(DEVICE)]}\nfleet plant\n" in held

    def test_a_forged_manifest_changes_nothing(self, signed: Site) -> None:
        assert self.pull(signed).code == 0
        manifest = signed.manifest()
        signed.serve(manifest | {"manifestVersion": 9, "deployments": [], "bundle": None})
        outcome = self.pull(signed)
        assert (outcome.code, "is not signed" in outcome.stderr, len(signed.device.hooks())) == (4, True, 1)

    def test_another_device_is_refused(self, signed: Site) -> None:
        outcome = self.pull(signed, "press-02")
        assert (outcome.code, "another device" in outcome.stderr) == (4, True)

    def test_a_device_that_took_unsigned_state_verifies_what_it_holds_once_it_is_told(self, signed: Site) -> None:
        assert signed.pull().code == 0
        (signed.device.folder / "allowed_signers").write_text(f'other namespaces="file" {self.key.public}\n')
        assert self.pull(signed).code == 4
        assert signed.pull("--unsigned", "no").code == 2

    def test_without_ssh_keygen_nothing_is_taken(self, signed: Site) -> None:
        (signed.device.folder / "bin" / "ssh-keygen").unlink()
        outcome = self.pull(signed)
        assert (outcome.code, "ssh-keygen" in outcome.stderr) == (2, True)
