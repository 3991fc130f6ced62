"""The project's texts use plain English: usual words in their usual order, and short sentences.

A text is a page, or a docstring or message in the code; the pages with commands, errors and rules are made from those.
Code, output and names in code style are not looked at, and a sentence's length not in tables and numbered requirements.
"""

from __future__ import annotations

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
    r"besides?": "also, in addition, next to",
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
"""What a reader who learned English as a foreign language stumbles over, and what to write instead."""

FINISHED = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "docs/README.md",
    "docs/agent.md",
    "docs/cli.md",
    "docs/appliers.md",
    "docs/architecture.md",
    "docs/audit.md",
    "docs/catalog.md",
    "docs/conformance.md",
    "docs/decisions/0001-frozen-dataclasses.md",
    "docs/decisions/0002-own-yaml-emitter.md",
    "docs/decisions/0003-own-ssh-signature-check.md",
    "docs/decisions/0004-own-git-objects.md",
    "docs/decisions/0005-one-rename-moves-all-refs.md",
    "docs/decisions/0006-pushing-by-the-git-program.md",
    "docs/decisions/0007-no-clone-on-the-device.md",
    "docs/decisions/0008-values-checked-by-the-application.md",
    "docs/decisions/0009-expressions-not-templates.md",
    "docs/decisions/0010-a-device-that-leaves-keeps-running.md",
    "docs/decisions/0011-not-implemented-is-refused.md",
    "docs/decisions/0012-older-commit-does-not-undo.md",
    "docs/decisions/0013-one-fleet-per-state-repo.md",
    "docs/decisions/0014-edits-by-ruamel-yaml.md",
    "docs/decisions/0015-judged-by-the-policy-before.md",
    "docs/decisions/0016-scaffold-upgrade-by-merge.md",
    "docs/decisions/0017-capabilities-by-review.md",
    "docs/decisions/0018-library-verifies-device-signs.md",
    "docs/decisions/0019-git-subset-asks-first.md",
    "docs/decisions/0020-requirements-from-the-pages.md",
    "docs/decisions/0021-freshness-by-one-root.md",
    "docs/decisions/0022-form-line-by-line.md",
    "docs/decisions/0023-site-by-mkdocs-material.md",
    "docs/decisions/0024-patterns-on-a-linear-engine.md",
    "docs/decisions/0025-one-web-client-of-our-own.md",
    "docs/decisions/README.md",
    "docs/deployment.md",
    "docs/documents.md",
    "docs/editing.md",
    "docs/errors.md",
    "docs/fleet-repo.md",
    "docs/freshness.md",
    "docs/fuzzing.md",
    "docs/git-subset.md",
    "docs/http.md",
    "docs/policy.md",
    "docs/publishing.md",
    "docs/release.md",
    "docs/review-and-ci.md",
    "docs/rules.md",
    "docs/start/application-author.md",
    "docs/start/contributor.md",
    "docs/start/device-maker.md",
    "docs/start/operator.md",
    "docs/start/security-officer.md",
    "docs/state-repo.md",
    "docs/status.md",
    "docs/testbed.md",
    "docs/tutorial.md",
    "repo-template/README.md",
]
"""The pages that are plain already."""

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


@pytest.mark.parametrize("name", FINISHED)
def test_a_page_is_plain(name: str) -> None:
    found = [
        f"{name}:{line}: {finding}"
        for line, text in prose((ROOT / name).read_text(encoding="utf-8"))
        for finding in (*avoided(text), *long_sentences(text))
    ]
    assert not found, "\n".join(found)
