"""Values that only one device can read: rules SEAL-1 to SEAL-3 of margo_gitops.trust.sealing."""

import base64

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from margo_gitops.documents.secrets import MAX_SECRET_BYTES
from margo_gitops.trust.sealing import open_sealed, read_identities, recipient_name, seal

AGE = pyrage.x25519.Identity.generate()
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SSH = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
SSH_PUBLIC = PRIVATE.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@settings(max_examples=25)
@given(NAMES, NAMES, st.binary(max_size=2000))
def test_a_value_comes_back_whole_with_either_key(device: str, name: str, value: bytes):
    sealed = seal(device, name, value, [str(AGE.to_public()), f"{SSH_PUBLIC} comment"])
    for content in (str(AGE).encode() + b"\n", SSH):
        assert open_sealed(sealed.sealed, device, name, read_identities(content)) == value
    assert sealed.recipients == (str(AGE.to_public()), recipient_name(SSH_PUBLIC))
    assert sealed.recipients[1].startswith("SHA256:")


def test_a_value_cannot_be_moved_to_another_device_or_name():
    sealed = seal("press-07", "admin", b"value", [SSH_PUBLIC]).sealed
    for device, name in (("press-08", "admin"), ("press-07", "guest")):
        with pytest.raises(ValueError, match="another device, or as another secret"):
            open_sealed(sealed, device, name, read_identities(SSH))


def test_the_length_of_the_text_tells_little_and_two_sealings_differ():
    one, other = (seal("press-07", "pin", value, [SSH_PUBLIC]).sealed for value in (b"1234", b"x" * 150))
    # Before the payload, age writes a line of random length.
    payloads = [base64.b64decode(each).partition(b"\n--- ")[2] for each in (one, other)]
    assert len(payloads[0]) == len(payloads[1])
    assert seal("press-07", "pin", b"1234", [SSH_PUBLIC]).sealed != one
    assert b"1234" not in base64.b64decode(one)


def test_another_key_opens_nothing():
    sealed = seal("press-07", "pin", b"1234", [SSH_PUBLIC]).sealed
    with pytest.raises(ValueError, match="none of the keys opens it"):
        open_sealed(sealed, "press-07", "pin", [AGE])
    with pytest.raises(ValueError, match="none of the keys opens it"):
        open_sealed("YWdl" + "A" * 40, "press-07", "pin", [AGE])


def test_what_another_program_sealed_for_the_device_is_refused():
    foreign = pyrage.encrypt(b"1234", [AGE.to_public()])
    with pytest.raises(ValueError, match="another program sealed it"):
        open_sealed(base64.b64encode(foreign).decode(), "press-07", "pin", [AGE])


@pytest.mark.parametrize(
    "key",
    ["", "age1short", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", str(AGE), SSH.decode()],
    ids=["none", "short", "rsa", "no key", "short key", "secret age key", "secret ssh key"],
)
def test_only_keys_that_age_can_use_are_recipients(key: str):
    with pytest.raises(ValueError, match=r"."):
        seal("press-07", "pin", b"1234", [key])


def test_a_value_is_bounded():
    seal("press-07", "pin", bytes(MAX_SECRET_BYTES), [SSH_PUBLIC])
    with pytest.raises(ValueError, match="65536 are possible"):
        seal("press-07", "pin", bytes(MAX_SECRET_BYTES + 1), [SSH_PUBLIC])


@pytest.mark.parametrize(
    "content",
    [b"", b"AGE-SECRET-KEY-1CANARYCANARY", b"\xff", SSH[:120] + SSH[140:]],
    ids=["empty", "no age key", "no text", "cut ssh key"],
)
def test_what_is_wrong_with_a_key_file_is_said_without_its_content(content: bytes):
    with pytest.raises(ValueError, match=r"age identity") as caught:
        read_identities(content)
    assert "CANARY" not in str(caught.value)
