import json
import subprocess

import pytest

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  progressDeadlineSeconds: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: IMAGE}]}
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  backoffLimit: 0
  template:
    spec: {restartPolicy: Never, containers: [{name: job, image: IMAGE}]}
"""
OTHERS = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
"""


@pytest.fixture
def kubectl(kubernetes_cluster, kubernetes_namespace):
    return lambda *arguments, given="": kubernetes_cluster.kubectl("-n", kubernetes_namespace, *arguments, given=given)


def may(cluster, kubeconfig, *what):
    """What `kubectl auth can-i` says to the owner of a kubeconfig."""
    done = subprocess.run(
        [cluster.folder / "bin/kubectl", "auth", "can-i", *what],
        env={"KUBECONFIG": str(kubeconfig), "HOME": str(cluster.folder)},
        capture_output=True,
        text=True,
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def test_pods_of_good_images_become_ready_and_those_of_bad_ones_do_not(kubectl):
    kubectl("apply", "-f", "-", given=WEB.replace("IMAGE", "web:1"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")

    kubectl("apply", "-f", "-", given=WEB.replace("IMAGE", "web:bad"))
    kubectl("wait", "deployment/web", "--for=condition=Progressing=false", "--timeout=30s")
    pods = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
    waiting = [pod["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") for pod in pods]
    assert sorted(waiting, key=str) == ["ImagePullBackOff", None, None]

    kubectl("rollout", "undo", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")
    assert kubectl("get", "pods", "-o", "name") == ""


@pytest.mark.parametrize(("image", "condition"), [("job:1", "complete"), ("job:crash", "failed")])
def test_jobs_end(kubectl, image, condition):
    kubectl("apply", "-f", "-", given=JOB.replace("IMAGE", image))

    kubectl("wait", "job/job", f"--for=condition={condition}", "--timeout=30s")


def test_volumes_are_bound_and_load_balancers_get_an_address(kubectl):
    kubectl("apply", "-f", "-", given=OTHERS)

    kubectl("wait", "pvc/data", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
    kubectl("wait", "service/web", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=30s")


def test_a_token_gives_what_its_account_may_and_an_old_one_gives_nothing(
    kubernetes_cluster, kubectl, kubernetes_namespace, tmp_path
):
    account = "agent", kubernetes_namespace
    kubectl("create", "serviceaccount", "agent")
    kubectl("create", "role", "agent", "--verb=get", "--resource=configmaps")
    kubectl("create", "rolebinding", "agent", "--role=agent", f"--serviceaccount={kubernetes_namespace}:agent")
    valid = kubernetes_cluster.kubeconfig_with(
        kubernetes_cluster.token(*account), tmp_path / "valid", namespace=kubernetes_namespace
    )
    old = kubernetes_cluster.kubeconfig_with(kubernetes_cluster.token(*account, seconds=-120), tmp_path / "old")

    assert may(kubernetes_cluster, valid, "get", "configmaps") == "yes"
    assert may(kubernetes_cluster, valid, "get", "secrets") == "no"
    assert "logged in" in may(kubernetes_cluster, old, "get", "configmaps")


@pytest.mark.parametrize(("helm_program", "line"), [(3, "v3.17"), (4, "v4.")], indirect=["helm_program"])
def test_helm_installs_a_chart(helm_program, line, kubernetes_cluster, kubernetes_namespace, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: web\nversion: 1.0.0\n")
    (tmp_path / "templates/web.yaml").write_text(WEB.replace("IMAGE", "web:1"))
    environment = {**kubernetes_cluster.environment, "HOME": str(tmp_path)}

    def helm(*arguments):
        command = [helm_program, "-n", kubernetes_namespace, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert helm("version", "--short").startswith(line)
    helm("install", "web", tmp_path, "--wait", "--timeout=30s")
    assert "deployed" in helm("list")
