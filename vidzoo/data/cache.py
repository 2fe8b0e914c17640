"""Decoded videos kept in memory, for data sets small enough to be decoded once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from vidzoo.data.source import SourceBase, VideoSource
from vidzoo.data.transform import resize_short
from vidzoo.errors import ConfigError

__all__ = ["FrameCache", "HeldVideo"]


class HeldVideo(SourceBase):
    """A video whose frames lie in memory: uint8 ``(N, H, W, 3)``."""

    def __init__(self, images: Tensor, *, name: str, timestamps: list[float], fps: float) -> None:
        self.name = name
        self.timestamps = timestamps
        self.fps = fps
        self._images = images

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def size(self) -> tuple[int, int]:
        return (self._images.shape[1], self._images.shape[2])

    def frames(self, indices: Sequence[int]) -> Tensor:
        return self._images[torch.tensor(self._checked(indices), dtype=torch.int64)]


class FrameCache:
    """Whole videos by key, within a budget of bytes; what does not fit is read from its source every time.

    Args:
        budget: bytes of frames to hold.
        short_side: resize frames to this short side before keeping them; ``None`` keeps them as they are.
    """

    def __init__(self, *, budget: int, short_side: int | None = None) -> None:
        if budget < 0 or (short_side is not None and short_side < 1):
            raise ConfigError(f"a cache needs a budget >= 0 and a short side >= 1, got {budget} and {short_side}")
        self.budget = budget
        self.short_side = short_side
        self.used = 0
        self._held: dict[int, HeldVideo] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: int) -> HeldVideo | None:
        """The held video, or None."""
        return self._held.get(key)

    def keep(self, key: int, source: VideoSource) -> VideoSource:
        """Decode a source whole, hold it, close it; where there is no room the source itself comes back, still open.

        Raises:
            VideoDecodeError: it cannot be decoded; it is closed then.
        """
        try:
            height, width = source.size
            shrink = min(1.0, self.short_side / min(height, width)) if self.short_side else 1.0
            need = int(len(source) * height * width * 3 * shrink * shrink)
            if self.used + need > self.budget:
                if not self._full:
                    self._full = True
                    warnings.warn(
                        f"the frame cache of {self.budget} bytes is full after {len(self)} videos: "
                        "others are decoded every time they are used",
                        stacklevel=2,
                    )
                return source
            images = self._decode(source)
        except BaseException:
            source.close()
            raise
        held = HeldVideo(images, name=source.name, timestamps=list(source.timestamps), fps=source.fps)
        source.close()
        self._held[key] = held
        self.used += images.numel()
        return held

    def _decode(self, source: VideoSource) -> Tensor:
        if self.short_side is None:
            return source.frames(range(len(source)))
        # In pieces, so that a large video that is to be kept small is never in memory at full size.
        pieces = [range(i, min(i + 64, len(source))) for i in range(0, len(source), 64)]
        return torch.cat([resize_short(source.frames(piece), self.short_side) for piece in pieces])
