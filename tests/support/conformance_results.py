"""The verdicts that docs/conformance-results.json records, compared with what a test sees.

`CONFORMANCE_RECORD=1 pytest -n0 tests/conformance` writes them anew; then run scripts/generate-docs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "docs" / "conformance-results.json"


def worst_verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Return the worst verdict of each requirement in a report."""
    order = ["fail", "skipped", "pass", "not-applicable"]
    worst: dict[str, str] = {}
    for each in report["results"]:
        before = worst.get(each["requirement"], "not-applicable")
        worst[each["requirement"]] = min(before, each["verdict"], key=order.index)
    return worst


def check_recorded(subject: str, report: dict[str, Any]) -> None:
    """Compare a report with what is recorded of its subject."""
    found = worst_verdicts(report)
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    if os.environ.get("CONFORMANCE_RECORD") == "1":
        recorded[subject] = found
        FILE.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert recorded.get(subject) == found, (
        "docs/conformance-results.json is out of date; CONFORMANCE_RECORD=1 renews it"
    )
