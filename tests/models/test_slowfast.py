"""SlowFast: what each pathway sees, how they meet, and what happens when they differ in length from clip to clip."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import RaggedClips, honour_lengths, lengths_of, mean_over_clip, with_lengths
from vidzoo.layers.sgs import SimilarityGuidedSampling
from vidzoo.loading import load_weights
from vidzoo.models.resnet import Bottleneck
from vidzoo.models.slowfast import (
    PathwaySamplers,
    SlowFast,
    SlowFrames,
    concat_ragged,
    merge_pathways,
    slowfast_r18_4x16,
    slowfast_r18_8x8,
    slowfast_r50_4x16,
    slowfast_r50_8x8,
    slowfast_r50_16x8,
    slowfast_r101_8x8,
    slowfast_r101_16x8,
)
from vidzoo.registry import get_pretrained_cfg

# ICCV 2019, Table 1, and the FUSION_KERNEL_SZ of PySlowFast's configs: alpha, lateral kernel, blocks, frames.
NETWORKS = {
    slowfast_r18_4x16: (8, 5, (2, 2, 2, 2), 32),
    slowfast_r18_8x8: (4, 7, (2, 2, 2, 2), 32),
    slowfast_r50_4x16: (8, 5, (3, 4, 6, 3), 32),
    slowfast_r50_8x8: (4, 7, (3, 4, 6, 3), 32),
    slowfast_r50_16x8: (4, 7, (3, 4, 6, 3), 64),
    slowfast_r101_8x8: (4, 5, (3, 4, 23, 3), 32),
    slowfast_r101_16x8: (4, 5, (3, 4, 23, 3), 64),
}
networks = pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
OPTIONS: list[dict[str, Any]] = [
    {"drop_rate": 1.0},
    {"drop_path_rate": -0.1},
    {"alpha": 0},
    {"fusion_length": 4},
    {"slow_lengths": ((1,), (1,), (2,), (3,))},
    {"num_classes": -1},
]


def _tiny(**options: Any) -> SlowFast:
    """One block per stage, batch norms with statistics and scales that make every path count."""
    torch.manual_seed(0)
    model = SlowFast((1, 1, 1, 1), **{"num_classes": 5, "zero_init_last": False, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def _blocks(path: nn.ModuleDict) -> list[list[Bottleneck]]:
    return [list(path[f"layer{stage}"].children()) for stage in (1, 2, 3, 4)]  # type: ignore[arg-type]


def _ragged(lengths: list[int], channels: int, size: tuple[int, int] = (3, 2)) -> Tensor:
    x = torch.randn(len(lengths), channels, max(lengths), *size, dtype=torch.float64)
    for clip, length in zip(x, lengths, strict=True):
        clip[:, length:] = 0
    return with_lengths(x, torch.tensor(lengths))


def _clips(x: Tensor) -> list[Tensor]:
    """Each clip by itself, as an ordinary tensor of its own length."""
    lengths = lengths_of(x)
    ends = [x.shape[2]] * x.shape[0] if lengths is None else lengths.tolist()
    return [x.as_subclass(Tensor)[i : i + 1, :, :end] for i, end in enumerate(ends)]


@networks
def test_temporal_kernels_stand_where_table_1_has_them(build: Any) -> None:
    alpha, length, counts, _ = NETWORKS[build]
    with torch.device("meta"):
        model = build()
    res4 = [3] * counts[2]
    if build is slowfast_r101_16x8:
        res4 = [3] * 6 + [1] * 17  # "R101_50_50": as many as in ResNet-50
    slow = [[1] * counts[0], [1] * counts[1], res4, [3] * counts[3]]
    fast = [[3] * counts[0], [3] * counts[1], res4, [3] * counts[3]]
    for path, stem, expected in ((model.slow, 1, slow), (model.fast, 5, fast)):
        assert path["conv1"].kernel_size == (stem, 7, 7)
        stages = _blocks(path)
        assert [[block.conv1.kernel_size[0] for block in blocks] for blocks in stages] == expected
        assert {block.conv2.kernel_size for blocks in stages for block in blocks} == {(1, 3, 3)}
        assert {block.conv2.stride for blocks in stages for block in blocks[1:]} <= {(1, 1, 1)}
        assert [blocks[0].conv2.stride for blocks in stages] == [(1, 1, 1)] + [(1, 2, 2)] * 3
    for number in (1, 2, 3, 4):
        lateral = model.get_submodule(f"fuse{number}.conv")
        assert (lateral.kernel_size, lateral.stride) == ((length, 1, 1), (alpha, 1, 1))


@networks
def test_the_fast_pathway_has_an_eighth_of_the_channels_and_sends_twice_of_them(build: Any) -> None:
    with torch.device("meta"):
        model = build()
    slow, fast = _blocks(model.slow), _blocks(model.fast)
    assert [blocks[-1].conv3.out_channels for blocks in slow] == [256, 512, 1024, 2048]
    assert [blocks[-1].conv3.out_channels for blocks in fast] == [32, 64, 128, 256]
    assert [blocks[0].conv1.in_channels for blocks in slow] == [64 + 16, 256 + 64, 512 + 128, 1024 + 256]
    assert [blocks[0].conv1.in_channels for blocks in fast] == [8, 32, 64, 128]
    assert [info.num_chs for info in model.feature_info] == [72, 288, 576, 1152, 2304]
    assert (model.num_features, model.get_classifier().in_features) == (2304, 2304)


@networks
def test_clips_are_cut_as_for_the_published_weights(build: Any) -> None:
    alpha, _, _, frames = NETWORKS[build]
    cfg = get_pretrained_cfg(build.__name__)
    assert (cfg.num_frames, cfg.temporal_stride, cfg.fps, cfg.sampling) == (frames, 2, 30.0, "dense")
    slow_frames, slow_stride = map(int, build.__name__.rpartition("_")[2].split("x"))
    assert (frames // alpha, 2 * alpha) == (slow_frames, slow_stride)
    assert (cfg.num_clips, cfg.num_crops, cfg.short_side, cfg.crop_size) == (10, 3, 256, (224, 224))
    assert cfg.test_crop_size == (256, 256)
    assert (cfg.mean, cfg.std) == ((0.45,) * 3, (0.225,) * 3)
    with torch.device("meta"):
        assert (build().num_frames, build(num_frames=9).num_frames) == (frames, 9)


@pytest.mark.parametrize("alpha", [4, 8])
def test_the_slow_pathway_sees_frames_from_the_first_to_the_last(alpha: int) -> None:
    pack = SlowFrames(alpha)
    for frames in (1, 2, alpha - 1, alpha, alpha + 1, 32, 45, 64):
        clip = torch.arange(frames, dtype=torch.float32)[None, None, :, None, None]
        slow, fast = pack(clip)
        count = (frames + alpha - 1) // alpha
        assert fast is clip
        assert slow.flatten().tolist() == torch.linspace(0, frames - 1, count).long().tolist()  # PackPathway
    assert slow.flatten()[-1] == 63


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 11])
@torch.no_grad()
def test_pathways_keep_their_frames_and_the_head_takes_the_mean_of_each(frames: int) -> None:
    model = _tiny().double()
    last: list[Tensor] = []
    for path in (model.slow, model.fast):
        path["layer4"].register_forward_hook(lambda _module, _args, out: last.append(out))
    x = torch.randn(2, 3, frames, 40, 56, dtype=torch.float64)
    features, logits = model.forward_features(x), model(x)
    slow, fast = last[:2]
    assert (slow.shape[2], fast.shape[2]) == (-(-frames // 4), frames)
    assert features.shape == (2, 2304, -(-frames // 4), 2, 2)
    pooled = torch.cat([slow.mean(dim=(2, 3, 4)), fast.mean(dim=(2, 3, 4))], dim=1)
    torch.testing.assert_close(logits, model.get_classifier()(pooled), rtol=1e-12, atol=1e-12)


def test_maps_hold_the_mean_of_alpha_fast_frames_beside_each_slow_one() -> None:
    slow, fast = torch.randn(2, 3, 3, 4, 5), torch.randn(2, 2, 12, 4, 5)
    merged = merge_pathways(slow, fast)
    assert torch.equal(merged[:, :3], slow)
    for step in range(3):
        expected = fast[:, :, 4 * step : 4 * step + 4].mean(dim=2)
        torch.testing.assert_close(merged[:, 3:, step], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "frames"), [(2, 5), (3, 7), (4, 4), (5, 3), (3, 1)])
def test_a_map_at_any_rate_shares_a_cut_frame_between_its_neighbours(steps: int, frames: int) -> None:
    slow, fast = _ragged([steps], 2), _ragged([frames], 3)
    # Every frame repeated so often that no cut falls inside one.
    fine = fast.repeat_interleave(steps, dim=2).unflatten(2, (steps, frames)).mean(dim=3)
    merged = merge_pathways(slow, fast)
    torch.testing.assert_close(merged, torch.cat([slow, fine], dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("slow", "fast"),
    [([3, 1, 2], [9, 5, 8]), ([2, 2, 2], [8, 1, 5]), ([1, 4, 2], [6, 6, 6]), ([2, 5, 3], [1, 2, 7])],
)
def test_maps_of_ragged_pathways_are_those_of_each_clip_by_itself(slow: list[int], fast: list[int]) -> None:
    pair = _ragged(slow, 2), _ragged(fast, 3)
    merged = merge_pathways(*pair)
    found = lengths_of(merged)
    assert (slow if found is None else found.tolist()) == slow
    for clip, one, other in zip(_clips(merged), _clips(pair[0]), _clips(pair[1]), strict=True):
        torch.testing.assert_close(clip, merge_pathways(one, other), rtol=1e-12, atol=1e-12)
    means = [torch.cat([x.mean(dim=(2, 3, 4)) for x in clip], dim=1) for clip in zip(*map(_clips, pair), strict=True)]
    torch.testing.assert_close(mean_over_clip(merged), torch.cat(means), rtol=1e-12, atol=1e-12)
    behind = torch.arange(max(slow)) >= torch.tensor(slow)[:, None]  # (B, S)
    assert not merged.as_subclass(Tensor).transpose(1, 2)[behind].any()


@pytest.mark.parametrize(
    ("slow", "lateral"),
    [([3, 1, 2], [1, 4, 2]), ([2, 2, 2], [1, 3, 2]), ([4, 1, 2], [2, 2, 2]), ([2, 2], [3, 3]), ([3, 3], [3, 1])],
)
def test_the_shorter_of_two_pathways_is_padded_with_zeros_at_the_end_of_each_clip(
    slow: list[int], lateral: list[int]
) -> None:
    pair = _ragged(slow, 2), _ragged(lateral, 3)
    joined = concat_ragged(*pair)
    longer = [max(lengths) for lengths in zip(slow, lateral, strict=True)]
    assert [clip.shape[2] for clip in _clips(joined)] == longer
    assert joined.shape[2] == max(longer)
    assert isinstance(joined, RaggedClips) == (len(set(longer)) > 1)
    for clip, one, other, length in zip(_clips(joined), _clips(pair[0]), _clips(pair[1]), longer, strict=True):
        padded = [F.pad(x, (0, 0, 0, 0, 0, length - x.shape[2])) for x in (one, other)]
        assert torch.equal(clip, torch.cat(padded, dim=1))
        assert torch.equal(clip, concat_ragged(one, other))


def test_pathways_of_one_length_stay_ordinary_tensors() -> None:
    joined = concat_ragged(torch.ones(2, 3, 4, 5, 5), torch.ones(2, 1, 4, 5, 5))
    assert type(joined) is Tensor
    assert joined.shape == (2, 4, 4, 5, 5)


def test_every_frame_counts_also_those_that_the_slow_pathway_does_not_see() -> None:
    model, x = _tiny(), torch.randn(1, 3, 8, 40, 40, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1, 3, 4))
    assert (seen > 0).all()


def test_the_fast_pathway_reaches_the_slow_one_and_not_the_other_way_round() -> None:
    model, last = _tiny(), []
    for path in (model.slow, model.fast):
        path["layer4"].register_forward_hook(lambda _module, _args, out: last.append(out))
    model(torch.randn(1, 3, 4, 40, 40))
    slow, fast = last
    weights = [model.slow["conv1"].weight, model.fast["conv1"].weight]
    assert all(grad is not None for grad in torch.autograd.grad(slow.sum(), weights, retain_graph=True))
    backwards = torch.autograd.grad(fast.sum(), weights, allow_unused=True)
    assert [grad is None for grad in backwards] == [True, False]


class _FirstFrames(nn.Module):
    """Stands for a sampler: clip i keeps its first ``keep[i]`` frames."""

    def __init__(self, keep: list[int]) -> None:
        super().__init__()
        self.keep = keep
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        lengths = torch.tensor(self.keep)
        real = torch.arange(max(self.keep)) < lengths[:, None]  # (B, T')
        return with_lengths(x[:, :, : max(self.keep)] * real[:, None, :, None, None], lengths)


# Fused by alpha = 4, clip by clip: the slow one longer, the fast one longer, both alike, the fast one much shorter.
SLOW, FAST = [3, 1, 2, 3], [7, 10, 8, 1]


def _sampled(slow: nn.Module, fast: nn.Module, **options: Any) -> SlowFast:
    model = _tiny(**options)
    model.add_sampler(PathwaySamplers(slow, fast).eval(), after="fast.layer1")
    honour_lengths(model)
    return model


def _cut(slow: list[int], fast: list[int], **options: Any) -> SlowFast:
    return _sampled(_FirstFrames(slow), _FirstFrames(fast), **options)


def test_samplers_stand_behind_res2_and_before_its_lateral_connection() -> None:
    model = _cut([2], [5])
    fused: list[Tensor] = []
    model.get_submodule("fuse2.conv").register_forward_hook(lambda _module, args, _out: fused.append(args[0]))
    with torch.inference_mode():
        _, maps = model.forward_intermediates(torch.randn(1, 3, 12, 64, 64))
    slow, fast = model.get_submodule("sampler.slow"), model.get_submodule("sampler.fast")
    assert isinstance(slow, _FirstFrames)
    assert isinstance(fast, _FirstFrames)
    assert (slow.seen, fast.seen) == ([(1, 256, 3, 16, 16)], [(1, 32, 12, 16, 16)])
    assert fused[0].shape == (1, 32, 5, 16, 16)
    assert [found.shape[2] for found in maps] == [3, 3, 2, 2, 2]
    assert [info.adaptive for info in model.feature_info] == [False, False, True, True, True]


def test_clips_of_different_length_are_answered_together_as_alone() -> None:
    x = torch.randn(4, 3, 12, 40, 40)
    model = _cut(SLOW, FAST)
    with torch.inference_mode():
        features, together = model.forward_features(x), model(x)
        alone = [_cut([SLOW[i]], [FAST[i]])(x[i : i + 1]) for i in range(4)]
    lengths = lengths_of(features)
    assert lengths is not None
    assert lengths.tolist() == [3, 3, 2, 3]  # the longer of SLOW and ceil(FAST / 4)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.forward_head(features), together)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_sampling_by_similarity_in_both_pathways_knows_no_batch_mates() -> None:
    torch.manual_seed(1)
    model = _sampled(SimilarityGuidedSampling(256), SimilarityGuidedSampling(32, block=4), alpha=2)
    changing = torch.stack([torch.ones(10), torch.ones(10).cumsum(0), torch.rand(10)])  # of the light
    x = torch.randn(3, 3, 1, 40, 40) * changing[:, None, :, None, None]
    with torch.inference_mode():
        lengths = lengths_of(model.forward_features(x))
        together = model(x)
        alone = torch.cat([model(clip[None]) for clip in x])
    assert lengths is not None
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.2])
def test_clips_of_different_length_train_every_weight_also_with_checkpointing(drop_path_rate: float) -> None:
    plain = _cut(SLOW, FAST, drop_path_rate=drop_path_rate).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = torch.randn(4, 3, 12, 40, 40)
    for model in (plain, saving):
        torch.manual_seed(3)
        model(x).square().sum().backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, key
        assert one.grad.isfinite().all(), key
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)
    for (key, one), (_, two) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(one, two), f"{key}: a block that ran twice moved its statistics twice"


def test_a_sampler_of_one_map_is_refused() -> None:
    model = _tiny()
    with pytest.raises(ConfigError, match="PathwaySamplers"):
        model.add_sampler(SimilarityGuidedSampling(256), after="fast.layer1")
    model.add_sampler(PathwaySamplers(nn.Identity(), nn.Identity()), after="fast.layer2", adaptive=False)
    assert not any(info.adaptive for info in model.feature_info)
    x = torch.randn(1, 3, 5, 40, 40)
    assert torch.equal(model(x), _tiny()(x))


def test_blocks_of_both_pathways_and_what_is_fused_into_them_share_a_group() -> None:
    with torch.device("meta"):
        model = slowfast_r18_8x8()
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        for number in (1, 2, 3, 4):
            first = 1 + (number - 1) * (1 if coarse else 2)
            names = (f"slow.layer{number}.0.conv1", f"fast.layer{number}.0.conv1", f"fuse{number}.conv")
            assert {groups[f"{name}.weight"] for name in names} == {first}
            assert groups[f"slow.layer{number}.1.bn3.bias"] == groups[f"fast.layer{number}.1.conv1.weight"]
        assert groups["fast.bn1.weight"] == 0


def test_stochastic_depth_rises_alike_in_both_pathways() -> None:
    with torch.device("meta"):
        model = slowfast_r18_8x8(drop_path_rate=0.7)
    for path in (model.slow, model.fast):
        rates = [module.rate for module in path.modules() if isinstance(module, DropPath)]
        assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_the_start_is_that_of_pyslowfast() -> None:
    model = slowfast_r18_8x8()
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert [block.bn3.weight.any().item() for block in blocks] == [False] * 16
    classifier = model.get_classifier()
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.bias.any()
    kept = slowfast_r18_8x8(zero_init_last=False)
    assert all(module.bn3.weight.all() for module in kept.modules() if isinstance(module, Bottleneck))


def test_half_of_the_clips_features_are_dropped_in_training() -> None:
    model, maps = _tiny(num_classes=0), torch.ones(1, 2304, 2, 1, 1)
    assert torch.equal(model.forward_head(maps), torch.ones(1, 2304))
    dropped = model.train().forward_head(maps)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}  # once per clip: a frame of two alone would give 1


def test_both_stems_adapt_to_other_input_channels() -> None:
    weights = _tiny().state_dict()
    model = _tiny(in_chans=1)
    cfg = get_pretrained_cfg("slowfast_r18_8x8")
    report = load_weights(model, weights, source="test", first_conv=cfg.first_conv, adapt_stem=True)
    assert set(report.adapted) == {"slow.conv1.weight", "fast.conv1.weight"}
    grey = torch.randn(1, 1, 5, 40, 40)
    torch.testing.assert_close(model(grey), _tiny()(grey.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        SlowFast((1, 1, 1, 1), **options)
