"""Commits: read strictly (COMMIT-1 to COMMIT-6), built and signed as git does."""

import os

import pytest
from device_states import RENDERED_AT, RENDERER, STRANGER, private_key_file
from dulwich.objects import Commit
from hypothesis import given
from hypothesis import strategies as st
from support.git_cli import Git, GitFailedError
from support.properties import times
from support.real import require_program

from margo_gitops.trust.git_commit import (
    MAX_COMMIT_BYTES,
    MAX_TIME,
    Ident,
    build_commit,
    format_trailers,
    parse_commit,
    parse_trailers,
    sign_commit,
)
from margo_gitops.trust.git_objects import COMMIT, TREE, object_id

TREE_ID = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
PARENT = "1" * 40
ADA = Ident("Ada Author", "ada@example.com", RENDERED_AT, 60)
CARL = Ident("Carl Committer", "carl@example.com", RENDERED_AT + 5, -330)
MESSAGE = "press-07: version 2\n\nMore of it.\n\nDevice: press-07\nManifest-Version: 2\n"
PLAIN = build_commit(TREE_ID, [PARENT], ADA, CARL, MESSAGE)

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>"), max_size=20)
IDENTS = st.builds(Ident, TEXT, TEXT, st.integers(0, MAX_TIME), st.integers(-14 * 60, 14 * 60))
MESSAGES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=200)


def reason_against(raw):
    """Return why a commit is refused, None where it is not."""
    try:
        parse_commit(raw)
    except ValueError as error:
        return str(error)
    return None


def test_a_commit_is_read_as_it_was_built():
    commit = parse_commit(PLAIN)
    assert commit.tree == TREE_ID
    assert commit.parents == (PARENT,)
    assert (commit.author, commit.committer) == (ADA, CARL)
    assert commit.committed_at == RENDERED_AT + 5
    assert commit.message == MESSAGE
    assert commit.trailers == {"Device": "press-07", "Manifest-Version": "2"}
    assert commit.signature is None
    assert commit.payload == PLAIN


@given(st.lists(st.binary(min_size=20, max_size=20).map(bytes.hex), max_size=3), IDENTS, IDENTS, MESSAGES)
def test_any_commit_is_read_as_it_was_built_and_dulwich_agrees(parents, author, committer, message):
    raw = build_commit(TREE_ID, parents, author, committer, message)
    reason = reason_against(raw)
    if reason is not None:
        assert "is there twice" in reason  # the message happened to repeat a trailer
        return
    commit = parse_commit(raw)
    assert (commit.tree, commit.parents, commit.message) == (TREE_ID, tuple(parents), message)
    assert (commit.author, commit.committer) == (author, committer)

    peer = Commit.from_string(raw)
    assert peer.id.decode() == object_id(COMMIT, raw)
    assert [parent.decode() for parent in peer.parents] == parents
    assert (peer.author_time, peer.commit_time) == (author.time, committer.time)
    assert peer.commit_timezone == committer.offset * 60


@given(st.binary(max_size=300), st.integers(0, len(PLAIN)))
def test_hostile_bytes_are_refused_with_a_reason_or_read(junk, at):
    for raw in (junk, PLAIN[:at] + junk + PLAIN[at:], PLAIN[:at] + junk):
        assert reason_against(raw) != ""


def headers(*lines: str) -> bytes:
    return "\n".join([*lines, "", "message\n"]).encode()


TREE_LINE = f"tree {TREE_ID}"
PARENT_LINE = f"parent {PARENT}"
AUTHOR = "author A <a@example.com> 1 +0000"
COMMITTER = "committer A <a@example.com> 1 +0000"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no empty line"),
        (headers(TREE_LINE, AUTHOR, COMMITTER).split(b"\n\n")[0] + b"\n", "no empty line"),
        (headers(TREE_LINE, AUTHOR, COMMITTER) + b"\0", "NUL"),
        (headers(TREE_LINE, AUTHOR, COMMITTER) + b"x" * MAX_COMMIT_BYTES, "are possible"),
        (headers(TREE_LINE, AUTHOR, COMMITTER) + b"\xff", "not UTF-8"),
        (headers(AUTHOR, COMMITTER), "in this order"),
        (headers(TREE_LINE, COMMITTER), "in this order"),
        (headers(TREE_LINE, AUTHOR), "in this order"),
        (headers(TREE_LINE, TREE_LINE, AUTHOR, COMMITTER), "in this order"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, COMMITTER), "in this order"),
        (headers(TREE_LINE, AUTHOR, AUTHOR, COMMITTER), "in this order"),
        (headers(TREE_LINE, COMMITTER, AUTHOR), "in this order"),
        (headers(PARENT_LINE, TREE_LINE, AUTHOR, COMMITTER), "in this order"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, PARENT_LINE), "in this order"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, "x-other 1", TREE_LINE), "in this order"),
        (headers(" folded", TREE_LINE, AUTHOR, COMMITTER), "not a header"),
        (headers(TREE_LINE, "", AUTHOR, COMMITTER), "in this order"),
        (headers("tree", AUTHOR, COMMITTER), "not a header"),
        (headers(f"tree {TREE_ID[:-1]}", AUTHOR, COMMITTER), "not an object id"),
        (headers(f"tree {TREE_ID.upper()}", AUTHOR, COMMITTER), "not an object id"),
        (headers(f"{TREE_LINE}\r", AUTHOR, COMMITTER), "not an object id"),
        (headers(TREE_LINE, "parent ä", AUTHOR, COMMITTER), "not an object id"),
        (headers(TREE_LINE, "author A 1 +0000", COMMITTER), "not a name"),
        (headers(TREE_LINE, "author A <a> 1", COMMITTER), "not a name"),
        (headers(TREE_LINE, "author A <a> -1 +0000", COMMITTER), "not a name"),
        (headers(TREE_LINE, "author A <a> 1 +0060", COMMITTER), "not a name"),
        (headers(TREE_LINE, "author A <a>> 1 +0000", COMMITTER), "not a name"),
        (headers(TREE_LINE, "author A <a> 1 +0000 ", COMMITTER), "not a name"),
        (headers(TREE_LINE, AUTHOR, "committer A <a> 253402300800 +0000"), "year 9999"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, "encoding ISO-8859-1"), "only UTF-8"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, "gpgsig a", "gpgsig b"), "2 signatures"),
        (headers(TREE_LINE, AUTHOR, COMMITTER, "gpgsig-sha256 a"), "not known"),
    ],
)
def test_what_git_would_shrug_at_is_refused(raw, reason):
    with pytest.raises(ValueError, match=reason):
        parse_commit(raw)


