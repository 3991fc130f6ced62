"""A system's root that may be changed at will: what is written goes to memory, and is gone with the namespace."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.real import unavailable

_SETUP = """\
set -e
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmpfs "$2/root/run"
mount --rbind /dev "$2/root/dev"
mkdir -p "$2/root/srv/shared"
mount --bind "$3" "$2/root/srv/shared"
echo ready
exec cat
"""


@dataclass(frozen=True)
class ThrowawayRoot:
    """A root, seen only by the processes that this starts."""

    _process: int
    _folder: Path

    def run(self, *command: str, given: str = "", fails: bool = False) -> str:
        """Return what a command in this root printed."""
        inside = ["nsenter", f"--target={self._process}", "--mount", "chroot", str(self._folder), *command]
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            inside, input=given, env={**settings, **proxies}, capture_output=True, text=True, timeout=240
        )
        assert (done.returncode != 0) is fails, (command, done.stdout, done.stderr)
        return done.stdout

    def there(self, path: str) -> bool:
        """Return whether something is at this path."""
        return self.run("sh", "-c", 'if test -e "$1"; then echo yes; fi', "sh", path) == "yes\n"


@contextmanager
def throwaway_root(lower: Path, folder: Path, shared: Path) -> Iterator[ThrowawayRoot]:
    """Make such a root, or end the test where this machine allows no mounts.

    Args:
        lower: the root to begin with; it stays as it is.
        folder: an empty folder.
        shared: is at /srv/shared, and the same inside and outside.
    """
    command = ["unshare", "--mount", "sh", "-c", _SETUP, "sh", str(lower), str(folder), str(shared)]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        unavailable(str(error))
    with holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            unavailable(f"no root of its own: {holder.stderr.read().decode().strip()}; it needs the user root")
        yield ThrowawayRoot(holder.pid, folder / "root")
