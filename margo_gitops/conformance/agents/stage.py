"""Where an agent is put through its cases: a folder of its own, a server on the loopback, and what is offered there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from margo_gitops.conformance.agents.case import Case, Chain, Place, Seen, TransportName, no_later
from margo_gitops.conformance.agents.hosts import PREFIX, REPOSITORY, GitHost, MargoApi
from margo_gitops.conformance.agents.loopback import Answer, HostileServer, Request
from margo_gitops.conformance.agents.offered_commits import (
    FRESHNESS_REF,
    ROOTS,
    GitState,
    Keys,
    files_commit,
    freshness_proof,
    git_state,
)
from margo_gitops.conformance.agents.program import Held, read_held, run_command
from margo_gitops.conformance.agents.states import DEVICE, State, base_state, documents, make_signing_key, make_state
from margo_gitops.conformance.agents.trust_documents import version
from margo_gitops.documents.state_layout import FRESHNESS_FILE, TRUST_REF, device_ref, trust_file
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.values import dataclass, field

_FOLDER: Final = "device"
_VIEW: Final = "view"
CODE_FILE: Final = "code"


@dataclass(frozen=True, slots=True)
class AgentUnderTest:
    """How an agent is run and looked at.

    Attributes:
        command: polls once and ends; with placeholders.
        transport: how it fetches its state.
        held: where it keeps what it holds, below its folder: `manifest.json` and `deployments/`.
        held_by: a command that writes what is held into the folder `view`, in place of `held`; empty for none.
        seconds: the longest that one poll may take.
        signed: whether it asks for signatures over HTTP; by git it always must.
        rooted: whether it follows trust documents; it then asks for signatures.
        enroll: enrols the device with the code in a file, and ends with 0 if it is enrolled; empty for none.
    """

    command: tuple[str, ...]
    transport: TransportName
    held: str = "current"
    held_by: tuple[str, ...] = ()
    seconds: float = 60
    signed: bool = False
    rooted: bool = False
    enroll: tuple[str, ...] = ()


@dataclass(slots=True)
class Stage:
    """One agent, one server; AgentNotRunnable where a command of the agent cannot be started.

    Attributes:
        agent: what is put through the cases.
        work: folder with all that a run needs; nothing may appear in it but in the agent's own folder.
        first: what the device's ref held before the base state.
        given: version 1 of the trust document, which the agent is given; empty: the fleet has none.
        host: serves by git.
        offered: the state that is offered; None for none yet.
        sound_tip: the commit that the agent holds before a case.
    """

    agent: AgentUnderTest
    server: HostileServer
    work: Path
    keys: Keys
    first: GitState
    given: bytes = b""
    host: GitHost = field(default_factory=lambda: GitHost({}, {}))
    api: MargoApi = field(default_factory=lambda: MargoApi(base_state()))
    offered: State | None = None
    sound_tip: str = ""

    @property
    def folder(self) -> Path:
        """The agent's folder."""
        return self.work / _FOLDER

    @property
    def _path(self) -> str:
        return REPOSITORY if self.agent.transport == "git" else PREFIX

    @property
    def place(self) -> Place:
        """Where cases happen."""
        return Place(
            self.agent.transport,
            device_ref(DEVICE),
            f"{self.server.other_url}{self._path}",
            lambda seconds: not self.server.stopping.wait(seconds),
        )

    def values(self) -> dict[str, str]:
        """Return the values of a command's placeholders."""
        return {
            "url": f"{self.server.url}{self._path}",
            "device": DEVICE,
            "folder": str(self.folder),
            "allowed_signers": str(self.work / "allowed_signers"),
            "trust_document": str(self.work / "1.json") if self.given else "",
            "transport": self.agent.transport,
            "token_file": str(self.work / "token"),
            "ref": device_ref(DEVICE),
            "view": str(self.work / _VIEW),
            "code_file": str(self.work / CODE_FILE),
        }

    def offer_soundly(self, state: State, trust: Chain = no_later, *, with_freshness: bool = True) -> None:
        """Offer a state as a sound server does, and nothing else."""
        self.offer_nothing()
        self.offer_trust(trust)
        self.offer_next(state)
        if with_freshness:
            self.offer_freshness(self._statement(state, self.keys.freshness))
        self.sound_tip = self.host.refs[self.place.ref]

    def offer_freshness(self, proof: bytes | None) -> None:
        """Offer a freshness statement, or none."""
        self.host.refs.pop(FRESHNESS_REF, None)
        if proof is not None:
            self.host.add(FRESHNESS_REF, files_commit({FRESHNESS_FILE: proof}))
        self.api.freshness = proof

    def offer_trust(self, later: Chain) -> None:
        """Offer the given trust document and later ones, where the fleet has any."""
        if self.given:
            files = {trust_file(each): content for each, content in {1: self.given, **later(self.keys)}.items()}
            self.host.add(TRUST_REF, files_commit(files))
            self.api.trust = files

    def offer_nothing(self) -> None:
        """Forget what was offered."""
        self.host = GitHost({}, {})
        self.host.add(self.place.ref, self.first)
        self.api = MargoApi(base_state())
        self.offered = None
        self.sound_tip = self.first.tip

    def offer_next(self, state: State, sound: State | None = None) -> None:
        """Offer a state as the one after what is offered."""
        tip = self.host.refs[self.place.ref]
        if state != self.offered:
            self.host.add(self.place.ref, git_state(state, self.keys, tip, sound))
        commit = self.host.objects[self.host.refs[self.place.ref]][1] if self.agent.signed else None
        self.api = MargoApi(state, freshness=self.api.freshness, commit=commit, trust=self.api.trust)
        self.offered = state
        self.server.respond = self._sound

    def offer(self, case: Case) -> State:
        """Offer what a case offers, with its faults, and return it."""
        state = case.offer()
        self.offer_next(state, case.sound() if case.sound else None)
        self.offer_freshness(self._proof(case, state))
        self.offer_trust(case.trust or no_later)
        if case.git is not None:
            case.git(self.host, self.place)
        if case.http is not None:
            case.http(self.api, self.place)
        fault = case.fault
        if fault is not None:
            self.server.respond = lambda request, elsewhere: (
                self._sound(request, elsewhere)
                if elsewhere
                else fault(request, self._sound(request, elsewhere), self.place)
            )
        return state

    def _proof(self, case: Case, state: State) -> bytes | None:
        if case.freshness == "none":
            return None
        key = self.keys.stranger if case.freshness == "forged" else self.keys.freshness
        return self._statement(state, key, expired=case.freshness == "expired")

    def _statement(self, state: State, key: SigningKey, *, expired: bool = False) -> bytes:
        return freshness_proof(state, key, state.commit.trust if self.given else None, expired=expired)

    def offer_after(self, state: State) -> None:
        """Offer a sound state after a case, as the renderer's next one."""
        refs = {**self.host.refs, self.place.ref: self.sound_tip}
        self.host = GitHost(refs, dict(self.host.objects))
        self.offer_next(state)

    def poll(self) -> Seen:
        """Run the agent once."""
        begin, asked, sent = len(self.server.exchanges), len(self.host.commands), len(self.api.statuses())
        ended = run_command(self.agent.command, self.values(), self.agent.seconds, self.server.token)
        return Seen(
            ended,
            self.held(),
            tuple(self.server.exchanges[begin:]),
            tuple(self.host.commands[asked:]),
            tuple(self.api.statuses()[sent:]),
        )

    def held(self) -> Held:
        """Return what the agent holds."""
        if not self.agent.held_by:
            return read_held(self.folder / self.agent.held)
        view = self.work / _VIEW
        shutil.rmtree(view, ignore_errors=True)
        view.mkdir()
        run_command(self.agent.held_by, self.values(), self.agent.seconds, self.server.token)
        return read_held(view)

    def empty(self) -> None:
        """Let the agent hold nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def keep(self, name: str) -> None:
        """Keep a copy of the agent's folder."""
        shutil.copytree(self.folder, self.work / "kept" / name, symlinks=True)

    def restore(self, name: str) -> None:
        """Put the agent's folder back as it was when it was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.work / "kept" / name, self.folder, symlinks=True)

    def strays(self) -> list[str]:
        """Return what appeared outside the agent's folder."""
        expected = {_FOLDER, _VIEW, "allowed_signers", "token", "kept", "1.json"}
        return sorted(each.name for each in self.work.iterdir() if each.name not in expected)

    def _sound(self, request: Request, _elsewhere: bool) -> Answer:
        if not self.server.authorized(request.headers.get("authorization", "")):
            return Answer(401, [("WWW-Authenticate", 'Basic realm="state"')], note="no credentials")
        return self.host.respond(request) if self.agent.transport == "git" else self.api.respond(request)


@contextmanager
def staged(agent: AgentUnderTest, work: Path) -> Iterator[Stage]:
    """Set up a stage in an empty folder, until the block ends."""
    roots = {letter: make_signing_key() for letter in ROOTS if agent.rooted}
    keys = Keys(make_signing_key(), make_signing_key(), roots=roots)
    token = secrets.token_urlsafe(32)
    (work / "token").write_text(f"{token}\n", encoding="ascii")
    (work / "token").chmod(0o600)
    allowed = f'renderer@example.com namespaces="git" {keys.renderer.public}\n'
    allowed += f'freshness@example.com namespaces="{FRESHNESS_NAMESPACE}" {keys.freshness.public}\n'
    (work / "allowed_signers").write_text(allowed, encoding="ascii")
    given = version(keys, 1, render=("renderer",)) if agent.rooted else b""
    if given:
        (work / "1.json").write_bytes(given)
    first = git_state(make_state(1, documents(hmi="zero")), keys, None)
    with closing(HostileServer(token)) as server:
        stage = Stage(agent, server, work, keys, first, given)
        stage.empty()
        yield stage
