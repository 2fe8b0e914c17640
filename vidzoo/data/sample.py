"""Which frames of a video make a clip.

``segments`` is TSN's sparse sampling (Wang et al., ECCV 2016): the video is cut into ``num_frames`` equal parts,
training takes a random frame of each, testing the middle one. ``dense`` takes consecutive frames with a stride counted
at a nominal frame rate. Both work on time, not on frame numbers: in a video of variable rate equal distances are equal
times, and a video at another rate than the nominal one is resampled.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch

from vidzoo.data.source import VideoSource
from vidzoo.errors import ConfigError, VideoDecodeError
from vidzoo.pretrained import VideoCfg

__all__ = ["ClipSampler", "reorder"]

# A clock that strays from even spacing by less than this share of a frame is a rounded one, not a variable one.
_JITTER = 0.3
_EPS = 1e-6


@dataclass(frozen=True)
class ClipSampler:
    """Chooses frame numbers; a video shorter than a dense clip repeats its last frame.

    Args:
        num_frames: frames per clip.
        sampling: ``"segments"`` or ``"dense"``.
        temporal_stride: distance of dense frames, counted at ``fps``.
        fps: rate that the stride refers to; ``None`` takes each video at its own mean rate.
        time_scale: training only: the speed is multiplied by a random factor of this range. Dense strides are stretched
            by it; segments then cover that share of the video, never more than the whole.

    Raises:
        ConfigError: impossible numbers.
    """

    num_frames: int
    sampling: Literal["segments", "dense"] = "segments"
    temporal_stride: int = 1
    fps: float | None = None
    time_scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.temporal_stride < 1:
            raise ConfigError(
                f"a clip needs num_frames and temporal_stride >= 1, got {self.num_frames} and {self.temporal_stride}"
            )
        if self.sampling not in ("segments", "dense"):
            raise ConfigError(f"sampling must be 'segments' or 'dense', got {self.sampling!r}")
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"fps must be positive or None, got {self.fps!r}")
        if not 0 < self.time_scale[0] <= self.time_scale[1]:
            raise ConfigError(f"time_scale must be (low, high) with 0 < low <= high, got {self.time_scale!r}")

    @classmethod
    def from_cfg(cls, cfg: VideoCfg, *, time_scale: tuple[float, float] = (1.0, 1.0)) -> Self:
        """The sampler that a set of weights was trained with."""
        return cls(
            num_frames=cfg.num_frames,
            sampling=cfg.sampling,
            temporal_stride=cfg.temporal_stride,
            fps=cfg.fps,
            time_scale=time_scale,
        )

    def training(self, source: VideoSource, generator: torch.Generator) -> list[int]:
        """``num_frames`` increasing frame numbers at a random place."""
        clock = _clock(source)
        low, high = self.time_scale
        # Log-uniform: twice as fast is as likely as half as fast.
        speed = low if low == high else math.exp(math.log(low) + _uniform(generator) * (math.log(high) - math.log(low)))
        if self.sampling == "segments":
            end = clock[-1] + 1
            span = end * min(speed, 1.0)
            begin = (end - span) * _uniform(generator) if span < end else 0.0
            part = span / self.num_frames
            offsets = torch.rand(self.num_frames, generator=generator, dtype=torch.float64).tolist()
            return [_shown(clock, begin + (i + offset) * part) for i, offset in enumerate(offsets)]
        step = self._step(source) * speed
        room = max(0.0, clock[-1] - (self.num_frames - 1) * step)
        first = _shown(clock, (math.floor(room + _EPS) + 1) * _uniform(generator))
        return self._dense(clock, min(clock[first], room), step)

    def views(self, source: VideoSource, num_clips: int = 1) -> list[list[int]]:
        """``num_clips`` clips spread evenly over the video; always the same ones.

        Dense: the first begins with the video and the last ends with it; a single one lies in the middle. Segments: the
        clips divide each part evenly; a single one takes its middle.

        Raises:
            ConfigError: fewer than one clip.
        """
        if num_clips < 1:
            raise ConfigError(f"num_clips must be at least 1, got {num_clips}")
        clock = _clock(source)
        if self.sampling == "segments":
            part = (clock[-1] + 1) / self.num_frames
            return [
                [_shown(clock, (i + (view + 0.5) / num_clips) * part) for i in range(self.num_frames)]
                for view in range(num_clips)
            ]
        step = self._step(source)
        room = max(0.0, clock[-1] - (self.num_frames - 1) * step)
        starts = [room / 2] if num_clips == 1 else [room * view / (num_clips - 1) for view in range(num_clips)]
        return [self._dense(clock, clock[_shown(clock, start)], step) for start in starts]

    def _step(self, source: VideoSource) -> float:
        """Distance of dense frames in mean frames of this video."""
        return self.temporal_stride * (source.fps / self.fps if self.fps else 1.0)

    def _dense(self, clock: Sequence[float], start: float, step: float) -> list[int]:
        return [_nearest(clock, start + i * step) for i in range(self.num_frames)]


def reorder(
    indices: Sequence[int],
    mode: Literal["shuffled", "reversed", "still"],
    generator: torch.Generator | None = None,
) -> list[int]:
    """The same clip with its order of time destroyed: what a model still knows then, it does not know from motion.

    ``shuffled`` keeps the frames in a random order other than the true one (where there is one); ``reversed`` plays
    them backwards; ``still`` repeats the middle frame.

    Raises:
        ConfigError: an unknown mode.
    """
    frames = list(indices)
    if mode == "reversed":
        return frames[::-1]
    if mode == "still":
        return [frames[len(frames) // 2]] * len(frames)
    if mode != "shuffled":
        raise ConfigError(f"the order of time can be 'shuffled', 'reversed' or 'still', got {mode!r}")
    if len(set(frames)) < 2:
        return frames
    while True:
        mixed = [frames[i] for i in torch.randperm(len(frames), generator=generator).tolist()]
        if mixed != frames:
            return mixed


def _clock(source: VideoSource) -> list[float]:
    """When each frame appears, in mean frames of this video: 0, 1, 2, ... where the rate is constant."""
    stamps = source.timestamps
    if not stamps:
        raise VideoDecodeError(f"{source.name}: has no frames")
    even = [float(i) for i in range(len(stamps))]
    span = stamps[-1] - stamps[0]
    if len(stamps) < 3 or span <= 0:
        return even
    rate = (len(stamps) - 1) / span
    clock = [(t - stamps[0]) * rate for t in stamps]
    return even if all(abs(a - b) < _JITTER for a, b in zip(clock, even, strict=True)) else clock


def _shown(clock: Sequence[float], moment: float) -> int:
    """The frame that is on the screen at a moment."""
    return min(max(bisect.bisect_right(clock, moment + _EPS) - 1, 0), len(clock) - 1)


def _nearest(clock: Sequence[float], moment: float) -> int:
    """The frame that appears closest to a moment, the earlier of two; the last one for ever after."""
    after = bisect.bisect_left(clock, moment - _EPS)
    if after == 0:
        return 0
    if after == len(clock):
        return len(clock) - 1
    return after if clock[after] - moment < moment - clock[after - 1] - _EPS else after - 1


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
