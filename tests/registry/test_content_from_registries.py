"""Content of components and large artifacts from `oci://`, as a device fetches them."""

import pytest
from support.faulty_http import Answer, only
from support.faulty_registry import faulty_registry

from margo_gitops.appliers.artifacts import ArtifactCache
from margo_gitops.content.sources import Reach
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import Artifact
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.errors import ArtifactRefused, ArtifactUnavailable
from margo_gitops.registry.settings import RegistryAccess, RegistrySettings
from margo_gitops.web.metering import Deadline

ARCHIVE = write_bundle({"a": b"services: {}\n"})


@pytest.fixture
def registry():
    with faulty_registry() as served:
        yield served


@pytest.fixture
def artifact(registry):
    reference = registry.add("acme/hello-compose", "1.4.0", ARCHIVE)
    return Artifact("hello", str(reference), sha256(ARCHIVE))


def placed(tmp_path, artifact, *registries, mirrors=()):
    first, *others = registries
    access = (RegistryAccess(first.host, mirrors, plain_http=True), *(each.access for each in others))
    cache = ArtifactCache(tmp_path / "cache", registries=RegistrySettings(access))
    folder = tmp_path / "content"
    folder.mkdir(exist_ok=True)
    cache.place(artifact, folder, seconds=10)
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_is_fetched_from_a_registry_once(tmp_path, registry, artifact):
    assert placed(tmp_path / "", artifact, registry) == ["a.yaml"]
    asked = len(registry.requests)
    registry.faults.append(lambda *_: Answer(500, [], b""))
    (tmp_path / "content/a.yaml").unlink()
    assert placed(tmp_path, artifact, registry) == ["a.yaml"]
    assert len(registry.requests) == asked == 1


def test_a_mirror_that_lies_is_passed_over_and_a_registry_that_lies_is_refused(tmp_path, registry, artifact):
    with faulty_registry() as mirror:
        mirror.faults.append(lambda *_: Answer(200, [], ARCHIVE + b"more"))
        assert placed(tmp_path, artifact, registry, mirror, mirrors=(mirror.host,)) == ["a.yaml"]
    registry.faults.append(only(artifact.digest, lambda _: Answer(200, [], b"other")))
    (tmp_path / "again").mkdir()
    with pytest.raises(ArtifactRefused, match="not what the deployment promises"):
        placed(tmp_path / "again", artifact, registry)


def test_what_no_registry_has_is_unavailable(tmp_path, registry, artifact):
    registry.blobs.clear()
    with pytest.raises(ArtifactUnavailable, match="cannot be fetched") as refused:
        placed(tmp_path, artifact, registry)
    assert "answers 404" in refused.value.why[0]
    with pytest.raises(ArtifactUnavailable, match="cannot be fetched"):
        placed(tmp_path, Artifact("hello", "oci://UPPER", artifact.digest), registry)


def test_a_large_artifact_is_read_from_where_it_stopped(registry, artifact):
    reach = Reach(registries=RegistrySettings((registry.access,)))
    (source,) = reach.sources(artifact.digest, len(ARCHIVE), [artifact.url])
    with source.open(100, len(ARCHIVE), Deadline(10, 10)) as incoming:
        assert (incoming.start, incoming.read(50)) == (100, ARCHIVE[100:150])
    source.close()
