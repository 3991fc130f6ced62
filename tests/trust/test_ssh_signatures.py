"""SSH signatures: the rules SSHSIG-1 to SSHSIG-6, against the real ssh-keygen in both directions."""

import base64
import hashlib
import subprocess

import pytest
from device_states import RENDERER, STRANGER, private_key_file
from hypothesis import given
from hypothesis import strategies as st
from support.real import require_program

from margo_gitops.errors import ExitCode, SignatureInvalid
from margo_gitops.trust.ssh_key import (
    WireReader,
    parse_public_key,
    parse_signing_key,
    read_public_key,
    wire_positive,
    wire_string,
)
from margo_gitops.trust.ssh_signature import MAX_ARMOR_BYTES, parse_signature, sign

MESSAGE = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
ARMOR = sign(MESSAGE, RENDERER)
BLOB = base64.b64decode("".join(ARMOR.split("\n")[1:-2]))


def armor(blob: bytes) -> str:
    return f"-----BEGIN SSH SIGNATURE-----\n{base64.b64encode(blob).decode()}\n-----END SSH SIGNATURE-----\n"


def blob(version=1, namespace=b"git", reserved=b"", hash_name=b"sha512", key=RENDERER.public.blob, tail=b""):
    signature = RENDERER.sign(b"anything")
    fields = (key, namespace, reserved, hash_name, signature)
    return b"SSHSIG" + version.to_bytes(4, "big") + b"".join(map(wire_string, fields)) + tail


# What is believed


def test_a_signature_belongs_to_its_message_and_key():
    signature = parse_signature(ARMOR)
    signature.verify(MESSAGE, RENDERER.public)
    assert signature.key == RENDERER.public
    assert signature.namespace == "git"
    for message, key, namespace in (
        (MESSAGE + b"\n", RENDERER.public, "git"),
        (MESSAGE, STRANGER.public, "git"),
        (MESSAGE, RENDERER.public, "file"),
    ):
        with pytest.raises(SignatureInvalid) as caught:
            signature.verify(message, key, namespace)
        assert caught.value.exit_code == ExitCode.TRUST
        assert caught.value.why


def test_signing_twice_gives_the_same_text():
    assert sign(MESSAGE, RENDERER) == ARMOR


# SSHSIG-1, SSHSIG-2, SSHSIG-4, SSHSIG-5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        ARMOR + "x",
        "x" + ARMOR,
        ARMOR + ARMOR,
        "\n" + ARMOR,
        ARMOR + "\n",
        ARMOR.replace("\n", "\r\n"),
        ARMOR.replace("U1NIU0lH", "U1NI U0lH"),
        ARMOR.replace("SSH SIGNATURE", "PGP SIGNATURE"),
        ARMOR.replace("U1NIU0lH", "ä1NIU0lH"),
        ARMOR[:-60],
        armor(b""),
        armor(BLOB[1:]),
        armor(BLOB[:-1]),
        armor(BLOB + b"\0"),
        armor(blob(version=2)),
        armor(blob(reserved=b"x")),
        armor(blob(hash_name=b"sha1")),
        armor(blob(hash_name=b"md5")),
        armor(blob(namespace=b"g\nit")),
        armor(blob(key=b"")),
        armor(blob(key=wire_string("ssh-dss") + wire_string(b"x"))),
        armor(blob(key=wire_string("ssh-ed25519") + wire_string(b"x" * 31))),
        armor(blob(key=RENDERER.public.blob + b"\0")),
        armor(b"x" * MAX_ARMOR_BYTES),
    ],
)
def test_what_is_no_ssh_signature_is_refused(text):
    with pytest.raises(SignatureInvalid) as caught:
        parse_signature(text)
    assert caught.value.why


def test_base64_with_unused_bits_is_refused():
    # sha256 as hash makes the blob end in the middle of a base64 group.
    text = next(
        armor(blob(namespace=b"g" * size)) for size in range(3) if armor(blob(namespace=b"g" * size)).count("==")
    )
    at = text.index("=") - 1
    with pytest.raises(SignatureInvalid, match="not an SSH signature"):
        parse_signature(text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :])


@given(st.binary(max_size=200))
def test_hostile_blobs_are_refused_and_nothing_else_happens(junk):
    for hostile in (junk, b"SSHSIG" + junk, BLOB[: len(junk)] + junk):
        with pytest.raises(SignatureInvalid):
            parse_signature(armor(hostile)).verify(MESSAGE, RENDERER.public)


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_a_changed_byte_breaks_the_signature(at, change):
    changed = BLOB[:at] + bytes([BLOB[at] ^ change]) + BLOB[at + 1 :]
    with pytest.raises(SignatureInvalid):
        parse_signature(armor(changed)).verify(MESSAGE, RENDERER.public)


