"""The program `helm`: what it gets, how long it may take, and what its failures mean.

HELM-1  It runs with folders of its own below the applier's folder, and reads no configuration of a person.
HELM-2  Values of parameters and secrets reach it on standard input, out of memory: they are in no argument and in no
        file. Large whole numbers are arguments (HELM-VALUE-5); a secret is a text.
HELM-3  Helm 3 from 3.17 on and Helm 4; the version is asked once.
HELM-4  When the agent is asked to stop, helm is ended and may tidy up; the release is pending or failed then, and the
        next step takes it up.
HELM-5  A server that does not answer, or a helm that was killed, says nothing about the chart.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from margo_gitops.appliers.applier import never
from margo_gitops.appliers.programs import Finished, Secret, run_program
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.helm_values import PointerMistake, large_numbers, values_of
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ApplierUnusable, ClusterRefusesAgent, EngineUnavailable, WorkloadUnsupported
from margo_gitops.values import dataclass, field

_INHERITED: Final = ("PATH", "HOME", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
_PROXY: Final = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")
_OLDEST: Final = (3, 17)
_NEWEST: Final = 4
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)\.")
_VERSION_SECONDS: Final = 20.0
_SLACK_SECONDS: Final = 15.0
"""That helm has to end by itself after its own time is over."""
_MOST_OUTPUT: Final = 32 * 1024 * 1024
_AWAY: Final = re.compile(
    r"cluster unreachable|connection refused|connection reset|no such host|no route to host|i/o timeout|"
    r"TLS handshake timeout|unexpected EOF|: EOF|server is currently unable|etcdserver|Client\.Timeout|"
    r"client connection lost|http2: |network is unreachable|failed calling webhook|too many requests|"
    r"ServiceUnavailable|has prevented the request from succeeding|was unable to return a response|"
    r"the object has been modified|another operation \(install/upgrade/rollback\) is in progress|"
    r"invalid character .{1,9} looking for beginning of value|unexpected end of JSON",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(r"Unauthorized|provide credentials|is forbidden: User ")


@dataclass(eq=False)
class HelmProgram:
    """Runs helm.

    Attributes:
        command: the program, looked up in PATH where it holds no slash.
        folder: for helm's own files.
        kubeconfig, context: the cluster; None: this process runs inside it.
        use_proxy: whether the proxy that the environment names may be used.
        interrupted: whether the agent was asked to stop; then helm is stopped too.
    """

    command: str
    folder: Path
    kubeconfig: Path | None = None
    context: str | None = None
    use_proxy: bool = False
    interrupted: Callable[[], bool] = never
    _major: int = field(default=0, init=False)

    def run(
        self,
        *arguments: str,
        namespace: str,
        seconds: float,
        values: Mapping[str, Json] | None = None,
        keep_open: int | None = None,
    ) -> Finished:
        """Run a command of helm that asks the cluster.

        Args:
            arguments: what follows `helm`.
            namespace: of the release.
            seconds: what the command may take; helm gets it too where it waits.
            values: of the chart; given on standard input.
            keep_open: a descriptor that helm holds while it lives.

        Raises:
            ApplierUnusable: there is no helm of a version that this applier knows.
            EngineUnavailable: the API server does not answer, or helm was killed.
            ClusterRefusesAgent: the API server does not let it.
            StepInterrupted: the agent was asked to stop.
        """
        self.version()
        words = [*arguments, "--namespace", namespace]
        if values is None:
            done = self._start(words, seconds + _SLACK_SECONDS, keep_open=keep_open)
        else:
            words += ["--values", "-", *(word for each in large_numbers(values) for word in ("--set", each))]
            # Memory, not a file: what a killed agent leaves of it is nothing.
            with os.fdopen(os.memfd_create("values"), "w+b") as reads:
                reads.write(json.dumps(values, allow_nan=False).encode())
                reads.seek(0)
                done = self._start(words, seconds + _SLACK_SECONDS, keep_open=keep_open, reads=reads)
        self._check(done, arguments[0])
        if done.status is None and "--dry-run=server" in arguments:
            raise EngineUnavailable(
                "the API server of the cluster answers too slowly",
                why=["helm's dry run did not end in time"],
                remedy="wait: the agent tries again after a pause; a longer timeout of the component gives helm more",
            )
        return done

    def version(self) -> int:
        """Return which major version it is.

        Raises:
            ApplierUnusable: not there, or not Helm 3.17 or newer or 4.
            EngineUnavailable: it was killed.
        """
        if self._major:
            return self._major
        done = self._start(["version", "--template", "{{.Version}}"], _VERSION_SECONDS)
        self._check(done, "version")
        match = _VERSION.match(done.output.strip())
        if match is None or not _OLDEST <= (found := (int(match[1]), int(match[2]))) < (_NEWEST + 1, 0):
            said = done.output.strip()[:60] if match else None
            raise ApplierUnusable(
                f"{self.command} is not Helm 3.17 or newer, nor Helm 4",
                why=[f"it says that it is {said}"] if said else done.last_lines(),
                remedy="install Helm 4 (helm.sh), or set `command` of the applier helm to its path",
            )
        self._major = found[0]
        return self._major

    def wait_arguments(self, seconds: float) -> list[str]:
        """Return the arguments that make it wait until all runs, for so many seconds."""
        return ["--wait", "--wait-for-jobs", *self.time_arguments(seconds)]

    def time_arguments(self, seconds: float) -> list[str]:
        """Return the arguments that bound each of its operations, such as a hook."""
        return ["--timeout", f"{max(int(seconds), 1)}s"]

    def force_arguments(self) -> list[str]:
        """Return the arguments that take fields over from others; Helm 3 does so always."""
        return ["--force-conflicts"] if self.version() >= _NEWEST else []

    def _environment(self) -> dict[str, str]:
        names = [*_INHERITED, *(_PROXY if self.use_proxy else ())]
        environment = {name: os.environ[name] for name in names if name in os.environ}
        for name in ("CACHE", "CONFIG", "DATA"):
            environment[f"HELM_{name}_HOME"] = str(self.folder / name.lower())
        environment["KUBECACHEDIR"] = str(self.folder / "cache" / "kube")
        # A file that is not there: else helm would take that of the user's home.
        environment["KUBECONFIG"] = str(self.kubeconfig or self.folder / "none")
        if self.context:
            environment["HELM_KUBECONTEXT"] = self.context
        return environment

    def _start(
        self, words: Sequence[str], seconds: float, *, keep_open: int | None = None, reads: IO[bytes] | None = None
    ) -> Finished:
        try:
            return run_program(
                [self.command, *words],
                self._environment(),
                seconds=seconds,
                keep_open=keep_open,
                reads=reads,
                most=_MOST_OUTPUT,
                interrupted=self.interrupted,
            )
        except OSError as error:
            raise ApplierUnusable(
                "there is no program helm that this user may start",
                why=[f"{self.command}: {error.strerror or error}"],
                remedy="install Helm 4 (helm.sh), or set `command` of the applier helm to its path",
            ) from error

    def _check(self, done: Finished, command: str) -> None:
        if done.status == 0 or done.status is None:
            return
        if done.status < 0:
            raise EngineUnavailable(
                f"helm {command} was ended during this step",
                why=done.last_lines(),
                remedy="check the device's memory; the agent tries again after a pause",
            )
        if _AWAY.search(done.complaint):
            raise EngineUnavailable(
                "the API server of the cluster does not answer",
                why=done.last_lines(),
                remedy="start it, and check the address in the kubeconfig; the agent tries again after a pause",
            )
        if _REFUSED.search(done.complaint):
            raise ClusterRefusesAgent(
                f"the cluster does not let the agent do helm {command}",
                why=done.last_lines(),
                remedy="renew the token, or give its user the right with a Role (`kubectl auth can-i --list`)",
            )


def chart_values(component: str, values: Mapping[str, ParameterValue], secrets: Mapping[str, str]) -> dict[str, Json]:
    """Return the values of a chart (WorkloadUnsupported: a pointer to one cannot be used)."""
    try:
        return values_of([*values.items(), *secrets.items()])
    except PointerMistake as error:
        raise WorkloadUnsupported(
            f"a pointer of component {component} cannot be used: {error}",
            remedy="choose another pointer in the application description",
        ) from error


def secret_values(opened: Mapping[str, bytes]) -> dict[str, str]:
    """Return secrets as values of a chart, without the line end at their end (WorkloadUnsupported: one is not text)."""
    found: dict[str, str] = {}
    for pointer, value in opened.items():
        try:
            found[pointer] = Secret(value.decode().removesuffix("\n").removesuffix("\r"))
        except UnicodeDecodeError:
            raise WorkloadUnsupported(
                f"the secret for {pointer} is not text, and a value of a chart holds nothing else",
                remedy="keep it as text, such as base64",
            ) from None
    return found
