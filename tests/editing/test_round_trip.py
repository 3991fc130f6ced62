"""An edit changes what it must: comments, order, quotes, indentation and line ends of everything else stay."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support.properties import times

from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.editing.round_trip import new_document, rewritten

WRITTEN = """\
# yaml-language-server: $schema=../schemas/deployment.schema.json
# The line's monitor.
apiVersion: margo-gitops/v1
kind: Deployment
metadata:
  name:   line-monitor   # as on the screens
spec:
  application:
    id: com-example-line-monitor
    version: 1.0.0  # pinned by quality

  placement:
    # Two halls.
    sites: [ north,  'south' ]
    devices:
      - mixer-01   # the old one
      # the new one
      - mixer-02
  parameters:
    topic: "plants/{{ site.name }}"
    'note': |
      # no comment
      second line

  # Slow ones.
  overlays:
    - name: slow
      match:
        devices: [sensor-01]
      parameters:
        intervalSeconds: 60
  # At last.
  after: [greeting]
# The end.
"""


def edited(text: str, *path: str | int, to: Any = None, drop: bool = False) -> str:
    """Return `text` with one value set or dropped."""
    value: Any = read_yaml(text.encode(), "f.yaml").root.plain()
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    made = rewritten(text.encode(), "f.yaml", value).decode()
    assert read_yaml(made.encode(), "f.yaml").root.plain() == value
    return made


def changes(before: str, after: str) -> list[str]:
    """Return the lines that differ, with `-` or `+`."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[0] + line[2:] for line in lines if line[0] in "+-"]


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a scalar with a comment behind it": (
        {"path": ("spec", "application", "version"), "to": "1.1.0"},
        ["-    version: 1.0.0  # pinned by quality", "+    version: 1.1.0  # pinned by quality"],
    ),
    "a quoted text": (
        {"path": ("spec", "parameters", "topic"), "to": "x"},
        ['-    topic: "plants/{{ site.name }}"', '+    topic: "x"'],
    ),
    "a new key before a comment": (
        {"path": ("spec", "overlays", 0, "parameters", "unit"), "to": "s"},
        ["+        unit: s"],
    ),
    "a new key after text of several lines": (
        {"path": ("spec", "parameters", "level"), "to": 1.5e-7},
        ["+    level: 1.5e-07"],
    ),
    "a new key at the end": (
        {"path": ("spec", "profiles"), "to": ["a", "b"]},
        ["+  profiles: [a, b]"],
    ),
    "a new item": (
        {"path": ("spec", "placement", "devices"), "to": ["mixer-01", "mixer-02", "mixer-03"]},
        ["+      - mixer-03"],
    ),
    "a new first item": (
        {"path": ("spec", "placement", "devices"), "to": ["mixer-00", "mixer-01", "mixer-02"]},
        ["+      - mixer-00"],
    ),
    "an item that goes": (
        {"path": ("spec", "placement", "devices"), "to": ["mixer-02"]},
        ["-      - mixer-01   # the old one"],
    ),
    "a key that goes": (
        {"path": ("spec", "parameters", "note"), "drop": True},
        ["-    'note': |", "-      # no comment", "-      second line"],
    ),
    "the last key, which goes": ({"path": ("spec", "after"), "drop": True}, ["-  after: [greeting]"]),
    "a block that goes": (
        {"path": ("spec", "overlays"), "drop": True},
        [
            "-  overlays:",
            "-    - name: slow",
            "-      match:",
            "-        devices: [sensor-01]",
            "-      parameters:",
            "-        intervalSeconds: 60",
        ],
    ),
    "an item in brackets": (
        {"path": ("spec", "after"), "to": ["greeting", "other"]},
        ["-  after: [greeting]", "+  after: [greeting, other]"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_edit_changes_only_the_lines_it_must(case: str):
    edit, expected = CASES[case]
    made = edited(WRITTEN, *edit["path"], to=edit.get("to"), drop=edit.get("drop", False))
    assert changes(WRITTEN, made) == expected


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("final", [True, False], ids=["final-newline", "no-final-newline"])
def test_line_ends_and_the_final_newline_stay(ending: str, final: bool):
    text = WRITTEN if final else WRITTEN.removesuffix("# The end.\n").removesuffix("\n")
    text = text.replace("\n", ending)
    made = edited(text, "spec", "application", "version", to="2.0.0")
    assert made == text.replace("1.0.0", "2.0.0")


def test_an_equal_value_changes_no_byte():
    content = WRITTEN.replace("\n", "\r\n").encode()
    assert rewritten(content, "f.yaml", read_yaml(content, "f.yaml").root.plain()) == content


def test_a_file_in_json_stays_json():
    text = '{\n  "kind": "Device",\n  "spec": {\n    "site": "north"\n  }\n}\n'
    assert changes(text, edited(text, "spec", "site", to="south")) == ['-    "site": "north"', '+    "site": "south"']


def test_an_edit_follows_the_indentation_of_the_file():
    text = "spec:\n    parameters:\n        a: 1\n    after:\n    -   x\n"
    assert changes(text, edited(text, "spec", "parameters", "b", to=2)) == ["+        b: 2"]
    assert changes(text, edited(text, "spec", "after", to=["x", "z"])) == ["+    -   z"]


keys = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)
scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(
        ["no", "1e3", "012", "1.0", "2026-11-21", "- a", "a: b", "a #b", "{{ x }}", "", " ", "null", "~", "\t"]
    ),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
documents = st.dictionaries(keys, values, min_size=1, max_size=5)


@given(documents)
def test_a_new_document_reads_as_its_value(value: dict[str, Any]):
    content = new_document(value, "# head\n")
    assert content.startswith(b"# head\n")
    assert read_yaml(content, "f.yaml").root.plain() == value


@given(documents, documents)
@example({"a": {}}, {"a": {"b": [1]}})
@example({"a": [1]}, {"a": []})
@times(2)
def test_any_document_can_be_made_any_other(before: dict[str, Any], after: dict[str, Any]):
    content = write_yaml(before)
    assert read_yaml(rewritten(content, "f.yaml", after), "f.yaml").root.plain() == after


names = st.from_regex(r"[a-z][a-z0-9._/-]{0,8}", fullmatch=True)
commented_documents = st.dictionaries(names, values, min_size=1, max_size=5)


@given(st.data())
@settings(times(2), phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_comments_and_untouched_lines_stay_whatever_is_edited(data: st.DataObject):
    before = data.draw(commented_documents)
    lines = write_yaml(before).decode().removesuffix("\n").split("\n")
    commented = []
    for number, line in enumerate(lines):
        if data.draw(st.booleans()):
            indent = " " * (len(line) - len(line.lstrip(" ")))
            commented += ["", f"{indent}# comment {number}"]
        commented.append(line)
    text = "\n".join([*commented, "# end", ""])
    key = data.draw(st.sampled_from(sorted(before)))
    after = {**before, key: data.draw(values)}
    made = rewritten(text.encode(), "f.yaml", after).decode()
    assert read_yaml(made.encode(), "f.yaml").root.plain() == after
    gone = [line[1:] for line in changes(text, made) if line[0] == "-"]
    assert not [line for line in gone if line.strip().startswith("# ") or not line.strip()]
    # Only lines of the value that was edited may go.
    first = lines.index(next(line for line in write_yaml({key: before[key]}).decode().split("\n")))
    own = write_yaml({key: before[key]}).decode().removesuffix("\n").split("\n")
    assert lines[first : first + len(own)] == own
    assert set(gone) <= set(own)
