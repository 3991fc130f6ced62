"""Objects in a cluster that others made to look like the agent's."""

import time

from margo_gitops.appliers.kubernetes.client import Resource
from margo_gitops.appliers.kubernetes.looking import records_of
from margo_gitops.appliers.kubernetes.manifests import PART_OF, SetOwner, parent_body
from margo_gitops.appliers.kubernetes.object_set import ObjectSet
from margo_gitops.documents.kubernetes_objects import KubernetesObject

OWNER = SetOwner("press-07", "0b5a3f0e-2f0c-4a51-9d2d-7c4f7d1d3a11", "web")
SERVICES = Resource("v1", "Service", "services", namespaced=True, verbs=())


class Cluster:
    """A client of a cluster that has some objects."""

    home = "home"

    def __init__(self, *objects):
        self.objects, self.deleted = objects, []

    def list_objects(self, resource, _namespace="", **_more):
        return [each for each in self.objects if each["kind"] == resource.kind]

    def resource_for(self, _identity):
        return SERVICES

    def resource(self, _api_version, _kind):
        return SERVICES

    def request(self, method, path, **_more):
        self.deleted.append(f"{method} {path}")
        self.objects = ()

    def ask(self, _path):
        return next((each for each in self.objects if each["kind"] == "ConfigMap"), None)


def parent(owner, *members):
    return parent_body(owner, "home", {each.identity: "" for each in members}, tool="t/v1", digest="sha256:00")


def service(name):
    labels = {**OWNER.labels, PART_OF: OWNER.set_id("home")}
    metadata = {"name": name, "namespace": "line", "uid": name, "labels": labels}
    return KubernetesObject({"apiVersion": "v1", "kind": "Service", "metadata": metadata})


def test_a_parent_that_others_wrote_is_not_one():
    """It could name a folder of the device, which is deleted when its workload is not wanted."""
    real, copy = parent(OWNER), parent(OWNER)
    copy["metadata"]["name"] = "copy"
    elsewhere = parent(SetOwner("press-07", "../../..", "web"))
    elsewhere["metadata"]["name"] = "web"
    assert [each.owner for each in records_of(Cluster(real, copy, elsewhere), "press-07", "")] == [OWNER]


def test_what_a_person_copied_with_its_labels_is_not_pruned():
    old, copied = service("old"), service("copied")
    cluster = Cluster(parent(OWNER, old), old.body, copied.body)
    ObjectSet(cluster, OWNER, "line").prune((), time.monotonic() + 5)
    assert cluster.deleted == ["DELETE /api/v1/namespaces/line/services/old"]
