"""A fleet with a policy, its people and their keys: commits with authors, dates, trailers and signatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fleet import FleetFolder, write_signing_key

from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.render.fleet_render import Rendered, RenderRequest, render_fleet
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet
from margo_gitops.operations.validate.rule_findings import RuleFinding
from margo_gitops.rendering.changes import Plan

SIGNERS = "policy/allowed-signers"
NOON = 1_797_850_800
"""2026-12-21T11:00Z: in the middle of December, when factories freeze."""


@dataclass(frozen=True)
class PolicyWorld:
    """A fleet repo on the branch main, its state repo beside it."""

    fleet: FleetFolder

    def policy(self, **policy: Any) -> None:
        """Write margo-gitops.yaml with a policy."""
        self.fleet.fleet(**({"policy": policy} if policy else {}))

    def signer(self, *names: str) -> None:
        """Write the list of signers."""
        lines = []
        for name in names:
            public = self.key(name).with_name(f"{name}.allowed").read_text().split(" ", 1)[1]
            lines.append(f'{name}@plant.example namespaces="git" {public}')
        self.fleet.put(SIGNERS, "".join(lines) or "# nobody\n")

    def key(self, name: str) -> Path:
        """Return a person's key."""
        path = self.fleet.root.parent / name
        return path if path.exists() else write_signing_key(path, seed=sum(name.encode()))

    def commit(
        self, message: str = "Change", *, by: str = "ada", at: int | None = None, sign: str | None = None
    ) -> str:
        """Commit all files; returns the id."""
        self.fleet.git.run("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "-m", message, by=by, at=at, sign=sign)
        return self.head()

    def merge(
        self, branch: str, message: str, *, by: str = "bob", at: int | None = None, sign: str | None = None
    ) -> str:
        """Merge a branch into the one that is checked out, as a merge commit; returns its id."""
        self._git("merge", "--quiet", "--no-ff", "-m", message, branch, by=by, at=at, sign=sign)
        return self.head()

    def _git(self, command: str, *arguments: str, by: str, at: int | None, sign: str | None) -> None:
        mail = f"{by}@plant.example"
        people = {
            "GIT_AUTHOR_NAME": by,
            "GIT_AUTHOR_EMAIL": mail,
            "GIT_COMMITTER_NAME": by,
            "GIT_COMMITTER_EMAIL": mail,
        }
        dates = {} if at is None else {"GIT_AUTHOR_DATE": f"{at} +0000", "GIT_COMMITTER_DATE": f"{at} +0000"}
        signing = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={self.key(sign)}"] if sign else []
        options = ["-S"] if sign else []
        self.fleet.git.run(*signing, command, *options, *arguments, environment={**people, **dates})

    def head(self) -> str:
        return self.fleet.git.run("rev-parse", "HEAD")

    def branch(self, name: str) -> None:
        """Make a branch and check it out."""
        self.fleet.git.run("switch", "--quiet", "--create", name)

    def main(self) -> None:
        self.fleet.git.run("switch", "--quiet", "main")

    @property
    def cache(self) -> Path:
        return self.fleet.root.parent / "cache"

    def render(self, revision: str = "HEAD", **more: Any) -> Rendered:
        return render_fleet(RenderRequest(self.fleet.root, revision, None, self.cache, **more))

    def plan(self, revision: str | None = "HEAD", base: str | None = None, **more: Any) -> Plan:
        return plan_fleet(PlanRequest(self.fleet.root, revision, base, None, self.cache, **more))

    def errors(self, since: str | None, revision: str | None = "HEAD", **more: Any) -> list[RuleFinding]:
        """Return what `validate` calls errors."""
        request = ValidateRequest(self.fleet.root, revision, since, None, self.cache, **more)
        return [each for each in validate_fleet(request).findings if each.severity == "error"]

    def state(self) -> dict[str, str]:
        """Return where the state repo's refs point."""
        listed = self.fleet.root.parent / "state.git"
        if not listed.exists():
            return {}
        lines = self.fleet.git.run("-C", str(listed), "for-each-ref", "--format=%(refname) %(objectname)")
        return dict(line.split(" ") for line in lines.splitlines())


def make_world(folder: Path) -> PolicyWorld:
    """Return a fleet of two sites with a device each, and one deployment on both."""
    fleet = FleetFolder.empty(folder / "fleet")
    fleet.application()
    for version in ("1.0.0", "2.0.0"):
        fleet.application("app", version, parameters={"p": {"targets": [{"pointer": "P", "components": ["compose"]}]}})
    for site in ("north", "south"):
        fleet.site(site, p="first")
        fleet.device(f"{site}-1", site=site, labels={"line": site})
    fleet.deployment("web")
    fleet.git.init()
    return PolicyWorld(fleet)
