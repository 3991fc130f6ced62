"""What other controllers get passes the schemas that they publish."""

import pytest
from jsonschema import Draft202012Validator
from support.real import unavailable
from test_handover_documents import CONTROLLERS, chart, manifests, target
from testbed.controller_schemas import controller_schema
from testbed.errors import UnavailableError
from testbed.places import state_folder

from margo_gitops.appliers.handover import argocd, flux
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import Artifact

pytestmark = pytest.mark.real
CONTENT = Artifact("hmi", "https://files.example.com/hmi.tar.gz", sha256(b""))


def mistakes(document):
    try:
        schema = controller_schema(state_folder(), document["apiVersion"], document["kind"])
    except UnavailableError as error:
        unavailable(f"schemas: {error}")
    return [f"{each.json_path}: {each.message}" for each in Draft202012Validator(schema).iter_errors(document)]


@CONTROLLERS
def test_charts(controller):
    for document in controller.build(chart(), target(controller)):
        assert not mistakes(document)


@pytest.mark.parametrize("controller", [flux, argocd], ids=["flux", "argocd"])
def test_manifests(controller):
    for document in controller.build(manifests(), target(controller)):
        assert not mistakes(document)


def test_content_by_digest():
    for item in (manifests(CONTENT), chart(artifact=CONTENT)):
        for document in flux.build(item, target(flux, has_server=True)):
            assert not mistakes(document)


@CONTROLLERS
def test_a_mistake_is_found(controller):
    """The schemas say something: none of these tests passes by itself."""
    document = controller.build(chart(), target(controller))[-1]
    assert mistakes(document | {"spec": {**document["spec"], "interwal": "1m"}})
    assert mistakes(document | {"spec": {}}) or controller.__name__.endswith("k3s")
