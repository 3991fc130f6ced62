"""What a bug report needs of a machine, as one small archive without secrets.

BUNDLE-1  Of a configuration, values below `appliers` and of keys that sound like a secret are not shown, of URLs
          neither user nor query.
BUNDLE-2  What the configuration keeps secret, in itself or in a file that it names, is in no file of the archive.
BUNDLE-3  Each file has at most 1 MiB; the rest is cut.
"""

from __future__ import annotations

import io
import json
import platform
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from margo_gitops import __version__
from margo_gitops.documents.json_text import pretty_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.wording import json_text

_MOST = 1024 * 1024
_SHORTEST = 4
"""Characters of a secret; shorter ones would blacken ordinary text."""
_SECRET = re.compile(r"token|passw|passphrase|secret|credential|key|auth", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)([^/@\s]*)@|\?\S*")
_URL_SECRET = re.compile(r"://[^/@:\s]*:([^/@\s]+)@|://([^/@:\s]{12,})@|[?&][^=&\s]*=([^&\s]{4,})")
_HIDDEN = "(not shown)"


def write_support_bundle(configuration: Path, content: bytes, files: Mapping[str, Json]) -> bytes:
    """Return the archive, a tar.gz.

    Args:
        configuration: the file of the agent's or the server's.
        content: of this file.
        files: what else is in it, by name.

    Raises:
        UnreadableDocument: the configuration is not YAML.
    """
    settings = read_yaml(content, str(configuration)).root.plain()
    secrets = sorted(set(_secrets(settings, configuration.absolute().parent)), key=len, reverse=True)
    texts = {"configuration.yaml": write_yaml(_shown(settings)).decode(), "versions.json": pretty_json(_versions())}
    texts |= {name: pretty_json(content) for name, content in files.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in texts.items():
            for secret in secrets:
                for spelled in _spellings(secret):
                    text = text.replace(spelled, _HIDDEN)
            content = text.encode()[:_MOST]
            member = tarfile.TarInfo(f"support-bundle/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _spellings(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as JSON spells it: here, elsewhere, and in a text that is JSON itself."""
    yield secret
    for once in (json_text(secret)[1:-1], json.dumps(secret)[1:-1]):
        yield from (json_text(once)[1:-1], once)


def _versions() -> Json:
    packages = {each.name: each.version for each in distributions()}
    return {
        "margo-gitops": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "packages": {name: packages[name] for name in sorted(packages)},
    }


def _shown(value: Json) -> Json:
    """Return settings as they may be shown (BUNDLE-1)."""
    if isinstance(value, dict):
        return {key: _shapes(child) if _hides(key) else _shown(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return _IN_URL.sub("", value) if isinstance(value, str) else value


def _hides(key: str) -> bool:
    """Return whether what a key holds may be secret (BUNDLE-1)."""
    return key == "appliers" or _SECRET.search(key) is not None


def _shapes(value: Json) -> Json:
    """Return only keys, numbers and booleans."""
    if isinstance(value, dict):
        return {key: _shapes(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_shapes(each) for each in value]
    return _HIDDEN if isinstance(value, str) else value


def _secrets(value: Json, folder: Path, *, named: bool = False) -> Iterator[str]:
    """Yield the texts that are secret, and those in small files that are named."""
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _secrets(child, folder, named=named or (isinstance(key, str) and _hides(key)))
    elif isinstance(value, str):
        yield from (each for match in _URL_SECRET.finditer(value) for each in match.groups() if each)
        if not named:
            return
        place = folder / value
        try:
            lines = place.read_text().splitlines() if place.is_file() and place.stat().st_size <= _MOST else [value]
        except (OSError, ValueError):
            lines = [value]
        yield from (line.strip() for line in lines if len(line.strip()) >= _SHORTEST)
