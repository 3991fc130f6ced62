"""Problem documents (RFC 9457), as `document check` reads them; and a template that was not filled in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import margo_gitops

pytestmark = pytest.mark.real

RIGHT = {"type": "about:blank", "title": "Not found", "status": 404, "retryable": False, "instance": "/x", "more": 1}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (RIGHT, "ProblemDetail (G2): valid"),
        ({**RIGHT, "status": "404"}, "status"),
        ({**RIGHT, "errors": [{"field": "a"}]}, "message is missing"),
        ({name: RIGHT[name] for name in ("type", "title")}, "status is missing"),
    ],
)
def test_a_problem_document_is_known(tmp_path: Path, document: dict[str, object], words: str) -> None:
    (tmp_path / "problem.json").write_text(json.dumps(document))
    done = margo_gitops("document", "check", "problem.json", cwd=tmp_path)
    assert words in done.stdout
    assert done.code == (0 if document is RIGHT else 1)


def test_a_template_that_was_not_filled_in_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("metadata:\n  name: {{ NAME }}\n")
    done = margo_gitops("document", "check", "a.yaml", cwd=tmp_path)
    assert "a template that was not filled in" in done.stdout
    assert done.code == 1
