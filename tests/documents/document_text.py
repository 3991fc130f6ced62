"""Documents as text for tests, and the findings that a document has."""

from pathlib import Path

from margo_gitops.documents.kinds import Checked, check_document, read_source

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"


def check(text: str, file: str = "x.yaml") -> Checked:
    """Return what `text` turns out to be."""
    return check_document(read_source(text.encode(), file))


def findings(text: str) -> list[str]:
    """Return the findings of `text` as `line:column: path: message (remedy)`."""
    return [str(finding).removeprefix("x.yaml:") for finding in check(text).findings]


def example(name: str) -> str:
    """Return a valid example of the project, `Kind/file.yaml`."""
    kind, _, file = name.partition("/")
    return (EXAMPLES / kind / "valid" / file).read_text()


def changed(text: str, old: str, new: str) -> str:
    """Return `text` with one change; the text must be there exactly once."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)
