"""The applier `helm` where helm is killed: before it begins, at each change that it makes, and after its work.

`MARGO_GITOPS_FAULT_STEP=1` kills it at every place; a run in CI takes some of them.
"""

import os
import signal
from itertools import count

import pytest
from helm_site import Site
from support.faulty_http import Answer
from support.kubernetes_proxy import kubernetes_proxy

from margo_gitops.errors import ApplyError, EngineUnavailable, InstallFailed

WRAPPER = """#!/bin/sh
cd {folder}
echo $$ > number
echo "$1" >> calls
case "$(wc -l < calls) $(cat place)" in
"$(cat call) before") kill -9 $$ ;;
"$(cat call) after") {helm} "$@"; kill -9 $$ ;;
esac
exec {helm} "$@"
"""
PLACES = ("before", "at", "after")
"""A call of helm has not begun, a change by helm was made but not answered, a call did all its work."""
SOME = {3: [("install", "at", 1), ("failing", "at", 6)], 4: [("install", "at", 2), ("update", "at", 3)]}
ALL = os.environ.get("MARGO_GITOPS_FAULT_STEP") == "1"


class KilledHelm(Site):
    """A site where helm is killed at one place of a step."""

    def begin(self, proxy):
        self.proxy, self.turn = proxy, 0
        self.settings["kubeconfig"] = str(proxy.kubeconfig)
        wrapper = self.folder / "killed-helm"
        wrapper.write_text(WRAPPER.format(folder=self.folder, helm=self.helm))
        wrapper.chmod(0o755)
        self.settings["command"] = [str(wrapper)]

    def step(self, scene):
        """Take the step of a scene, as an agent that just started."""
        applier = self.applier()
        if scene == "remove":
            applier.remove(self.key)
        else:
            applier.install(self.wanted(scene))

    def wanted(self, scene):
        if scene == "failing":
            return self.workload({"image": "bad:1"}, timeout="0m1s")
        return self.workload({"greeting": str(self.turn)})

    def killed(self, scene, place, number):
        """Take a step, and kill helm at a place of it; return whether it was killed, and what the applier said."""
        changes = count(1)
        (self.folder / "calls").write_text("")
        (self.folder / "place").write_text(place)
        (self.folder / "call").write_text(str(number))

        def kill(request, _answer):
            if not request.headers["user-agent"].startswith("Helm/") or request.method == "GET":
                return None
            if place != "at" or next(changes) != number:
                return None
            os.kill(int((self.folder / "number").read_text()), signal.SIGKILL)
            return Answer(0, [], b"", raw=b"")

        self.proxy.faults.append(kill)
        said = None
        try:
            self.step(scene)
        except ApplyError as error:
            said = error
        finally:
            self.proxy.faults.clear()
            (self.folder / "place").write_text("nowhere")
        reached = (
            next(changes) > number if place == "at" else len((self.folder / "calls").read_text().split()) >= number
        )
        return reached, said

    def running(self):
        """Return the images of this release's pods that are ready."""
        return {
            pod["spec"]["containers"][0]["image"]
            for pod in self.listed("Pod")
            if pod["metadata"]["labels"]["app"] == self.name
            and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
        }

    def of_others(self):
        """Return what does not belong to this release, and what changes when it is changed."""
        return {
            (kind, each["metadata"]["name"], each["metadata"].get("generation") or each["metadata"]["resourceVersion"])
            for kind in ("Secret", "ConfigMap", "Deployment")
            for each in self.listed(kind)
            if self.name not in each["metadata"]["name"]
        }

    def is_right_after(self, scene):
        """Let the agent take its step again, and look at what it made."""
        if scene == "failing":
            with pytest.raises(InstallFailed) as caught:
                self.step(scene)
            assert caught.value.reinstated
        else:
            self.step(scene)
        observed = [(each.digest, each.condition, each.by_hand) for each in self.applier().observe()]
        right = self.wanted("update").digest
        assert observed == ([] if scene == "remove" else [(right, "running", "")])
        assert scene != "remove" or self.name not in self.kubectl("get", "deployments,configmaps,secrets", "-o", "name")


@pytest.mark.parametrize(("helm_program", "some"), [*SOME.items()], indirect=["helm_program"], ids=["helm3", "helm4"])
def test_a_helm_that_is_killed_at_a_place_comes_through(
    kubernetes_cluster, kubernetes_namespace, helm_program, some, tmp_path
):
    with kubernetes_proxy(kubernetes_cluster, tmp_path) as proxy:
        site = KilledHelm(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program)
        if ALL:
            Site(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program).installed()
        site.kubectl("create", "configmap", "of-others")
        site.begin(proxy)
        known, installed = site.of_others(), False

        def comes_through(scene, place, number):
            nonlocal installed
            if installed != (scene != "install"):
                site.is_right_after("remove" if installed else "install")
            site.turn += scene == "update"
            reached, said = site.killed(scene, place, number)
            if reached:
                assert isinstance(said, EngineUnavailable), said
                assert said.why
                assert said.remedy
            if reached and (scene, place, number) == ("install", "at", 1):
                assert [(each.digest, each.condition) for each in site.applier().observe()] == [(None, "degraded")]
            if scene in ("update", "failing"):
                assert "app:1" in site.running()
            site.is_right_after(scene)
            assert site.of_others() == known
            installed = scene != "remove"
            return reached

        if not ALL:
            assert all(comes_through(*each) for each in some)
            return
        for scene in ("install", "update", "failing", "remove"):
            for place in PLACES:
                for number in count(1):
                    if not comes_through(scene, place, number):
                        break
                    print(scene, place, number, flush=True)
