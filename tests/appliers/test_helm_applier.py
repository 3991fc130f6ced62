"""The helm applier with real Helm, on a real API server."""

import json
import shutil
import subprocess
from dataclasses import replace

import kubernetes.client  # noqa: F401  # before the contract kit counts the calls of a step
import pytest
from cluster_device import kubeconfig_of_role
from helm_site import CHART, TEMPLATE, VALUES, Site, chart
from workload_making import entry, tar_gz

from margo_gitops.appliers.contract_kit import ApplierContract
from margo_gitops.appliers.helm.releases import release_name
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import (
    ApplierUnusable,
    ArtifactRefused,
    ClusterRefusesAgent,
    ClusterRefusesObject,
    EngineUnavailable,
    FieldImmutable,
    InstallFailed,
    ManifestInvalid,
    StepInterrupted,
    WorkloadForbidden,
    WorkloadUnsupported,
)

both_helms = pytest.mark.parametrize("helm_program", [3, 4], indirect=True, ids=["helm3", "helm4"])


@pytest.fixture
def site(kubernetes_cluster, kubernetes_namespace, helm_program, tmp_path) -> Site:
    return Site(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program)


class TestContract(ApplierContract):
    """The promises, each test in a namespace of its own."""

    cuts = 1  # test_helm_faults has the other places

    @pytest.fixture(autouse=True)
    def _site(self, kubernetes_cluster, kubernetes_namespace, helm_program, tmp_path):
        self.site = Site(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program)
        # The kit's names of devices are used by tests that run beside this one.
        self.names = {}

    def create(self, device):
        return self.site.applier(self.names.setdefault(device, f"{device}-{self.site.namespace}"))

    def workload(self, key, kind):
        values = {"first": {"greeting": "one"}, "second": {"greeting": "two"}, "broken": {"image": "bad:1"}}[kind]
        timeout = "0m1s" if kind == "broken" else "0m40s"
        return self.site.workload(values, key=key, timeout=timeout)

    def running(self):
        return self.site.objects()

    def stop(self, key):
        self.site.kubectl("delete", "deployment", release_name(key))


@both_helms
def test_a_release_from_its_first_version_to_its_end(site):
    """Types are kept, a failed update returns and says why, and nothing is left at the end."""
    applier = site.installed({"greeting": "80", "number": 10_000_000})
    data = json.loads(site.kubectl("get", "configmap", site.name, "-o", "json"))["data"]
    assert data == {"greeting": "80", "number": "10000000 int64"}
    (found,) = applier.observe()
    assert (found.condition, found.by_hand) == ("running", "")
    with pytest.raises(InstallFailed) as caught:
        applier.install(site.workload({"image": "bad:1"}, timeout="0m2s"))
    assert caught.value.reinstated
    assert "ImagePullBackOff" in "".join(caught.value.why)
    assert "level=" not in "".join(caught.value.why)
    assert [each.digest for each in applier.observe()] == [found.digest]
    assert site.kubectl("get", "deployment", site.name, "-o", "jsonpath={..image}") == "app:1"
    applier.remove(site.key)
    assert site.objects() == {}


@both_helms
def test_a_first_installation_that_fails_leaves_nothing(site):
    applier = site.applier()
    with pytest.raises(InstallFailed, match="nothing does now"):
        applier.install(site.workload({"image": "bad:1"}, timeout="0m2s"))
    assert site.objects() == {}


@both_helms
def test_what_a_person_changed_is_seen_and_repaired(site):
    """Drift: a field, an object, helm's own record."""
    applier = site.installed()
    site.kubectl("set", "image", f"deployment/{site.name}", "web=evil:2")
    site.kubectl("delete", "configmap", site.name)
    (found,) = applier.observe()
    assert found.condition == "degraded"
    assert f"ConfigMap {site.name} is missing" in found.by_hand
    assert 'spec.template.spec.containers[name=web].image: "evil:2" instead of "app:1"' in found.by_hand
    applier.install(site.workload())
    assert [each.by_hand for each in applier.observe()] == [""]
    site.kubectl("delete", "secret", "-l", "owner=helm")
    assert applier.observe() == []
    applier.install(site.workload())
    assert [each.condition for each in applier.observe()] == ["running"]


def test_a_release_of_somebody_else_is_left_alone(site):
    Site(site.folder, site.cluster, site.namespace, site.helm, key=site.key).installed()
    before = site.objects()
    applier = site.applier()
    for step in (applier.prepare, applier.install):
        with pytest.raises(WorkloadUnsupported, match="did not install"):
            step(site.workload())
    applier.remove(site.key)
    assert applier.observe() == []
    assert site.objects() == before


