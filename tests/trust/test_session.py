"""The session of a device that `TrustedState` shows, run as it is."""

import inspect
import textwrap

from device_states import RENDERER, DeviceState

from margo_gitops import trust


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
