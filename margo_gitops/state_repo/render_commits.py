"""The commits of a render: what they say of their origin, and who signs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import TRUST_REF, device_ref
from margo_gitops.processes import divided
from margo_gitops.progress import steps
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.state_repo.trust_branch import add_documents
from margo_gitops.trust.git_commit import Ident, build_commit, sign_commit
from margo_gitops.trust.git_objects import COMMIT
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.values import dataclass, replace

_COMMITTER = ("margo-gitops", "render@margo-gitops.invalid")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every commit of a render says of its origin.

    Attributes:
        origin: the fleet, its commit, the renderer and the lock: the trailers that all commits of the render share.
        subject: first line of the fleet commit's message.
        author: who made the fleet commit, and when.
    """

    origin: StateCommit
    subject: str
    author: Ident

    @property
    def committer(self) -> Ident:
        """Who makes the commits: the renderer, at the author's time, as no clock has a say."""
        return Ident(*_COMMITTER, self.author.time, self.author.offset)


@dataclass(frozen=True, slots=True)
class RenderCommits:
    """Makes the commits of one render."""

    pack: ObjectPack
    provenance: Provenance
    key: SigningKey | None

    def commit(self, tree: str, parent: str | None, message: str) -> str:
        """Add a commit to the pack and return its id."""
        origin = self.provenance
        raw = build_commit(tree, [parent] if parent else [], origin.author, origin.committer, message)
        return self.pack.add(COMMIT, sign_commit(raw, self.key) if self.key else raw)

    def devices(
        self,
        states: Sequence[DesiredState],
        trees: Mapping[str, str],
        values: Mapping[str, str],
        fleet_commit: str,
        processes: int,
    ) -> list[str]:
        """Add a commit for each device, made by some processes, and return their ids (ProcessEnded: one was killed)."""

        def made(part: Sequence[DesiredState]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
            own = replace(self, pack=ObjectPack())
            for state in part:
                yield own.device(state, trees[state.device], values, fleet_commit), own.pack.drained()

        found = divided("writing commits", states, processes, made) if processes > 1 else None
        if found is None:
            each = steps("writing commits", states)
            return [self.device(state, trees[state.device], values, fleet_commit) for state in each]
        for _, entries in found:
            self.pack.take(entries)
        return [commit for commit, _ in found]

    def device(self, state: DesiredState, tree: str, values: Mapping[str, str], fleet_commit: str) -> str:
        """Add the commit of a device and return its id."""
        message = device_message(state, fleet_commit, self.provenance)
        return self.commit(tree, values.get(device_ref(state.device)), message)

    def documents(self, repo: StateRepo, values: Mapping[str, str], trusted: Sequence[FleetTrust]) -> str | None:
        """Add a commit of the branch `trust` with the missing versions, and return its id; None: it has them.

        Raises:
            TrustDocumentRollback: the branch has what the fleet repo has not.
        """
        tree = add_documents(self.pack, repo.objects, values, trusted)
        said = self.provenance.origin.text()
        message = f"Trust document {len(trusted)}\n\n{said}"
        return self.commit(tree, values.get(TRUST_REF), message) if tree else None


_SHOWN = 20


def fleet_message(changed: Sequence[DesiredState], left: Sequence[str], provenance: Provenance) -> str:
    """Return the message of a fleet commit, trailers included.

    Args:
        changed: the devices whose state changed, sorted by id.
        left: the devices that were there before and no longer are, sorted.
    """
    lines = [f"Render {provenance.subject or provenance.origin.fleet_commit}", ""]
    lines += [f"{state.device}: manifest {state.version}" for state in changed[:_SHOWN]]
    if len(changed) > _SHOWN:
        lines.append(f"and {len(changed) - _SHOWN} more devices")
    lines += [f"{device}: left the fleet" for device in left[:_SHOWN]]
    title = "\n".join(lines).rstrip()
    return f"{title}\n\n{provenance.origin.text()}"


def device_message(state: DesiredState, fleet_commit: str, provenance: Provenance) -> str:
    """Return the message of a device commit, trailers included.

    Args:
        fleet_commit: id of the commit of the fleet branch.
    """
    said = replace(
        provenance.origin,
        state_commit=fleet_commit,
        manifest_digest=sha256(state.manifest),
        manifest_version=str(state.version),
        device=state.device,
    )
    return f"Manifest {state.version} for {state.device}\n\n{said.text()}"
