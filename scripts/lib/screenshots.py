"""Pictures of commands: what they print on a terminal, on the fleet that `margo-gitops init` makes, as SVG."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pygit2
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from margo_gitops.cli.commands import cli
from margo_gitops.documents.state_layout import MANIFEST_FILE, device_ref
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

REPORTED = 1_772_443_867
"""When devices report, 2026-03-02T09:31:07Z."""

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "xterm-256color",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@plant.example",
    "GIT_AUTHOR_DATE": "2026-03-02T09:00:00Z",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@plant.example",
    "GIT_COMMITTER_DATE": "2026-03-02T09:00:00Z",
}

THEME = TerminalTheme(
    (22, 27, 34),
    (220, 225, 230),
    [(22, 27, 34), (248, 113, 105), (86, 196, 110), (222, 178, 72),
     (108, 164, 248), (196, 140, 240), (80, 196, 208), (220, 225, 230)],
)  # fmt: skip

# Fonts of the reader's machine: a picture must not fetch anything.
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{
  font-family: system-ui, sans-serif;
  font-size: 18px;
  font-weight: bold;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def pictures(folder: Path) -> dict[str, str]:
    """Return the SVG of each picture by its file name.

    Args:
        folder: an empty one, for a fleet repo and its state repo.
    """
    os.environ.update(ENVIRONMENT, HOME=str(folder), XDG_CACHE_HOME=str(folder / "cache"))
    fleet, state = folder / "plant", folder / "plant-state.git"
    quietly("init", str(fleet))
    quietly("render", "--fleet", str(fleet))
    for device in ("press-01", "mixer-01"):
        report(state, device, "installed")
    report(state, "sensor-01", "failed", "pull access denied")
    change(fleet / "sites/north.yaml", "Grüezi", "Servus")
    change(
        fleet / "deployments/line-monitor.yaml",
        "  parameters:\n    topic",
        "  parameters:\n    intervalSeconds: 30\n    topic",
    )
    made = {"plan.svg": picture("plan", [shown(fleet, "plan")])}
    for arguments in (("add", "--all"), ("commit", "--quiet", "--message", "Report every 30 seconds")):
        subprocess.run(["git", "-C", str(fleet), *arguments], check=True, timeout=60)
    quietly("render", "--fleet", str(fleet))
    report(state, "press-01", "installed")
    made["status.svg"] = picture("status", [shown(fleet, "status")])
    asked = [("catalog", "list"), ("catalog", "show", "com-example-line-monitor", "--compatible")]
    made["catalog.svg"] = picture("catalog", [shown(fleet, *arguments) for arguments in asked])
    return made


def change(path: Path, old: str, new: str) -> None:
    """Replace text in a file of the fleet."""
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{path.name} holds no {old!r} any more: scripts/lib/screenshots.py must follow the template")
    path.write_text(text.replace(old, new), encoding="utf-8")


def quietly(*arguments: str) -> None:
    """Run a command of ours without showing what it prints."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            cli.main(list(arguments), prog_name="margo-gitops", standalone_mode=False)
        finally:
            sys.stdout = kept


def report(state: Path, device: str, word: str, error: str | None = None) -> None:
    """Put a device's report on each of its deployments into the state repo, as `margo-gitops serve` does."""
    repository = pygit2.Repository(str(state))
    manifest = json.loads(
        repository[repository.references[device_ref(device)].peel(pygit2.Commit).tree[MANIFEST_FILE].id].data
    )
    overall = {"state": word, **({"error": {"code": "201", "message": error}} if error else {})}
    changes = {}
    for each in manifest["deployments"]:
        key = ReportKey(device, "status", each["deploymentId"])
        document = {
            "adoptedManifestVersion": manifest["manifestVersion"],
            "components": [],
            "deploymentId": each["deploymentId"],
            "status": overall,
        }
        changes[key] = json.dumps(document).encode()
    ReportBranch(state).commit(
        changes, f"Report of {device}", [("Reported-By", f"{device} (token of {device})")], REPORTED
    )


def shown(fleet: Path, *arguments: str) -> str:
    """Return the command as a person types it, and what it prints on a terminal."""
    keyboard, screen = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "margo_gitops", *arguments], cwd=fleet, stdin=screen, stdout=screen, stderr=screen
    )
    os.close(screen)
    output = b""
    try:
        while select.select([keyboard], [], [], 60)[0] and (read := _read(keyboard)):
            output += read
    finally:
        os.close(keyboard)
    if program.wait(timeout=60) not in (0, 1):  # 1: there are differences
        raise SystemExit(f"margo-gitops {' '.join(arguments)} fails:\n{output.decode()}")
    return f"\x1b[1m$ margo-gitops {' '.join(arguments)}\x1b[0m\n{output.decode()}".replace("\r\n", "\n")


def _read(keyboard: int) -> bytes:
    try:
        return os.read(keyboard, 65_536)
    except OSError:  # Linux says so when the program has closed the terminal
        return b""


def picture(name: str, outputs: Sequence[str]) -> str:
    """Return what commands printed as SVG; equal text gives equal bytes."""
    text = Text.from_ansi("\n\n".join(each.rstrip() for each in outputs))
    width = max(len(line) for line in text.plain.splitlines()) + 1
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=width, file=nowhere, force_terminal=True, color_system="truecolor", legacy_windows=False
        )
        console.print(text, soft_wrap=True)
        made = console.export_svg(
            title=f"margo-gitops {name}", theme=THEME, code_format=SVG, unique_id=f"margo-gitops-{name}"
        )
    return "\n".join(line.rstrip() for line in made.splitlines()) + "\n"
