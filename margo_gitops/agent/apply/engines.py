"""Ask the appliers what is there, within their promises (margo_gitops/appliers/applier.py, APPLIER-1 to APPLIER-6)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Final

from margo_gitops.appliers.applier import Applier, Observed, TellsStops, Workload, WorkloadKey
from margo_gitops.errors import ApplierDefect, ApplyError
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Engines:
    """The appliers of a device, by name, most preferred first."""

    appliers: Mapping[str, Applier]

    def serving(self) -> dict[str, str]:
        """Return the applier for each profile type."""
        found: dict[str, str] = {}
        for name, applier in self.appliers.items():
            for kind in applier.profile_types:
                found.setdefault(kind, name)
        return found

    def observe(self) -> tuple[dict[str, Sequence[Observed]], dict[str, ApplyError]]:
        """Return what each applier's engine holds, and why those that do not answer do not."""
        observed: dict[str, Sequence[Observed]] = {}
        silent: dict[str, ApplyError] = {}
        for name, applier in self.appliers.items():
            try:
                with contract_of(name):
                    observed[name] = applier.observe()
            except ApplyError as error:
                silent[name] = error
        return observed, silent

    def stopped(self, name: str, key: WorkloadKey) -> str:
        """Return what a person stopped of a workload; empty where no person did, or the applier cannot tell."""
        applier = self.appliers[name]
        if not isinstance(applier, TellsStops):
            return ""
        try:
            with contract_of(name):
                return applier.stopped_by_hand(key)
        except ApplyError:
            return ""


_HANDED: Final[ContextVar[dict[str, str]]] = ContextVar("values of secrets that an applier got in this step")


def hand_out(values: Mapping[str, bytes]) -> None:
    """Note secrets that an applier gets now: what it raises in this step is shown without them."""
    handed = _HANDED.get(None)
    if handed is not None:
        handed |= {name: value.decode(errors="replace") for name, value in values.items()}


@contextlib.contextmanager
def contract_of(applier: str) -> Iterator[None]:
    """Turn what an applier may not raise into an error of its deployments: a plug-in must not stop all others."""
    handed: dict[str, str] = {}
    before = _HANDED.set(handed)
    try:
        yield
    except ApplyError as error:
        _hide(error, handed)
        raise
    except Exception as error:
        text = f"the applier {applier} ended with {type(error).__name__}: {error}"
        raise _hide(ApplierDefect(text, remedy="report it to its makers"), handed) from error
    finally:
        _HANDED.reset(before)


def _hide(error: ApplyError, handed: Mapping[str, str]) -> ApplyError:
    if handed:
        from margo_gitops.appliers.programs import Secret, hide  # loaded where there are secrets

        hide(error, {name: Secret(value) for name, value in handed.items()})
    return error


def name_of(workload: Workload) -> str:
    """Return a workload's name, for people: its deployment's and its component's."""
    return f"{workload.deployment.metadata.name}/{workload.component.name}"
