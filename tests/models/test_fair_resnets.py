"""Slow, I3D 3x1x1, C2D with pooling, R(2+1)D, 3DResNet: where they look over time, and what they start from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vidzoo
from vidzoo.layers import P3DConv3d
from vidzoo.models.resnet import Bottleneck

SMALL = ("slow_r18", "i3d_3x1x1_r18", "c2d_pool_r18", "r2plus1d_r18", "resnet3d_18")
small = pytest.mark.parametrize("name", SMALL)

# Stem, then the first convolution of every bottleneck, stage by stage.
LENGTHS = {
    "slow_r50": (1, [1] * 3, [1] * 4, [3] * 6, [3] * 3),
    "i3d_3x1x1_r50": (5, [3] * 3, [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]),
    "c2d_pool_r50": (1, [1] * 3, [1] * 4, [1] * 6, [1] * 3),
    "r2plus1d_r50": (1, [1] * 3, [1] * 4, [1] * 6, [1] * 3),
    "resnet3d_50": (5, [3] * 3, [1] * 4, [1] * 6, [3] * 3),
}
# Frames of the five maps for clips of 1, 5 and 8 frames.
FRAMES = {
    "slow_r18": ([1] * 5, [5] * 5, [8] * 5),
    "i3d_3x1x1_r18": ([1] * 5, [5, 5, 3, 3, 3], [8, 8, 4, 4, 4]),
    "c2d_pool_r18": ([1] * 5, [5, 5, 3, 3, 3], [8, 8, 4, 4, 4]),
    "r2plus1d_r18": ([1] * 5, [5, 5, 5, 3, 2], [8, 8, 8, 4, 2]),
    "resnet3d_18": ([1] * 5, [5] * 5, [8] * 5),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_temporal_kernels_stand_where_the_paper_has_them(name: str) -> None:
    with torch.device("meta"):
        model = vidzoo.create_model(name)
    stem, *stages = LENGTHS[name]
    assert model.get_submodule("conv1").kernel_size == (stem, 7, 7)
    for number, lengths in enumerate(stages, start=1):
        blocks = [m for m in model.get_submodule(f"layer{number}").children() if isinstance(m, Bottleneck)]
        assert [block.conv1.kernel_size for block in blocks] == [(length, 1, 1) for length in lengths]
        for block in blocks:
            if name == "r2plus1d_r50":
                unit = block.conv2
                assert isinstance(unit, P3DConv3d)
                assert (unit.temporal.kernel_size, unit.spatial.kernel_size) == ((3, 1, 1), (1, 3, 3))
                assert unit.time_first
            else:
                assert block.conv2.kernel_size == (1, 3, 3)


@small
def test_frames_are_kept_pooled_or_strided_as_the_layout_says(name: str) -> None:
    with torch.device("meta"):
        model = vidzoo.create_model(name).eval()
        for frames, expected in zip((1, 5, 8), FRAMES[name], strict=True):
            _, maps = model.forward_intermediates(torch.empty(1, 3, frames, 96, 64))
            assert [m.shape[2] for m in maps] == expected
            assert [m.shape[3:] for m in maps] == [(48 // 2**i, 32 // 2**i) for i in range(5)]


@torch.no_grad()
def test_pooled_c2d_knows_which_frames_are_a_pair_and_nothing_else_of_their_order() -> None:
    model = vidzoo.create_model("c2d_pool_r18", num_classes=4, zero_init_last=False).double().eval()
    clip = torch.randn(1, 3, 4, 40, 40, dtype=torch.float64)
    logits = model(clip)
    for order in ([1, 0, 2, 3], [2, 3, 0, 1]):
        torch.testing.assert_close(model(clip[:, :, order]), logits, rtol=1e-9, atol=1e-12)
    assert (model(clip[:, :, [0, 2, 1, 3]]) - logits).abs().max() > 1e-6 * logits.abs().max()


@torch.no_grad()
def test_pooling_leaves_the_last_of_an_odd_number_of_frames_alone() -> None:
    model = vidzoo.create_model("c2d_pool_r18", num_classes=4, zero_init_last=False).double().eval()
    clip = torch.randn(1, 3, 3, 40, 40, dtype=torch.float64)
    features = model.forward_features(clip)
    torch.testing.assert_close(features[:, :, :1], model.forward_features(clip[:, :, :2]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(features[:, :, 1:], model.forward_features(clip[:, :, 2:]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "c2d_pool_r18"])
@torch.no_grad()
def test_networks_that_model_time_notice_that_a_clip_runs_backwards(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=4, zero_init_last=False).double().eval()
    clip = torch.randn(1, 3, 4, 40, 40, dtype=torch.float64)
    ordered = model(clip)
    assert (model(clip.flip(2)) - ordered).abs().max() > 1e-6 * ordered.abs().max()


@small
def test_a_sampler_after_res2_sees_every_frame(name: str) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x

    with torch.device("meta"):
        model = vidzoo.create_model(name).eval()
        model.add_sampler(Spy(), after="layer1")
        model(torch.empty(1, 3, 7, 64, 64))
    assert seen == [(1, model.feature_info[1].num_chs, 7, 16, 16)]


@small
def test_half_of_the_clips_features_are_dropped_in_training(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=0)
    maps = torch.ones(1, model.num_features, 2, 1, 1)
    assert torch.equal(model.eval().forward_head(maps), maps.mean(dim=(2, 3, 4)))
    dropped = model.train().forward_head(maps)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}  # once per clip: a frame of two alone would give 1
    assert dropped.mean().item() == pytest.approx(1, abs=0.2)
    kept = vidzoo.create_model(name, num_classes=0, drop_rate=0.0).train()
    assert torch.equal(kept.forward_head(maps), maps.mean(dim=(2, 3, 4)))


@small
def test_the_start_is_that_of_pyslowfast(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=400)
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    assert [block.bn3.weight.any().item() for block in blocks] == [False] * 8
    classifier = model.get_classifier()
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.bias.any()


@small
def test_stochastic_depth_thins_the_last_blocks_out(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=4, zero_init_last=False, drop_path_rate=0.9).train()
    last = next(m for m in reversed(list(model.modules())) if isinstance(m, Bottleneck))
    x = torch.rand(64, last.conv1.in_channels, 1, 1, 1)
    with torch.no_grad():
        skipped = (last(x) == x).flatten(1).all(dim=1)
    assert 0.7 < skipped.float().mean().item() < 1.0


@pytest.mark.parametrize(("name", "frames", "stride"), [(name, 8, 8) for name in SMALL[:3]] + [("r2plus1d_r50", 16, 4)])
def test_clips_are_cut_as_for_the_published_weights(name: str, frames: int, stride: int) -> None:
    cfg = vidzoo.get_pretrained_cfg(name)
    assert (cfg.num_frames, cfg.temporal_stride, cfg.fps, cfg.sampling) == (frames, stride, 30.0, "dense")
    assert (cfg.num_clips, cfg.num_crops, cfg.short_side, cfg.eval_crop_size) == (10, 3, 256, (256, 256))
    assert (cfg.mean, cfg.std) == ((0.45,) * 3, (0.225,) * 3)
