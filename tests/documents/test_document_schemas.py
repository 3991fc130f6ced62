"""The JSON Schemas in schemas/ and the examples beside them: one declaration, two judges that agree."""

import copy
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.properties import times

from margo_gitops.cli.document import check_file
from margo_gitops.documents.kinds import MARGO_KINDS, OWN_KINDS, read_source
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.errors import UnreadableDocument

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
EXAMPLES = SCHEMAS / "examples"
KINDS = {kind.name: kind for kind in runpy.run_path(str(ROOT / "scripts" / "generate-schemas"))["KINDS"]}
STANDARD = {kind.name for kind in MARGO_KINDS}

# What several fields say together is beyond the schemas: only the reader refuses it (docs/documents.md).
CROSS_FIELD_RULES = re.compile(
    r"appears twice"
    r"|is unknown; by its fields"
    r"|(repository|revision) is missing"
    r"|no profile has a component|there is no (parameter|schema)"
    r"|not a pattern that can be used"
    r"|takes no (values|itemSelector)|needs (values|exactly one number|an itemSelector)|must be of one type"
    r"|bundle is null although|bundle must be null"
    r"|the capabilities are those of|characters encoded"
    r"|selects no device|all goes with no other condition"
    r"|says nothing about signatures|unsigned can only be true|contradict each other"
    r"|must name exactly one of git(, http)? and (http|stick)"
    r"|names [0-9] ways|is not a client|is not an IP address|nobody is asked|would travel in clear text|needs tls with"
    r"|people cannot review|is not a date and time(?! with its)|ends before it begins|is not in a fleet repo"
    r"|holds a NUL|is not a comparison|is not a SemVer version;|an alternative is empty"
    r"|must be 1s to 30d|must be less than the interval|names no applier"
)


def load(path):
    return read_source(path.read_bytes(), path.name)


def files(verdict):
    found = sorted(EXAMPLES.glob(f"*/{verdict}/*"))
    return pytest.mark.parametrize("path", found, ids=[f"{path.parts[-3]}-{path.stem}" for path in found])


def is_current(path):
    return not re.match("g[01]-", path.name)


def validator(kind):
    return Draft202012Validator(json.loads((SCHEMAS / KINDS[kind].file).read_bytes()))


def test_every_kind_has_a_schema_and_examples_of_both_sorts():
    assert set(KINDS) == STANDARD | set(OWN_KINDS) | {"AgentConfiguration", "ServerConfiguration"}
    for name in KINDS:
        assert list((EXAMPLES / name / "valid").iterdir())
        assert list((EXAMPLES / name / "invalid").iterdir())


def test_the_committed_schemas_are_what_the_declarations_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate-schemas"), "--check"],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stderr}run: python scripts/generate-schemas"


@pytest.mark.parametrize("kind", KINDS)
def test_every_schema_follows_the_meta_schema(kind):
    schema = json.loads((SCHEMAS / KINDS[kind].file).read_bytes())
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:margo-gitops:schema:v1:{KINDS[kind].stem}"


@pytest.mark.parametrize("kind", KINDS)
def test_editors_get_a_description_of_everything(kind):
    schema = json.loads((SCHEMAS / KINDS[kind].file).read_bytes())
    records = {kind: schema, **schema.get("$defs", {})}
    for name, record in records.items():
        assert record["title"], name
        assert record["description"], name
        for field, declared in record["properties"].items():
            assert {"description", "$ref", "enum"} & set(declared), f"{name}.{field} lacks About(...)"
    assert schema["examples"]


@files("valid")
def test_a_valid_example_is_read_as_its_kind(path):
    checked = check_file(str(path))
    assert [str(finding) for finding in checked.findings] == []
    assert checked.verdict == "valid"
    assert checked.kind == path.parts[-3]
    current = "G2" if checked.kind in STANDARD else "v1"
    expected = current if is_current(path) else path.name[:2].upper()
    assert checked.shape == expected


@files("valid")
def test_a_valid_example_of_the_current_shape_follows_its_schema(path):
    if is_current(path):
        validator(path.parts[-3]).validate(load(path).root.plain())


@files("invalid")
def test_an_invalid_example_is_refused_for_the_reasons_it_states(path):
    expected = re.findall(r"# expect (.*)", path.read_text())
    assert expected, "say in a comment what is wrong: # expect LINE:COLUMN: MESSAGE"
    checked = check_file(str(path))
    assert checked.verdict == "invalid"
    found = [str(finding) for finding in checked.findings if finding.severity == "error"]
    assert len(found) == len(expected), found
    for line in expected:
        assert any(finding.startswith(f"{path}:{line}") for finding in found), (line, found)


@files("invalid")
def test_an_invalid_example_is_refused_by_its_schema_where_a_schema_can_say_it(path):
    try:
        source = load(path)
    except UnreadableDocument:
        return  # never becomes a value that a schema could judge
    findings = check_file(str(path)).findings
    beyond = all(CROSS_FIELD_RULES.search(finding.message) for finding in findings)
    assert validator(path.parts[-3]).is_valid(source.root.plain()) == beyond


SAMPLES = [(path.parts[-3], load(path).root.plain()) for path in sorted(EXAMPLES.glob("*/valid/*")) if is_current(path)]
VALUES = st.sampled_from(
    ["", "x", "v1", "no", "a/b", "1.2.3", "512Mi", "5 Gi", 0, 1, -1, 2**64, 1.5, True, False, None]
) | st.sampled_from([[], [1], ["x", "x"], [["x"]], {}, {"a": 1}, {"x-acme-extensions": {}}, [{}]])


def places(value, path=()):
    """Yield every container of a document with one of its keys or indexes."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


@st.composite
def mutated(draw):
    """A valid example with up to three changes: values replaced, removed, repeated, and keys added or misspelt."""
    kind, original = draw(st.sampled_from(SAMPLES))
    document = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(places(document))
        if not spots:
            break
        *above, last = draw(st.sampled_from(spots))
        container = document
        for step in above:
            container = container[step]
        change = draw(st.sampled_from(["replace", "remove", "repeat", "add", "misspell", "extend"]))
        if change == "replace":
            container[last] = copy.deepcopy(draw(VALUES))
        elif change == "remove":
            del container[last]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[last]))
        elif change == "extend":
            container[draw(st.sampled_from(["x-acme-extensions", "x-Acme-extensions"]))] = copy.deepcopy(draw(VALUES))
        else:
            container[f"{last}s" if change == "misspell" else "surplus"] = copy.deepcopy(draw(VALUES))
    return kind, document


@times(8)
@given(mutated())
def test_reader_and_schema_agree_on_everything_but_the_cross_field_rules(sample):
    kind, document = sample
    value, findings = find(KINDS[kind].record, SourceText("x", Node.of(document)))
    errors = [finding for finding in findings if finding.severity == "error"]
    assert (value is None) == bool(errors)
    complaints = [error.message for error in validator(kind).iter_errors(document)]
    plain = [str(error) for error in errors if not CROSS_FIELD_RULES.search(error.message)]
    assert bool(plain) == bool(complaints), (plain, complaints)
