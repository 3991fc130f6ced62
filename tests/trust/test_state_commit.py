"""What a commit of the state repo says about itself."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import margo_gitops
from margo_gitops.documents.state_layout import StateBounds
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.transport.http.source import HttpLimits
from margo_gitops.trust.git_commit import Ident, build_commit, parse_commit
from margo_gitops.trust.state_commit import TRAILERS, StateCommit

WHO = Ident("Renderer", "renderer@example.com", 1_700_000_000)
DEVICE_COMMIT = StateCommit(
    state_commit="a" * 40,
    fleet="plant",
    fleet_commit="b" * 40,
    rendered_by="margo-gitops 1.0.0",
    applications_lock="sha256:" + "c" * 64,
    manifest_digest="sha256:" + "d" * 64,
    manifest_version="7",
    device="press-07",
)

lines = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TRAILERS, lines)))
def test_what_is_written_is_read(values: dict[str, str]) -> None:
    said = StateCommit(**values)
    commit = build_commit("e" * 40, [], WHO, WHO, f"Title\n\n{said.text()}")
    assert StateCommit.of(parse_commit(commit)) == said


def test_the_text_is_the_contract() -> None:
    assert DEVICE_COMMIT.text() == (
        f"State-Commit: {'a' * 40}\n"
        "Fleet: plant\n"
        f"Fleet-Commit: {'b' * 40}\n"
        "Rendered-By: margo-gitops 1.0.0\n"
        f"Applications-Lock: sha256:{'c' * 64}\n"
        f"Manifest-Digest: sha256:{'d' * 64}\n"
        "Manifest-Version: 7\n"
        "Device: press-07\n"
    )


def test_the_origin_is_what_all_commits_of_a_render_share() -> None:
    shared = DEVICE_COMMIT.origin()
    assert list(shared.trailers()) == ["Fleet", "Fleet-Commit", "Rendered-By", "Applications-Lock"]
    assert [trailer for trailer, _, _ in DEVICE_COMMIT.differences(shared)] == [
        "State-Commit",
        "Manifest-Digest",
        "Manifest-Version",
        "Device",
    ]


@pytest.mark.parametrize("value", ["two\nlines", "", " blank "])
def test_a_value_that_is_not_one_plain_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not a line of text"):
        StateCommit(fleet=value).text()


def test_trailers_are_named_in_one_module() -> None:
    names = {name for name in TRAILERS.values() if "-" in name}
    package = Path(margo_gitops.__file__).parent
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    found = {
        path.relative_to(package).as_posix()
        for path, text in texts.items()
        if any(name in text for name in names)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == {"trust/state_commit.py"}


def test_every_transport_takes_as_many_deployments_as_trust() -> None:
    assert GitLimits().deployments == HttpLimits().deployments == StateBounds().deployments == 1000
