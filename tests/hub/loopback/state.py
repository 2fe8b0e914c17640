"""What the loopback hub keeps: repositories and their commits, blobs by sha256, Xet files, tokens, faults, a log."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .xet import Segment, parse_shard


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True)
class Entry:
    """A file of a commit. ``oid`` is git's sha1 of the file, or of the LFS pointer that stands for it."""

    oid: str
    size: int
    sha256: str
    lfs: bool

    @staticmethod
    def of(data: bytes, *, sha256: str, size: int, lfs: bool) -> Entry:
        if lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return Entry(oid=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), size=size, sha256=sha256, lfs=lfs)


Tree = dict[str, Entry]


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    tree: Tree
    title: str
    author: str
    date: str = field(default_factory=now)


class Repo:
    """Commits, branches and tags of one repository; a new one has an empty first commit on ``main``."""

    def __init__(self, repo_id: str, *, private: bool) -> None:
        self.id = repo_id
        self.private = private
        self.gated = False
        self.created = now()
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests = 0
        self.branches["main"] = self.add_commit(None, {}, title="initial commit", author="system")

    def add_commit(self, parent: str | None, tree: Tree, *, title: str, author: str) -> str:
        oid = hashlib.sha1(f"{self.id} {parent} {sorted(tree)} {title} {time.time_ns()}".encode()).hexdigest()
        self.commits[oid] = Commit(oid=oid, parent=parent, tree=tree, title=title, author=author)
        return oid

    def resolve(self, revision: str) -> str | None:
        revision = revision.removeprefix("refs/heads/")
        found = self.branches.get(revision) or self.tags.get(revision)
        if found or not re.fullmatch("[0-9a-f]{7,40}", revision):
            return found
        hits = [oid for oid in self.commits if oid.startswith(revision)]
        return hits[0] if len(hits) == 1 else None


@dataclass
class Fault:
    """What goes wrong with requests whose line ``[CDN ]METHOD path`` matches.

    ``status`` (with ``code``, ``message``, ``body``) answers instead of the hub; ``drop`` closes without an answer;
    ``stall`` waits for so many seconds first; ``cut`` ends a body after so many bytes, with a reset if ``reset``;
    ``truncate`` and ``corrupt`` serve another file than was stored; ``hide`` leaves out headers.
    """

    match: str
    times: int = 1 << 30
    status: int = 0
    code: str = ""
    message: str = ""
    body: str | None = None
    drop: bool = False
    stall: float = 0.0
    cut: int | None = None
    reset: bool = False
    truncate: int | None = None
    corrupt: int | None = None
    hide: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    status: int
    cdn: bool
    authorization: str
    user_agent: str


class State:
    """Everything that the threads of the two servers share."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.xorbs = root / "xorbs"
        for folder in (self.blobs, self.xorbs):
            folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.web: dict[str, Path] = {}
        self.tokens = {"hf_write": ("tester", "write"), "hf_read": ("reader", "read")}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.age = 0
        """Counts how often the hub was emptied: what was asked before is not logged any more."""
        self.xet_hash_of: dict[str, str] = {}
        self.xet_files: dict[str, list[Segment]] = {}
        self.hub_url = ""
        self.cdn_url = ""

    def fault_for(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.blobs / sha256
        if not target.exists():
            temporary = self.blobs / f"{sha256}.{threading.get_ident()}"
            temporary.write_bytes(data)
            os.replace(temporary, target)
        return sha256

    def add_shard(self, blob: bytes) -> None:
        for file in parse_shard(blob):
            self.xet_files[file.hash] = file.segments
            if file.sha256:
                self.xet_hash_of[file.sha256] = file.hash

    def size_of(self, sha256: str) -> int | None:
        """Size of a stored object, None when nobody uploaded it, neither over LFS nor over Xet."""
        if (self.blobs / sha256).exists():
            return (self.blobs / sha256).stat().st_size
        if sha256 in self.xet_hash_of:
            return sum(segment.size for segment in self.xet_files[self.xet_hash_of[sha256]])
        return None

    def read(self, sha256: str) -> Path:
        """The bytes for a reader over plain HTTP; what came through Xet is put together first.

        hf_xet does that by asking this very server, so the lock must not be held here.
        """
        target = self.blobs / sha256
        if not target.exists():
            import hf_xet

            temporary = f"{target}.{threading.get_ident()}"
            with hf_xet.XetSession().new_file_download_group(
                endpoint=f"{self.hub_url}/_cas", token="t", token_expiry_unix_secs=4_000_000_000
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(self.xet_hash_of[sha256], self.size_of(sha256)), temporary)
            os.replace(temporary, target)
        return target

    def add_model(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """Put a repository there as if somebody had pushed it; what git-lfs would track is stored as LFS."""
        repo = self.repos.setdefault(repo_id, Repo(repo_id, private=private))
        repo.private, repo.gated = private, gated
        head = repo.branches["main"]
        tree = dict(repo.commits[head].tree)
        for path, data in files.items():
            tree[path] = Entry.of(data, sha256=self.put(data), size=len(data), lfs=is_large(path, data))
        repo.branches["main"] = repo.add_commit(head, tree, title="files", author="tester")
        return repo


def is_large(path: str, sample: bytes, size: int = 0) -> bool:
    """Whether a file is stored outside of git."""
    return path.endswith((".safetensors", ".bin", ".pt", ".pth")) or size > 10_000_000 or b"\0" in sample
