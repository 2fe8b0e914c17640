"""The cache of donors: a file and, beside it, a note of what it is and the sha256 that it must have."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidzoo.checkpoint import sha256_of
from vidzoo.errors import HubError
from vidzoo.files import whole_file

__all__ = ["Stored", "cache_folder", "kept"]


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where donors and what was made of them are kept.

    ``cache_dir/vidzoo`` when it is given, else the folder in ``VIDZOO_HOME``, else ``vidzoo`` in ``XDG_CACHE_HOME`` or
    ``~/.cache``.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "vidzoo"
    home = os.environ.get("VIDZOO_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vidzoo"


@dataclass(frozen=True)
class Stored:
    """A file of the cache, complete or absent: it counts only with a note beside it that knows its sha256."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def read(self) -> dict[str, Any] | None:
        """The note of a file that is whole and as it was written; None when it has to be made (again)."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            found = sha256_of(self.path)
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) and note.get("sha256") == found else None

    def write(self, make: Callable[[Path], None], note: Mapping[str, Any]) -> None:
        """``make`` writes the file at the path that it is given; the file and its note then take their places.

        To be called inside :meth:`locked`.

        Raises:
            HubError: the folder cannot be written, or the disk is full.
        """
        temporary = self.path.with_name(f".{self.path.name}.partial")
        with kept(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                make(temporary)  # over what a killed process may have left
                text = json.dumps({**note, "sha256": sha256_of(temporary)}, indent=2, ensure_ascii=False)
                self.note.unlink(missing_ok=True)
                os.replace(temporary, self.path)
                with whole_file(self.note) as file:
                    file.write(text.encode() + b"\n")
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget a file that turned out to be of no use."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time makes this file; the others wait for it.

        Raises:
            HubError: as :meth:`write`.
        """
        from filelock import FileLock

        lock = self.path.with_name(f".{self.path.name}.lock")
        with kept(self.path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            guard = FileLock(lock)
            guard.acquire()
        try:
            yield
        finally:
            guard.release()


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Say in one sentence why something cannot be kept at ``path``."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter from locks, where a file system has none
        advice = "give another cache_dir, or set VIDZOO_HOME to a folder that can be written"
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space" in str(error):
            free = f"{_free(path) / 2**20:.0f} MiB are free"
            raise HubError(f"the disk of {path.parent} is full ({free}): make room, or {advice}") from error
        raise HubError(f"{path.name} cannot be kept in {path.parent} ({reason or error}): {advice}") from error


def _free(path: Path) -> int:
    folder = next((parent for parent in path.parents if parent.exists()), Path("/"))
    return shutil.disk_usage(folder).free
