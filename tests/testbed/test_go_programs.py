import pytest
from testbed import go_programs
from testbed.errors import UnavailableError
from testbed.go_programs import go_program


@pytest.fixture(autouse=True)
def any_go(monkeypatch, tmp_path):
    monkeypatch.setattr(go_programs, "_go", lambda _work: tmp_path / "go")


def build(go, folder):
    (folder / "tool").write_text("built")


def test_a_program_is_built_once_and_nothing_else_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", "1")
    (tmp_path / "builds/tool-1/left-by-a-killed-build").mkdir(parents=True)

    assert go_program("tool", tmp_path / "tool-1", build, 1).read_text() == "built"

    assert not list((tmp_path / "builds/tool-1").iterdir())
    assert go_program("tool", tmp_path / "tool-1", pytest.fail, 1) == tmp_path / "tool-1/tool"


def test_a_build_that_fails_leaves_no_program(monkeypatch, tmp_path):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", "1")

    def fail(go, folder):
        build(go, folder)
        raise UnavailableError("no proxy", "find one")

    with pytest.raises(UnavailableError, match="no proxy"):
        go_program("tool", tmp_path / "tool-1", fail, 1)
    assert not (tmp_path / "tool-1").exists()


def test_tests_build_nothing_that_was_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("MARGO_GITOPS_REQUIRE_REAL", "0")

    with pytest.raises(UnavailableError, match=r"scripts/testbed fetch tool \(1 minutes, once\)"):
        go_program("tool", tmp_path / "tool-1", build, 1)
