"""The backbone: what its options do, and what it keeps whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers import FrameConv3d, FullConv3d, GSTConv3d, SpatioTemporalUnit
from vidzoo.layers.drop import DropPath
from vidzoo.models import VideoResNet

OPTIONS: list[dict[str, Any]] = [
    {"drop_rate": 1.0},
    {"drop_rate": -0.1},
    {"drop_path_rate": 1.0},
    {"num_classes": -1},
    {"in_chans": 0},
]


@pytest.mark.parametrize("depth", [0, 20, 152])
def test_a_depth_that_does_not_exist_is_refused_with_those_that_do(depth: int) -> None:
    with pytest.raises(ConfigError, match="18, 34, 50, 101"):
        VideoResNet(depth, FullConv3d)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        VideoResNet(18, FrameConv3d, **options)


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (34, 16), (50, 16), (101, 33)])
def test_every_3x3_convolution_is_a_unit_and_nothing_else_is(depth: int, blocks: int) -> None:
    with torch.device("meta"):
        model = VideoResNet(depth, GSTConv3d, num_classes=3)
    units = [module for module in model.modules() if isinstance(module, SpatioTemporalUnit)]
    assert len(units) == blocks * (2 if depth < 50 else 1)
    assert {unit.kernel_size for unit in units} == {(3, 3, 3)}
    inside = {id(child) for unit in units for child in unit.modules()}
    plain = [m for m in model.modules() if isinstance(m, nn.Conv3d) and id(m) not in inside]
    assert {conv.kernel_size for conv in plain} == {(1, 7, 7), (1, 1, 1)}


@pytest.mark.parametrize("name", ["c2d_r18", "c3d_r18", "c3d_g2_r18", "p3d_r18", "gst_r18", "gst_large_r18", "gst_r50"])
def test_the_time_axis_is_kept_whole(name: str) -> None:
    with torch.device("meta"):
        model = vidzoo.create_model(name, num_classes=3).eval()
        for frames in (1, 2, 7):
            _, maps = model.forward_intermediates(torch.empty(1, 3, frames, 64, 96))
            assert [m.shape[2] for m in maps] == [frames] * 5
            assert [(64 // m.shape[3], 96 // m.shape[4]) for m in maps] == [(2 ** min(i + 1, 5),) * 2 for i in range(5)]


@torch.no_grad()
def test_the_logits_are_the_mean_over_the_frames() -> None:
    model = vidzoo.create_model("c3d_r18", num_classes=4).eval()
    maps = model.forward_features(torch.randn(2, 3, 3, 40, 40))
    per_frame = [model.forward_head(maps[:, :, t : t + 1]) for t in range(3)]
    torch.testing.assert_close(model.forward_head(maps), torch.stack(per_frame).mean(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sensitive"),
    [("c2d_r18", False), ("c3d_r18", True), ("c3d_g2_r18", True), ("p3d_r18", True), ("gst_r18", True)],
)
@torch.no_grad()
def test_only_a_network_that_models_time_notices_that_the_frames_changed_places(name: str, sensitive: bool) -> None:
    model = vidzoo.create_model(name, num_classes=4).double().eval()
    clip = torch.randn(1, 3, 4, 40, 40, dtype=torch.float64)
    ordered, mixed = model(clip), model(clip[:, :, [2, 0, 3, 1]])
    assert bool((ordered - mixed).abs().max() > 1e-6 * ordered.abs().max()) == sensitive


def test_stochastic_depth_rises_linearly_to_its_rate_at_the_last_block() -> None:
    with torch.device("meta"):
        model = VideoResNet(18, FrameConv3d, drop_path_rate=0.7)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]  # the first block has none: its rate is 0
    torch.testing.assert_close(rates, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_stochastic_depth_drops_whole_clips_in_training_only_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 2, 1, 1, 1)
    assert torch.equal(drop.eval()(x), x)
    found = drop.train()(x).flatten(1)
    assert torch.equal(found[:, 0], found[:, 1])
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert found.mean().item() == pytest.approx(1, abs=0.05)


def test_dropout_is_drawn_for_every_frame_and_only_in_training() -> None:
    model = VideoResNet(18, FrameConv3d, num_classes=0, drop_rate=0.5)
    maps = torch.ones(1, 512, 2, 1, 1)
    assert torch.equal(model.eval().forward_head(maps), torch.ones(1, 512))
    assert set(model.train().forward_head(maps).unique().tolist()) == {0.0, 1.0, 2.0}  # none, one or both of two frames


@torch.no_grad()
def test_residual_branches_that_start_at_zero_leave_the_shortcut() -> None:
    model = VideoResNet(18, partial(GSTConv3d, alpha=1 / 8), zero_init_last=True).eval()
    x = torch.rand(1, 64, 2, 6, 6)
    assert torch.equal(model.layer1(x), x)


def test_the_classifier_starts_as_in_the_authors_code() -> None:
    model = VideoResNet(18, FrameConv3d, num_classes=400)
    assert model.fc.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.fc.bias.count_nonzero() == 0


def test_stage_names_sort_into_groups_by_depth() -> None:
    import re

    with torch.device("meta"):
        model = VideoResNet(50, FullConv3d)
    for coarse, groups in ((True, 4), (False, 16)):
        patterns = model.group_matcher(coarse)
        stem = [name for name, _ in model.named_parameters() if re.match(patterns["stem"], name)]
        found = {m.groups() for name, _ in model.named_parameters() if (m := re.match(patterns["blocks"], name))}
        assert stem == ["conv1.weight", "bn1.weight", "bn1.bias"]
        assert len(found) == groups
