"""`margo-gitops document check`: kind, shape, verdict and every finding of any file."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from margo_gitops.cli.document import document

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"

SITE = "apiVersion: margo-gitops/v1\nkind: Site\nmetadata:\n  name: north\n"
BROKEN_SITE = "apiVersion: margo-gitops/v1\nkind: Site\nmetadata:\n  nmae: north\nspec:\n  parameters:\n    on: no\n"


def run(*arguments, stdin=b""):
    return CliRunner().invoke(document, ["check", *map(str, arguments)], input=stdin)


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def test_a_valid_file_is_named_with_kind_and_shape(site):
    result = run(site)
    assert result.exit_code == 0
    assert result.stdout == f"{site}: Site (v1): valid\n"
    assert result.stderr == ""


def test_every_finding_has_file_line_column_path_message_and_remedy(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE.replace("name", "nmae") + "spec:\n  parameter: {}\n")
    result = run(path)
    assert result.exit_code == 1
    assert result.stdout == (
        f"{path}: Site (v1): invalid\n"
        f"  error: {path}:4:3: metadata: name is missing (add name)\n"
        f"  error: {path}:4:3: metadata.nmae: unknown key 'nmae' (did you mean name?)\n"
        f"  error: {path}:6:3: spec.parameter: unknown key 'parameter' (did you mean parameters?)\n"
    )


def test_json_output_holds_the_same_for_programs(tmp_path, site):
    broken = tmp_path / "broken.yaml"
    broken.write_text(BROKEN_SITE)
    result = run("--output", "json", site, broken)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [
        {"file": str(site), "kind": "Site", "shape": "v1", "verdict": "valid", "findings": []},
        {
            "file": str(broken),
            "kind": None,
            "shape": None,
            "verdict": "invalid",
            "findings": [
                {
                    "severity": "error",
                    "line": 7,
                    "column": 5,
                    "path": "",
                    "message": "on means different things to readers of YAML 1.1 and 1.2",
                    "remedy": 'quote it if it is text ("on"), or write the number or boolean in its plain form',
                }
            ],
        },
    ]


def test_the_standard_input_is_read(site):
    result = run("-", stdin=site.read_bytes())
    assert (result.exit_code, result.stdout) == (0, "<stdin>: Site (v1): valid\n")


def test_json_is_recognised_without_a_file_name():
    result = run("-", stdin=b'{"manifestVersion": 18446744073709551615, "bundle": null, "deployments": []}')
    assert (result.exit_code, result.stdout) == (0, "<stdin>: StateManifest (G2): valid\n")


def test_broken_yaml_says_where(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2\nb: 3\n")
    result = run(path)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}: unknown kind: invalid\n  error: {path}:1:4:")


def test_a_warning_alone_is_no_failure():
    status = (
        b'{"deploymentId": "x", "adoptedManifestVersion": 1, "status": {"state": "installed"},'
        b' "components": [{"name": "a", "state": "failed"}]}'
    )
    result = run("-", stdin=status)
    assert result.exit_code == 0
    assert "  warning: <stdin>:1:72: status.state: the overall state is installed" in result.stdout


def test_one_bad_file_does_not_hide_the_others(tmp_path, site):
    broken = tmp_path / "broken.yaml"
    broken.write_text("- 1\n")
    result = run(broken, site)
    assert result.exit_code == 1
    assert "a document must be a mapping" in result.stdout
    assert f"{site}: Site (v1): valid" in result.stdout


def test_a_missing_file_is_a_usage_error(tmp_path, site):
    result = run(tmp_path / "absent.yaml", site)
    assert result.exit_code == 2
    assert "absent.yaml: cannot be opened\n  error: " in result.stdout
    assert "no such file or directory (give the path of a readable file)" in result.stdout
    assert f"{site}: Site (v1): valid" in result.stdout


def test_a_directory_a_pipe_and_a_socket_are_refused_without_hanging(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        result = run(tmp_path, pipe, path, "/dev/zero")
    assert result.exit_code == 2
    assert result.stdout.count(", not a file (") == 3
    assert result.stdout.count(": cannot be opened\n") == 4


def test_no_more_than_the_bound_is_read_of_an_endless_input():
    with subprocess.Popen(
        [sys.executable, "-c", "from margo_gitops.cli.document import document as d; d(['check', '-'])"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        written = 0
        with contextlib.suppress(BrokenPipeError):
            while process.poll() is None and written < 64 * 1024 * 1024:
                process.stdin.write(b"a" * 65536)
                process.stdin.flush()
                written += 65536
        output = process.stdout.read()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        assert process.wait(timeout=30) == 1
    assert b"1048577 bytes are more than the 1048576 that a document may have" in output
    assert written < 16 * 1024 * 1024


def test_control_characters_of_a_hostile_file_do_not_reach_the_terminal():
    result = run("-", stdin=b'{"apiVersion": "margo-gitops/v1", "kind": "\\u001b[2J"}')
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_file_name_that_is_no_text_is_shown_escaped(tmp_path, output):
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.yaml")
    Path(name).write_text(SITE)
    result = run("--output", output, name)
    assert result.exit_code == 0
    assert "\\udcff.yaml" in result.stdout


def test_no_file_is_a_usage_error():
    result = run()
    assert result.exit_code == 2
    assert "Missing argument 'FILE...'" in result.stderr


def test_all_valid_examples_of_the_project_pass():
    files = sorted(EXAMPLES.glob("*/valid/*"))
    result = run(*files)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.count(": valid\n") == len(files)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/invalid/*")), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_invalid_example_of_the_project_fails(file):
    assert run(file).exit_code == 1


def test_the_output_shown_in_the_docs_is_the_real_output(monkeypatch):
    root = EXAMPLES.parents[1]
    monkeypatch.chdir(root)
    shown = (root / "docs" / "documents.md").read_text().partition("```console\n$ margo-gitops document check ")[2]
    arguments, _, output = shown.partition("```")[0].partition("\n")
    assert run(*arguments.split()).stdout == output
