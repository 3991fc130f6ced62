"""Where margo-gitops comes from: no public index holds it, and a stranger could take its name there.

TOOL-1  A hint names the place that this program came from, and never asks an index for its name alone.
TOOL-2  Pipelines install the tool from a place that is written down with what proves it: a wheel's URL with its sha256,
        a git URL with a commit, or a requirements file with a sha256 for each package.
TOOL-3  Where no such place is known, the pipelines' requirements ask no index, so that they fail until it is written.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from margo_gitops.errors import ScaffoldRefused

_WHEEL = re.compile(r"https://[^/@\s]+/\S+\.whl#sha256=[0-9a-f]{64}")
_GIT = re.compile(r"git\+(https://[^/@\s]+|ssh://[^/\s]+)/\S+@[0-9a-f]{40}")
_PROOF = re.compile(r"--hash=sha256:[0-9a-f]{64}|#sha256=[0-9a-f]{64}|git\+(?:https|ssh)://\S+@[0-9a-f]{40}(?=\s|$)")
_SETTING = re.compile(r"\s*(#|$|--(?!requirement|editable|constraint)|-[if]\b)")


def how_to_install(extras: str) -> str:
    """Return how a person gets this very program with more extras: from where it came (PEP 508, PEP 610)."""
    url = _origin()
    if url:
        return f"pip install 'margo-gitops[{extras}] @ {url}'"
    return f"install margo-gitops[{extras}] from where this program came from; a public index does not hold it"


def requirements(tool: str | None) -> bytes | None:
    """Return the requirements of the pipelines; None where it is not known where they find the tool.

    Args:
        tool: a wheel's URL with `#sha256=`, a git URL with a commit, or the path of a requirements file; None: where
            this very program came from, if that is such a URL.

    Raises:
        ScaffoldRefused: it is not one of these, or the file does not prove every package.
    """
    source = tool or _origin()
    if _WHEEL.fullmatch(source) or _GIT.fullmatch(source):
        return f"margo-gitops[operator] @ {source}\n".encode()
    if tool is None:
        return None
    try:
        text = Path(tool).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ScaffoldRefused(
            f"{tool!r} does not say where margo-gitops comes from",
            why=[str(error)] if "://" not in tool else [],
            remedy="pass --tool with https://…/NAME.whl#sha256=DIGEST, git+https://…@COMMIT with all 40 digits, "
            "or a requirements file",
        ) from error
    wanted = [line for line in re.sub(r"\\\n", " ", text).splitlines() if not _SETTING.match(line)]
    unproved = [line.split()[0] for line in wanted if not proved(line)]
    if unproved or not any(re.match(r"\s*margo[-_.]gitops\b", line, re.IGNORECASE) for line in wanted):
        what = f"{tool} has no digest of {unproved[0]}" if unproved else f"{tool} does not require margo-gitops"
        raise ScaffoldRefused(what, remedy="write NAME==VERSION --hash=sha256:DIGEST for each package")
    return text.encode()


def proved(requirements: str) -> bool:
    """Return whether a requirement comes with what proves it."""
    return _PROOF.search(requirements) is not None


def _origin() -> str:
    """Return the URL that pip installed this program from, with what pip proved; "" where it was an index."""
    try:
        told = json.loads(distribution("margo-gitops").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    url = told.get("url", "")
    if "vcs_info" in told:
        return f"{told['vcs_info']['vcs']}+{url}@{told['vcs_info']['commit_id']}"
    digest = told.get("archive_info", {}).get("hashes", {}).get("sha256")
    return f"{url}#sha256={digest}" if digest else str(url)
