"""A fleet with a root of trust, as a person makes it: with commands and ssh-keygen."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from support.real import require_program


@dataclass
class Plant:
    """A fleet whose keys are files in a folder of their own."""

    fleet: FleetFolder
    keys: Path

    def key(self, name: str, kind: str = "ed25519") -> Path:
        path = self.keys / name
        if not path.exists():
            self.keys.mkdir(exist_ok=True)
            program = require_program("ssh-keygen", "openssh-client")
            subprocess.run([program, "-q", "-t", kind, "-N", "", "-C", name, "-f", path], check=True)
        return path

    def pub(self, name: str, kind: str = "ed25519") -> Path:
        return self.key(name, kind).with_suffix(".pub")

    def run(self, *arguments: str | Path, code: int | None = 0) -> Outcome:
        outcome = margo_gitops(*arguments, cwd=self.fleet.root)
        assert code is None or outcome.code == code, outcome
        return outcome

    def init(self, *more: str) -> None:
        roots = ("--root", self.pub("anna"), "--root", self.pub("bert", "ecdsa"), "--root", self.pub("cleo"))
        uses = ("--render", self.pub("renderer"), "--freshness", self.pub("renderer"))
        self.run("keys", "init", *roots, "--threshold", "2", *uses, *more)

    def sign(self, *names: str) -> str:
        said = [self.run("keys", "sign", "--key", self.key(name)).stdout for name in names]
        return said[-1]

    def rooted(self) -> None:
        self.init()
        assert "version 1 counts" in self.sign("anna", "bert")
        self.fleet.commit("Make the root")

    def render(self, key: str = "renderer", *more: str, code: int = 0) -> Outcome:
        return self.run("render", "--create", "--signing-key", self.key(key), *more, code=code)

    @property
    def state(self) -> Git:
        return Git(self.fleet.root.parent / "state.git")

    def said(self, ref: str) -> str | None:
        return self.state.run("log", "-1", "--format=%(trailers:key=Trust-Version,valueonly)", ref).strip() or None

    def documents(self) -> list[bytes]:
        names = self.state.run("ls-tree", "--name-only", "trust").split()
        return [self.state.run("show", f"trust:{name}").encode() for name in sorted(names)]
