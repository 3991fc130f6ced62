"""Manifests: what is read, what is refused, what a pointer sets, and what differs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.kubernetes_objects import KubernetesObject, field_differences, read_objects
from margo_gitops.documents.kubernetes_pointers import parse_pointer, with_plain_data, with_secrets, with_values
from margo_gitops.errors import ManifestInvalid

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
WORDS = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=8))
TREES = st.recursive(
    WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=3),
    max_leaves=10,
)
WEB = b"""\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: margo}
spec:
  template:
    spec:
      containers:
        - name: web
          image: web:1
          env: [{name: MODE, value: slow}]
---
# only a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
"""


def objects(text=WEB, file="app.yaml"):
    return read_objects([(file, text)])


def test_objects_know_their_names_and_lines():
    web, settings = objects()
    assert (str(web.identity), str(settings.identity)) == ("Deployment.apps margo/web", "ConfigMap settings")
    assert [str(each.place) for each in (web, settings)] == ["app.yaml:1", "app.yaml:14"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0644", 420),
        ("0o644", 420),
        ("-010", -8),
        ("0x1F", 31),
        ("0b11", 3),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("1e3", 1000),
        ("1.50", 1.5),
        ("08", 8),
        ("12:30", "12:30"),
        ("2026-11-30", "2026-11-30"),
        ("1.2.3", "1.2.3"),
        ("100m", "100m"),
        ("18446744073709551615", 18446744073709551615),
    ],
    ids=lambda value: str(value),
)
def test_plain_scalars_are_what_kubernetes_takes_them_for(text, value):
    found = objects(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  x: {text}\n".encode())[0].body
    assert found["data"]["x"] == value
    assert type(found["data"]["x"]) is type(value)


@given(st.dictionaries(st.text(min_size=1, max_size=6), TREES, max_size=4), NAMES)
def test_any_json_object_is_read_as_it_is_also_in_a_list(members, name):
    body = {**members, "apiVersion": "v1", "kind": "Thing", "metadata": {"name": name}}
    for value in (body, {"apiVersion": "v1", "kind": "List", "items": [body]}):
        assert [each.body for each in objects(json.dumps(value).encode(), "app.json")] == [body]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", 1, "has no name"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\n", 4, "generateName"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: ../../secrets/a}\n", 1, "has no name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: x}\n", 3, "metadata.uid"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: a/b}\n", 3, "namespace"),
        ("apiVersion: ../v1\nkind: Pod\nmetadata: {name: a}\n", 1, "apiVersion"),
        ("kind: Pod\nmetadata: {name: a}\n", 1, "apiVersion"),
        ("apiVersion: v1\nmetadata: {name: a}\n", 1, "kind"),
        ("apiVersion: v1\nkind: PodList\nitems: []\n", 1, "is a list"),
        ("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n", 1, "kustomize"),
        ("- a\n", 1, "is not an object"),
        ("apiVersion: v1\nkind: Pod\nmetadata: &a {name: a}\n", 3, "anchor"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {a: .nan}\n", 4, "not every reader"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: [\n", 4, ""),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_what_cannot_be_applied_is_refused_with_its_line(text, line, what):
    with pytest.raises(ManifestInvalid) as caught:
        objects(text.encode())
    assert what in caught.value.what
    assert (caught.value.where.file, caught.value.where.line) == ("app.yaml", line)


def test_an_object_that_is_there_twice_is_refused():
    with pytest.raises(ManifestInvalid, match="appears twice, first at a"):
        read_objects([("a.yaml", WEB), ("b.yaml", WEB)])


@given(TREES)
def test_what_is_equal_has_no_differences_and_what_is_not_has_some(tree):
    assert field_differences({"spec": tree}, {"spec": tree}) == ()
    assert field_differences({"spec": tree}, {"spec": {"other": tree}}) != ()


def test_differences_name_fields_as_people_do_and_hide_secrets():
    (web, settings), (other, _) = objects(), objects(WEB.replace(b"web:1", b"web:2"))
    assert [(each.path, each.before, each.after) for each in field_differences(web.body, other.body)] == [
        ("spec.template.spec.containers[name=web].image", '"web:1"', '"web:2"')
    ]
    before, after = ({**settings.body, "kind": "Secret", "data": {"x": value}} for value in ("one", "two"))
    assert "one" not in repr(field_differences(before, after))
    assert field_differences({}, {"a": None})[0].after == "null"


def test_pointers_set_fields_and_keep_types():
    web, settings = with_values(
        objects(),
        {
            "Deployment/web:spec.replicas": 3,
            "Deployment/margo/web:spec.template.spec.containers[name=web].env[name=MODE].value": 7,
            "Deployment/web:spec.template.spec.containers[0].env[name=NEW].value": True,
            "Deployment/web:spec.template.spec.containers[name=web].args": ("a", 1),
            'Deployment/web:metadata.annotations["example.com/line"]': 4,
            "ConfigMap/settings:data.PORT": 80,
        },
    )
    container = web.body["spec"]["template"]["spec"]["containers"][0]
    assert web.body["spec"]["replicas"] == 3
    assert container["env"] == [{"name": "MODE", "value": "7"}, {"name": "NEW", "value": "true"}]
    assert container["args"] == ["a", 1]
    assert web.body["metadata"]["annotations"] == {"example.com/line": "4"}
    assert settings.body["data"] == {"a": "b", "PORT": "80"}
    assert objects() == objects()  # the given ones stay


@pytest.mark.parametrize(
    "pointer",
    [
        "GREETING",
        "ConfigMap/settings",
        "ConfigMap/settings:",
        "ConfigMap/settings:.data",
        "ConfigMap/settings:data.",
        "ConfigMap/settings:[name=a]",
        "ConfigMap/other:data.a",
        "ConfigMap/settings:data.a.b",
        "Deployment/web:spec.template.spec.containers[name=no].env[name=A].value",
        "Deployment/web:spec.template.spec.containers[7].image",
        "Deployment/web:spec.template.spec.containers[name=no].image",
        "Deployment/web:spec.template.spec.initContainers[name=no].image",
    ],
)
def test_a_pointer_that_leads_nowhere_is_refused(pointer):
    with pytest.raises(ManifestInvalid):
        with_values(objects(), {pointer: "x"})


@given(
    st.lists(
        st.one_of(NAMES, st.integers(0, 99), st.tuples(st.from_regex("[a-z]{1,6}", fullmatch=True), NAMES)), max_size=5
    )
)
def test_a_pointer_means_what_it_says(steps):
    text = "".join(
        f"[{each[0]}={each[1]}]" if isinstance(each, tuple) else f"[{each}]" if isinstance(each, int) else f".{each}"
        for each in steps
    )
    assert parse_pointer(f"Kind/name:first{text}").path == ("first", *steps)


def test_secrets_go_into_secrets_only():
    found = with_secrets(objects(), {"Secret/db:stringData.password": b"\xffword", "Secret/db:data.user": b"me"})
    assert found[-1].body["data"] == {"password": "/3dvcmQ=", "user": "bWU="}
    for pointer in ("ConfigMap/settings:data.a", "Secret/db:metadata.name", "Secret/db:data"):
        with pytest.raises(ManifestInvalid, match="not for a secret"):
            with_secrets(objects(), {pointer: b"word"})


def test_texts_of_a_secret_become_data():
    secret = KubernetesObject({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "b"}, "data": {"c": "ZA=="}})
    assert with_plain_data(secret).body == {"apiVersion": "v1", "kind": "Secret", "data": {"a": "Yg==", "c": "ZA=="}}
