"""Charts that try to give the cluster what the device's policy does not see."""

import pytest
from test_helm_applier import Site, both_helms, chart

from margo_gitops.errors import ManifestInvalid, WorkloadForbidden, WorkloadUnsupported

POD = b"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {hostPID: true, containers: [{name: a, image: a}]}}"
IN_A_CONFIGMAP = b"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, items: [" + POD + b"]}"


@both_helms
def test_the_policy_sees_what_is_in_crds(kubernetes_cluster, helm_program, tmp_path):
    """Helm installs it before the rest, whether it is a CRD or not."""
    site = Site(tmp_path, kubernetes_cluster, "default", helm_program)
    workload = site.workload(content=chart(("crds/pod.yaml", POD), ("crds/more.yaml", b"# nothing")))
    with pytest.raises((WorkloadForbidden, WorkloadUnsupported)) as caught:
        site.applier().prepare(workload)
    assert "hostPid: true" in str(caught.value) or "Helm 3" in str(caught.value)


def test_no_list_hides_in_another_kind(kubernetes_cluster, helm_program, tmp_path):
    """Helm makes an object of each item, whatever the kind is."""
    site = Site(tmp_path, kubernetes_cluster, "default", helm_program)
    with pytest.raises(ManifestInvalid, match="is a list"):
        site.applier().prepare(site.workload(content=chart(("templates/x.yaml", IN_A_CONFIGMAP))))