def test_rsa_with_sha_1_is_refused(tmp_path):
    public = key_pair(tmp_path, "rsa", "-b", "3072")
    signature = wire_string("ssh-rsa") + wire_string(b"x" * 384)
    fields = (public.blob, b"git", b"", b"sha512", signature)
    parsed = parse_signature(armor(b"SSHSIG\0\0\0\1" + b"".join(map(wire_string, fields))))
    with pytest.raises(SignatureInvalid, match="only rsa-sha2-256 or rsa-sha2-512"):
        parsed.verify(MESSAGE, public)


# Keys


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wire_string("ssh-rsa") + wire_positive(65537) + wire_positive(2**2047 + 1), "2048 bits"),
        (wire_string("ssh-rsa") + wire_positive(1) + wire_positive(2**3071 + 1), "no RSA key"),
        (wire_string("ssh-rsa") + wire_positive(65537) + wire_positive(2**3071), "no RSA key"),
        (wire_string("ssh-rsa") + wire_string(b"\x80") + wire_positive(2**3071 + 1), "negative"),
        (wire_string("ecdsa-sha2-nistp256") + wire_string("nistp384") + wire_string(b"\4" * 97), "is on curve"),
        (wire_string("ecdsa-sha2-nistp256") + wire_string("nistp256") + wire_string(b"\2" * 65), "not an uncompressed"),
        (wire_string("ssh-ed25519-cert-v01@openssh.com"), "not supported"),
        (b"\xff\xff\xff\xff", "are there"),
    ],
)
def test_weak_or_odd_keys_are_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        parse_public_key(content)


def test_a_point_that_is_on_no_curve_verifies_nothing():
    key = parse_public_key(wire_string("ecdsa-sha2-nistp256") + wire_string("nistp256") + wire_string(b"\4" * 65))
    pair = wire_string(wire_positive(1) + wire_positive(1))
    with pytest.raises(ValueError):  # noqa: PT011  # the reason is the cryptography library's
        key.verify(wire_string("ecdsa-sha2-nistp256") + pair, MESSAGE)


def test_a_line_whose_type_and_key_differ_is_refused():
    with pytest.raises(ValueError, match="the line says ssh-rsa"):
        read_public_key("ssh-rsa", str(RENDERER.public).split()[1])


def test_a_signing_key_shows_nothing_of_itself():
    assert "private" not in repr(RENDERER).lower()
    assert RENDERER.public.fingerprint.startswith("SHA256:")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----",
        private_key_file(1)[:200],
        private_key_file(1).replace(b"A", b"B", 1),
    ],
)
def test_a_damaged_key_file_is_refused(content):
    with pytest.raises(ValueError, match="private key"):
        parse_signing_key(content)


SEED = b"\1" * 32
POINT = RENDERER.public.blob[-32:]


def key_file(
    cipher=b"none", keys=1, public=RENDERER.public.blob, checks=b"\0" * 8, kind=b"ssh-ed25519", half=SEED + POINT
):
    """Return a private key file whose every field can be wrong."""
    secret = checks + b"".join(map(wire_string, (kind, POINT, half, b"")))
    secret += bytes(range(1, 1 + -len(secret) % 8))
    head = b"".join(map(wire_string, (cipher, b"none", b"")))
    content = b"openssh-key-v1\0" + head + keys.to_bytes(4, "big") + wire_string(public) + wire_string(secret)
    return wrap(base64.b64encode(content))


def wrap(body):
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n%b\n-----END OPENSSH PRIVATE KEY-----\n" % body


def test_a_key_file_is_read_field_by_field():
    assert parse_signing_key(key_file()).public == RENDERER.public


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (key_file(public=STRANGER.public.blob), "is damaged: .*mismatch"),
        (key_file(half=b"\2" * 32 + POINT), "belongs to another key"),
        (key_file(cipher=b"aes256-ctr"), "is encrypted"),
        (key_file(keys=2), "holds 2 private keys"),
        (key_file(public=wire_string("ssh-dss")), "of type ssh-dss"),
        (key_file(public=b""), "is damaged: 4 bytes are promised"),
        (key_file(checks=b"\0" * 7 + b"\1"), "is damaged: .*checksum"),
        (key_file(kind=b"ssh-rsa"), "is damaged: .*key type"),
        (key_file(half=SEED), "is damaged: .*mismatch"),
        (key_file(half=SEED + SEED), "is damaged: .*mismatch"),
        (wrap(b"!"), "not base64"),
        (wrap(b"AAAA"), "of a later format"),
    ],
)
def test_a_key_file_that_contradicts_itself_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_signing_key(content)
    assert SEED.hex() not in str(caught.value)


@given(st.integers(0, 2**300))
def test_numbers_are_read_as_they_were_written(number):
    reader = WireReader(wire_positive(number))
    assert reader.positive() == number
    reader.end()