def test_a_merged_tag_and_unknown_headers_stay_in_the_payload_and_mean_nothing():
    other = ["mergetag object " + PARENT, " type commit", " tree " + "2" * 40, "  gpgsig x", "x-other y"]
    raw = headers(TREE_LINE, AUTHOR, COMMITTER, *other)
    commit = parse_commit(raw)
    assert commit.tree == TREE_ID
    assert commit.signature is None
    assert commit.payload == raw


def test_a_signed_commit_says_what_was_signed():
    signed = sign_commit(PLAIN, RENDERER)
    commit = parse_commit(signed)
    assert commit.payload == PLAIN
    assert commit.signature.startswith("-----BEGIN SSH SIGNATURE-----\n")
    assert commit.signature.endswith("-----END SSH SIGNATURE-----")
    assert sign_commit(PLAIN, RENDERER) == signed


@pytest.mark.parametrize(
    "ident",
    [
        Ident("A <b>", "a", 1),
        Ident("A\nB", "a", 1),
        Ident("A", "a>b", 1),
        Ident("A\0", "a", 1),
        Ident("A", "a", -1),
        Ident("A", "a", MAX_TIME + 1),
    ],
)
def test_an_ident_that_would_forge_a_header_is_not_written(ident):
    with pytest.raises(ValueError, match="not a name"):
        build_commit(TREE_ID, [], ident, ADA, "x\n")


@pytest.mark.parametrize(
    ("tree", "message"), [("x" * 40, "m"), (TREE_ID, "a\0b"), (TREE_ID, "x" * MAX_COMMIT_BYTES), (TREE_ID, "\ud800")]
)
def test_what_would_not_be_read_is_not_written(tree, message):
    with pytest.raises(ValueError):  # noqa: PT011  # whichever it is, it is not written
        build_commit(tree, [], ADA, ADA, message)


# Trailers


def test_trailers_are_the_last_paragraph_only():
    assert parse_trailers("title\n\nA: 1\n\nB: 2\n") == {"B": "2"}
    assert parse_trailers("title\n\nA: 1\n\n \n") == {"A": "1"}


@pytest.mark.parametrize("message", ["", "\n", "A: 1\n", "title\nA: 1\n", "title\n\nA: 1\ntext\n", "title\n\n A: 1\n"])
def test_a_title_or_a_paragraph_with_other_text_holds_no_trailers(message):
    assert parse_trailers(message) == {}


def test_a_folded_trailer_is_one_line():
    assert parse_trailers("title\n\nA: one\n  two\n\tthree\nB:4\n") == {"A": "one two three", "B": "4"}


@pytest.mark.parametrize("again", ["Device", "device", "DEVICE"])
def test_a_trailer_that_stands_twice_is_refused(again):
    with pytest.raises(ValueError, match="is there twice"):
        parse_trailers(f"title\n\nDevice: a\n{again}: b\n")


@pytest.mark.parametrize(
    "trailers", [{"a b": "c"}, {"a": ""}, {"a": "b\nc: d"}, {"a": " b"}, {"": "b"}, {"a": "b", "A": "c"}, {"-": "b"}]
)
def test_trailers_that_would_forge_others_are_not_written(trailers):
    with pytest.raises(ValueError):  # noqa: PT011  # whichever it is, it is not written
        format_trailers(trailers)


KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,6}(-[A-Za-z0-9]{1,4})?", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20).filter(
    lambda value: value == value.strip()
)
TRAILERS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5).filter(
    lambda found: len({key.lower() for key in found}) == len(found)
)


@given(TRAILERS)
def test_trailers_are_read_as_they_were_written(trailers):
    assert parse_trailers(f"title\n\n{format_trailers(trailers)}") == trailers


