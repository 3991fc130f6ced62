"""Hooks of mkdocs: pages link to files of the project outside docs/ as they do on a git host, and the site holds them.

A page keeps links that work in the repository, such as `../schemas` or `../CHANGELOG.md`. On the site these files are
below `project/`; a folder becomes a page that lists its files. Mermaid diagrams are drawn when the site is built, so
that a browser loads no script for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import mmdr
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = PurePosixPath("project")
ALWAYS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
"""Pages outside docs/ that the navigation names."""

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> None:
    """Draw what is fenced as mermaid."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "mermaid", "class": "mermaid", "format": _draw}]
    }


def _draw(source: str, *_options: object, **_more: object) -> str:
    svg = re.sub(r"<\?xml.*?\?>", "", mmdr.render(source).svg())
    return f'<div style="background:#fff;overflow-x:auto;padding:1em">{svg}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what those pages link to."""
    waiting = [ROOT / name for name in ALWAYS]
    waiting += [target for file in files.documentation_pages() for target in _targets(Path(str(file.abs_src_path)))]
    while waiting:
        path = waiting.pop()
        if (path / "README.md").exists():
            path /= "README.md"
        place = _place(path)
        if place is None or place in files.src_uris:
            continue
        if path.is_dir():
            waiting += [each for each in sorted(path.iterdir()) if each.is_file()]
            files.append(File.generated(config, place, content=_listing(path)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(path)))
            waiting += _targets(path) if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the files are on the site."""
    del config, files
    path = _path(page.file.src_uri)
    if path.is_dir():
        return markdown
    here = PurePosixPath(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        place = _place((path.parent / match[2]).resolve())
        return f"{match[1]}{os.path.relpath(place, here) if place else match[2]}{match[3]}"

    return _outside_fences(markdown, moved)


def _outside_fences(markdown: str, change: Callable[[re.Match[str]], str]) -> str:
    parts, at = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(change, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, _LINK.sub(change, markdown[at:])])


def _targets(page: Path) -> list[Path]:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [(page.parent / match[2]).resolve() for match in _LINK.finditer(prose)]


def _place(path: Path) -> str | None:
    """Return where a file or folder of the project is among the sources of the site; None for what does not exist."""
    if not path.exists() or not path.is_relative_to(ROOT):
        return None
    if path.is_dir():
        path /= "README.md"
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return (OUTSIDE / path.relative_to(ROOT)).as_posix()


def _path(place: str) -> Path:
    """Return the file of the project that has a place among the sources of the site; a folder for its listing."""
    outside = PurePosixPath(place).is_relative_to(OUTSIDE)
    path = ROOT / PurePosixPath(place).relative_to(OUTSIDE) if outside else ROOT / "docs" / place
    return path if path.exists() else path.parent


def _listing(folder: Path) -> str:
    name = folder.relative_to(ROOT).as_posix()
    lines = "".join(f"- [{each.name}]({each.name})\n" for each in sorted(folder.iterdir()) if each.is_file())
    return f"# {name}\n\n{lines}"
