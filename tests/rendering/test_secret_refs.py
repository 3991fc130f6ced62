"""Secrets in a fleet repo: what a render makes of `secretRefs`, and of values that are encrypted for a device."""

import json

import pytest
from support.fleet import FleetFolder, documents, merged, parameter

from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.workload_identity import own_extension, workload_contents
from margo_gitops.errors import FleetInvalid, RenderingRefused
from margo_gitops.rendering.difference import difference, rendered_fleet
from margo_gitops.rendering.explanation import explain
from margo_gitops.rendering.line_origins import DocumentOrigins

SEALED = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+" + "A" * 40


@pytest.fixture
def secret_fleet(fleet: FleetFolder) -> FleetFolder:
    fleet.application(
        parameters={
            "password": parameter(pointer="PASSWORD", value="changeme"),
            "greeting": parameter(pointer="GREETING", value="hello"),
        }
    )
    for name in ("a", "b"):
        fleet.device(name)
    fleet.deployment("web", secretRefs={"password": {"name": "broker"}})
    return fleet


def sealed_for(fleet: FleetFolder, device: str, text: str = SEALED) -> None:
    added(fleet, f"devices/{device}.yaml", secrets={"broker": {"recipients": ["SHA256:x"], "sealed": text}})


def added(fleet: FleetFolder, path: str, **spec: object) -> None:
    document = json.loads((fleet.root / path).read_text())
    fleet.put(path, merged(document, {"spec": spec}))


def test_the_document_has_a_reference_in_the_extension_and_nothing_in_the_parameters(secret_fleet: FleetFolder):
    (document,) = documents(secret_fleet.render()["a"]).values()
    extension = own_extension(document)
    assert extension is not None
    (secret,) = extension.secrets
    assert (secret.parameter, secret.name, secret.sealed) == ("password", "broker", None)
    assert list(document.spec.parameters) == ["greeting"]


def test_ciphertext_is_copied_to_its_device_alone(secret_fleet: FleetFolder):
    sealed_for(secret_fleet, "a")
    states = secret_fleet.render()
    written = {name: b"".join(state.deployments.values()) for name, state in states.items()}
    assert SEALED.encode() in written["a"]
    assert SEALED.encode() not in written["b"]
    assert {name: state.deployments for name, state in secret_fleet.render().items()} == {
        name: state.deployments for name, state in states.items()
    }


def test_new_ciphertext_restarts_the_component_of_its_device(secret_fleet: FleetFolder):
    digests = []
    for text in (SEALED, SEALED[:-1] + "B"):
        sealed_for(secret_fleet, "a", text)
        (document,) = documents(secret_fleet.render()["a"]).values()
        digests += [each.digest for each in workload_contents(document, own_extension(document))]
    assert len(set(digests)) == 2


@pytest.mark.parametrize("layer", ["deployment", "site", "device"])
def test_a_value_in_any_layer_is_refused_and_named(secret_fleet: FleetFolder, layer: str):
    if layer == "site":
        secret_fleet.site("north", password="hunter22")
        secret_fleet.device("a", site="north")
    else:
        path = f"{layer}s/{'web' if layer == 'deployment' else 'a'}.yaml"
        added(secret_fleet, path, parameters={"password": "hunter22"})
    with pytest.raises(RenderingRefused) as caught:
        secret_fleet.render()
    text = str(caught.value.errors[0])
    assert "parameter password is a secret of the deployment, and its value is written here" in text
    assert "hunter22" not in text


def test_a_secret_needs_a_parameter_and_a_name_that_is_a_file(secret_fleet: FleetFolder):
    secret_fleet.deployment("web", secretRefs={"passwort": {}})
    with pytest.raises(RenderingRefused, match="cannot be rendered") as caught:
        secret_fleet.render()
    assert "did you mean password?" in str(caught.value.errors[0])
    secret_fleet.deployment("web", secretRefs={"../password": {}})
    with pytest.raises(FleetInvalid) as invalid:
        secret_fleet.render()
    assert "secret's name" in str(invalid.value.findings[0])


def test_each_part_of_a_secret_comes_from_the_document_that_says_it(secret_fleet: FleetFolder):
    sealed_for(secret_fleet, "a")
    intent = secret_fleet.read()
    origins = DocumentOrigins(intent, explain(intent, "a", "web").resolved, ["web"])
    files = [
        origins.of(("spec", OWN_EXTENSION, "secrets", 0, part)).place.file for part in ("parameter", "name", "sealed")
    ]
    assert files == ["deployments/web.yaml", "deployments/web.yaml", "devices/a.yaml"]


def test_a_plan_names_encrypted_values_by_a_digest(secret_fleet: FleetFolder):
    sealed_for(secret_fleet, "a")
    before = secret_fleet.render()
    sealed_for(secret_fleet, "a", SEALED[:-1] + "B")
    after = secret_fleet.render(before)
    (device,) = difference(rendered_fleet(before.values()), list(after.values()), secret_fleet.read())
    (deployment,) = device.deployments
    (change,) = deployment.fields
    assert change.field == "secrets.broker.sealed"
    assert str(change.before).startswith("encrypted, sha256 ")
    assert change.before != change.after
    assert [each.effect for each in deployment.workloads] == ["restarts"]
