"""An agent that follows trust documents over HTTP, as somebody writes it with ssh-keygen; its argument is its fault.

none        it has none in what the kit's cases of trust documents ask
unverified  it takes the version that a state names without a look at who signed it
ignored     it goes by the document that it was given, for ever
floors      it makes no change of its floor that root keys name; the others do not either
any         it trusts every key that a document lists, whatever for, revoked ones too
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FAULT = sys.argv[1]
FOLDER = Path(os.environ["CONFORMANCE_FOLDER"])
TOKEN = Path(os.environ["CONFORMANCE_TOKEN_FILE"]).read_text().strip()
MANIFEST = "application/vnd.margo.manifest.v1+json"


def get(path: str, limit: int) -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": f"{MANIFEST}, */*"}
    request = urllib.request.Request(os.environ["CONFORMANCE_URL"] + path, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=3) as answer:
        content: bytes = answer.read(limit + 1)
    need(len(content) <= limit, f"{path} is too long")
    return content


def need(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"refused: {what}")


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def signed(lines: list[str], namespace: str, signature: str, content: bytes, *options: str) -> bool:
    """Return whether one of the keys signed this, by lines of a list of allowed signers without their principal."""
    with tempfile.TemporaryDirectory() as folder:
        allowed, armored = Path(folder, "allowed"), Path(folder, "signature")
        allowed.write_text("".join(f"key {line}\n" for line in lines))
        armored.write_text(signature)
        check = ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "key", "-n", namespace, "-s", armored, *options]
        return subprocess.run(check, input=content, capture_output=True, check=False).returncode == 0


def said(envelope: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.loads(envelope)["document"])
    return {"revoked": [], **document}


def check_next(held: bytes, offered: bytes) -> None:
    before, after, envelope = said(held), said(offered), json.loads(offered)
    need((after["fleet"], after["version"]) == (before["fleet"], before["version"] + 1), "it is not the next version")
    for judge in (before, after):
        keys = {each["key"] for each in judge["roles"]["root"]["keys"]} - {each["key"] for each in judge["revoked"]}
        text = envelope["document"].encode()
        able = [key for key in keys if any(signed([key], ROOT, each, text) for each in envelope["signatures"])]
        need(len(able) >= judge["roles"]["root"]["threshold"], "too few root keys signed it")


ROOT = "margo-gitops-root"


def followed(named: int) -> dict[str, Any]:
    """Return the newest document after those that lead to the named version were followed, and kept."""
    given = Path(os.environ["CONFORMANCE_TRUST_DOCUMENT"]).read_bytes()
    kept = FOLDER / "trust"
    kept.mkdir(exist_ok=True)
    while (file := kept / f"{said(given)['version'] + 1}.json").exists():
        given = file.read_bytes()
    while said(given)["version"] < named and FAULT != "ignored":
        number = named if FAULT == "unverified" else said(given)["version"] + 1
        content = get(f"/api/v1/trust/{number}.json", 65536)
        if FAULT == "unverified":
            return said(content)
        check_next(given, content)
        (kept / f"{number}.json").write_bytes(content)
        given = content
    return said(given)


def allowed(document: dict[str, Any]) -> list[str]:
    roles, revoked = document["roles"], document["revoked"]
    if FAULT == "any":
        return [each["key"] for each in (*revoked, *(key for role in roles.values() for key in role["keys"]))]
    ends = {each["key"]: re.sub("[-:TZ]", "", each["since"]) for each in revoked}
    return [
        f'valid-before="{ends[each["key"]]}Z" {each["key"]}' if each["key"] in ends else each["key"]
        for each in roles["render"]["keys"]
    ]


def check_commit(commit: bytes, manifest: bytes) -> None:
    head, _, message = commit.partition(b"\n\n")
    found = re.search(rb"\ngpgsig (.*(?:\n .*)*)", head)
    payload = head.replace(found[0] if found else b"", b"") + b"\n\n" + message
    trailers = dict(re.findall(r"^([A-Za-z-]+): (.*)$", message.decode(), re.MULTILINE))
    document = followed(int(trailers["Trust-Version"]))
    need(document["expires"] > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "the trust document has expired")
    need(trailers["Fleet"] == document["fleet"], "it is another fleet's")
    need(trailers["Manifest-Digest"] == digest(manifest), "it is another manifest's")
    written = int(re.search(r"\ncommitter .* ([0-9]+) ", head.decode())[1])  # type: ignore[index]  # every commit has it
    moment = f"verify-time={time.strftime('%Y%m%d%H%M%SZ', time.gmtime(written))}"
    armor = found[1].replace(b"\n ", b"\n").decode() + "\n" if found else ""
    need(signed(allowed(document), "git", armor, payload, "-O", moment), "no key that counts signed it")


def main() -> None:
    manifest = get("/api/v1/deployments", 1 << 20)
    current, new = FOLDER / "current", FOLDER / "new"
    if current.exists():
        held = (current / "manifest.json").read_bytes()
        need(json.loads(held)["manifestVersion"] <= json.loads(manifest)["manifestVersion"], "it is older")
    check_commit(get(f"/api/v1/commits/{digest(manifest)}", 65536), manifest)
    (new / "deployments").mkdir(parents=True)
    (new / "manifest.json").write_bytes(manifest)
    for each in json.loads(manifest)["deployments"]:
        content = get(each["url"], 1 << 20)
        need(digest(content) == each["digest"], "a deployment is another")
        (new / "deployments" / f"{each['deploymentId']}.yaml").write_bytes(content)
    if current.exists():
        current.rename(FOLDER / "old")
    new.rename(current)
    subprocess.run(["rm", "-rf", FOLDER / "old"], check=True)


if __name__ == "__main__":
    try:
        main()
    except urllib.error.URLError as error:
        sys.exit(f"no answer: {error}")
