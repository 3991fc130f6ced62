"""A mirror that a server keeps of a state repo in a bucket (`history_bundles`); reports go to a git server.

BUCKET-MIRROR-1  A look is one request, which the store answers with 304 while the list is the same.
BUCKET-MIRROR-2  A bundle is used once all of it is here and has its digest. The branches that are served move when the
                 last one is in the mirror. The disk must have room for it, and for the pack that git makes of it.
BUCKET-MIRROR-3  The mirror knows the last bundle that it has. A mirror that does not know it is made again, and must
                 then have what it had.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from margo_gitops.disk.files import replace_file
from margo_gitops.errors import InvalidDocument, StateUnreachable, UnreadableDocument
from margo_gitops.state_repo.bucket import Bucket
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.history_bundles import LIST_KEY, MAX_LIST_BYTES, History, HistoryBundle, read_history
from margo_gitops.state_repo.remote import MirrorSuspect

_HELD_FILE: Final = "margo-gitops-bundle"


class FollowedBucket(FollowedState):
    """A state repo in a bucket, and the mirror of it that one server reads."""

    def __init__(self, url: str, mirror: Path, reports_url: str) -> None:
        """Use a bucket.

        Args:
            url: `s3://bucket/prefix`, as `publish --history` fills it.
            mirror: the folder of the mirror, for this server alone.
            reports_url: the git repository that gets the reports.

        Raises:
            StateUnreachable: the URL has another form, or the environment names no region.
        """
        super().__init__(url, mirror, reports_url)
        self._bucket = Bucket(url, StateUnreachable)
        self._tag = ""
        self._history: History | None = None

    def follow(self) -> bool:
        """Return whether the state moved; then the mirror has it (BUCKET-MIRROR-1).

        Raises:
            StateUnreachable: the bucket refuses, or a bundle in it is not what the list says.
            StateTampered: the history was rewritten since this mirror saw it last.
            StateMoved, StateRepoUnusable: the mirror cannot be used.
        """
        with self._using:
            found = self._bucket.get_unless(LIST_KEY, self._tag, MAX_LIST_BYTES)
            if found is None and self._tag:
                return False
            if found is None:
                raise StateUnreachable(
                    f"{self.url} has no history",
                    remedy=f"publish it: margo-gitops publish {self.url} --history",
                )
            try:
                self._history = read_history(found.content, f"{self.url}/{LIST_KEY}")
            except (InvalidDocument, UnreadableDocument) as error:
                raise self._broken(str(error)) from error
            try:
                self.fetch()
            finally:
                self.release()
            self._tag = found.tag
            return True

    def _fetch_tracked(self) -> None:
        mark = self.mirror / _HELD_FILE
        try:
            held = mark.read_text(encoding="ascii", errors="replace") if mark.exists() else None
            if held is None and (self.mirror / "packed-refs").exists():
                raise MirrorSuspect("it does not know which bundle it has")
            for bundle in self._history.after(held) if self._history is not None else ():
                with self._downloaded(bundle) as file:
                    self._fetch_from(str(file), *(["--prune"] if bundle.whole else []))
                replace_file(mark, bundle.digest.encode())
        except OSError as error:
            raise self._unusable(error) from error

    @contextmanager
    def _downloaded(self, bundle: HistoryBundle) -> Iterator[Path]:
        if shutil.disk_usage(self.mirror).free < 2 * bundle.size:
            raise self._broken(f"{bundle.key} has {bundle.size} bytes, and the disk has no room for it")
        with tempfile.NamedTemporaryFile(dir=self.mirror, prefix=".bundle-") as file:
            found = self._bucket.download(bundle.key, bundle.size, cast("BinaryIO", file))
            if found != bundle.digest:
                raise self._broken(f"{bundle.key} has {file.tell()} bytes and the digest {found}")
            file.flush()
            yield Path(file.name)

    def _broken(self, why: str) -> StateUnreachable:
        return StateUnreachable(
            f"the history in {self.url} is not whole",
            why=[why],
            remedy=f"remove {LIST_KEY} there, then publish again: margo-gitops publish {self.url} --history",
        )