OLD_API = b"""apiVersion: batch/v1beta1
kind: CronJob
metadata: {name: old}
"""
PRIVILEGED = TEMPLATE.replace(b"name: web,", b"name: web, securityContext: {privileged: true},")
BROKEN = {
    "old-api": (chart(template=OLD_API), ManifestInvalid, "batch/v1beta1"),
    "template": (chart(template=b"{{ .Values.image.tag.x }}"), ManifestInvalid, "templates/all.yaml"),
    "immutable": (chart(template=TEMPLATE.replace(b"{app:", b"{other:")), FieldImmutable, "immutable"),
    "privileged": (chart(template=PRIVILEGED), WorkloadForbidden, "workloads.privileged: true"),
    "no-chart": (tar_gz(entry("part/compose.yaml")), ManifestInvalid, "holds no Helm chart"),
}


@pytest.mark.parametrize(("content", "kind", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_installed_is_found_before_anything_changes(site, content, kind, why):
    """APPLIER-1."""
    applier = site.installed()
    before = site.objects()
    with pytest.raises(kind) as caught:
        applier.prepare(site.workload(content=content))
    assert why in str(caught.value)
    assert site.objects() == before


def test_a_namespace_that_ends_is_said_and_one_that_is_missing_is_made(site):
    site.kubectl("create", "configmap", "held")
    site.kubectl("patch", "configmap", "held", "-p", '{"metadata":{"finalizers":["example.com/held"]}}')
    site.kubectl("delete", "namespace", site.namespace, "--wait=false")
    try:
        with pytest.raises(ClusterRefusesObject, match="is being deleted"):
            site.applier().prepare(site.workload())
    finally:
        site.kubectl("patch", "configmap", "held", "-p", '{"metadata":{"finalizers":null}}')
    site.namespace += "-new"
    applier = site.applier()
    applier.prepare(site.workload())
    site.installed()
    applier.remove(site.key)
    assert is_gone(site)


def is_gone(site):
    return site.cluster.kubectl(
        "get", "namespace", site.namespace, "--ignore-not-found", "-o", "jsonpath={.status.phase}"
    ) in ("", "Terminating")


def test_a_namespace_that_was_made_stays_while_others_use_it(site):
    site.namespace += "-shared"
    applier = site.installed()
    site.kubectl("create", "configmap", "of-others")
    applier.remove(site.key)
    assert not is_gone(site)
    site.cluster.kubectl("delete", "namespace", site.namespace, "--wait=false")


def test_a_stop_of_the_agent_ends_helm_and_the_next_start_takes_it_up(site):
    """HELM-4: while helm waits for pods that are not ready, over what ran."""
    first = site.installed().observe()
    update = site.workload({"image": "unready:1"}, timeout="1m0s")

    def asked():
        return any(pod["spec"]["containers"][0]["image"] == "unready:1" for pod in site.listed("Pod"))

    with pytest.raises(StepInterrupted):
        site.applier(interrupted=asked).install(update)
    applier = site.applier()
    assert [each.digest for each in applier.observe()] == [None]
    applier.install(site.workload())
    assert applier.observe() == first


def test_a_server_that_is_away_is_no_failure_of_the_chart(site):
    away = site.folder / "away"
    away.write_text(site.cluster.kubeconfig.read_text().replace(f":{site.cluster.port}", ":1"))
    site.settings["kubeconfig"] = str(away)
    applier = site.applier()
    for step in (lambda: applier.prepare(site.workload()), lambda: applier.remove(site.key), applier.observe):
        with pytest.raises(EngineUnavailable):
            step()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        applier.helm.run("list", namespace=site.namespace, seconds=5)


@pytest.mark.parametrize("says", ["v3.10.2", "v5.0.0", "nothing"])
def test_a_helm_that_is_not_known_is_refused(site, says):
    helm = site.folder / "helm"
    helm.write_text(f"#!/bin/sh\necho {says}\n")
    helm.chmod(0o755)
    site.settings["command"] = [str(helm)]
    with pytest.raises(ApplierUnusable, match=r"is not Helm 3\.17"):
        site.applier().prepare(site.workload())
    site.settings["command"] = ["no-such-helm"]
    with pytest.raises(ApplierUnusable, match="there is no program helm"):
        site.applier().prepare(site.workload())


def test_a_secret_reaches_the_chart_and_nobody_else(site):
    """APPLIER-7: not in arguments, files, labels or errors."""
    told = site.folder / "told"
    helm = site.folder / "helm"
    helm.write_text(f'#!/bin/sh\necho "$@" >> {told}; env >> {told}\nexec {site.helm} "$@"\n')
    helm.chmod(0o755)
    site.settings["command"] = [str(helm)]
    template = (
        TEMPLATE
        + b"""---
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Release.Name }}"}
stringData: {password: {{ .Values.password | quote }}}
"""
    )
    value = "s3cr3t-of-the-plant"
    wanted = {"password": WantedSecret(site.device, "password")}
    applier = site.applier(secrets=lambda names: dict.fromkeys(names, value.encode() + b"\n"))
    applier.install(replace(site.workload(content=chart(template=template)), secrets=wanted))
    found = site.kubectl("get", "secret", site.name, "-o", "go-template={{.data.password | base64decode}}")
    assert found == value
    failing = chart(template=template + b"---\n{{ fail .Values.password }}\n")
    with pytest.raises(ManifestInvalid) as caught:
        applier.prepare(replace(site.workload(content=failing), secrets=wanted))
    assert "<password>" in str(caught.value)
    files = b"".join(path.read_bytes() for path in site.folder.rglob("*") if path.is_file())
    assert value.encode() not in files
    assert value not in str(caught.value)
    site.kubectl("patch", "secret", site.name, "-p", '{"stringData":{"password":"another-one"}}')
    (drifted,) = applier.observe()
    assert "data.password: (hidden) instead of (hidden)" in drifted.by_hand


def test_a_deployment_that_moves_to_another_namespace_leaves_the_first(site, kubernetes_cluster):
    applier = site.installed()
    first = site.namespace
    site.namespace = f"{first}-b"
    site.installed()
    assert [each.condition for each in applier.observe()] == ["running"]
    assert site.name not in kubernetes_cluster.kubectl("-n", first, "get", "deployments,secrets")
    applier.remove(site.key)
    assert is_gone(site)


@pytest.mark.skipif(shutil.which("gpg") is None, reason="GnuPG makes the keys")
def test_a_chart_must_be_signed_by_a_key_of_the_keyring(site):
    home = site.folder / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]

    def made(*arguments):
        return subprocess.run([*gpg, *arguments], check=True, capture_output=True).stdout

    made("--quick-gen-key", "plant@example.com", "rsa2048", "sign", "never")
    (site.folder / "secret.gpg").write_bytes(made("--export-secret-keys"))
    (site.folder / "public.gpg").write_bytes(made("--export"))
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    source = site.folder / "source"
    for name, content in [("Chart.yaml", CHART), ("values.yaml", VALUES), ("templates/all.yaml", TEMPLATE)]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    signing = ["--sign", "--key", "plant@example.com", "--keyring", site.folder / "secret.gpg", "-d", site.folder]
    subprocess.run([site.helm, "package", *signing, source], check=True, capture_output=True)
    package = site.folder / "part-1.0.0.tgz"
    content = {path.name: path.read_bytes() for path in (package, package.with_name("part-1.0.0.tgz.prov"))}
    site.settings["keyring"] = str(site.folder / "public.gpg")
    applier = site.applier()
    with pytest.raises(ArtifactRefused, match="no signature"):
        applier.prepare(site.workload())
    content["part-1.0.0.tgz"] += b"x"
    with pytest.raises(ArtifactRefused, match="does not hold"):
        applier.prepare(site.workload(content=tar_gz(*(entry(f"part/{name}", each) for name, each in content.items()))))
    content["part-1.0.0.tgz"] = package.read_bytes()
    applier.install(site.workload(content=tar_gz(*(entry(f"part/{name}", each) for name, each in content.items()))))
    assert [each.condition for each in applier.observe()] == ["running"]


def test_the_role_of_the_manifests_is_enough_and_ends_at_its_namespace(site):
    site.settings["kubeconfig"] = str(kubeconfig_of_role(site.cluster, site.namespace, site.folder))
    site.settings["namespace"] = site.namespace
    assert site.applier().observe() == [], "what it has never seen, it looks for where it may"
    applier = site.installed({"greeting": "one"}, {"greeting": "two"})
    assert [(each.key, each.condition) for each in applier.observe()] == [(site.key, "running")]
    applier.remove(site.key)
    assert applier.observe() == []
    site.namespace = "kube-public"
    with pytest.raises(ClusterRefusesAgent):
        applier.install(site.workload())
