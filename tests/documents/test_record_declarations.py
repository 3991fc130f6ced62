"""One declaration per document: what a frozen dataclass says is what is read, written and described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from margo_gitops.documents.declarations import (
    About,
    Extensions,
    Items,
    Keys,
    OtherKeys,
    Problem,
    Range,
    Text,
    Wire,
)
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.nodes import Node, SourceText, dotted, exact
from margo_gitops.documents.records import camel_case, find, iterate_fields, read, read_ours, write
from margo_gitops.documents.schemas import json_schema
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.settings import Duration, FilePath
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Valve:
    """A valve."""

    CURRENT_REQUIRES: ClassVar[tuple[str, ...]] = ("serialNumber",)

    state: Annotated[Literal["open", "shut"], About("Where it stands.", ("open",))]
    flow_rate: Annotated[float, Range(minimum=0, maximum=10)] = 0.0
    serial_number: Annotated[str | None, Text(pattern=r"^[A-Z]+$", what="capital letters")] = None
    kind_of: Annotated[str, Wire("x-type")] = "ball"
    tags: Annotated[tuple[str, ...], Items(minimum=1)] = ("none",)
    limits: Annotated[Mapping[str, int], Keys(r"^[a-z]+$", "a lower-case word")] = field(default_factory=dict)
    upstream: Valve | None = None
    others: OtherKeys = field(default_factory=dict)

    def problems(self):
        if self.state == "open" and not self.flow_rate:
            yield Problem(("flowRate",), "an open valve has a flow", "give flowRate")
        if self.state == "shut" and self.flow_rate:
            yield Problem((), "a shut valve has no flow", severity="warning")


@dataclass(frozen=True, slots=True)
class Strict:
    """Closed but for extensions; one field may be null."""

    link: Annotated[str | None, About("null: none.")]
    extensions: Extensions = field(default_factory=dict)


def source(plain):
    return SourceText("x.yaml", Node.of(plain, line=1, column=1))


def messages(cls, plain, **options):
    return [f"{finding.path}: {finding.message}" for finding in find(cls, source(plain), **options)[1]]


def test_wire_names_are_camel_case_or_what_wire_says():
    valve = read(Valve, source({"state": "shut", "serialNumber": "A", "x-type": "gate", "limits": {"low": 1}}))
    assert (valve.serial_number, valve.kind_of, valve.limits) == ("A", "gate", {"low": 1})
    assert camel_case("supported_deployment_types") == "supportedDeploymentTypes"


def test_a_record_may_hold_itself():
    plain = {"state": "shut", "serialNumber": "A", "upstream": {"state": "shut", "serialNumber": "B"}}
    assert read(Valve, source(plain)).upstream.serial_number == "B"
    assert write(read(Valve, source(plain))) == plain
    assert json_schema(Strict, schema_id="urn:x", title="x")["title"] == "x"


def test_keys_that_the_standard_leaves_open_are_kept_in_place_of_refused():
    plain = {"state": "shut", "serialNumber": "A", "note": {"deep": [1]}}
    assert read(Valve, source(plain)).others == {"note": {"deep": [1]}}
    assert write(read(Valve, source(plain))) == plain


def test_what_only_the_current_shape_requires_may_lack_in_an_older_one():
    assert messages(Valve, {"state": "shut"}) == [": serialNumber is missing"]
    assert messages(Valve, {"state": "shut"}, older_shape=True) == []


def test_null_is_no_way_to_leave_a_field_out_but_a_value_where_it_is_declared():
    assert messages(Valve, {"state": "shut", "serialNumber": None}) == ["serialNumber: must be text, is empty"]
    assert read(Strict, source({"link": None})).link is None
    assert messages(Strict, {}) == [": link is missing"]
    assert write(Strict(None)) == {"link": None}


def test_all_findings_come_in_one_run():
    plain = {"state": "opn", "flowRate": 11, "serialNumber": "a", "tags": [], "limits": {"UP": 1, "low": "x"}}
    assert messages(Valve, plain) == [
        "state: 'opn' is not one of open, shut",
        "flowRate: must be at least 0 and at most 10, is 11",
        "serialNumber: 'a' is not capital letters",
        "tags: must have at least 1 items, has 0",
        "limits.UP: the key 'UP' is not a lower-case word",
        "limits.low: must be a whole number, is a string ('x')",
    ]


def test_rules_between_fields_are_asked_only_when_the_fields_are_right():
    assert messages(Valve, {"state": "open", "serialNumber": "A"}) == ["flowRate: an open valve has a flow"]
    assert messages(Valve, {"state": "open", "serialNumber": 1}) == ["serialNumber: must be text, is an integer (1)"]


def test_a_warning_does_not_refuse_a_document():
    value, findings = find(Valve, source({"state": "shut", "flowRate": 1, "serialNumber": "A"}))
    assert value is not None
    assert [finding.severity for finding in findings] == ["warning"]


@pytest.mark.parametrize("value", [True, "1", None, [], {}])
def test_true_and_text_are_no_numbers(value):
    assert messages(Valve, {"state": "shut", "serialNumber": "A", "flowRate": value})[0].startswith(
        "flowRate: must be a"
    )


@pytest.mark.parametrize("text", ["A\n", "a", "", "AB C"])
def test_a_pattern_holds_for_the_whole_text_without_a_newline(text):
    assert messages(Valve, {"state": "shut", "serialNumber": text})


def test_a_document_that_is_refused_raises_with_findings_and_place():
    with pytest.raises(InvalidDocument) as caught:
        read(Strict, source({"lnk": "a"}))
    assert [str(finding) for finding in caught.value.findings] == [
        "x.yaml:1:1: link is missing (add link)",
        "x.yaml:1:1: lnk: unknown key 'lnk' (did you mean link?)",
    ]
    assert caught.value.exit_code == 1


def test_the_same_declaration_gives_the_schema_and_the_reference():
    schema = json_schema(Strict, schema_id="urn:x", title="Strict", examples=({"link": None},))
    assert schema == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:x",
        "type": "object",
        "title": "Strict",
        "description": "Closed but for extensions; one field may be null.",
        "properties": {"link": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "null: none."}},
        "required": ["link"],
        "patternProperties": {"^x-[a-z][a-z0-9-]*-extensions$": {"type": "object"}},
        "additionalProperties": False,
        "examples": [{"link": None}],
    }
    assert list(iterate_fields(Strict)) == [("link", "null: none.", True)]


def test_a_path_is_written_as_people_write_it():
    assert dotted(("spec", "components", 0, "name")) == "spec.components[0].name"
    assert dotted(("labels", "acme.example/line")) == 'labels["acme.example/line"]'
    assert dotted(()) == ""


def test_a_hostile_document_is_refused_with_a_bounded_number_of_findings():
    value, findings = find(Strict, source({"link": None} | {f"surplus{number}": 1 for number in range(1000)}))
    assert value is None
    assert len(findings) == 101
    assert str(findings[-1]) == "x.yaml: 900 more findings are not shown"


def test_a_fault_after_the_last_finding_shown_still_refuses():
    warned = [{"state": "shut", "serialNumber": "A", "flowRate": 1}] * 101
    nested = {"state": "shut", "serialNumber": "A"}
    for valve in warned:
        nested = valve | {"upstream": nested}
    assert find(Valve, source(nested))[0] is not None
    assert find(Valve, source(nested | {"x-type": 1}))[0] is None


def test_a_long_key_or_value_is_not_printed_in_full():
    _, findings = find(Strict, source({"link": None, "k" * 10_000: 1}))
    assert len(str(findings[0])) < 400


# Values that a file spells in its own way


@dataclass(frozen=True)
class Spelling:
    place: FilePath
    every: Duration = 60
    others: tuple[FilePath, ...] = ()


def test_a_path_is_relative_to_its_file_and_a_duration_is_seconds():
    plain = {"place": "a/b", "every": "2h", "others": ["/c", "d"]}
    value, findings = find(Spelling, source(plain), folder="/etc/x")
    assert not findings
    assert value == Spelling(Path("/etc/x/a/b"), 7200, (Path("/c"), Path("/etc/x/d")))
    assert write(value) == {"place": "/etc/x/a/b", "every": "2h", "others": ["/c", "/etc/x/d"]}


@pytest.mark.parametrize(("key", "held"), [("place", ""), ("place", 1), ("every", "2 h"), ("every", -1), ("every", [])])
def test_what_cannot_be_spelled_so_is_a_finding_at_its_place(key, held):
    value, (finding,) = find(Spelling, source({"place": "x", key: held}))
    assert value is None
    assert finding.path == key


def test_the_schema_says_what_the_file_holds():
    definition = json_schema(Spelling, schema_id="x", title="x")
    assert definition["properties"]["place"] == {"type": "string", "minLength": 1}
    assert definition["properties"]["every"]["default"] == "60s"


VALUES = (1, 1.0, True, "1", "true", "1.0", 0, 0.0, False, None, "", [], [1], [True], ["1"], {"a": 1}, {"a": True}, {})


@pytest.mark.parametrize("left", VALUES, ids=repr)
def test_values_are_the_same_only_if_their_types_are(left):
    assert [each for each in VALUES if exact(each) == exact(left)] == [left]
    assert sum(exact(each) == exact(left) for each in VALUES) == 1


def test_what_this_project_writes_is_read_with_the_same_findings_and_places():
    content = write_json(write(Valve("open", 2.5, "A")))
    assert read_ours(Valve, content, "valve.json") == Valve("open", 2.5, "A")
    assert read_ours(Valve, content + b"\n", "valve.json") == Valve("open", 2.5, "A")
    with pytest.raises(UnreadableDocument, match="exact form"):
        read_ours(Valve, content + b"\n", "valve.json", exact=True)
    wrong = content.replace(b"2.5", b"-3.5")
    caught = []
    for reader in (lambda: read_ours(Valve, wrong, "valve.json"), lambda: read(Valve, read_json(wrong, "valve.json"))):
        with pytest.raises(InvalidDocument) as error:
            reader()
        caught.append(str(error.value))
    assert caught[0] == caught[1]
    assert "valve.json:1:" in caught[0]
