"""What a workload may do to a device: 90 ways to get more than containers, refused by a pure judge."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.host_attacks import FILE, HARMLESS, READS, SERVICE

from margo_gitops.documents.compose_policy import HARMLESS as HARMLESS_KEYS
from margo_gitops.documents.compose_policy import refused_by
from margo_gitops.documents.compose_reads import refused_reads
from margo_gitops.documents.compose_yaml import read_compose
from margo_gitops.documents.records import read
from margo_gitops.documents.workload_judge import Surroundings, settings_for
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import InvalidDocument, UnreadableDocument

DEFAULT = WorkloadPolicy()
FILES = {
    "app/sub/inner.yaml": b"services: {db: {image: a, env_file: ../x.env}}",
    "app/sub/hidden.yaml": b"services: {db: {extends: {file: deep/c.yaml, service: x}}}",
    "app/sub/deep/c.yaml": b"services: {x: {image: a, env_file: [/etc/shadow]}}",
    "app/sub/up.yaml": b"services: {db: {image: a, env_file: ../../secret.env}}",
}


def policy(*lines: str) -> WorkloadPolicy:
    """Return a policy with all of these lines; lists of several lines are added up."""
    merged: dict[str, list[str]] = {}
    for line in lines:
        for key, value in read_yaml(f"{line}\n".encode(), "line").root.plain().items():
            merged[key] = [*merged.get(key, []), *value] if isinstance(value, list) else value
    return read(WorkloadPolicy, read_yaml(json.dumps(merged).encode(), "agent.yaml"))


def model(text: str):
    return read_compose(text.encode(), "compose.yaml").value


def with_service(text: str) -> str:
    return f"services:\n  web:\n    {'' if text.startswith('build') else 'image: a'}\n    {text}\n"


def with_file(text: str) -> str:
    return f"services: {{web: {{image: a}}}}\n{text}\n"


ATTACKS = [*((with_service(text), line) for text, line in SERVICE.items())]
ATTACKS += [*((with_file(text), line) for text, line in FILE.items())]


@pytest.mark.parametrize(("text", "line"), ATTACKS, ids=[*SERVICE, *FILE])
def test_a_way_to_the_host_is_refused_and_the_refusal_names_the_line_that_allows_it(text, line):
    refused = [each.line for each in refused_by(DEFAULT, model(text))]
    assert f"workloads.{line}" in refused
    if "~" in line or ".." in line:  # the device says what these are
        return
    told = [each.removeprefix("workloads.") for each in refused]
    assert [*refused_by(policy(*dict.fromkeys(told)), model(text))] == []


@pytest.mark.parametrize("text", [text for text, _ in ATTACKS], ids=[*SERVICE, *FILE])
def test_one_line_allows_the_way_it_was_before(text):
    assert [*refused_by(policy("unrestricted: true"), model(text))] == []


def test_what_applications_need_is_allowed():
    assert [*refused_by(DEFAULT, model(HARMLESS))] == []


def test_a_refusal_names_service_key_value_and_line():
    (refused,) = refused_by(DEFAULT, model(with_service("network_mode: host")))
    assert str(refused) == "service web: network_mode: host (allowed by `workloads.hostNetwork: true`)"


def test_the_lines_that_would_allow_it_can_be_pasted():
    text = with_service("devices: [/dev/ttyUSB0, /dev/ttyUSB1]\n    pid: host\n    volumes: [/run:/a, /run:/b]")
    told = settings_for(refused_by(DEFAULT, model(text)))
    assert 'devices: ["/dev/ttyUSB0", "/dev/ttyUSB1"]' in told
    assert told.count("engineSocket") == 1
    section = read_yaml(told.encode(), "agent.yaml").root.plain()["workloads"]
    allowed = read(WorkloadPolicy, read_yaml(json.dumps(section).encode(), "agent.yaml"))
    assert [*refused_by(allowed, model(text))] == []


@pytest.mark.parametrize(("text", "line"), READS.items(), ids=[*READS])
def test_compose_reads_nothing_but_the_content(text, line):
    files = {**FILES, "app/compose.yaml": text.encode()}
    refused = [each.line for each in refused_reads(DEFAULT, "app/compose.yaml", files.get)]
    assert any(each.startswith(f"workloads.{line}") for each in refused), refused


def test_files_of_the_content_may_be_read():
    text = "include: [sub/inner.yaml, {path: [sub/inner.yaml], env_file: [x.env]}]\nservices: {a: {env_file: ./b.env}}"
    files = {**FILES, "app/compose.yaml": text.encode()}
    assert [*refused_reads(DEFAULT, "app/compose.yaml", files.get)] == []


@pytest.mark.parametrize(
    "text",
    ["COMPOSE_ENV_FILES=/etc/x", "A='a\n#' COMPOSE_FILE=/etc/x", "A=1\nexport COMPOSE_FILE=/etc/x", '"COMPOSE_X": 1'],
)
def test_the_env_beside_a_compose_file_does_not_steer_compose(text):
    files = {"compose.yaml": b"services: {}", ".env": text.encode()}
    assert [*refused_reads(DEFAULT, "compose.yaml", files.get)]
    allowed = {**files, ".env": b"# COMPOSE_FILE is not set here\nCOMPOSE_PROFILES=debug\nMY_PORT=1\n"}
    assert [*refused_reads(DEFAULT, "compose.yaml", allowed.get)] == []


@pytest.mark.parametrize(
    "text",
    [
        "? !!binary aW5jbHVkZQ==\n: [/etc/x]",
        '!!merge "<<": {include: [/etc/x]}',
        "a: 1\n---\ninclude: [/etc/x]",
        "include: []\ninclude: [/etc/x]",
    ],
)
def test_yaml_that_hides_a_key_is_not_read(text):
    with pytest.raises(UnreadableDocument):
        [*refused_reads(DEFAULT, "compose.yaml", {"compose.yaml": text.encode()}.get)]


PATHS = [
    ("/etc/localtime", False, True),
    ("/etc/localtime", True, False),
    ("/srv", False, True),
    ("/srv/a/b", False, True),
    ("/srv/recipes", True, True),
    ("/srv/recipes/line-3", True, False),
    ("/srv/recipes/line-3", False, False),  # a workload that may write there could have made it a link to /
    ("/srv2", False, False),
    ("/", False, False),
]


@pytest.mark.parametrize(("path", "writable", "allowed"), PATHS)
def test_paths_of_the_host(path, writable, allowed):
    lines = replace(DEFAULT, host_paths=("/etc/localtime:ro", "/srv:ro", "/srv/recipes"))
    assert lines.allows_path(path, writable=writable) == allowed


def test_guard_3_a_link_is_judged_by_where_it_leads():
    links = {"/srv/link": "/etc", "/var/lock": "/run/lock", "/content/x": "/etc"}
    around = Surroundings("/content", "p", lambda path: links.get(path, path))
    allowed = replace(DEFAULT, host_paths=("/srv:ro", "/var/lock:ro"))

    def lines(source: str) -> list[str]:
        return [each.line for each in refused_by(allowed, model(with_service(f"volumes: ['{source}:/x:ro']")), around)]

    assert lines("/srv/link") == ['workloads.hostPaths: ["/srv/link:ro"]']
    assert lines("/content/x") == ['workloads.hostPaths: ["/content/x:ro"]']
    assert lines("/srv/plain") == lines("/var/lock") == lines("/content/y") == []


def test_the_engine_of_this_device_is_known_by_its_socket():
    around = Surroundings(sockets=("/data/engine.sock",))
    allowed = replace(DEFAULT, host_paths=("/data",))
    mounts = model(with_service("volumes: ['/data:/x']"))
    assert [each.line for each in refused_by(allowed, mounts, around)] == ["workloads.engineSocket: true"]


@pytest.mark.parametrize(
    ("ports", "allowed"), [("8080:80", True), ("80:80", False), ("8999-9000:1-2", False), ("80", True), ("x:80", False)]
)
def test_published_ports(ports, allowed):
    lines = policy('hostPorts: ["8000-8999", "502"]')
    assert ([*refused_by(lines, model(with_service(f"ports: ['{ports}']")))] == []) == allowed


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("busybox", 'registries: ["docker.io/library/busybox"]'),
        ("ghcr.io/acme-evil/hmi", 'registries: ["ghcr.io/acme-evil/hmi"]'),
        ("GHCR/acme/hmi", 'registries: ["ghcr/acme/hmi"]'),
        ("ghcr.io/acme/hmi:1", "requireDigest: false"),
        (f"ghcr.io/acme/hmi:1@sha256:{'a' * 64}", ""),
        ("ghcr.io/acme/hmi@sha256:a", "requireDigest: false"),
        ("[::1]:5000/hmi", 'registries: ["[::1]:5000/hmi"]'),
        ("--help", 'composeKeys: ["image=--help"]'),
        ("docker-archive:/srv/hmi.tar", 'composeKeys: ["image=docker-archive:/srv/hmi.tar"]'),
    ],
)
def test_images(image, line):
    lines = policy("registries: [ghcr.io/acme]", "requireDigest: true")
    found = [each.line for each in refused_by(lines, model(f"services: {{web: {{image: '{image}'}}}}"))]
    assert f"workloads.{line}" in found if line else not found
    if line and not line.startswith("requireDigest"):
        policy(line)


@pytest.mark.parametrize(
    "text",
    [
        "unrestricted: false",
        "unrestricted: true\nprivileged: true",
        'hostPorts: ["9000-8000"]',
        'hostPorts: ["70000"]',
        "hostPaths: [relative]",
        "devices: [sda]",
        "capabilities: [net-admin]",
        "privileges: true",
    ],
)
def test_a_line_that_means_nothing_is_an_error(text):
    with pytest.raises(InvalidDocument):
        policy(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.sampled_from([*(text.partition(":")[0] for text in SERVICE), *sorted(HARMLESS_KEYS)]) | st.text(max_size=8)


@given(st.dictionaries(KEYS, JSON, max_size=4), st.dictionaries(st.text(max_size=8), JSON, max_size=2))
def test_any_value_is_judged_and_an_unknown_key_is_refused(service, top):
    found = [*refused_by(DEFAULT, {"services": {"web": service}, **top})]
    known = {*HARMLESS_KEYS, *(text.partition(":")[0] for text in SERVICE if "not_known" not in text), "image", "ports"}
    for key in [key for key, value in service.items() if value and key not in known and not key.startswith("x-")]:
        assert any(each.path[:3] == ("services", "web", key) for each in found)


@given(st.sampled_from([text for text, _ in ATTACKS]), st.sampled_from([line for _, line in ATTACKS]))
def test_a_line_more_never_refuses_more(text, line):
    if "~" in line or ".." in line:
        return
    before = {each.path for each in refused_by(DEFAULT, model(text))}
    assert {each.path for each in refused_by(policy(line), model(text))} <= before
