"""What the scaffold of a fleet repo holds, for given answers: the fleet to start with, and the tooling around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from margo_gitops import __version__
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.catalog.package import LOCK_FILE, write_lock
from margo_gitops.catalog.vendor import packed
from margo_gitops.digests import folder_digest, sha256
from margo_gitops.documents.constraints import NAME_PATTERN
from margo_gitops.documents.declarations import About
from margo_gitops.documents.yaml_scalars import write_text
from margo_gitops.errors import ScaffoldRefused
from margo_gitops.values import dataclass

CiKind: TypeAlias = Literal["github", "gitlab", "gitea", "both", "none"]
"""Gitea and Forgejo read the workflows of GitHub."""

TOOLING_FOLDER = ".margo-gitops"
REQUIREMENTS_FILE = f"{TOOLING_FOLDER}/requirements.txt"
FIRST_SITE = "north"
DEFAULT_BRANCH = "main"

_OTHER_SITE = "south"
_NAME = "my-fleet"
_ARTIFACTS_URL = "file:///srv/my-fleet/applications/"
_STATE_REPO = "../my-fleet-state.git"
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_OWN = ("sites/", "devices/", "deployments/", "applications/", FLEET_FILE, LOCK_FILE)
_SCHEMAS = ("application-description", "applications-lock", "deployment", "device", "fleet", "site")
_SITE_LINE = re.compile(rf"^(\s*(?:name: |site: |sites: \[)){FIRST_SITE}(?=\]?$)", re.MULTILINE)
_SIGNING = "  # Unsigned state is never written.\n  signing:\n    required: true\n"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the tooling depends on; kept, so that an upgrade need not ask again."""

    name: Annotated[str, About("The fleet's name, when it was scaffolded.")]
    ci: Annotated[CiKind, About("Whose pipelines are there.")] = "both"
    site: Annotated[str, About("The first site's name, when it was scaffolded.")] = FIRST_SITE
    branch: Annotated[str, About("The branch that pipelines render.")] = DEFAULT_BRANCH

    def check(self) -> None:
        """Refuse names that no document could have (ScaffoldRefused)."""
        for value, what, option in ((self.name, "a fleet", "--name"), (self.site, "a site", "--site")):
            if not re.search(NAME_PATTERN, value):
                raise ScaffoldRefused(
                    f"{value!r} is not a name for {what}",
                    remedy=f"pass {option} with 1 to 63 lower-case letters, digits and dashes",
                )
        if not _BRANCH.fullmatch(self.branch):
            raise ScaffoldRefused(
                f"pipelines cannot name the branch {self.branch!r}", remedy="git symbolic-ref HEAD refs/heads/main"
            )
        if self.site == _OTHER_SITE:
            raise ScaffoldRefused(
                f"{_OTHER_SITE} is the scaffold's second site", remedy="pass --site with another name"
            )


@dataclass(frozen=True, slots=True)
class FirstSettings:
    """What `margo-gitops.yaml` starts with."""

    state_repo: str
    artifacts_url: str
    sign: bool = False
    empty: bool = False


def fleet_files(answers: Answers, settings: FirstSettings) -> dict[str, bytes]:
    """Return the fleet to start with, by path. It belongs to its people at once: no upgrade touches it."""
    with _shipped("repo-template") as template:
        own = FLEET_FILE if settings.empty else _OWN
        found = {path: content for path, content in _files(template) if path.startswith(own)}
    files = {}
    for path, content in found.items():
        if path.startswith(("sites/", "devices/", "deployments/")):
            renamed = _SITE_LINE.sub(lambda match: match[1] + write_text(answers.site), content.decode())
            files[path.replace(f"sites/{FIRST_SITE}.", f"sites/{answers.site}.")] = renamed.encode()
        else:
            files[path] = content
    if settings.empty:
        files[LOCK_FILE] = write_lock({})
    elif not settings.artifacts_url.startswith("file:"):
        _pack_applications(files)
    files[FLEET_FILE] = _fleet_file(files[FLEET_FILE].decode(), answers, settings).encode()
    return files


def _pack_applications(files: dict[str, bytes]) -> None:
    """Make the content of applications tar.gz: https fetches no folders."""
    pins = {}
    for folder in sorted({"/".join(path.split("/")[:3]) for path in files if path.startswith("applications/")}):
        made = packed(
            {path.removeprefix(f"{folder}/"): files.pop(path) for path in [*files] if path.startswith(folder)}
        )
        files |= {f"{folder}/{path}": content for path, content in made.items()}
        _, name, version = folder.split("/")
        pins[name, version] = folder_digest({path: sha256(content) for path, content in made.items()})
    files[LOCK_FILE] = write_lock(pins)


def _fleet_file(text: str, answers: Answers, settings: FirstSettings) -> str:
    values = {_STATE_REPO: settings.state_repo, _ARTIFACTS_URL: settings.artifacts_url, _NAME: answers.name}
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        lines.append(f"{key}: {write_text(values[value])}" if value in values else line)
    filled = "\n".join([*lines, ""])
    return filled.replace("  artifacts:\n", f"{_SIGNING}  artifacts:\n", 1) if settings.sign else filled


def tooling_files(answers: Answers, requirements: bytes | None = None) -> dict[str, bytes]:
    """Return pipelines, hooks, schemas, editor settings and pages for people, by path; an upgrade renews them.

    Args:
        requirements: what pipelines install; None: it is not known where they find it.
    """
    words = {"@version@": __version__, "@name@": answers.name, "@site@": answers.site, "@branch@": answers.branch}
    files = {}
    with _shipped("repo-template") as template:
        for path, content in _files(template):
            if path.startswith(_OWN) or not _wanted(path, answers.ci):
                continue
            text = content.decode()
            for word, value in words.items():
                text = text.replace(word, value)
            files[path] = text.encode()
    if requirements is not None:
        files[REQUIREMENTS_FILE] = requirements
    with _shipped("schemas") as schemas:
        for name in _SCHEMAS:
            file = f"{name}.schema.json"
            files[f"{TOOLING_FOLDER}/schemas/{file}"] = (schemas / file).read_bytes()
    return dict(sorted(files.items()))


def _wanted(path: str, ci: CiKind) -> bool:
    if path.startswith(".github/"):
        return ci in ("github", "gitea", "both")
    if path == ".gitlab-ci.yml":
        return ci in ("gitlab", "both")
    return ci != "none" or not path.startswith(f"{TOOLING_FOLDER}/ci/")


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix(), path.read_bytes()


@contextmanager
def _shipped(name: str) -> Iterator[Path]:
    """Yield a folder that goes with the program: inside the installed package, or next to it in a checkout."""
    packaged = resources.files("margo_gitops") / "_data" / name
    with resources.as_file(packaged) as folder:
        yield folder if folder.is_dir() else Path(__file__).parents[2] / name
