"""Tests for the promises of an applier: APPLIER-1 to APPLIER-6, and APPLIER-8 (`applier`), against any factory.

Derive a test class from `ApplierContract`, define four methods, and let pytest run it (docs/appliers.md):

    class TestRecipes(ApplierContract):
        def create(self, device): ...          # a new applier, as after a restart
        def workload(self, key, kind): ...     # "first", "second", or "broken": an installation that must fail
        def running(self): ...                 # all that runs, as a person at the engine sees it
        def stop(self, key): ...               # stop a component without the applier

A step is cut off by a process that ends in the middle of it, at several places. The kit needs pytest and `os.fork`.
"""

from __future__ import annotations

import os
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import pytest

from margo_gitops.appliers.applier import Applier, CanStop, Workload, WorkloadKey
from margo_gitops.digests import sha256
from margo_gitops.documents.components import Component, ComponentProperties, ParameterValue
from margo_gitops.documents.deployment import (
    ApplicationDeployment,
    Artifact,
    DeployedProfile,
    DeploymentMetadata,
    DeploymentSpec,
)
from margo_gitops.errors import ApplyError

Kind: TypeAlias = Literal["first", "second", "broken"]
"""Which content: one that runs, another one of the same component that runs, one that cannot be installed."""

DEVICE: Final = "press-07"
OTHER_DEVICE: Final = "press-08"

_NO_VALUES: Final[Mapping[str, ParameterValue]] = MappingProxyType({})
_CUT_OFF: Final = 9


def make_workload(
    key: WorkloadKey,
    values: Mapping[str, ParameterValue] = _NO_VALUES,
    artifact: Artifact | None = None,
    *,
    profile_type: Literal["helm", "compose", "custom"],
    wait: bool = True,
    timeout: str = "0m40s",
) -> Workload:
    """Return a workload; its digest differs where its values or its artifact differ.

    Args:
        key: deployment and component.
        values: of parameters, by pointer.
        artifact: where the content is.
        profile_type: of the deployment.
        wait: whether an installation waits until the component is healthy.
        timeout: how long a step may take, as Margo writes it.
    """
    properties = ComponentProperties("oci://registry.example.com/part", "1.0.0", wait=wait, timeout=timeout)
    component = Component(key.component, properties)
    deployment = ApplicationDeployment(
        key.deployment_id,
        DeploymentMetadata("line", "margo", DEVICE),
        DeploymentSpec("com-acme-line", DeployedProfile(profile_type, (component,))),
    )
    digest = sha256(repr((component, artifact and artifact.digest, sorted(values.items()))).encode())
    return Workload(deployment, component, artifact, values, digest)


