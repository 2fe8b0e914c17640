"""What a source of frames is, and a window on one."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from vidzoo.errors import VideoDecodeError

__all__ = ["DEFAULT_FPS", "SourceBase", "VideoSource", "VideoWindow"]

DEFAULT_FPS = 25.0
"""The rate of pictures that come without one."""


@runtime_checkable
class VideoSource(Protocol):
    """Anything that gives frames by number."""

    @property
    def name(self) -> str:
        """Path or spec: what an error message calls it."""

    @property
    def timestamps(self) -> list[float]:
        """Seconds at which each frame appears, counted from the first, strictly increasing."""

    @property
    def fps(self) -> float:
        """Mean frame rate."""

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, after rotation."""

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames of these numbers, in this order, repeats allowed: uint8 ``(N, H, W, 3)``, RGB."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SourceBase:
    """What every source does the same way: closing, and checking frame numbers."""

    name: str

    def __len__(self) -> int:
        return 0

    def close(self) -> None:
        """Release files; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, indices: Sequence[int]) -> list[int]:
        """The request as plain ints.

        Raises:
            IndexError: a number outside ``0 .. len - 1``.
        """
        numbers = [int(i) for i in indices]
        for i in numbers:
            if not 0 <= i < len(self):
                raise IndexError(f"{self.name} has frames 0 to {len(self) - 1}, got {i}")
        return numbers


class VideoWindow(SourceBase):
    """Frames ``start`` to ``end`` of another source, counted from 1, both included, as annotation files count.

    Raises:
        VideoDecodeError: the source has no such frames.
    """

    def __init__(self, source: VideoSource, *, start: int, end: int) -> None:
        if not 1 <= start <= end or start > len(source):
            raise VideoDecodeError(
                f"{source.name}: has {len(source)} frames, so none from {start} to {end} (counted from 1)"
            )
        self.name = source.name
        self._source = source
        self._first = start - 1
        stamps = source.timestamps[start - 1 : end]
        self.timestamps = [t - stamps[0] for t in stamps]
        self.fps = source.fps

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def size(self) -> tuple[int, int]:
        return self._source.size

    def frames(self, indices: Sequence[int]) -> Tensor:
        return self._source.frames([self._first + i for i in self._checked(indices)])

    def close(self) -> None:
        self._source.close()
