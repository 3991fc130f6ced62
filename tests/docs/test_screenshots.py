"""The pictures in the docs show what the commands print now, and a README can show them anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from screenshots import picture

ROOT = Path(__file__).parents[2]
IMAGES = sorted((ROOT / "docs/images").glob("*.svg"))


def test_the_committed_pictures_are_what_the_commands_print():
    done = subprocess.run(
        [sys.executable, "scripts/generate-screenshots", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_pictures_of_plan_status_and_catalog():
    assert [path.stem for path in IMAGES] == ["catalog", "plan", "status"]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_a_picture_fetches_nothing_and_runs_nothing(path: Path):
    content = path.read_text(encoding="utf-8")
    assert {element.tag.rpartition("}")[2] for element in ET.fromstring(content).iter()} <= {
        "svg", "style", "defs", "clipPath", "rect", "text", "g", "circle"
    }  # fmt: skip
    assert "@import" not in content
    assert re.findall(r"url\((?!#)", content) == []
    assert set(re.findall(r"https?://[^\"\s<]+", content)) == {"http://www.w3.org/2000/svg"}


def test_equal_text_gives_equal_bytes_and_other_text_others():
    one = picture("plan", ["\x1b[1m$ margo-gitops plan\x1b[0m\n\x1b[31mfailed\x1b[0m <on> press-01"])
    assert one == picture("plan", ["\x1b[1m$ margo-gitops plan\x1b[0m\n\x1b[31mfailed\x1b[0m <on> press-01"])
    assert one != picture("plan", ["\x1b[1m$ margo-gitops plan\x1b[0m\nfailed <on> press-01"])
    shown = "".join(ET.fromstring(one).itertext()).replace("\xa0", " ")
    assert "<on> press-01" in shown
