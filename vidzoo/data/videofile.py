"""Frames of a video file, by exact number, through PyAV.

The number of a frame is its place in presentation order. It comes from reading every packet's time stamp without
decoding: container headers are never trusted, for their frame counts are often wrong. Frames are reached by seeking to
a key frame and are accepted by their time stamp only; where that cannot be trusted the file is decoded from its start.

What counts as damage: a packet that the container marks as incomplete (the file was cut), a packet that the decoder
refuses, a frame that it returns as corrupt, and a stream that ends well before its index. ``tolerant=False`` raises
``VideoDecodeError`` for damage that touches the request; ``tolerant=True`` shows the last good frame in its place. A
frame that is merely absent (a container may list a packet that holds no picture, often one or two at the end) is not
damage: the frame before it is still on the screen then, and is returned. In H.264 and H.265, where every listed packet is
a picture, a lone absent one counts as damage.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidzoo.data.source import DEFAULT_FPS, SourceBase
from vidzoo.errors import MissingExtraError, VideoDecodeError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["VIDEO_SUFFIXES", "VideoFile"]

_MPEG = (".3gp", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".vob")
_OTHERS = (".asf", ".avi", ".flv", ".gif", ".mjpeg", ".mkv", ".ogv", ".webm", ".wmv")
VIDEO_SUFFIXES = frozenset((*_MPEG, *_OTHERS))
"""File names that are taken for videos when folders are searched; any file can be opened by its path."""

# A jump to a later key frame pays only when it saves decoding at least so many frames.
_MIN_JUMP = 12
# A stream may end so many frames (or this share of them) before its index does without being called damaged.
_TAIL_FRAMES = 3
_TAIL_SHARE = 0.05
# More absent pictures than this share is a habit of the stream (field-coded video lists two packets per picture).
_ABSENT_SHARE = 0.1


class _Shelf:
    """Decoded frames in one block of memory, so that a request never costs its size twice."""

    def __init__(self, capacity: int) -> None:
        self._rows: dict[int, int] = {}
        self._capacity = capacity
        self._block: Tensor | None = None

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def put(self, number: int, image: Tensor) -> None:
        if self._block is None:
            self._block = torch.empty((self._capacity, *image.shape), dtype=torch.uint8)
        row = self._rows.setdefault(number, len(self._rows))
        self._block[row].copy_(image)

    def take(self, numbers: Sequence[int]) -> Tensor:
        rows = [self._rows[i] for i in numbers]
        block = torch.empty(0) if self._block is None else self._block
        return block if rows == list(range(len(block))) else block[torch.tensor(rows)]


class VideoFile(SourceBase):
    """One video file. The best video stream is read; rotation is applied; alpha is dropped.

    Opening reads every packet once, without decoding. Not safe to share between threads; open one per worker.

    Args:
        path: a file that FFmpeg can read.
        tolerant: replace damaged frames by the last good one instead of raising.
        threads: decoder threads; more than one slows short clips down, 0 lets FFmpeg choose.

    Raises:
        VideoDecodeError: missing, empty, not a video, no video stream, no frames, or (strict) cut off.
    """

    def __init__(self, path: str | PathLike[str], *, tolerant: bool = False, threads: int = 1) -> None:
        self.name = str(path)
        self.tolerant = tolerant
        self.threads = threads
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._rotation: int | None = None
        self._seekable = True
        try:
            self._index()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` after rotation; decodes the first frame unless one has been decoded before."""
        if self._rotation is None:
            self.frames([0])
        turned = (self._rotation or 0) % 180 == 90
        return (self._width, self._height) if turned else (self._height, self._width)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()
        self._opened = None

    def frames(self, indices: Sequence[int]) -> Tensor:
        """uint8 ``(N, H, W, 3)`` RGB, in the order asked for; only these frames are ever held in memory.

        Raises:
            IndexError: a number outside the video.
            VideoDecodeError: nothing decodes, or (strict) the request meets damage.
        """
        numbers = self._checked(indices)
        wanted = sorted(set(numbers))
        found = _Shelf(len(wanted))
        for run in self._runs(wanted):
            starts = self._starts(run[0])
            if any(self._walk([i for i in run if i not in found], found, start=start) for start in starts):
                continue
            # The file has shown that its seeks cannot be relied on: one pass from the start, now and from now on.
            self._seekable = False
            self._walk([i for i in wanted if i not in found], found, start=None)
            break
        return found.take(numbers) if numbers else torch.empty((0, *self.size, 3), dtype=torch.uint8)

    # Opening.

    def _open(self) -> tuple[InputContainer, VideoStream]:
        """Container and stream, opened on first use and again after :meth:`close`."""
        if self._opened is not None:
            return self._opened
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("av", "all", "reading video files") from error
        path = Path(self.name)
        if not path.is_file():
            raise VideoDecodeError(f"{self.name}: there is no such file")
        if path.stat().st_size == 0:
            raise VideoDecodeError(f"{self.name}: the file is empty (0 bytes)")
        try:
            container = av.open(self.name)
        except (av.FFmpegError, OSError) as error:
            raise VideoDecodeError(f"{self.name}: cannot be opened as a video ({_cause(error)})") from error
        # FFmpeg takes any text file for a "subtitle video" of rendered characters; nobody trains on those.
        stream: Any = None if container.format.name == "tty" else container.streams.best("video")
        if stream is None:
            kinds = sorted({s.type for s in container.streams})
            container.close()
            raise VideoDecodeError(f"{self.name}: holds no video stream (only {', '.join(kinds) or 'nothing'})")
        self._opened = (container, stream)
        stream.codec_context.thread_count = self.threads
        if self.threads != 1:
            stream.thread_type = "AUTO"
        return self._opened

    def _packets(self) -> Iterator[Packet]:
        """Packets of the stream from where the container is, the flushing one included."""
        container, stream = self._open()
        yield from container.demux(stream)

    def _index(self) -> None:
        import av

        container, stream = self._open()
        codec = stream.codec_context
        self._gapless = codec.name in ("h264", "hevc")
        packed = container.format.name == "avi" and codec.name.startswith(("mpeg4", "msmpeg4"))
        pts: list[int | None] = []
        keys: list[int] = []
        cut: str | None = None
        try:
            for packet in self._packets():
                if packet.size == 0 and packet.pts is None:
                    continue  # the flushing packet
                if packet.is_corrupt:
                    cut = cut or f"packet {len(pts)} is incomplete: the file was cut or damaged"
                    continue
                # MPEG-4 in AVI: one-byte packets only delay the stream, they hold no picture.
                if packet.is_discard or (packed and packet.size <= 1):
                    continue
                pts.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        except av.FFmpegError as error:
            cut = f"reading stops after {len(pts)} frames ({_cause(error)})"
        if not pts:
            raise VideoDecodeError(f"{self.name}: holds no video frames" + (f"; {cut}" if cut else ""))
        if cut and not self.tolerant:
            raise VideoDecodeError(f"{self.name}: {cut}")

        known = sorted(p for p in pts if p is not None)
        # AVI labels pictures in decoding order, raw streams do not label them at all: count them instead.
        mislabelled = container.format.name == "avi" and len(keys) < len(pts)
        self._linear = mislabelled or len(known) != len(pts) or len(set(known)) != len(known) or not keys
        self._pts = known
        self._keys = sorted(keys)
        self._width, self._height = codec.width, codec.height
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        base = float(stream.time_base or 0)
        if self._linear or base == 0:
            self.fps = nominal or DEFAULT_FPS
            self.timestamps = [i / self.fps for i in range(len(pts))]
            return
        self.timestamps = [(p - known[0]) * base for p in known]
        measured = (len(known) - 1) / self.timestamps[-1] if len(known) > 1 else nominal or DEFAULT_FPS
        # Containers that round to milliseconds blur the rate: the nominal one is sharper where it agrees.
        self.fps = nominal if abs(nominal - measured) < 0.01 * measured else measured

    # Decoding.

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """Split sorted frame numbers where jumping to a later key frame is cheaper than decoding on."""
        if self._linear or not self._seekable:
            return [wanted] if wanted else []
        runs: list[list[int]] = []
        for i in wanted:
            if runs:
                previous = runs[-1][-1]
                key = bisect.bisect_right(self._keys, self._pts[i]) - 1
                landing = bisect.bisect_left(self._pts, self._keys[key]) if key >= 0 else 0
                if landing - previous < _MIN_JUMP:
                    runs[-1].append(i)
                    continue
            runs.append([i])
        return runs

    def _starts(self, number: int) -> list[int]:
        """Time stamps of the key frames to try: the one before a frame, and the one before that.

        The second serves streams whose pictures lean on the group before their key frame (open GOP).
        """
        if self._linear or not self._seekable:
            return []
        key = bisect.bisect_right(self._keys, self._pts[number])
        return self._keys[max(key - 2, 0) : key][::-1]

    def _walk(self, wanted: list[int], found: _Shelf, *, start: int | None) -> bool:
        """Decode forward and collect ``wanted`` (sorted) into ``found``.

        Args:
            start: time stamp of the key frame to begin at; None is the beginning of the file.

        Returns:
            False when beginning there does not give the frames, in which case an earlier start may.
        """
        seek = start is not None
        if start is None:
            self.close()  # a fresh file is the only beginning that every container can be brought back to
        else:
            self._seek(start)
        last: VideoFrame | None = None
        damage: str | None = None
        count = absent = 0
        previous: int | None = None
        todo = iter(wanted)
        target = next(todo)
        for item in self._decoded(check=start):
            if isinstance(item, str):
                damage = item
                if seek:
                    return False
                if not self.tolerant:
                    raise VideoDecodeError(f"{self.name}: {damage}")
                continue
            if item is None:
                return False  # the seek overshot
            if start is not None and previous is None and item.pts is not None and item.pts > start:
                return False  # a key frame in name only: the picture builds up over the following packets
            if self._linear:
                place = count
            elif item.pts is None:
                continue
            else:
                # A picture between two listed ones stands in for none of them, but counts as shown.
                place = bisect.bisect_right(self._pts, item.pts) - 1
                if place >= 0 and self._pts[place] != item.pts:
                    last = item
                    continue
            if self._gapless and previous is not None and (start is None or self._pts[previous] >= start):
                absent += place - previous - 1
                if place - previous > 1 and seek:
                    return False
                if place - previous > 1 and not self.tolerant and absent <= _ABSENT_SHARE * count:
                    raise VideoDecodeError(f"{self.name}: frame {previous + 1} cannot be decoded")
            previous = place
            count += 1
            while place > target:  # this one never came
                if seek:
                    return False
                found.put(target, self._image(last or item))
                following = next(todo, None)
                if following is None:
                    return True
                target = following
            if place == target:
                if item.is_corrupt and (seek or not self.tolerant):
                    if seek:
                        return False
                    raise VideoDecodeError(f"{self.name}: frame {place} is damaged")
                found.put(place, self._image(item))
                following = next(todo, None)
                if following is None:
                    return True
                target = following
            last = item
        if seek:
            return False
        if last is None:
            raise VideoDecodeError(
                f"{self.name}: opens, but not one frame can be decoded" + (f" ({damage})" if damage else "")
            )
        if not self.tolerant and len(self) - count > max(_TAIL_FRAMES, _TAIL_SHARE * len(self)):
            raise VideoDecodeError(
                f"{self.name}: only {count} of {len(self)} frames can be decoded, frame {target} cannot"
            )
        image = self._image(last)
        for i in (target, *todo):
            found.put(i, image)
        return True

    def _seek(self, pts: int) -> None:
        import av

        container, stream = self._open()
        try:
            container.seek(pts, stream=stream, backward=True)
        except av.FFmpegError:
            self.close()

    def _decoded(self, *, check: int | None) -> Iterator[VideoFrame | str | None]:
        """Frames as they come; a str says what was damaged there; None says that the start lies beyond ``check``."""
        import av

        packets = self._packets()
        first = True
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                yield f"reading stops ({_cause(error)})"
                yield from self._flush()
                return
            if first and check is not None and (packet.pts is None or packet.pts > check or not packet.is_keyframe):
                yield None
                return
            first = False
            try:
                shown = packet.decode()
            except av.FFmpegError as error:
                yield f"a packet cannot be decoded ({_cause(error)})"
                continue
            yield from shown

    def _flush(self) -> Iterator[VideoFrame]:
        import av

        try:
            yield from self._open()[1].decode(None)
        except av.FFmpegError:
            return

    def _image(self, frame: VideoFrame) -> Tensor:
        if self._rotation is None:
            self._rotation = round(frame.rotation / 90) * 90
        if not self._width:
            self._width, self._height = frame.width, frame.height
        if (frame.width, frame.height) != (self._width, self._height):
            # A stream may change its size midway; a clip cannot.
            frame = frame.reformat(width=self._width, height=self._height, format="rgb24")
        image = torch.from_numpy(frame.to_ndarray(format="rgb24"))  # (H, W, 3)
        turns = self._rotation // 90 % 4
        return torch.rot90(image, turns, (0, 1)).contiguous() if turns else image


def _cause(error: BaseException) -> str:
    """FFmpeg's own words: the last line of its log where there is one, or the system's."""
    log = getattr(error, "log", None)
    if log and len(log) == 3 and str(log[2]).strip():
        return str(log[2]).strip().splitlines()[-1]
    return str(getattr(error, "strerror", None) or error)
