from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.errors import ReferenceInvalid, RegistryMisbehaved
from margo_gitops.registry.manifests import (
    EMPTY,
    MANIFEST,
    MOST_BYTES,
    PACKAGE,
    TITLE,
    Descriptor,
    described,
    read_index,
    read_manifest,
    write_index,
    write_manifest,
)
from margo_gitops.registry.references import (
    HOST_PATTERN,
    REPOSITORY_PATTERN,
    TAG_PATTERN,
    Reference,
    parse_reference,
    tag_of,
)

HOSTS = st.from_regex(HOST_PATTERN, fullmatch=True).map(str.lower)
REPOSITORIES = st.from_regex(REPOSITORY_PATTERN, fullmatch=True).filter(lambda name: len(name) < 256)
TAGS = st.from_regex(TAG_PATTERN, fullmatch=True)
DIGESTS = st.binary(max_size=3).map(sha256)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(HOSTS, REPOSITORIES, st.none() | TAGS, st.none() | DIGESTS)
def test_a_reference_is_read_as_it_is_written(host, repository, tag, digest):
    reference = Reference(host, repository, tag, digest)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "docker://r.example/a",
        "oci://r.example",
        "oci://r.example/",
        "oci://r.example/A",
        "oci://r.example/a/../b",
        "oci://r.example/a:",
        "oci://r.example/a:-1",
        "oci://r.example/a@sha512:00",
        "oci://r.example/a@sha256:0",
        "oci://r.example:port/a",
        "oci://r.example/a b",
        "oci://r.example/a\n",
        f"oci://r.example/{'a' * 256}",
        "oci://[::1/a",
    ],
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(ReferenceInvalid, match="not a place in a registry"):
        parse_reference(text)


def test_credentials_in_a_reference_are_refused_and_not_shown():
    with pytest.raises(ReferenceInvalid) as refused:
        parse_reference("oci://user:hunter2@r.example/a")
    assert "hunter2" not in str(refused.value)


def test_a_version_is_a_tag_without_a_plus():
    assert tag_of("1.4.0+build.7") == "1.4.0_build.7"
    with pytest.raises(ReferenceInvalid):
        tag_of("1.0 beta")


def test_a_manifest_without_a_version_has_no_name():
    with pytest.raises(ReferenceInvalid, match="names no version"):
        _ = Reference("r.example", "a").name


DESCRIPTORS = st.builds(
    Descriptor,
    st.text("abc/+", min_size=1, max_size=9),
    DIGESTS,
    st.integers(0, 2**62),
    st.none() | TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
)


@given(st.none() | TEXTS, st.lists(DESCRIPTORS, max_size=4).map(tuple), st.none() | DESCRIPTORS)
def test_a_manifest_is_read_as_it_is_written(artifact_type, layers, subject):
    content = write_manifest(artifact_type, layers, subject=subject)
    found = read_manifest(content, "a")
    assert (found.artifact_type, found.layers, found.subject, found.config) == (artifact_type, layers, subject, EMPTY)
    assert write_manifest(artifact_type, layers, subject=subject) == content
    assert read_index(write_index(layers), "a").manifests == layers


@given(st.binary(max_size=200) | st.text('{}[]":,sizemdagt12 ').map(str.encode))
def test_bytes_of_a_stranger_are_a_manifest_or_a_refusal(content):
    for read in (read_manifest, read_index):
        with suppress(RegistryMisbehaved):
            read(content, "a")


def test_a_manifest_is_written_as_the_standard_shows_it():
    layer = described("application/vnd.margo.app.description.v1+yaml", b"id: a\n", {TITLE: "margo.yaml"})
    assert write_manifest(PACKAGE, (layer,)).decode() == (
        '{"artifactType":"application/vnd.margo.app.v1+json",'
        '"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",'
        '"mediaType":"application/vnd.oci.empty.v1+json","size":2},'
        '"layers":[{"annotations":{"org.opencontainers.image.title":"margo.yaml"},'
        f'"digest":"{layer.digest}","mediaType":"application/vnd.margo.app.description.v1+yaml","size":6}}],'
        '"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    )


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"schemaVersion":2,"config":{},"layers":[]}',
        write_manifest(None, ()).replace(b"sha256:", b"sha512:"),
        write_manifest(None, ()).replace(b'"size":2', b'"size":-2'),
        write_manifest(None, ()).replace(b'"size":2', b'"size":1e30'),
        write_manifest(None, ()).replace(b'"schemaVersion":2', b'"schemaVersion":1'),
        b" " * (MOST_BYTES + 1),
        b'{"a":0,' + b",".join(b'"%d":0' % number for number in range(60_000)) + b"}",
    ],
)
def test_a_manifest_that_breaks_a_bound_is_refused(content):
    with pytest.raises(RegistryMisbehaved):
        read_manifest(content, "r.example/a")


def test_unknown_keys_and_other_media_types_are_no_error():
    content = (
        write_manifest(None, ())
        .replace(b'"layers"', b'"new":{"x":[1]},"layers"')
        .replace(MANIFEST.encode(), b"application/vnd.docker.distribution.manifest.v2+json")
    )
    assert read_manifest(content, "a").layers == ()
