"""Which frames make a clip."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vidzoo.data.sample import ClipSampler, reorder
from vidzoo.data.source import SourceBase
from vidzoo.errors import ConfigError
from vidzoo.pretrained import VideoCfg


class Clock(SourceBase):
    """A video of which only the time is known."""

    def __init__(self, timestamps: Sequence[float], fps: float | None = None) -> None:
        self.name = "clock"
        self.timestamps = list(timestamps)
        self.fps = fps or (len(self.timestamps) - 1) / self.timestamps[-1]
        self.size = (2, 2)

    def __len__(self) -> int:
        return len(self.timestamps)

    def frames(self, indices: Sequence[int]) -> Tensor:
        return torch.zeros(len(indices), 2, 2, 3, dtype=torch.uint8)


def steady(count: int, fps: float = 25.0) -> Clock:
    return Clock([i / fps for i in range(count)], fps)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_segments_take_the_middle_of_equal_parts() -> None:
    assert ClipSampler(num_frames=4).views(steady(40)) == [[5, 15, 25, 35]]
    assert ClipSampler(num_frames=8).views(steady(280))[0] == [int((i + 0.5) * 35) for i in range(8)]


def test_training_segments_stay_inside_their_part_and_reach_all_of_it() -> None:
    sampler = ClipSampler(num_frames=4)
    generator = seeded()
    drawn = [sampler.training(steady(40), generator) for _ in range(400)]
    for part in range(4):
        assert {clip[part] for clip in drawn} == set(range(10 * part, 10 * part + 10))


def test_two_views_of_segments_share_no_frame() -> None:
    first, second = ClipSampler(num_frames=4).views(steady(40), 2)
    assert not set(first) & set(second)


def test_a_video_shorter_than_its_segments_repeats_frames_in_order() -> None:
    (clip,) = ClipSampler(num_frames=8).views(steady(3))
    assert clip == sorted(clip)
    assert set(clip) == {0, 1, 2}


def test_a_dense_clip_has_the_stride_and_lies_in_the_middle() -> None:
    (clip,) = ClipSampler(num_frames=4, sampling="dense", temporal_stride=3).views(steady(30))
    assert clip == [10, 13, 16, 19]


def test_dense_views_reach_from_the_first_to_the_last_frame() -> None:
    views = ClipSampler(num_frames=4, sampling="dense", temporal_stride=2).views(steady(27), 3)
    assert [view[0] for view in views] == [0, 10, 20]
    assert views[-1][-1] == 26


def test_a_short_clip_is_padded_with_its_last_frame() -> None:
    sampler = ClipSampler(num_frames=6, sampling="dense", temporal_stride=2)
    assert sampler.views(steady(5)) == [[0, 2, 4, 4, 4, 4]]
    assert sampler.training(steady(5), seeded()) == [0, 2, 4, 4, 4, 4]


def test_a_single_frame_makes_a_clip() -> None:
    for sampling in ("segments", "dense"):
        sampler = ClipSampler(num_frames=4, sampling=sampling)  # type: ignore[arg-type]
        assert sampler.views(steady(1), 2) == [[0] * 4] * 2
        assert sampler.training(steady(1), seeded()) == [0] * 4


def test_a_dense_training_clip_starts_everywhere_it_fits() -> None:
    sampler = ClipSampler(num_frames=4, sampling="dense", temporal_stride=2)
    generator = seeded()
    assert {sampler.training(steady(12), generator)[0] for _ in range(300)} == set(range(6))


def test_a_video_at_twice_the_nominal_rate_is_read_with_twice_the_stride() -> None:
    sampler = ClipSampler(num_frames=4, sampling="dense", temporal_stride=2, fps=15)
    assert sampler.views(steady(100, fps=30), 2)[0] == [0, 4, 8, 12]
    assert sampler.views(steady(100, fps=7.5), 2)[0] == [0, 1, 2, 3]


def test_without_a_nominal_rate_each_video_keeps_its_own() -> None:
    sampler = ClipSampler(num_frames=3, sampling="dense", temporal_stride=2)
    assert sampler.views(steady(50, fps=60), 2)[0] == sampler.views(steady(50, fps=12), 2)[0] == [0, 2, 4]


def test_a_variable_rate_is_sampled_by_time() -> None:
    # Ten frames in the first second, one hundred in the second one.
    clock = Clock([i / 10 for i in range(10)] + [1 + i / 100 for i in range(100)])
    (clip,) = ClipSampler(num_frames=4).views(clock)
    assert [round(clock.timestamps[i], 1) for i in clip] == pytest.approx([0.2, 0.7, 1.2, 1.8], abs=0.1)
    (dense,) = ClipSampler(num_frames=5, sampling="dense", temporal_stride=1, fps=5).views(clock)
    times = [clock.timestamps[i] for i in dense]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([0.2] * 4, abs=0.11)


def test_time_stamps_rounded_to_milliseconds_change_nothing() -> None:
    rounded = Clock([round(i / 30, 3) for i in range(97)], 30.0)
    for sampler in (ClipSampler(num_frames=8), ClipSampler(num_frames=8, sampling="dense", temporal_stride=3, fps=30)):
        assert sampler.views(rounded, 3) == sampler.views(steady(97, fps=30), 3)


def test_time_scale_stretches_dense_clips_within_its_range() -> None:
    sampler = ClipSampler(num_frames=5, sampling="dense", temporal_stride=4, time_scale=(0.5, 2.0))
    generator = seeded()
    spans = {(clip[-1] - clip[0]) for clip in (sampler.training(steady(200), generator) for _ in range(200))}
    assert min(spans) >= 8
    assert max(spans) <= 32
    assert min(spans) < 11
    assert max(spans) > 27
    assert sampler.views(steady(200))[0][-1] - sampler.views(steady(200))[0][0] == 16


def test_time_scale_makes_segments_cover_a_part_of_the_video() -> None:
    sampler = ClipSampler(num_frames=5, time_scale=(0.5, 0.5))
    generator = seeded()
    clips = [sampler.training(steady(100), generator) for _ in range(50)]
    assert all(clip[-1] - clip[0] <= 50 for clip in clips)
    assert max(clip[-1] for clip in clips) > 80


def test_the_same_seed_gives_the_same_clip() -> None:
    sampler = ClipSampler(num_frames=8)
    assert sampler.training(steady(300), seeded(3)) == sampler.training(steady(300), seeded(3))
    assert sampler.training(steady(300), seeded(3)) != sampler.training(steady(300), seeded(4))


def test_a_sampler_follows_its_cfg() -> None:
    cfg = VideoCfg(num_frames=16, sampling="dense", temporal_stride=5, fps=30.0)
    assert ClipSampler.from_cfg(cfg) == ClipSampler(num_frames=16, sampling="dense", temporal_stride=5, fps=30.0)


def test_impossible_samplers_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_frames"):
        ClipSampler(num_frames=0)
    with pytest.raises(ConfigError, match="time_scale"):
        ClipSampler(num_frames=1, time_scale=(2.0, 1.0))
    with pytest.raises(ConfigError, match="num_clips"):
        ClipSampler(num_frames=1).views(steady(3), 0)


def test_reordering_keeps_the_frames_and_loses_the_order() -> None:
    clip = [0, 5, 10, 15]
    assert reorder(clip, "reversed") == [15, 10, 5, 0]
    assert reorder(clip, "still") == [10] * 4
    for seed in range(20):
        mixed = reorder(clip, "shuffled", seeded(seed))
        assert sorted(mixed) == clip
        assert mixed != clip
    assert reorder([3, 3], "shuffled") == [3, 3]
    with pytest.raises(ConfigError, match="'still'"):
        reorder(clip, "sideways")  # type: ignore[arg-type]
