r"""The digest of a folder: sha256 over what `sha256sum` would print for its files, sorted by path.

Anyone can compute it without this project: `find * -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum`.
"""

from __future__ import annotations

from collections.abc import Mapping

from margo_gitops.digests import Digest, sha256


def folder_digest(files: Mapping[str, Digest]) -> Digest:
    """Return the digest of a folder.

    Args:
        files: digest of every regular file's content, by path relative to the folder, with `/` between names.

    Raises:
        ValueError: a path holds a newline or a backslash, which `sha256sum` would print in another way.
    """
    lines = []
    for path in sorted(files, key=str.encode):
        if "\n" in path or "\\" in path or "\r" in path:
            raise ValueError(f"{path!r}: newlines and backslashes are not possible in file names")
        lines.append(f"{files[path].removeprefix('sha256:')}  {path}\n")
    return sha256("".join(lines).encode())
