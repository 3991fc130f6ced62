"""What other packages may import: all of it is there, and costs nothing until it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["margo_gitops.documents", "margo_gitops.transport", "margo_gitops.appliers", "margo_gitops.trust"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_what_the_type_checker_sees(package: str) -> None:
    module = importlib.import_module(package)
    imports = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("margo_gitops")
        for alias in node.names
    ]
    assert sorted(name for _, name in imports) == sorted(module.__all__)
    for home, name in imports:
        assert getattr(module, name) is getattr(importlib.import_module(home or ""), name)
    with pytest.raises(AttributeError, match="NoSuchName"):
        module.NoSuchName  # noqa: B018


def test_the_packages_alone_load_nothing() -> None:
    code = (
        f"import sys, {', '.join(PACKAGES)}; print(*(name for name in sys.modules if name.startswith('margo_gitops.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert sorted(loaded) == sorted(PACKAGES)
