"""The probe of time order: what it counts, and why a network that does not look over time cannot pass it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import vidzoo
from vidzoo.data.synthetic import PAIRS, SyntheticVideo
from vidzoo.evaluation import Report


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "measure_order.py"
    spec = importlib.util.spec_from_file_location("measure_order", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_c2d_answers_a_clip_and_its_reversal_alike_and_gst_does_not() -> None:
    clip = torch.randn(1, 3, 6, 32, 32)
    plain = vidzoo.create_model("c2d_r18", num_classes=8).eval()
    torch.testing.assert_close(plain(clip.flip(2)), plain(clip), rtol=1e-4, atol=1e-5)
    grouped = vidzoo.create_model("gst_r18", num_classes=8).eval()
    assert not torch.allclose(grouped(clip.flip(2)), grouped(clip), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_shows_the_same_frames_in_opposite_order(pair: tuple[str, str]) -> None:
    first, second = (SyntheticVideo(name, seed=5, num_frames=12).frames(range(12)) for name in pair)
    assert torch.equal(first.flip(0), second)
    assert not torch.equal(first, second)


def test_only_answers_within_the_right_pair_are_counted(tool: ModuleType) -> None:
    names = tuple(name for pair in PAIRS for name in pair)
    confusion = [[0] * len(names) for _ in names]
    confusion[0][0], confusion[0][1], confusion[1][0], confusion[1][5] = 6, 2, 2, 9
    report = Report(
        top1=0.0,
        top5=0.0,
        mean_class=0.0,
        loss=0.0,
        num_videos=19,
        per_class={},
        confusion=tuple(map(tuple, confusion)),
        class_names=names,
        broken={},
        views=(1, 1),
        order="normal",
        average="scores",
    )
    assert tool.within_pairs(report) == 0.6


def test_a_video_of_the_test_is_no_mirror_of_one_in_training() -> None:
    from vidzoo.data.listing import scan

    train = {item.path for item in scan("synthetic:pairs?videos_per_class=9&seed=0").items}
    test = {item.path for item in scan("synthetic:pairs?videos_per_class=9&seed=1").items}
    seeds = [{path.partition("?")[2] for path in paths} for paths in (train, test)]
    assert not seeds[0] & seeds[1]
