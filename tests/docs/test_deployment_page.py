"""docs/deployment.md: its configurations are ones that the server takes, and its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from margo_gitops.server.service.configuration import load_server_configuration

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "deployment.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_a_valid_configuration(number: int, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(EXAMPLES[number])
    assert load_server_configuration(file).listen.port == 8080


def test_every_file_of_the_deploy_folder_is_told_of() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for path in (DOCS / "deploy").iterdir():
        assert f"deploy/{path.name}" in pages, path.name


def test_the_unit_waits_longer_for_the_end_than_a_poll_waits() -> None:
    unit = (DOCS / "deploy" / "margo-gitops-serve.service").read_text(encoding="utf-8")
    found = re.search(r"TimeoutStopSec=(\d+)s", unit)
    assert found
    assert int(found[1]) >= 55
