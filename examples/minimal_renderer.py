"""A minimal renderer: put deployment documents onto a device's branch of a state repo, as its next version, signed.

    python examples/minimal_renderer.py STATE_REPO DEVICE SIGNING_KEY DEPLOYMENT...

Any agent of the git subset (docs/git-subset.md) can pull the branch.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from margo_gitops.documents import (
    ApplicationDeployment,
    StateManifest,
    deployment_path,
    device_ref,
    read_as,
    read_source,
    write_manifest,
)
from margo_gitops.trust import StateCommit


def render(repo: Path, device: str, key: Path, files: list[Path]) -> str:
    """Commit what a device shall run, complete, and return the commit's id."""
    documents = {}
    for file in files:
        content = file.read_bytes()
        deployment = read_as(ApplicationDeployment, read_source(content, str(file)))  # every finding, or a document
        if deployment.metadata.device_id != device:
            raise SystemExit(f"{file} is for {deployment.metadata.device_id}, not for {device}")
        documents[deployment.id] = content
    before = git(repo, "for-each-ref", "--format=%(objectname)", device_ref(device))
    version = held_version(repo, before) + 1 if before else 1
    manifest = write_manifest(version, documents)

    entries = [f"100644 blob {blob(repo, manifest)}\tmanifest.json"]
    if documents:
        names = {Path(deployment_path(each)).name: content for each, content in sorted(documents.items())}
        folder = tree(repo, [f"100644 blob {blob(repo, content)}\t{name}" for name, content in names.items()])
        entries.append(f"040000 tree {folder}\tdeployments")
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    said = StateCommit(device=device, manifest_version=str(version), manifest_digest=digest).text()
    signed = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={key}", "commit-tree", "-S"]
    parent = ["-p", before] if before else []
    commit = git(repo, *signed, *parent, "-m", f"Manifest {version} for {device}", "-m", said, tree(repo, entries))
    git(repo, "update-ref", device_ref(device), commit, before or "0" * 40)  # refused if somebody else was faster
    return commit


def held_version(repo: Path, commit: str) -> int:
    """Return the manifest version of a commit."""
    content = git(repo, "show", f"{commit}:manifest.json").encode()
    return read_as(StateManifest, read_source(content, "manifest.json")).manifest_version


def blob(repo: Path, content: bytes) -> str:
    """Write a file into the repository and return its id."""
    return git(repo, "hash-object", "-w", "--stdin", given=content)


def tree(repo: Path, entries: list[str]) -> str:
    """Write a folder into the repository and return its id."""
    return git(repo, "mktree", given="".join(f"{each}\n" for each in entries).encode())


def git(repo: Path, *arguments: str, given: bytes = b"") -> str:
    """Run git in the repository and return what it prints."""
    command = ["git", "-C", str(repo), *arguments]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout.decode().strip()


if __name__ == "__main__":
    state_repo, device_id, signing_key, *deployment_files = sys.argv[1:]
    print(render(Path(state_repo), device_id, Path(signing_key), [Path(each) for each in deployment_files]))
