"""What other packages may import from `margo_gitops.trust`, and the session that its docstring shows."""

import inspect
import subprocess
import sys
import textwrap

from device_states import RENDERER, DeviceState

from margo_gitops import trust


def test_every_name_that_is_exported_exists() -> None:
    assert all(getattr(trust, name) is not None for name in trust.__all__)
    assert sorted(trust.__all__) == sorted(set(trust.__all__))


def test_importing_the_package_loads_none_of_its_modules() -> None:
    asked = "import sys, margo_gitops.trust; print([m for m in sys.modules if m.startswith('margo_gitops.trust.')])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_session_in_the_docstring_runs() -> None:
    documented = inspect.getdoc(trust.TrustedState) or ""
    code = textwrap.dedent(documented.partition("from its first contact on:\n")[2].partition("\nAttributes:")[0])
    first = DeviceState()
    second = first.next()
    reports: list[Exception] = []
    applied: list[int] = []
    names: dict[str, object] = {
        "signers_file": f"renderer {RENDERER.public}\n".encode(),
        "fetched": [first.over_git(), second.over_git(), first.over_git()],
        "report": reports.append,
        "apply": lambda deployments: applied.append(len(deployments)),
    }
    exec(code, names)  # our own docstring
    assert applied == [2, 2]
    assert [type(each).__name__ for each in reports] == ["VersionRollback"]
    assert names["floor"] == second.floor
