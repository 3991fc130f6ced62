"""The image that test workloads run: a static busybox with its applets, built without any image registry."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.packages import unpack
from testbed.processes import ARCHITECTURE, run

TEST_IMAGE = "margo-gitops-test/busybox:1"
TEST_IMAGE_NEXT = "margo-gitops-test/busybox:2"

_FOLDERS = {"bin": 0o755, "etc": 0o755, "tmp": 0o1777, "var": 0o755, "var/www": 0o755}
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}


def load_images(environment: Mapping[str, str], cache: Path) -> None:
    """Give the engine both test images, where it lacks them.

    They hold the same files; the environment variable IMAGE_VERSION, "1" or "2", makes two images of them.

    Raises:
        UnavailableError: busybox-static cannot be had, or the engine takes no image.
    """
    archive: bytes | None = None
    for image in (TEST_IMAGE, TEST_IMAGE_NEXT):
        try:
            run(["docker", "image", "inspect", image], environment=environment)
        except UnavailableError:
            archive = archive or _archive(unpack("busybox-static", "busybox", cache))
            changes = ["--change", f"ENV IMAGE_VERSION={image[-1]}", "--change", 'CMD ["sh"]']
            run(["docker", "import", *changes, "-", image], environment=environment, content=archive, seconds=60)


def image_archive(busybox: Path, images: Mapping[str, list[str]]) -> bytes:
    """Return images (name to command) in the form of `docker save`; IMAGE_VERSION is what the name ends with."""
    layer = _archive(busybox)
    digest = hashlib.sha256(layer).hexdigest()
    content, manifest = {"layer.tar": layer}, []
    for name, command in images.items():
        version = name.rpartition(":")[2]
        settings = {"Env": ["PATH=/bin", f"IMAGE_VERSION={version}"], "Cmd": command}
        image = {"architecture": ARCHITECTURE, "os": "linux", "config": settings}
        image |= {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"comment": name}]}
        file = json.dumps(image).encode()
        content[f"{hashlib.sha256(file).hexdigest()}.json"] = file
        manifest.append({"Config": [*content][-1], "RepoTags": [name], "Layers": ["layer.tar"]})
    content["manifest.json"] = json.dumps(manifest).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, file in content.items():
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = len(file)
            tar.addfile(entry, io.BytesIO(file))
    return archive.getvalue()


def _archive(busybox: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, mode in _FOLDERS.items():
            archive.addfile(_entry(name, tarfile.DIRTYPE, mode))
        for name, text in {**_FILES, "bin/busybox": busybox.read_bytes()}.items():
            entry = _entry(name, tarfile.REGTYPE, 0o755 if name.startswith("bin/") else 0o644)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        for applet in run([busybox, "--list"]).split():
            if applet != "busybox":
                entry = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
                entry.linkname = "busybox"
                archive.addfile(entry)
    return content.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry
