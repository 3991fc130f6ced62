"""The list of allowed signers: the rules SIGNERS-1 to SIGNERS-6, against the real ssh-keygen."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from device_states import RENDERER, STRANGER
from hypothesis import given
from hypothesis import strategies as st
from support.real import require_program

from margo_gitops.errors import AllowedSignersInvalid, ExitCode
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, MAX_SIGNERS, parse_allowed_signers
from margo_gitops.trust.ssh_signature import sign

KEY = str(RENDERER.public)
NOW = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)


def read(text):
    return parse_allowed_signers(text.encode(), "allowed_signers")


def find(text, key=RENDERER, namespace="git", at=NOW):
    return read(text).find(key.public, namespace, at)


# SIGNERS-1


@pytest.mark.parametrize(
    ("line", "principals"),
    [
        (f"ada@example.com {KEY}", "ada@example.com"),
        (f"ada@example.com {KEY} Ada's key, of 2026", "ada@example.com"),
        (f"  ada@example.com\t {KEY}  ", "ada@example.com"),
        (f"ada@example.com {KEY}\r", "ada@example.com"),
        (f"*@example.com,!eve@example.com {KEY}", "*@example.com,!eve@example.com"),
        (f'"the renderer,ada" {KEY}', "the renderer,ada"),
        (f"# who\n\n   \n  # and\n* {KEY}\n", "*"),
        (f'ada NAMESPACES="git" {KEY}', "ada"),
        (f'ada namespaces="git",valid-after="20200101",valid-before="20300101" {KEY}', "ada"),
    ],
)
def test_a_line_is_principals_options_and_key(line, principals):
    assert find(line) == principals


def test_the_first_line_that_allows_the_key_counts():
    text = f'one namespaces="file" {KEY}\ntwo {STRANGER.public}\nthree {KEY}\nfour {KEY}\n'
    assert find(text) == "three"
    assert find(text, STRANGER) == "two"


# SIGNERS-2, SIGNERS-6: options


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        ("git", True),
        ("file,git", True),
        ("g?t", True),
        ("*", True),
        ("*,!git", False),
        ("!file,*", True),
        ("!git", False),
        ("file", False),
        ("gi", False),
        ("GIT", False),
        ("g[i]t", False),
        ("g.t", False),
    ],
)
def test_namespaces_are_patterns(patterns, allowed):
    assert find(f'ada namespaces="{patterns}" {KEY}') == ("ada" if allowed else None)


@pytest.mark.parametrize("text", ["20260921141320Z", "20260921141320z", "20260921141320UTC", "20260921141320"])
def test_a_key_is_valid_from_and_until_its_very_second(text):
    second = timedelta(seconds=1)
    assert find(f'ada valid-after="{text}" {KEY}', at=NOW) == "ada"
    assert find(f'ada valid-after="{text}" {KEY}', at=NOW - second) is None
    assert find(f'ada valid-before="{text}" {KEY}', at=NOW) == "ada"
    assert find(f'ada valid-before="{text}" {KEY}', at=NOW + second) is None


def test_a_time_without_its_seconds_or_hours_is_their_beginning():
    assert read(f'ada valid-after="20260921Z" {KEY}').signers[0].valid_after == datetime(2026, 9, 21, tzinfo=UTC)
    minute = read(f'ada valid-after="202609211413Z" {KEY}').signers[0].valid_after
    assert minute == datetime(2026, 9, 21, 14, 13, tzinfo=UTC)


# Reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"ada {STRANGER.public}", f"allowed_signers does not list the key {RENDERER.public.fingerprint}"),
        (f'ada namespaces="file" {KEY}', "allowed_signers:1: the key is for 'file', not for 'git'"),
        (f'ada valid-before="20260101Z" {KEY}', "the key was valid until 2026-01-01 00:00:00 UTC, the signature is of"),
        (f'ada valid-after="20270101Z" {KEY}', "the key is valid from 2027-01-01 00:00:00 UTC on, the signature is of"),
    ],
)
def test_the_reason_why_a_key_is_not_allowed_is_known(text, reason):
    signers = read(text)
    assert signers.find(RENDERER.public, "git", NOW) is None
    (objection,) = signers.objections(RENDERER.public, "git", NOW)
    assert reason in objection


def test_every_line_that_names_the_key_gives_its_reason():
    signers = read(f'a namespaces="file" {KEY}\nb valid-before="20260101Z" {KEY}\n')
    assert [reason.split(": ")[0] for reason in signers.objections(RENDERER.public, "git", NOW)] == [
        "allowed_signers:1",
        "allowed_signers:2",
    ]


# SIGNERS-2 to SIGNERS-5: what is refused


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ("ada", 4, "the key is missing"),
        ("ada ssh-ed25519", 16, "the key is missing"),
        ('ada namespaces="git"', 21, "the key is missing"),
        (f'"ada {KEY}', 1, "quotes do not match"),
        (f'a"da {KEY}', 1, "quotes do not match"),
        (f"ada,,bob {KEY}", 1, "a principal is empty"),
        (f"a\x07da {KEY}", 1, "cannot be shown"),
        (f'ada namespaces="git {KEY}', 4, "not closed"),
        (f"ada namespaces=git {KEY}", 5, "needs a value in double quotes"),
        (f'ada namespaces="" {KEY}', 5, "needs a value in double quotes"),
        (f'ada namespaces="git",namespaces="file" {KEY}', 22, "is there twice"),
        (f'ada namespaces="git", {KEY}', 22, "behind the last comma"),
        (f'ada ,namespaces="git" {KEY}', 5, "not an option that is known"),
        (f'ada namespaces="git",no-touch-required {KEY}', 22, "not an option that is known"),
        (f'ada from="10.0.0.1" {KEY}', 5, "not an option that is known"),
        (f"ada cert-authority {KEY}", 5, "certificate authorities are not accepted"),
        (f'ada CERT-AUTHORITY,namespaces="git" {KEY}', 5, "certificate authorities are not accepted"),
        (f'ada namespaces="git",cert-authority {KEY}', 22, "certificate authorities are not accepted"),
        (f'ada valid-after="2026" {KEY}', 5, "is not a time"),
        (f'ada valid-after="20261301Z" {KEY}', 5, "is not a time"),
        (f'ada valid-after="20260101+01" {KEY}', 5, "is not a time"),
        (f'ada valid-after="20270101Z",valid-before="20260101Z" {KEY}', 5, "not later than"),
        ("ada ssh-ed25519 !!!!", 5, "not base64"),
        ("ada ssh-ed25519 AAAA", 5, "bytes are promised"),
        (f"ada ssh-rsa {KEY.split()[1]}", 5, "the line says ssh-rsa"),
        ("ada ssh-dss AAAAB3NzaC1kc3M=", 5, "is not supported"),
    ],
)
def test_a_broken_line_makes_the_list_invalid(line, column, reason):
    with pytest.raises(AllowedSignersInvalid) as caught:
        read(f"# first\nbob {KEY}\n{line}\n")
    (finding,) = caught.value.findings
    assert reason in finding.message
    assert (finding.location.file, finding.location.line, finding.location.column) == ("allowed_signers", 3, column)
    assert caught.value.exit_code == ExitCode.USAGE
    assert f"allowed_signers:3:{column}: " in str(caught.value)


def test_a_file_that_is_no_list_at_all_is_not_listed_line_by_line():
    with pytest.raises(AllowedSignersInvalid) as caught:
        read("ada\n" * 100_000)
    assert len(caught.value.findings) == 50


def test_every_broken_line_is_a_finding():
    with pytest.raises(AllowedSignersInvalid) as caught:
        read(f"ada\nbob {KEY}\neve cert-authority {KEY}\n")
    assert [finding.location.line for finding in caught.value.findings] == [1, 3]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nobody\n", b"ada \xff\n", b"\0", b"x" * (MAX_LIST_BYTES + 1)])
def test_a_list_that_can_accept_nobody_is_refused(content):
    with pytest.raises(AllowedSignersInvalid):
        parse_allowed_signers(content, "allowed_signers")


def test_the_number_of_signers_is_bounded():
    read(f"ada {KEY}\n" * MAX_SIGNERS)
    with pytest.raises(AllowedSignersInvalid, match="1001 signers"):
        read(f"ada {KEY}\n" * (MAX_SIGNERS + 1))


@given(st.binary(max_size=100), st.text(max_size=60))
def test_hostile_lists_are_refused_with_a_finding_or_read(junk, text):
    for content in (junk, text.encode("utf-8", "replace"), f"ada {text} {KEY}".encode("utf-8", "replace")):
        findings = ("none",)
        try:
            parse_allowed_signers(content, "allowed_signers")
        except AllowedSignersInvalid as error:
            findings = error.findings
        assert findings


def test_a_line_made_to_be_slow_is_read_in_no_time():
    with pytest.raises(AllowedSignersInvalid):
        read("a " + 'x="y",' * 100_000 + '"')


# Against ssh-keygen

CASES = [
    "{key}",
    'namespaces="git" {key}',
    'namespaces="file" {key}',
    'namespaces="g*,!gis" {key}',
    'namespaces="*,!git" {key}',
    'valid-after="20260921141320Z" {key}',
    'valid-after="20260921141321Z" {key}',
    'valid-before="20260921141320Z" {key}',
    'valid-before="20260921141319Z" {key}',
    'valid-before="20260921141319" {key}',
    'valid-after="20260101Z",valid-before="20270101Z",namespaces="git" {key}',
    "{stranger}",
]


@pytest.mark.parametrize("case", CASES)
def test_ssh_keygen_gives_the_same_verdict(tmp_path, case):
    program = require_program("ssh-keygen", "openssh-client")
    text = f"ada@example.com {case.format(key=KEY, stranger=STRANGER.public)}\n"
    (tmp_path / "list").write_text(text)
    (tmp_path / "signature").write_text(sign(b"message", RENDERER))
    verdict = subprocess.run(
        [
            *(program, "-Y", "verify", "-f", "list", "-I", "ada@example.com", "-n", "git", "-s", "signature"),
            "-Overify-time=20260921141320",
        ],
        cwd=tmp_path,
        input=b"message",
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "TZ": "UTC"},
        timeout=60,
        check=False,
    )
    assert (verdict.returncode == 0) == (find(text) == "ada@example.com"), verdict.stderr
