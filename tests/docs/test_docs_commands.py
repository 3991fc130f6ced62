"""The commands in the docs run as they stand, print what the docs show, and every link leads somewhere.

Blocks marked `sh` run from top to bottom, all those of a file in one shell. A `text` block below a line
`<!-- prints -->` is what the block before it prints, whatever the ids and digests in it. Blocks marked `console` or
`text` show what needs more than the command line: an engine, a server, root.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import put_program
from support.git_cli import GIT_ENVIRONMENT
from support.real import require_program

from margo_gitops.cli.document import check_file

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

LABELS = {"console", "ini", "json", "mermaid", "python", "sh", "text", "toml", "yaml"}

HOME_IN_DOCS = "/home/ada"
"""Where the docs' examples happen."""

_FENCE = re.compile(r"^```(?P<label>\S*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTS = "<!-- prints -->\n\n```text\n"
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{7,64}\b")
_END = "--- end of block ---"


@dataclass(frozen=True)
class Block:
    """Commands in a page, and what they print where the page says so."""

    line: int
    commands: str
    output: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that run, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["label"] == "sh":
            rest = text[match.end() :].lstrip("\n")
            shown = _FENCE.match(rest, len(_PRINTS) - len("```text\n")) if rest.startswith(_PRINTS) else None
            line = text[: match.start()].count("\n") + 1
            found.append(Block(line, match["body"], shown["body"] if shown else None))
    return found


RUNNABLE = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks(page)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_commands_of_a_page_run_and_print_what_it_shows(name: str, tmp_path: Path) -> None:
    page_blocks = blocks(ROOT / name)
    for program, package in (("ssh-keygen", "openssh-client"), ("git", "git"), ("jq", "jq"), ("curl", "curl")):
        if any(program in block.commands for block in page_blocks):
            require_program(program, package)
    outcome = run(page_blocks, tmp_path)
    outputs = outcome.stdout.split(f"{_END}\n")
    done = len(outputs) - 1
    assert outcome.returncode == 0, f"{name}:{page_blocks[done].line}: the block fails\n{outputs[-1]}"
    for block, output in zip(page_blocks, outputs, strict=False):
        if block.output is not None:
            assert without_ids(output.replace(str(tmp_path), HOME_IN_DOCS)) == without_ids(block.output), (
                f"{name}:{block.line}: the block prints something else than the page shows"
            )


def run(page_blocks: list[Block], home: Path) -> subprocess.CompletedProcess[str]:
    """Run blocks in one shell, in an empty home with the project's command on the path."""
    programs = home / ".bin"
    programs.mkdir()
    put_program(programs)
    (home / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@plant.example\n[init]\ndefaultBranch = main\n")
    script = "\n".join(f"{block.commands}\necho '{_END}'" for block in page_blocks)
    variables = {
        "PATH": f"{programs}:{GIT_ENVIRONMENT['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=home,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )


def without_ids(text: str) -> str:
    """Return text whose ids and digests are all the same: they follow from times, paths and versions."""
    return _ID.sub("<id>", text).strip()


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    labels = [match["label"] for match in _FENCE.finditer(text)]
    assert set(labels) <= LABELS, f"{name}: blocks are marked {sorted(set(labels) - LABELS)}"
    assert text.count("\n```") == 2 * len(labels), f"{name}: a block does not end"


@pytest.mark.parametrize("name", NAMES)
def test_every_document_of_our_kinds_in_a_page_is_valid(name: str, tmp_path: Path) -> None:
    for number, match in enumerate(_FENCE.finditer((ROOT / name).read_text(encoding="utf-8"))):
        if match["label"] == "yaml" and re.match(r"apiVersion: margo-gitops/v1\nkind: ", match["body"]):
            file = tmp_path / f"{number}.yaml"
            file.write_text(match["body"], encoding="utf-8")
            checked = check_file(str(file))
            assert checked.verdict == "valid", f"{name}: {[str(finding) for finding in checked.findings]}"


_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<title>.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    page = ROOT / name
    dead = [target for target in links(page) if not leads_somewhere(page, target)]
    assert not dead, f"{name}: {dead}"


def links(page: Path) -> list[str]:
    """Return the targets of a page's links; those to other sites are not looked at."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    prose = re.sub(r"`[^`\n]*`", "code", prose)  # brackets in code are no links
    return [match["target"] for match in _LINK.finditer(prose) if "://" not in match["target"]]


def leads_somewhere(page: Path, target: str) -> bool:
    """Return whether a relative link names a file or folder of the project, and an anchor in it."""
    path, _, anchor = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists() or not place.is_relative_to(ROOT):
        return False
    return not anchor or (place.suffix == ".md" and anchor in anchors(place))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as git hosts make them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for match in _HEADING.finditer(prose):
        base = re.sub(r"[^\w\- ]", "", match["title"].lower()).replace(" ", "-")
        anchor, number = base, 0
        while anchor in found:
            number += 1
            anchor = f"{base}-{number}"
        found.add(anchor)
    return found
