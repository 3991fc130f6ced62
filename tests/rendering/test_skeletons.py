"""A document whose skeleton was written before has the bytes, or the errors, of one that is written in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleet import FleetFolder, parameter
from support.properties import times

from margo_gitops.catalog.file_tree import DiskTree, HeldTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.errors import RenderingRefused
from margo_gitops.rendering.desired_state import DocumentWriter
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import render
from margo_gitops.rendering.skeletons import Skeletons

TEXTS = ["", "no", "1", "a b", "a: b", "a\nb\n", "ü", '"', "- a", "x" * 200, "{{ '{{' }}"]
FIXED = st.sampled_from(
    [*TEXTS, 1, 1.0, 1.5, True, False, ["a", "no"], [], "{{ fleet.id }}", "{{ application.version }}"]
)
VARYING = st.sampled_from([
    "{{ device.id }}", "{{ device.labels.text }}", "{{ device.labels.number }}", "x {{ device.labels.number }}",
    "{{ site.name }}", "{{ site.labels.text }}", "{{ deployment.id }}", "{{ [device.id, site.name] }}",
    "{{ device.labels.text | length }}", "{{ device.labels.number / 2 }}", "{{ device.labels.text == 'no' }}",
    ["a", "{{ device.id }}"], "{{ profile.id }}",
])  # fmt: skip
NAMES = ["one", "two", "three"]
GIVEN = st.dictionaries(st.sampled_from(NAMES), FIXED | VARYING | VARYING, max_size=3)
LABELS = st.fixed_dictionaries({"text": st.sampled_from(TEXTS), "number": st.sampled_from([0, 1, 2.5, True])})
DEVICES = st.lists(
    st.fixed_dictionaries(
        {"labels": LABELS, "site": st.sampled_from(["north", "south"])},
        optional={"alias": st.just(True), "parameters": st.dictionaries(st.sampled_from(NAMES[:1]), FIXED, max_size=1)},
    ),
    min_size=7,
    max_size=9,
)


class FleetInMemory(FleetFolder):
    """A fleet whose application `app` and `strict` are written to disk once."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)

    def put(self, path: str, document: Any) -> Path:
        self.files[path] = json.dumps(document, indent=2).encode()
        return Path(path)

    def read(self) -> Intent:
        return read_fleet(HeldTree(self.files))


@cache
def applications() -> dict[str, bytes]:
    setting = {"parameter": "one", "name": "One", "schema": "rule"}
    schema = {"name": "rule", "dataType": "string", "maxLength": 7, "allowEmpty": False}
    parameters = {name: parameter(value="default", pointer=name.upper()) for name in NAMES}
    with TemporaryDirectory() as folder:
        fleet = FleetFolder.empty(Path(folder))
        fleet.application("app", parameters=parameters)
        rules = {"sections": [{"name": "General", "settings": [setting]}], "schema": [schema]}
        fleet.application("strict", parameters=parameters, configuration=rules)
        return {file.path: file.read() for file in DiskTree(fleet.root).files("")}


def told(intent: Intent) -> object:
    try:
        return render(intent, lambda _device: None)
    except RenderingRefused as error:
        return [(str(each), each.device) for each in error.errors]


@settings(times(0.25))
@given(DEVICES, GIVEN, GIVEN, GIVEN, st.sampled_from(["app", "strict"]))
def test_the_bytes_are_those_of_a_document_that_is_written_in_full(
    devices: list[dict[str, Any]],
    deployment: dict[str, Any],
    overlay: dict[str, Any],
    site: dict[str, Any],
    application: str,
) -> None:
    fleet = FleetInMemory(applications())
    fleet.site("north", {"text": "n"}, **site)
    fleet.site("south")
    for number, device in enumerate(devices):
        alias = {"alias": f"alias-{number}"} if device.pop("alias", False) else {}
        fleet.device(f"d{number}", site=device["site"], labels=device["labels"], **device.get("parameters", {}))
        document = json.loads(fleet.files[f"devices/d{number}.yaml"])
        fleet.put(f"devices/d{number}.yaml", {**document, "spec": {**document["spec"], **alias}})
    overlays = [{"name": "odd", "match": {"matchLabels": {"number": 1}}, "parameters": overlay}]
    fleet.deployment("first", application, parameters=deployment, overlays=overlays)
    fleet.deployment("second", on={"sites": ["north", "south"]}, after=["first"])
    fleet.deployment("third", application, parameters=overlay, after=["first", "second"])
    fleet.deployment("fourth", application, parameters=deployment, after=["first"], stop=["third", "second"])
    intent = fleet.read()
    filled = told(intent)
    with in_full():
        assert filled == told(intent)


@contextmanager
def in_full() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Skeletons, "filled", lambda *_arguments: None)
        yield


def test_all_but_two_are_filled(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.application(parameters={"one": parameter()})
    fleet.deployment("web", parameters={"one": "{{ device.id }}"})
    for number in range(9):
        fleet.site(f"s{number}")
        fleet.device(f"d{number}", site=f"s{number}")
    written = []
    monkeypatch.setattr(DocumentWriter, "write", lambda *given: written.append(given) or WRITE(*given))
    fleet.render()
    assert len(written) == 2


WRITE = DocumentWriter.write
