import os
import runpy
import sys
from pathlib import Path

import pytest
from support.real import require_program, unavailable
from testbed.packages import unpack
from testbed.places import CHECKOUT


@pytest.mark.parametrize("value", ["", "0"])
def test_a_missing_part_skips_a_test_of_a_person(monkeypatch, value):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", value)

    with pytest.raises(pytest.skip.Exception, match="no engine"):
        unavailable("no engine")


def test_a_missing_part_fails_a_test_of_ci(monkeypatch):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", "1")

    with pytest.raises(pytest.fail.Exception, match="no engine"):
        unavailable("no engine")


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", "1")
    python = Path(sys.executable)
    monkeypatch.setenv("PATH", str(python.parent))

    assert require_program(python.name, "python3") == python
    with pytest.raises(pytest.fail.Exception, match="no lathe; on Debian: apt-get install lathe-tools"):
        require_program("lathe", "lathe-tools")


def test_what_is_installed_is_not_downloaded(tmp_path):
    require_program("dpkg-query", "dpkg")
    assert unpack("dash", "dash", tmp_path / "cache") in (Path("/bin/dash"), Path("/usr/bin/dash"))
    assert not (tmp_path / "cache").exists()


def test_another_debian_is_skipped_with_its_reason_where_it_cannot_be_made(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(sys, "argv", ["on-debian"])
    script = runpy.run_path(str(CHECKOUT / "scripts/on-debian"))
    assert script["main"]() == 0
    assert "skipped on Debian trixie: only root can make another system" in capsys.readouterr().out