# Against git itself


@pytest.fixture
def repository(tmp_path):
    require_program("git", "git")
    made = Git(tmp_path / "repository").init(bare=True)
    assert made.run("hash-object", "-w", "-t", "tree", "--stdin", content=b"") == object_id(TREE, b"")
    return made


@pytest.fixture
def verifying(repository, tmp_path):
    """A repository that verifies SSH signatures with a list of allowed signers, as people set it up."""
    require_program("ssh-keygen", "openssh-client")
    listed = tmp_path / "allowed_signers"
    listed.write_text(f'renderer@example.com namespaces="git" {RENDERER.public}\n')
    repository.run("config", "gpg.format", "ssh")
    repository.run("config", "gpg.ssh.allowedSignersFile", listed)
    return repository


def store(repository: Git, raw: bytes) -> str:
    return repository.run("hash-object", "-w", "-t", "commit", "--stdin", content=raw)


@times(0.5)
@given(TRAILERS)
def test_git_reads_the_same_trailers(tmp_path_factory, trailers):
    require_program("git", "git")
    message = f"title\n\ntext\n\n{format_trailers(trailers)}"
    folder = Git(tmp_path_factory.getbasetemp())
    parsed = folder.run("interpret-trailers", "--parse", "--no-divider", content=message)
    assert parsed.split("\n") == [f"{key}: {value}" for key, value in trailers.items()]


LINES = [
    "A: 1",
    "B:2",
    "C :3",
    "D:",
    "E: 5\r",
    "\r",
    " f\rg",
    " folded",
    "\tf",
    "text",
    "",
    " ",
    "# c",
    "---",
    "Signed-off-by: x",
]


@times(2)
@given(st.lists(st.sampled_from([*LINES, "(cherry picked from commit x)"]), max_size=8))
def test_whatever_trailers_we_read_git_reads_too(tmp_path_factory, lines):
    require_program("git", "git")
    message = "\n".join(["title", "", *lines, ""])
    try:
        ours = parse_trailers(message)
    except ValueError:
        return  # a trailer is there twice
    if ours:
        folder = Git(tmp_path_factory.getbasetemp())
        parsed = folder.run("interpret-trailers", "--parse", "--no-divider", content=message)
        theirs = [line.partition(":") for line in parsed.split("\n")]
        assert [(key, value.strip()) for key, _, value in theirs] == list(ours.items())


def test_git_reads_what_was_built(repository):
    parent = store(repository, build_commit(TREE_ID, [], ADA, ADA, "first\n"))
    commit = store(repository, build_commit(TREE_ID, [parent], ADA, CARL, MESSAGE))
    assert commit == object_id(COMMIT, build_commit(TREE_ID, [parent], ADA, CARL, MESSAGE))
    shown = repository.run("log", "-1", "--format=%T|%P|%an|%ae|%ai|%cn|%ci|%(trailers:key=Device,valueonly)", commit)
    assert shown.strip() == (
        f"{TREE_ID}|{parent}|Ada Author|ada@example.com|2026-09-21 15:13:20 +0100"
        "|Carl Committer|2026-09-21 08:43:25 -0530|press-07"
    )
    repository.run("fsck", "--strict", "--no-dangling")


def test_a_commit_made_by_git_is_read(git):
    require_program("git", "git")
    work = git("work").init()
    commit = work.commit({"a": "b"}, "title\n\nDevice: press-07\n")
    raw = work.run_bytes("cat-file", "commit", commit)
    assert object_id(COMMIT, raw) == commit
    assert parse_commit(raw).trailers == {"Device": "press-07"}
    assert parse_commit(raw).author.name == "Ada Author"


def test_git_verifies_our_signature(verifying):
    commit = store(verifying, sign_commit(PLAIN.replace(f"parent {PARENT}\n".encode(), b""), RENDERER))
    verifying.run("verify-commit", commit)
    assert verifying.run("log", "-1", "--format=%G?|%GS|%GF", commit) == (
        f"G|renderer@example.com|{RENDERER.public.fingerprint}"
    )


def test_git_refuses_our_signature_by_a_key_that_is_not_listed(verifying):
    commit = store(verifying, sign_commit(build_commit(TREE_ID, [], ADA, CARL, MESSAGE), STRANGER))
    with pytest.raises(GitFailedError):
        verifying.run("verify-commit", commit)


def test_we_build_the_bytes_that_git_signs(verifying, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(private_key_file(1))
    key.chmod(0o600)
    when = {
        "GIT_AUTHOR_DATE": f"{RENDERED_AT} +0100",
        "GIT_COMMITTER_DATE": f"{RENDERED_AT + 5} -0530",
        "PATH": os.environ["PATH"],
    }
    verifying.run("config", "user.signingKey", key)
    commit = verifying.run("commit-tree", "-S", TREE_ID, content=MESSAGE, environment=when)
    raw = verifying.run_bytes("cat-file", "commit", commit)
    assert raw == sign_commit(build_commit(TREE_ID, [], ADA, CARL, MESSAGE), RENDERER)
    verifying.run("verify-commit", commit)
