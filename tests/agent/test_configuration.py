"""The agent's configuration and environment: F24 and F25, and what each key comes to mean."""

from pathlib import Path

import pytest
from device_world import World
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.environment import OVERRIDES, Environment, read_environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import AgentMisconfigured, ExitCode, MargoGitopsError
from margo_gitops.settings import seconds, spell_duration
from margo_gitops.transport.git.source import GitSource


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def load(world: World, **variables: str) -> AgentConfiguration:
    return load_configuration(world.config, read_environment(variables))


def git_source(configuration: AgentConfiguration) -> GitSource:
    assert configuration.source.git
    return GitSource.of(configuration.source.git, configuration.device)


def refused(world: World, **variables: str) -> str:
    with pytest.raises(MargoGitopsError) as caught:
        load(world, **variables)
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


def test_paths_are_relative_to_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load(world)
    assert loaded.state_folder == world.folder / "agent"
    assert loaded.trust.floor_copy == world.folder / "elsewhere" / "floor.json"


def test_defaults(world: World) -> None:
    world.configure(poll=None)
    loaded = load(world)
    assert (loaded.poll.interval, loaded.jitter) == (60, 6)
    source = git_source(loaded)
    assert source.ref_name == b"refs/heads/devices/press-07"
    assert source.pull_seconds == 300


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"pol": {"interval": "5s"}}, "did you mean poll?"),
        ({"poll": {"intervall": "5s"}}, "did you mean interval?"),
        ({"poll": {"interval": "5 s"}}, "a duration"),
        ({"poll": {"interval": 0}}, "1s to 30d"),
        ({"poll": {"interval": "10s", "jitter": "10s"}}, "less than the interval"),
        ({"poll": {"window": "22:00-04:00"}}, "unknown key 'window'"),
        ({"trust": {}}, "says nothing about signatures"),
        ({"trust": {"unsigned": False}}, "can only be true"),
        ({"trust": {"unsigned": True, "allowedSigners": "x"}}, "contradict"),
        ({"trust": None}, "trust is missing"),
        ({"device": "press 07"}, "is not a device id"),
        ({"appliers": {}}, "names no applier"),
        ({"appliers": {"Compose": {}}}, "an applier's name"),
        ({"source": {"oci": {}}}, "unknown key 'oci'"),
        ({"source": {"http": {}}}, "url is missing"),
        ({"source": {}}, "exactly one of git, http and stick"),
        ({"source": {"git": {"url": "file:///s.git"}, "http": {"url": "https://x.example"}}}, "exactly one of git"),
        ({"source": {"http": {"url": "https://x.example", "wait": "1h"}}}, "must be at most 5m"),
        ({"kind": "Agent"}, "is not one of AgentConfiguration"),
        ({"rollback": True}, "unknown key 'rollback'"),
    ],
)
def test_f25_what_is_not_understood_is_an_error_with_line_and_remedy(
    world: World, changes: dict[str, Json], hint: str
) -> None:
    world.configure(**changes)
    text = refused(world)
    assert hint in text
    assert f"{world.config}:" in text


def test_a_file_that_is_missing_or_no_yaml_says_so(world: World) -> None:
    world.config.write_text("device: [press-07\n")
    assert f"{world.config}:1:9" in refused(world)
    world.config.unlink()
    assert "no such file" in refused(world)


def test_f24_every_misspelt_variable_is_named_and_no_value_is_shown() -> None:
    with pytest.raises(AgentMisconfigured) as caught:
        read_environment({"MARGO_GITOPS_TOKN": "hunter2", "MARGO_X": "hunter3", "PATH": "/bin"})
    assert "did you mean MARGO_GITOPS_TOKEN?" in str(caught.value)
    assert "MARGO_X" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_an_empty_variable_is_an_error() -> None:
    with pytest.raises(AgentMisconfigured, match="MARGO_GITOPS_DEVICE is empty"):
        read_environment({"MARGO_GITOPS_DEVICE": ""})


def test_variables_of_other_programs_and_of_the_scripts_are_ignored() -> None:
    assert read_environment({"HOME": "/", "MARGO_GITOPS_VENV": "", "IMAGO_X": "1"}) == Environment()


def test_each_variable_overrides_its_key(world: World) -> None:
    values = {
        "MARGO_GITOPS_DEVICE": "press-08",
        "MARGO_GITOPS_STATE_FOLDER": "/elsewhere",
        "MARGO_GITOPS_GIT_URL": "https://git.example.com/s.git",
        "MARGO_GITOPS_GIT_CA_FILE": "/ca.pem",
        "MARGO_GITOPS_ALLOWED_SIGNERS": "/signers",
        "MARGO_GITOPS_POLL_INTERVAL": "2m",
    }
    assert values.keys() == OVERRIDES.keys()
    world.configure(trust={"unsigned": True}, device=None, poll=None)
    loaded = load(world, **values)
    assert loaded.device == "press-08"
    assert loaded.state_folder == Path("/elsewhere")
    assert loaded.poll.interval == 120
    assert loaded.trust.allowed_signers == Path("/signers")
    assert loaded.trust.unsigned is None
    source = git_source(loaded)
    assert (source.url, source.ca_file) == ("https://git.example.com/s.git", Path("/ca.pem"))


def test_the_token_of_the_environment_wins_over_the_file_and_stays_where_it_is(world: World) -> None:
    world.configure(source={"git": {"url": "https://git.example.com/s.git", "tokenFile": "token"}})
    assert git_source(load(world)).token_file == world.folder / "token"
    loaded = load(world, MARGO_GITOPS_TOKEN="hunter2")
    source = git_source(loaded)
    assert (source.token_file, source.token_variable) == (None, "MARGO_GITOPS_TOKEN")
    assert "hunter2" not in repr(loaded) + repr(source)
    world.configure(source={"http": {"url": "https://wfm.example.com/margo", "tokenFile": "token"}})
    over_http = load(world, MARGO_GITOPS_TOKEN="hunter2").source.http
    assert over_http
    assert (over_http.token_file, over_http.token_variable) == (None, "MARGO_GITOPS_TOKEN")


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("0.5s", 0.5), (12, 12)]
)
def test_durations(text: str | float, value: float) -> None:
    assert seconds(text) == value
    assert seconds(spell_duration(value)) == value  # type: ignore[arg-type]  # a number or a text


@given(st.text(max_size=12))
def test_no_other_text_is_a_duration(text: str) -> None:
    try:
        assert seconds(text) >= 0
        assert text[-1] in "smhd"
    except ValueError:
        pass
