"""The two binary formats of Xet that a store has to understand: the list of files in a shard, the chunks of a xorb."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ENTRY = 48  # every record of a shard
HAS_VERIFICATION, HAS_METADATA = 0x80000000, 0x40000000


@dataclass(frozen=True)
class Segment:
    """Chunks ``first`` to ``last`` (exclusive) of a xorb, ``size`` bytes unpacked."""

    xorb: str
    size: int
    first: int
    last: int


@dataclass
class ShardFile:
    hash: str
    sha256: str = ""
    segments: list[Segment] = field(default_factory=list)


def parse_shard(blob: bytes) -> list[ShardFile]:
    files = []
    at = ENTRY  # the header: a tag of 32 bytes, version, size of the footer
    while at + ENTRY <= len(blob) and blob[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack("<II", blob[at + 32 : at + 40])
        file = ShardFile(_hex(blob[at : at + 32]))
        at += ENTRY
        for _ in range(count):
            _, size, first, last = struct.unpack("<IIII", blob[at + 32 : at + 48])
            file.segments.append(Segment(_hex(blob[at : at + 32]), size, first, last))
            at += ENTRY
        if flags & HAS_VERIFICATION:
            at += ENTRY * count
        if flags & HAS_METADATA:
            file.sha256 = _hex(blob[at : at + 32])
            at += ENTRY
        files.append(file)
    return files


def chunk_offsets(xorb: bytes, upto: int) -> list[int]:
    """Where the first ``upto`` chunks begin and end; a chunk is 8 bytes of header (packed size at 1..3) and data."""
    offsets = [0]
    while len(offsets) <= upto:
        at = offsets[-1]
        offsets.append(at + 8 + int.from_bytes(xorb[at + 1 : at + 4], "little"))
    return offsets


def _hex(digest: bytes) -> str:
    """Xet writes a hash as four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
