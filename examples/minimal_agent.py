"""A minimal agent: pull a device's state once, believe it only if it is signed and not older, and write it to files.

    python examples/minimal_agent.py URL DEVICE ALLOWED_SIGNERS FOLDER

What it lacks of the real agent (docs/agent.md): a journal, reports, retries, a second copy of the floor.
"""

import sys
from pathlib import Path

from margo_gitops.appliers import ApplierContext, Workload, create_applier
from margo_gitops.documents import own_extension, workload_contents
from margo_gitops.errors import MargoGitopsError
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust import TrustPolicy, judge, parse_allowed_signers, read_floor, write_floor


def once(url: str, device: str, signers: Path, folder: Path) -> int:
    """Pull, verify, apply, remember; return the version that runs now."""
    policy = TrustPolicy(device, parse_allowed_signers(signers.read_bytes(), str(signers)))
    remembered = folder / "floor.json"
    floor = read_floor(remembered.read_bytes(), str(remembered)) if remembered.exists() else None
    (folder / "applier").mkdir(parents=True, exist_ok=True)
    context = ApplierContext(device, folder / "applier", {"folder": str(folder / "workloads")})
    applier = create_applier("files", context)

    transport = GitTransport(GitSource(url=url, device=device))
    snapshot = transport.pull(held=None).snapshot  # holding nothing, so that everything comes
    transport.close()
    assert snapshot is not None
    trusted = judge(snapshot, policy, floor)  # raises, or all of it is sound

    wanted = [
        Workload(document, each.component, each.artifact, each.values, each.digest)
        for document in trusted.deployments
        for each in workload_contents(document, own_extension(document))
    ]
    for workload in wanted:
        applier.prepare(workload)  # fetch everything before anything changes
    for workload in wanted:
        applier.install(workload)
    for there in applier.observe():
        if there.key not in {workload.key for workload in wanted}:
            applier.remove(there.key)
    remembered.write_bytes(write_floor(trusted.floor))  # only now may no older state come
    return trusted.manifest.manifest_version


if __name__ == "__main__":
    source, device_id, signers_file, state_folder = sys.argv[1:]
    try:
        print(f"runs version {once(source, device_id, Path(signers_file), Path(state_folder))}")
    except MargoGitopsError as error:
        raise SystemExit(str(error)) from error
