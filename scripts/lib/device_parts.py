"""What a device needs, put into a folder: this checkout, and its dependencies as they are installed here."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PURE = ("dulwich", "typing_extensions", "urllib3")
"""Run on every architecture without their compiled parts."""

COMPILED = ("cffi", "cryptography", "pyyaml")
ALL = (*PURE, *COMPILED, "click", "pycparser")


def install_parts(folder: Path, dependencies: Iterable[str] = ALL, *, compiled: bool = True) -> None:
    """Put this checkout and some dependencies into a folder.

    Args:
        compiled: whether compiled parts come along.
    """
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    if importlib.util.find_spec("hatchling"):
        install.append("--no-build-isolation")
    subprocess.run([*install, "--no-deps", "--target", folder, ROOT], check=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for name in dependencies:
        try:
            files = importlib.metadata.files(name) or ()
        except importlib.metadata.PackageNotFoundError:
            sys.exit(
                f"error: {name} is not installed here\n  remedy: python3 -m pip install . in a virtual environment"
            )
        for file in files:
            if ".." not in file.parts and "__pycache__" not in file.parts and (compiled or file.suffix != ".so"):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), folder / file)