# Against ssh-keygen


def keygen(*arguments, content=b""):
    program = require_program("ssh-keygen", "openssh-client")
    return subprocess.run(
        [program, *map(str, arguments)],
        input=content,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        timeout=60,
        check=False,
    )


def key_pair(folder, kind, *options):
    made = keygen("-q", "-t", kind, *options, "-N", "", "-C", "", "-f", folder / kind)
    assert made.returncode == 0, made.stderr
    return read_public_key(*(folder / f"{kind}.pub").read_text().split()[:2])


def test_ssh_keygen_verifies_our_signature_and_names_the_principal(tmp_path):
    listed, signature = tmp_path / "allowed_signers", tmp_path / "signature"
    listed.write_text(f'renderer@example.com namespaces="git" {RENDERER.public}\n')
    signature.write_text(ARMOR)
    found = keygen("-Y", "find-principals", "-f", listed, "-s", signature)
    assert found.stdout == b"renderer@example.com\n"
    check = ("-Y", "verify", "-f", listed, "-I", "renderer@example.com", "-n", "git", "-s", signature)
    assert keygen(*check, content=MESSAGE).returncode == 0
    assert keygen(*check, content=MESSAGE + b"x").returncode != 0


def test_ssh_keygen_signs_the_same_text(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(private_key_file(1))
    key.chmod(0o600)
    assert keygen("-Y", "sign", "-f", key, "-n", "git", content=MESSAGE).stdout.decode() == ARMOR


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ed25519", []),
        ("rsa", ["-b", "3072"]),
        ("ecdsa", ["-b", "256"]),
        ("ecdsa", ["-b", "384"]),
        ("ecdsa", ["-b", "521"]),
    ],
)
@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_signatures_of_every_key_type_are_verified(tmp_path, kind, options, hash_name):
    public = key_pair(tmp_path, kind, *options)
    sign_it = ("-Y", "sign", "-f", tmp_path / kind, "-n", "git", "-O", f"hashalg={hash_name}")
    signature = parse_signature(keygen(*sign_it, content=MESSAGE).stdout.decode())
    assert signature.hash_name == hash_name
    signature.verify(MESSAGE, public)
    with pytest.raises(SignatureInvalid):
        signature.verify(MESSAGE + b"x", public)
    assert public.fingerprint in keygen("-l", "-f", tmp_path / f"{kind}.pub").stdout.decode()


def test_a_signature_of_a_security_key_covers_what_the_token_says(tmp_path):
    kind, application, flags_and_counter = "sk-ssh-ed25519@openssh.com", b"ssh:", b"\1\0\0\0\7"
    public = parse_public_key(wire_string(kind) + wire_string(POINT) + wire_string(application))
    signed = b"SSHSIG" + b"".join(map(wire_string, (b"git", b"", b"sha512", hashlib.sha512(MESSAGE).digest())))
    token_data = hashlib.sha256(application).digest() + flags_and_counter + hashlib.sha256(signed).digest()
    wire = WireReader(RENDERER.sign(token_data))
    _algorithm, raw = wire.string(), wire.string()

    def signature(flags):
        content = wire_string(kind) + wire_string(raw) + flags
        fields = (public.blob, b"git", b"", b"sha512", content)
        return armor(b"SSHSIG\0\0\0\1" + b"".join(map(wire_string, fields)))

    parse_signature(signature(flags_and_counter)).verify(MESSAGE, public)
    with pytest.raises(SignatureInvalid):
        parse_signature(signature(b"\1\0\0\0\6")).verify(MESSAGE, public)

    (tmp_path / "list").write_text(f"ada {public}\n")
    (tmp_path / "signature").write_text(signature(flags_and_counter))
    check = ("-Y", "verify", "-f", tmp_path / "list", "-I", "ada", "-n", "git", "-s", tmp_path / "signature")
    assert keygen(*check, content=MESSAGE).returncode == 0


def test_a_key_that_ssh_keygen_made_signs(tmp_path):
    public = key_pair(tmp_path, "ed25519")
    key = parse_signing_key((tmp_path / "ed25519").read_bytes())
    assert key.public == public
    parse_signature(sign(MESSAGE, key)).verify(MESSAGE, public)


def test_an_encrypted_key_is_refused_with_what_to_do(tmp_path):
    keygen("-q", "-t", "ed25519", "-N", "secret words", "-f", tmp_path / "key")
    with pytest.raises(ValueError, match=r"is encrypted .*ssh-keygen -p"):
        parse_signing_key((tmp_path / "key").read_bytes())


def test_a_key_of_another_type_is_refused_with_what_to_do(tmp_path):
    key_pair(tmp_path, "ecdsa")
    with pytest.raises(ValueError, match="of type ecdsa-sha2-nistp256"):
        parse_signing_key((tmp_path / "ecdsa").read_bytes())
