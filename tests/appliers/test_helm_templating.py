"""The helm applier's template mode with real Helm, on a real API server."""

from dataclasses import replace

import kubernetes.client  # noqa: F401  # before the contract kit counts the calls of a step
import pytest
from helm_site import TEMPLATE, Site, chart
from workload_making import entry, tar_gz

from margo_gitops.appliers.contract_kit import ApplierContract
from margo_gitops.appliers.helm.releases import release_name
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import ApplierUnusable, InstallFailed, ManifestInvalid, ObjectOfOthers, WorkloadForbidden


@pytest.fixture
def site(kubernetes_cluster, kubernetes_namespace, helm_program, tmp_path) -> Site:
    settings = {"mode": "template", "namespace": kubernetes_namespace}
    return Site(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program, settings)


class TestContract(ApplierContract):
    """The promises, each test in a namespace of its own."""

    cuts = 1

    @pytest.fixture(autouse=True)
    def _site(self, site):
        self.site, self.names = site, {}
        yield
        for device in self.names:
            applier = self.create(device)
            for found in applier.observe():
                applier.remove(found.key)

    def create(self, device):
        return self.site.applier(self.names.setdefault(device, f"{device}-{self.site.namespace}"))

    def workload(self, key, kind):
        values = {"first": {"greeting": "one"}, "second": {"greeting": "two"}, "broken": {"image": "bad:1"}}[kind]
        return self.site.workload(values, key=key, timeout="0m1s" if kind == "broken" else "0m40s")

    def running(self):
        return self.site.objects()

    def stop(self, key):
        self.site.kubectl("delete", "deployment", release_name(key))


SECRET = b"""---
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Release.Name }}"}
data: {token: {{ printf "id:%s" .Values.password | b64enc }}}
"""


@pytest.mark.parametrize("helm_program", [3, 4], indirect=True, ids=["helm3", "helm4"])
def test_what_ran_before_comes_back_with_its_secrets_which_no_file_has(site):
    """Also where the chart encodes a secret; nothing of helm is in the cluster."""
    value = "s3cr3t-of-the-plant"
    wanted = {"password": WantedSecret(site.device, "password")}
    applier = site.applier(secrets=lambda names: dict.fromkeys(names, value.encode() + b"\n"))
    content = chart(template=TEMPLATE + SECRET)
    first = replace(site.workload({"number": 10_000_000}, content=content), secrets=wanted)
    applier.install(first)
    with pytest.raises(InstallFailed) as caught:
        applier.install(replace(site.workload({"image": "bad:1"}, content=content, timeout="0m2s"), secrets=wanted))
    assert caught.value.reinstated
    assert [(each.digest, each.condition) for each in applier.observe()] == [(first.digest, "running")]
    assert site.kubectl("get", "secret", site.name, "-o", "go-template={{.data.token | base64decode}}") == f"id:{value}"
    assert site.kubectl("get", "configmap", site.name, "-o", "jsonpath={.data.number}") == "10000000 int64"
    assert site.kubectl("get", "secrets", "-l", "owner=helm", "-o", "name") == ""
    assert value.encode() not in b"".join(path.read_bytes() for path in site.folder.rglob("*") if path.is_file())
    applier.remove(site.key)
    assert site.kubectl("get", "deployments,secrets,configmaps", "-o", "name").split() == ["configmap/kube-root-ca.crt"]


HOOK = TEMPLATE.replace(
    b'ConfigMap\nmetadata: {name: "{{ .Release.Name }}"}',
    b"""ConfigMap
metadata: {name: "{{ .Release.Name }}", annotations: {helm.sh/hook: pre-install}}""",
)
LOOKUP = ("charts/db/templates/_names.tpl", b'\n{{ define "x" }}{{ lookup "v1" "Secret" "a" "b" }}{{ end }}')
DB = ("charts/db/Chart.yaml", b"apiVersion: v2\nname: db\nversion: 1.0.0\n")
PACKED = tar_gz(entry("db/Chart.yaml", DB[1]), entry("db/crds/a.yaml", b"a: b"))
PRIVILEGED = TEMPLATE.replace(b"name: web,", b"name: web, securityContext: {privileged: true},")
REFUSED = {
    "hook": (chart(template=HOOK), ManifestInvalid, "templates/all.yaml (templated):1: ConfigMap"),
    "lookup": (chart(DB, LOOKUP), ManifestInvalid, "part/charts/db/templates/_names.tpl:2: lookup"),
    "crds": (chart(("charts/db.tgz", PACKED)), ManifestInvalid, "part/charts/db/crds/a.yaml: Helm alone"),
    "template": (chart(template=b"{{ .Values.image.tag.x }}"), ManifestInvalid, "templates/all.yaml"),
    "privileged": (chart(template=PRIVILEGED), WorkloadForbidden, "workloads.privileged: true"),
}


@pytest.mark.parametrize(("content", "kind", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_helm_itself_is_refused_with_its_place(site, content, kind, why):
    with pytest.raises(kind) as caught:
        site.applier().prepare(site.workload(content=content))
    assert why in str(caught.value)
    assert site.applier().observe() == []


def test_hooks_for_helm_test_are_left_out(site):
    test = HOOK.partition(b"---\n")[2].replace(b"pre-install", b"test").replace(b'Name }}"', b'Name }}-test"')
    applier = site.installed(content=chart(("templates/tests/a.yaml", test)))
    assert [each.condition for each in applier.observe()] == ["running"]
    applier.remove(site.key)


def test_what_the_other_mode_installed_is_not_taken_over(site):
    """A device whose mode is changed keeps what runs, and says why."""
    site.settings = {}
    site.installed()
    before = site.objects()
    site.settings = {"mode": "template", "namespace": site.namespace}
    with pytest.raises(ObjectOfOthers):
        site.applier().install(site.workload())
    assert site.objects() == before


def test_a_mode_that_is_not_known_is_refused(site):
    site.settings["mode"] = "apply"
    with pytest.raises(ApplierUnusable, match="mode of the applier helm must be release or template"):
        site.applier()
