"""Reports that were carried home: taken once, from the device's own key, in its order (HOME-1 to HOME-4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.trust_documents import key

from margo_gitops.digests import sha256
from margo_gitops.documents.carried import CARRIED_NAMESPACE, CarriedEnvelope, CarriedReports, TakenReports
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.receipt import RECEIPT_NAMESPACE
from margo_gitops.documents.records import write
from margo_gitops.errors import CarriedForeign, CarriedForged, CarriedReplayed
from margo_gitops.trust.carried import is_news, read_carried
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign

OWN, STRANGER, NEIGHBOUR = key(21), key(22), key(23)
KEYS = {"press-07": [OWN.public], "press-08": [NEIGHBOUR.public], "mixer-01": []}
REPORTS = CarriedReports("press-07", 17, "2026-11-30T18:00:00Z", {}, {}, ())


def signed(reports: CarriedReports, by: SigningKey = OWN, namespace: str = CARRIED_NAMESPACE) -> bytes:
    text = write_json(write(reports)).decode()
    return write_json(write(CarriedEnvelope(text, sign(text.encode(), by, namespace))))


def test_what_the_device_signed_is_taken() -> None:
    carried = read_carried(signed(REPORTS), "press-07.json", KEYS)
    assert carried.reports == REPORTS
    assert carried.taken == TakenReports(17, sha256(write_json(write(REPORTS))))
    assert carried.key == OWN.public


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (signed(REPORTS, STRANGER), CarriedForged),
        (signed(REPORTS, NEIGHBOUR), CarriedForged),
        (signed(replace(REPORTS, device="mixer-01")), CarriedForged),
        (signed(REPORTS, namespace=RECEIPT_NAMESPACE), CarriedForged),
        (signed(REPORTS).replace(b'"number\\":17', b'"number\\":18').replace(b"17,", b"18,"), CarriedForged),
        (signed(REPORTS)[:-20], CarriedForged),
        (b"{}", CarriedForged),
        (b"[" * 100_000, CarriedForged),
        (signed(replace(REPORTS, device="press-99")), CarriedForeign),
        (signed(replace(REPORTS, capabilities={"press-08": "{}"})), CarriedForeign),
    ],
    ids=["stranger", "neighbour", "no key", "namespace", "changed", "cut", "empty", "deep", "fleet", "other device"],
)
def test_what_it_did_not_sign_is_refused(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_carried(content, "press-07.json", KEYS)


def test_a_child_belongs_to_its_gateway() -> None:
    reports = replace(REPORTS, capabilities={"press-07/axis-1": "{}"})
    assert read_carried(signed(reports), "press-07.json", KEYS).reports == reports


def test_each_file_is_taken_once_and_none_that_is_older() -> None:
    first = read_carried(signed(REPORTS), "press-07.json", KEYS)
    later = read_carried(signed(replace(REPORTS, number=18)), "press-07.json", KEYS)
    other = read_carried(signed(replace(REPORTS, statuses={"x": "{}"})), "press-07.json", KEYS)
    assert is_news(first, None)
    assert is_news(later, first.taken)
    assert not is_news(first, first.taken)
    for stale, before in ((first, later), (other, first)):
        with pytest.raises(CarriedReplayed):
            is_news(stale, before.taken)
