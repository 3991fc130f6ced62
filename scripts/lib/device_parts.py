"""What a device needs, installed into a folder: the package and its four dependencies, without extras."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install_parts(folder: Path) -> None:
    """Install this checkout into a folder, with the versions of constraints.txt."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    if importlib.util.find_spec("hatchling"):
        install.append("--no-build-isolation")
    subprocess.run([*install, "--target", folder, "-c", ROOT / "constraints.txt", ROOT], check=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)
