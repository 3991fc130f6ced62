"""Which values of a fleet repo look like secrets: rules LIKELY-1 and LIKELY-2."""

import pytest
from support.fleet import FleetFolder, parameter

from margo_gitops.operations.validate.likely_secrets import likely_secrets, sign_of_secret

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\n"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brokerPassword", "hunter22"),
        ("api_token", "hunter22"),
        ("MQTT-PASSWD", "hunter22"),
        ("clientSecret", "hunter22"),
        ("apiKey", "hunter22"),
        ("url", "mqtts://user:hunter22@broker:8883"),
        ("extra", PEM),
        ("extra", JWT),
        ("extra", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
        ("extra", "AKIAIOSFODNN7EXAMPLE"),
        ("extra", ("plain", "glpat-0123456789abcdefghij")),
        ("extra", "q8Zk2Lw9Xv4Tn7Rb1Ym6Ps3Dh5Gj0Fc"),
    ],
)
def test_what_looks_like_a_secret_is_named(name: str, value: str):
    assert sign_of_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brokerPassword", ""),
        ("brokerPassword", 4711),
        ("brokerPassword", "{{ device.id }}"),
        ("passwordFile", "/run/secrets/broker"),
        ("brokerPassword", "/run/secrets/broker"),
        ("tokenUrl", "https://login.example.com/oauth/token"),
        ("tokenLifetime", "90 minutes"),
        ("keyboard", "german"),
        ("image", "registry.example.com/app:1.2.3@sha256:" + "0123456789abcdef" * 4),
        ("commit", "0123456789abcdef0123456789abcdef01234567"),
        ("topic", "plant/north/Line3/PressController/Status"),
        ("className", "LineMonitorGatewayConfigurationFactory2"),
        ("id", "8a2d2b0e-3f0a-5c39-9f2c-6f0d4be0a6a1"),
        ("greeting", "Hello from line 3, shift 2"),
        ("endpoint", "opc.tcp://10.0.0.7:4840/Server"),
    ],
)
def test_what_does_not_is_left_alone(name: str, value: str):
    assert not sign_of_secret(name, value)


def test_each_layer_is_looked_at_and_no_message_has_the_value(tmp_path):
    fleet = FleetFolder.empty(tmp_path)
    fleet.application(parameters={"password": parameter(value="changeme")})
    fleet.site("north", password="hunter22")
    fleet.device("a", site="north", password="hunter22")
    overlay = {"name": "one", "match": {"all": True}, "parameters": {"password": "hunter22"}}
    fleet.deployment("web", parameters={"password": "hunter22"}, overlays=[overlay])
    found = list(likely_secrets(fleet.read()))
    assert sorted(each.file or "" for each in found) == [
        "deployments/web.yaml",
        "deployments/web.yaml",
        "devices/a.yaml",
        "sites/north.yaml",
    ]
    assert {(each.rule, each.severity) for each in found} == {("R114", "warning")}
    assert "hunter22" not in repr(found)