class ApplierContract:
    """The promises as tests.

    Attributes:
        cuts: at how many places each step is cut off; fewer where a step takes long.
        component: the name of the component.
        folder: of this test alone.
    """

    cuts = 12
    component = "part"
    folder: Path

    def create(self, device: str) -> Applier:
        """Return a new applier for a device, as after a restart: same engine, same folders of its own."""
        raise NotImplementedError

    def workload(self, key: WorkloadKey, kind: Kind) -> Workload:
        """Return a workload of a kind; `make_workload` helps."""
        raise NotImplementedError

    def running(self) -> object:
        """Return what a person at the engine sees, of all devices: equal only where nothing was touched."""
        raise NotImplementedError

    def stop(self, key: WorkloadKey) -> None:
        """Stop or delete a component at the engine, without the applier."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _folder_and_end(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        yield
        for applier in map(self.create, (DEVICE, OTHER_DEVICE)):
            for found in applier.observe():
                applier.remove(found.key)

    @pytest.fixture
    def key(self) -> WorkloadKey:
        """A component of a deployment that is used nowhere else."""
        return WorkloadKey(str(uuid.uuid4()), self.component)

    def test_applier_1_prepare_touches_nothing_that_runs(self, key: WorkloadKey) -> None:
        """APPLIER-1."""
        applier = self.create(DEVICE)
        before = self.running()
        applier.prepare(self.workload(key, "first"))
        _check(self.running() == before, "prepare made something run")
        applier.install(self.workload(key, "first"))
        before = self.running()
        applier.prepare(self.workload(key, "second"))
        _check(self.running() == before, "prepare touched what runs")

    def test_applier_2_install_is_idempotent_and_updates_in_place(self, key: WorkloadKey) -> None:
        """APPLIER-2."""
        first, second = self.workload(key, "first"), self.workload(key, "second")
        self._install(self.create(DEVICE), first)
        self._runs(first)
        before = self.running()
        for applier in (self.create(DEVICE), self.create(DEVICE)):
            self._install(applier, first)
            _check(self.running() == before, "install touched what already ran as asked for")
        self._install(self.create(DEVICE), second)
        self._runs(second)
        _check(self.running() != before, "install did not change what runs, although the content changed")

    def test_applier_3_what_ran_before_runs_again(self, key: WorkloadKey) -> None:
        """APPLIER-3."""
        first, broken = self.workload(key, "first"), self.workload(key, "broken")
        applier = self.create(DEVICE)
        _check(self._fails(applier, broken).reinstated, "the error does not say that all is as before: nothing ran")
        _check(not applier.observe(), "a first installation failed, and left something that runs")
        self._install(applier, first)
        error = self._fails(applier, broken)
        _check(error.reinstated, "the error does not say that what ran before runs again")
        self._runs(first)
        self._install(applier, self.workload(key, "second"))
        self._runs(self.workload(key, "second"))

    def test_applier_4_remove_is_idempotent_and_removes_only_its_own(self, key: WorkloadKey) -> None:
        """APPLIER-4."""
        first = self.workload(key, "first")
        neighbour = self.workload(WorkloadKey(str(uuid.uuid4()), self.component), "first")
        foreign = self.workload(WorkloadKey(str(uuid.uuid4()), self.component), "first")
        applier, other = self.create(DEVICE), self.create(OTHER_DEVICE)
        applier.remove(key)
        self._install(other, foreign)
        self._install(applier, neighbour)
        before = self.running()
        try:
            self._install(applier, first)
            for _ in range(2):
                applier.remove(key)
            with suppress(ApplyError):  # an applier may say that it is not its own
                applier.remove(foreign.key)
            _check(self.running() == before, "remove left something, or touched what was not its own")
            self._runs(neighbour)
        finally:
            applier.remove(neighbour.key)
            other.remove(foreign.key)
        _check(not applier.observe(), "remove left something that the applier still sees")

    def test_applier_5_a_step_that_was_cut_off_ends_in_the_same_state(self, key: WorkloadKey) -> None:
        """APPLIER-5."""
        first, second = self.workload(key, "first"), self.workload(key, "second")
        self._install(self.create(DEVICE), first)
        for cut in self._cuts(lambda: self._install(self.create(DEVICE), second)):
            self._install(self.create(DEVICE), first)
            self._runs(first)
            _cut_off(lambda: self._install(self.create(DEVICE), second), cut)
            self._install(self.create(DEVICE), second)
            self._runs(second)
        for cut in self._cuts(lambda: self.create(DEVICE).remove(key)):
            self._install(self.create(DEVICE), first)
            _cut_off(lambda: self.create(DEVICE).remove(key), cut)
            self.create(DEVICE).remove(key)
            _check(not self.create(DEVICE).observe(), "a removal that was cut off was not finished by the next")

    def test_applier_6_observe_reads_the_engine(self, key: WorkloadKey) -> None:
        """APPLIER-6."""
        first = self.workload(key, "first")
        applier = self.create(DEVICE)
        self._install(applier, first)
        self._runs(first)
        before = list(applier.observe())
        self.stop(key)
        _check(list(applier.observe()) != before, "observe does not see that the component was stopped")
        fresh = self.create(DEVICE)
        _check(list(applier.observe()) == list(fresh.observe()), "observe remembers: a new applier sees something else")
        self._install(applier, first)
        self._runs(first)
        self.create(DEVICE).remove(key)
        _check(not applier.observe(), "observe remembers what another process removed")

    def test_applier_8_what_is_stopped_runs_again_as_it_was(self, key: WorkloadKey) -> None:
        """APPLIER-8; for appliers that can stop."""
        if not isinstance(self.create(DEVICE), CanStop):
            pytest.skip("this applier cannot stop what runs")
        first = self.workload(key, "first")
        self._turn("stop", key)
        self._turn("start", key)
        _check(not self.create(DEVICE).observe(), "stop or start made something run")
        self._install(self.create(DEVICE), first)
        self._turn("stop", key)
        _check(len(self.create(DEVICE).observe()) == 1, "stop removed something")
        self._turn("start", key)
        self._runs(first)
        _check(all(found.condition != "degraded" for found in self.create(DEVICE).observe()), "it does not run again")

    def _turn(self, to: Literal["stop", "start"], key: WorkloadKey) -> None:
        for _ in range(2):
            applier = self.create(DEVICE)
            if isinstance(applier, CanStop):
                (applier.stop if to == "stop" else applier.start)(key)

    def _install(self, applier: Applier, workload: Workload) -> None:
        applier.prepare(workload)
        applier.install(workload)

    def _fails(self, applier: Applier, workload: Workload) -> ApplyError:
        try:
            self._install(applier, workload)
        except ApplyError as error:
            return error
        pytest.fail("the broken workload was installed without an error")

    def _runs(self, workload: Workload) -> None:
        seen = [(found.key, found.digest) for found in self.create(DEVICE).observe() if found.key == workload.key]
        expected = [(workload.key, workload.digest)]
        _check(seen == expected, f"observe shows {seen}, where {expected} should run")

    def _cuts(self, step: Callable[[], object]) -> Sequence[int]:
        """Return numbers of Python calls, spread over the step."""
        length = max(_cut_off(step, sys.maxsize), 1)
        return sorted({1 + length * (2 * part + 1) // (2 * self.cuts) for part in range(self.cuts)})


def _check(kept: bool, otherwise: str) -> None:
    __tracebackhide__ = True
    if not kept:
        pytest.fail(otherwise)


def _cut_off(step: Callable[[], object], calls: int) -> int:
    """Do a step in a process that ends without warning at its n-th call; return the calls that it did."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def trace(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"
            if count >= calls:
                os._exit(_CUT_OFF)

        status = 1
        try:
            sys.setprofile(trace)
            step()
            status = 0
        except BaseException:  # noqa: BLE001  # this process ends here in any case
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            sys.setprofile(None)
            os.write(write, str(count).encode())
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        count_text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, _CUT_OFF):
        pytest.fail("the step failed in a process of its own; its traceback is in standard error")
    return int(count_text or 0)
