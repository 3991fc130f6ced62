"""Packages laid out as the standard says, byte for byte, and read again from a registry that may be hostile."""

import json
import subprocess

import pytest
from support.faulty_http import Answer, only
from support.faulty_registry import faulty_registry

from margo_gitops.catalog.vendor import offered_package, package_of
from margo_gitops.digests import sha256
from margo_gitops.errors import PackageInvalid, ReferenceInvalid, RegistryMisbehaved
from margo_gitops.packaging.fetching import fetch_package, newer_versions
from margo_gitops.packaging.layout import lay_out, write_layout
from margo_gitops.packaging.scaffold import new_package
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.manifests import PACKAGE, TITLE, described, read_manifest, write_manifest
from margo_gitops.registry.references import Reference, parse_reference
from margo_gitops.registry.settings import RegistrySettings

PLACE = parse_reference("oci://registry.example.com/acme")
HERE = parse_reference("oci://registry.example.com/acme/hello")


@pytest.fixture
def folder(tmp_path):
    new_package(tmp_path / "hello", PLACE, "hello", "compose")
    return tmp_path / "hello"


@pytest.mark.parametrize("kind", ["compose", "helm"])
def test_a_new_package_is_valid_and_always_gives_the_same_digests(tmp_path, kind):
    for name in ("one", "two"):
        new_package(tmp_path / name / "hello", PLACE, "hello", kind)
    one, two = (offered_package(tmp_path / name / "hello") for name in ("one", "two"))
    assert not one.findings
    assert lay_out(one, HERE) == lay_out(two, HERE)
    for path in (tmp_path / "two").rglob("*"):
        path.touch()
        path.chmod(0o700)
    assert write_layout(lay_out(one, HERE), tmp_path / "a") == write_layout(lay_out(two, HERE), tmp_path / "b")


def test_a_compose_package_is_laid_out_as_the_standard_says(folder):
    (folder / "resources/icon.png").write_bytes(b"\x89PNG")
    text = (folder / "margo.yaml").read_text()
    (folder / "margo.yaml").write_text(text.replace("      tagline", "      icon: resources/icon.png\n      tagline"))
    layout = lay_out(offered_package(folder), HERE)
    (component,) = layout.components
    archive = component.blobs[-1][1]
    assert str(component.place) == "oci://registry.example.com/acme/components/hello:0.1.0"
    empty = {
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "mediaType": "application/vnd.oci.empty.v1+json",
        "size": 2,
    }
    assert json.loads(component.manifest) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.org.margo.component.compose+json",
        "config": empty,
        "layers": [
            {
                "mediaType": "application/vnd.org.margo.component.compose.tar+gzip",
                "digest": sha256(archive),
                "size": len(archive),
                "annotations": {
                    "org.margo.component.type": "compose",
                    "org.margo.component.version": "0.1.0",
                    "org.opencontainers.image.title": "hello.tar.gz",
                },
            }
        ],
    }
    assert str(layout.package.place) == "oci://registry.example.com/acme/hello:0.1.0"
    manifest = json.loads(layout.package.manifest)
    assert (manifest["artifactType"], manifest["config"]) == ("application/vnd.margo.app.v1+json", empty)
    assert [(layer["mediaType"], layer["annotations"]) for layer in manifest["layers"]] == [
        ("application/vnd.margo.app.description.v1+yaml", {TITLE: "margo.yaml"}),
        (
            "application/vnd.margo.app.descriptionFile.v1+markdown",
            {TITLE: "resources/description.md", "org.margo.app.resource": "descriptionFile"},
        ),
        ("application/vnd.margo.app.icon.v1+png", {TITLE: "resources/icon.png", "org.margo.app.resource": "icon"}),
    ]
    written = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert layout.package.manifest == written


