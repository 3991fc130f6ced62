"""A plan is read on a terminal, in a merge request, and by programs; it stays short and safe at any size."""

from __future__ import annotations

import re

from margo_gitops.operations.plan.plan_markdown import MAX_LENGTH, as_markdown, code
from margo_gitops.operations.plan.plan_text import SHOWN, as_text
from margo_gitops.rendering.changes import (
    NOTHING_TO_DOWNLOAD,
    DeploymentChange,
    DeviceChange,
    Download,
    ParameterChange,
    Plan,
    Refusal,
    ValueOrigin,
    WorkloadChange,
    make_plan,
)


def changed(device: str, before: str, after: str, site: str | None = "north", version: int = 1) -> DeviceChange:
    origin = ValueOrigin(f"site {site}", f"sites/{site}.yaml", 8, 15, after)
    web = DeploymentChange(
        id="283c2822-10bd-5671-99fd-bcfb44420484",
        device=device,
        deployment="web",
        change="changed",
        fields=(),
        parameters=(ParameterChange("greeting", before, after, origin),),
        workloads=(WorkloadChange("ui", "restarts"),),
    )
    return DeviceChange(device, site, site, "changed", version, version + 1, (web,), Download(2_000, 1))


def plan_of(*devices: DeviceChange, **more: object) -> Plan:
    return make_plan("working tree", "the state repo, rendered from 1f0c2b9d4a77", devices, **more)


def test_the_text_of_a_small_plan():
    leaving = DeviceChange("old", "south", "south", "removed", 4, None, (), NOTHING_TO_DOWNLOAD)
    text = "\n".join(as_text(plan_of(changed("press-01", "Hello", "Hi"), leaving, unchanged=2)))
    assert (
        text
        == """\
plan  working tree against the state repo, rendered from 1f0c2b9d4a77
devices: 1 changed, 1 leaving, 2 unchanged; workloads: 1 restart
to download: 2.0 kB and 1 image or chart of unknown size

  site       devices   deployments  start  restart  stop
  north      +0 ~1 -0  +0 ~1 -0     0      1        0
  south      +0 ~0 -1  +0 ~0 -0     0      0        0
  all sites  +0 ~1 -1  +0 ~1 -0     0      1        0

why
  web: parameter greeting "Hello" -> "Hi"  from site north, sites/north.yaml:8  (1 device)

devices
  ~ north/press-01: manifest 1 -> 2; restarts web/ui; downloads 2.0 kB and 1 image or chart of unknown size
  - south/old: leaves the fleet; its branch stays, nothing on it stops"""
    )


def test_the_details_show_every_value_and_its_place():
    text = "\n".join(as_text(plan_of(changed("press-01", "Hello", "Hi")), details=True))
    assert 'greeting = "Hello" -> "Hi"  from site north, sites/north.yaml:8:15' in text


def test_five_thousand_devices_are_a_screenful_with_each_cause_once():
    devices = [changed(f"d{number:04}", "Hello", "Hi", f"s{number % 10}") for number in range(5000)]
    lines = list(as_text(plan_of(*devices)))
    assert len(lines) < 3 * SHOWN
    assert any("(500 devices)" in line for line in lines)
    assert lines[-1] == "  and 4980 more lines: see them with --details"


def test_values_that_differ_by_device_are_one_cause():
    devices = [changed(f"d{number}", f"Hello {number}", f"Hi {number}") for number in range(9)]
    (cause,) = [line for line in as_text(plan_of(*devices)) if "parameter greeting" in line]
    assert "differs by device" in cause
    assert "(9 devices)" in cause


def test_the_markdown_of_a_small_plan():
    assert (
        as_markdown(plan_of(changed("press-01", "Hello", "Hi"), notes=["mind the gap"]))
        == """\
<!-- margo-gitops plan -->
### Plan: devices: 1 changed; workloads: 1 restart

`working tree` against the state repo, rendered from 1f0c2b9d4a77.

To download: 2.0 kB and 1 image or chart of unknown size.

**Note:** mind the gap

| site | devices | deployments | start | restart | stop |
| --- | --- | --- | --- | --- | --- |
| north | +0 \\~1 -0 | +0 \\~1 -0 | 0 | 1 | 0 |

| deployment | change | from | devices |
| --- | --- | --- | --- |
| web | `parameter greeting "Hello" -> "Hi"` | `site north, sites/north.yaml:8` | 1 |

<details><summary>north/press-01: manifest 1 -&gt; 2; restarts web/ui; downloads 2.0 kB and 1 image or chart of \
unknown size</summary>

- `web` changed
  - `greeting = "Hello" -> "Hi" from site north, sites/north.yaml:8:15`
  - `ui restarts`

</details>
"""
    )


def test_the_markdown_of_any_plan_fits_a_comment_and_ends_between_its_parts():
    devices = [changed(f"d{number:04}", "x" * 300, "y" * 300, f"s{number}") for number in range(2000)]
    text = as_markdown(plan_of(*devices))
    assert len(text) <= MAX_LENGTH
    assert text.count("<details>") == text.count("</details>") > 10
    assert text.endswith("run `margo-gitops plan --details`.\n")


def test_values_are_no_markdown_no_html_and_mention_nobody():
    hostile = "`|</details>\n@everyone <script> **x**"
    refusal = Refusal("MG1204", hostile, "a|b.yaml", 1, 1, hostile, (hostile,), hostile)
    for plan in (plan_of(changed("press-01", "x", hostile)), plan_of(refusals=[refusal])):
        outside = re.sub(r"(`+).*?\1", "", as_markdown(plan))
        for dangerous in ("<script", "@everyone", "**x**"):
            assert dangerous not in outside
        assert outside.count("<details>") == outside.count("</details>")


def test_a_code_span_ends_where_it_should():
    assert code("plain") == "`plain`"
    assert code("a`b") == "`` a`b ``"
    assert code("a|b") == "`a\\|b`"
    assert code("") == ""


def test_values_cannot_move_the_cursor_of_a_terminal():
    text = "\n".join(as_text(plan_of(changed("press-01", "x", "\x1b[2J\x07\u202e")), details=True))
    assert all(each.isprintable() or each == "\n" for each in text)


def test_a_refusal_says_why_where_and_what_to_do():
    refusal = Refusal(
        "MG1201", "deployment web: no profile fits", "deployments/web.yaml", 9, 3, "d1", ("type",), "mend"
    )
    text = "\n".join(as_text(plan_of(refusals=[refusal])))
    assert "refused: nothing can be rendered, for 1 reason" in text
    assert "deployments/web.yaml:9:3: deployment web: no profile fits on d1 [MG1201]" in text
    assert "remedy: mend" in text
    assert "MG1201" in as_markdown(plan_of(refusals=[refusal]))
