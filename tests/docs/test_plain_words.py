"""The project's texts use plain English: usual words in their usual order, and short sentences.

A text is a page, or a string of several words in the code: a message, a remedy, a description, a docstring. The test
does not look at code, output and names in code style, nor at the length of sentences in code, tables and numbered
requirements.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAX_WORDS = 32
"""The longest sentence of a page, in words."""

AVOIDED = {
    r"mend(s|ed|ing)?": "fix",
    r"nobody": "no one; or say who does not",
    r"besides?(?!:)": "also, in addition, next to",
    r"for ever": "forever, permanently",
    r"whom|whoever|whomever": "who; or say who",
    r"whatever|whichever|wherever": "any, every, regardless of",
    r"whence|hence|thence|thus|whereby|wherein|whereupon": "so, by which, in which",
    r"there(by|of|in|on|upon|from)|here(by|in|with)": "by this, of it, in it",
    r"lest|albeit|whilst|amongst|upon|ere|nay|likewise|shall|anew": "the usual word of today",
    r"(is|are|was|were|be) (?-i:none)": "does not exist; there is no …",
    r"none (is|are)": "there is no …",
    r"stands?|stood": "is, is in, is written",
    r"(is|are|was|were|be|been) told": "learns, receives",
    r"told apart|tells? (them|\S+ from \S+) apart": "distinguish",
    r"as it may be|be it|at hand|at fault|in silence|but for|no more(?! than| often)": "the usual phrase of today",
    r"goes on|go on|went on": "continues",
    r"the very": "exactly the",
    r"heals?|healed|bears? out": "repair, fix, prove",
    r"lies?|lay|lain": "is, is in",
    r"(?<!there )(?<!there's )(is|are|was|were) no(?! (longer|more))": "is not a …; does not …",
    r"(is|are|was|were) to be": "must be",
    r"(has|have|had) not (got|the|a|an|its)": "does not have",
    r"(?<=[;,] )else(?! if)": "otherwise",
    r"of the same kind of|of such a kind": "of the same kind",
}
"""Words that are hard for a reader who learned English as a foreign language, and what to write instead."""


PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md", "repo-template/*.md")
    for page in ROOT.glob(pattern)
)
MODULES = ["*.py", *sorted(f"{init.parent.name}/**/*.py" for init in (ROOT / "margo_gitops").glob("*/__init__.py"))]

_AVOIDED = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), better) for pattern, better in AVOIDED.items()]
_BLOCK = re.compile(r"^```.*?^```$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)[^`].*?\1", re.DOTALL)
_LINK = re.compile(r"!?\[((?:[^\]\[]|\[[^\]]*\])*)\]\([^)]*\)")
_APART = re.compile(r"^(?:[-*] |[0-9]+\. |#|\||$)")
_SENTENCE_END = re.compile(r"(?<=[.!?:])(?:[\"”)*_]*)\s+(?=[\"“(*_`]*[A-Z0-9])")


def prose(text: str) -> list[tuple[int, str]]:
    """Return the paragraphs of a Markdown text, each as one line with its number: no code, the text of links."""
    text = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    text = _LINK.sub(lambda link: link[1], text)
    text = _CODE.sub(lambda code: "C" + "\n" * code[0].count("\n"), text)
    found: list[tuple[int, str]] = []
    fresh = True
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if fresh and line.startswith("    "):
            continue  # an indented block of code
        if stripped and (fresh or _APART.match(stripped)):
            found.append((number, stripped))
        elif stripped:
            found[-1] = (found[-1][0], f"{found[-1][1]} {stripped}")
        fresh = not stripped or stripped.startswith(("#", "|"))
    return found


def avoided(text: str) -> Iterator[str]:
    """Yield what a text says in words that the project does not use."""
    for pattern, better in _AVOIDED:
        for match in pattern.finditer(text):
            around = text[max(0, match.start() - 25) : match.end() + 25]
            yield f"“{match[0]}” (write: {better}) in “…{around}…”"


def long_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a paragraph that are too long to be understood at the first reading."""
    if not re.match(r"[|#]|- \*\*[A-Z]-", text):
        for sentence in _SENTENCE_END.split(text):
            if (words := len(sentence.split())) > MAX_WORDS:
                yield f"{words} words in one sentence: “{sentence[:80]}…”"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_plain(name: str) -> None:
    found = [
        f"{name}:{line}: {finding}"
        for line, text in prose((ROOT / name).read_text(encoding="utf-8"))
        for finding in (*avoided(text), *long_sentences(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("modules", MODULES)
def test_what_a_package_says_to_people_is_plain(modules: str) -> None:
    found = [
        f"{module.relative_to(ROOT)}:{line}: {finding}"
        for module in (ROOT / "margo_gitops").glob(modules)
        for line, text in messages(module)
        for finding in avoided(_CODE.sub("C", " ".join(text.split())))
    ]
    assert not found, "\n".join(found)


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of several words in a module, with X for what is formatted into them."""
    apart: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ""
        if isinstance(node, ast.JoinedStr):
            apart.update(map(id, node.values))
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            text = node.value
        if " " in text:
            yield node.lineno, text