def test_a_compose_archive_has_one_folder_and_no_owner_or_time(folder, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(lay_out(offered_package(folder), HERE).components[0].blobs[-1][1])
    listed = subprocess.run(["tar", "-tvzf", tmp_path / "a.tar.gz"], capture_output=True, check=True, text=True).stdout
    assert [line.split() for line in listed.splitlines()] == [
        ["-rw-r--r--", "0/0", listed.split()[2], "1970-01-01", "00:00", "hello/compose.yaml"]
    ]


def test_the_description_that_is_pushed_names_each_content_by_digest(folder):
    layout = lay_out(offered_package(folder), HERE)
    archive = layout.components[0].blobs[-1][1]
    pushed = {layer.title: content for layer, content in layout.package.blobs}
    assert pushed.keys() == {"margo.yaml", "resources/description.md"}
    before = (folder / "margo.yaml").read_text()
    named = (
        'url: "oci://registry.example.com/acme/components/hello:0.1.0"\n'
        f'            digest: "{sha256(archive)}"\n            sizeBytes: {len(archive)}'
    )
    assert pushed["margo.yaml"].decode() == before.replace("path: components/hello", named)
    package = package_of(pushed, str(HERE))
    ((content),) = package.application.contents.values()
    assert (content.digest, content.size) == (sha256(archive), len(archive))
    in_braces = before.replace("artifact:\n            path: components/hello", "artifact: {path: 'components/hello'}")
    (folder / "margo.yaml").write_text(in_braces)
    assert package_of(dict(_files(lay_out(offered_package(folder), HERE))), "x").application.contents


def _files(layout):
    return ((layer.title, content) for layer, content in layout.package.blobs)


def test_a_chart_is_laid_out_as_helm_does(tmp_path):
    new_package(tmp_path / "hello", PLACE, "hello", "helm")
    (chart,) = lay_out(offered_package(tmp_path / "hello"), HERE).components
    manifest = read_manifest(chart.manifest, "chart")
    assert manifest.config.media_type == "application/vnd.cncf.helm.config.v1+json"
    assert [layer.media_type for layer in manifest.layers] == ["application/vnd.cncf.helm.chart.content.v1.tar+gzip"]
    assert json.loads(chart.blobs[0][1])["version"] == "0.1.0"
    (tmp_path / "hello/components/hello/Chart.yaml").write_text("apiVersion: v2\nname: hello\nversion: 0.2.0\n")
    with pytest.raises(PackageInvalid):
        lay_out(offered_package(tmp_path / "hello"), HERE)


def test_what_does_not_fit_is_refused_before_anything_is_pushed(folder):
    package = offered_package(folder)
    with pytest.raises(ReferenceInvalid, match="must be the package's version"):
        lay_out(package, HERE.at("9.9.9"))
    text = (folder / "margo.yaml").read_text()
    (folder / "margo.yaml").write_text(text.replace("oci://registry.example.com/acme/components/hello", "oci://UPPER"))
    with pytest.raises(PackageInvalid, match="component hello"):
        lay_out(offered_package(folder), HERE)


@pytest.fixture
def registry():
    with faulty_registry() as served:
        yield served


def put(registry, *layers, artifact_type=PACKAGE):
    for _, content in layers:
        registry.blobs["acme/hello", sha256(content)] = content
    content = write_manifest(artifact_type, tuple(layer for layer, _ in layers))
    registry.manifests["acme/hello", "1.0.0"] = ("application/json", content)
    registry.manifests["acme/hello", sha256(content)] = ("application/json", content)
    return Reference(registry.host, "acme/hello", "1.0.0")


def file(name, content=b"x"):
    return described("application/x", content, {TITLE: name}), content


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "a\nb", "a/./b", "a//b", "."])
def test_a_file_that_would_leave_the_package_is_refused(registry, name):
    place = put(registry, file(name))
    with (
        RegistryClient(RegistrySettings((registry.access,))) as client,
        pytest.raises(PackageInvalid, match="usable name"),
    ):
        fetch_package(client, place)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ([file("a"), file("a", b"y")], PACKAGE),
        ([file(f"{number}") for number in range(2001)], PACKAGE),
        ([file("margo.yaml")], "application/vnd.oci.image.config.v1+json"),
    ],
    ids=["twice", "too many", "an image"],
)
def test_what_is_no_package_is_refused(registry, layers, kind):
    place = put(registry, *layers, artifact_type=kind)
    with RegistryClient(RegistrySettings((registry.access,))) as client, pytest.raises(PackageInvalid):
        fetch_package(client, place)
    assert len(registry.requests) == 1


def test_a_layer_with_other_bytes_is_refused(registry):
    place = put(registry, file("margo.yaml"))
    registry.faults.append(only(sha256(b"x"), lambda _: Answer(200, [], b"y")))
    with (
        RegistryClient(RegistrySettings((registry.access,))) as client,
        pytest.raises(RegistryMisbehaved, match="other content"),
    ):
        fetch_package(client, place)


def test_newer_versions_are_those_with_numbers(registry):
    for tag in ("1.0.0", "1.10.0", "1.9.0", "latest", "sha256-" + "0" * 64 + ".sig", "2.0.0-rc.1"):
        registry.add("acme/hello", tag, b"")
    with RegistryClient(RegistrySettings((registry.access,))) as client:
        assert newer_versions(client, Reference(registry.host, "acme/hello"), "1.0.0") == [
            "2.0.0-rc.1",
            "1.10.0",
            "1.9.0",
        ]
