"""Networks that go on with as many frames as a clip has different ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers.ragged import RaggedClips, lengths_of
from vidzoo.layers.sgs import SimilarityGuidedSampling
from vidzoo.models.base import VideoModel

MIXED = ["x3d_s_atfr", "resnet3d_18_atfr", "i3d_r50_atfr", "r2plus1d_r50_atfr"]
"""Hosts with temporal kernels before the sampler, whose zero padding reaches the ends of a clip."""
HOSTS = ["c2d_pool_r18_atfr", *MIXED]
FRAMES = 12


def _model(name: str, **options: Any) -> VideoModel:
    """Random weights, and norms that have seen one batch: as a fresh network stands after its first step."""
    torch.manual_seed(0)
    model = vidzoo.create_model(name, num_classes=5, **options).train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
            module.momentum = 1.0
        if isinstance(module, nn.BatchNorm3d):  # zero-initialised branches would hide what the later stages do
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        model(torch.cat([_fast(), _fast()]))
    return model.eval()


def _still(size: int = 32) -> Tensor:
    return torch.randn(1, 3, 1, size, size).expand(-1, -1, FRAMES, -1, -1)


def _fast(size: int = 32) -> Tensor:
    return torch.randn(1, 3, FRAMES, size, size) * torch.rand(1, 1, FRAMES, 1, 1) * 3


def _bins(model: VideoModel, clip: Tensor) -> int:
    found = []
    hook = model.sampler.register_forward_hook(lambda module, given, out: found.append(out.shape[2]))
    with torch.no_grad():
        model(clip)
    hook.remove()
    return found[0]


def _macs(model: nn.Module, clip: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops() // 2


def test_a_still_clip_goes_on_as_one_frame_and_a_fast_one_as_many() -> None:
    model = _model("c2d_pool_r18_atfr")
    assert _bins(model, _still()) == 1
    assert _bins(model, _fast()) >= FRAMES // 3


@pytest.mark.parametrize("name", MIXED)
def test_behind_temporal_kernels_only_the_ends_of_a_still_clip_differ(name: str) -> None:
    model = _model(name)
    frames = model.forward_intermediates(_still(), [1], intermediates_only=True)[0]  # (1, C, T, H, W)
    different = frames.flatten(3).transpose(1, 2).flatten(2)[0].round(decimals=3).unique(dim=0).shape[0]
    assert different < FRAMES
    assert _bins(model, _still()) <= different
    assert _bins(model, _still()) < _bins(model, _fast())


@pytest.mark.parametrize("name", HOSTS)
def test_no_clip_knows_of_its_batch_mates_though_they_differ_in_length(name: str) -> None:
    model = _model(name).double()
    clips = torch.cat([_fast(), _still(), _fast(), 0.1 * _still() + 0.02 * _fast()]).double()
    lengths = model.sampler.assign(model.forward_intermediates(clips, [1], intermediates_only=True)[0]).lengths
    assert len(set(lengths.tolist())) > 1
    with torch.no_grad():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9 * together.abs().max().item())


@pytest.mark.parametrize("name", HOSTS)
def test_lengths_travel_to_the_last_map_and_training_reaches_the_sampler(name: str) -> None:
    model = _model(name, drop_path_rate=0.2).train()
    features = model.forward_features(torch.cat([_fast(), _still(), _fast()]))
    assert isinstance(features, RaggedClips)
    assert int(lengths_of(features).max()) == features.shape[2]
    model.forward_head(features).square().sum().backward()
    for key, value in model.sampler.named_parameters():
        assert value.grad is not None, key
        assert value.grad.isfinite().all(), key
    assert model.sampler.embedding.conv1.weight.grad.abs().sum() > 0


def test_the_cost_of_a_clip_is_a_line_over_its_bins() -> None:
    model = _model("x3d_s_atfr")
    clips = [_still(), *(_fast() for _ in range(6))]
    points = sorted({(_bins(model, clip), _macs(model, clip)) for clip in clips})
    (x0, y0), (x1, y1), *others = points
    assert others
    for x, y in others:
        assert (y - y0) * (x1 - x0) == (y1 - y0) * (x - x0)


def test_the_profile_of_an_adaptive_network_says_that_it_is_of_one_clip() -> None:
    found = vidzoo.profile("c2d_pool_r18_atfr", (8, 64, 64))
    host = vidzoo.profile("c2d_pool_r18", (8, 64, 64))
    assert found.measured
    assert not host.measured
    assert found.macs < host.macs
    embedding = sum(p.numel() for p in SimilarityGuidedSampling(256, norm=True).parameters())
    assert found.params == host.params + embedding


@pytest.mark.parametrize(("name", "params"), [("resnet3d_18_atfr", 4425400), ("resnet3d_50_atfr", 7329624)])
def test_with_the_released_sampler_3dresnet_has_the_parameters_of_the_authors_network(name: str, params: int) -> None:
    with torch.device("meta"):
        model = vidzoo.create_model(name, num_classes=200, released=True)
    assert sum(value.numel() for value in model.parameters()) == params
    assert model.sampler.similarity == "mean_distance"


@pytest.mark.parametrize(("after", "channels"), [("stem", 24), ("res2", 24), ("res3", 48), ("res4", 96)])
def test_the_sampler_stands_behind_the_stage_that_was_asked_for(after: str, channels: int) -> None:
    model = vidzoo.create_model("x3d_s_atfr", after=after)
    assert model.sampler.channels == channels
    before = {"stem": 1, "res2": 2, "res3": 3, "res4": 4}[after]
    assert [info.adaptive for info in model.feature_info] == [False] * before + [True] * (6 - before)


@pytest.mark.parametrize("after", ["stem", "res2", "res3", "res4"])
def test_every_place_in_a_resnet_works(after: str) -> None:
    model = _model("c2d_pool_r18_atfr", after=after)
    assert _bins(model, _still()) == 1
    assert model(_fast()).isfinite().all()


def test_a_place_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="res2"):
        vidzoo.create_model("x3d_s_atfr", after="res5")
    with pytest.raises(ConfigError, match="layer4"):
        vidzoo.create_model("c2d_r18").add_sampler(nn.Identity(), after="layer4")


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": "kronecker"},
        {"similarity": "mean_distance"},
        {"similarity": "angular"},
        {"similarity": "spherical"},
        {"order": "time"},
        {"embed_dim": 4, "bins": 4},
        {"block": 4},
        {"static": "literal"},
        {"centre_largest": True},
        {"released": True},
        {"embed_norm": False},
    ],
    ids=str,
)
def test_every_switch_of_the_sampler_gives_logits_and_a_gradient(options: dict[str, Any]) -> None:
    model = _model("c2d_pool_r18_atfr", **options).train()
    logits = model(torch.cat([_fast(), _still()]))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert model.sampler.embedding.conv1.weight.grad.isfinite().all()


def test_more_frames_than_bins_leave_no_more_than_the_bins() -> None:
    model = _model("c2d_pool_r18_atfr", bins=4)
    assert 1 < _bins(model, _fast()) <= 4


def test_attention_in_the_place_of_the_sampler_keeps_every_frame_at_the_cost_of_the_host() -> None:
    with torch.device("meta"):
        model, host = (vidzoo.create_model(name).eval() for name in ("x3d_s_attention", "x3d_s"))
        clip = torch.empty(1, 3, 13, 160, 160)
        assert model.forward_features(clip).shape[2] == 13
        assert not any(info.adaptive for info in model.feature_info)
        assert _macs(model, clip) - _macs(host, clip) < 1e5


def _pathways(**options: Any) -> VideoModel:
    return _model("slowfast_r18_8x8_atfr", **options)


def test_slowfast_pathways_are_sampled_each_and_no_clip_knows_of_its_mates() -> None:
    model = _pathways().double()
    clips = torch.cat([_fast(), _still(), _fast()]).double()
    with torch.no_grad():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
        found = [lengths_of(model.forward_features(clips)), model.forward_features(_still().double()).shape[2]]
    assert len(set(found[0].tolist())) > 1
    assert found[1] <= found[0].max()
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9 * together.abs().max().item())


def test_slowfast_samples_blocks_of_each_pathway_as_for_something_something() -> None:
    model = _pathways(slow_block=2, fast_block=8)
    assert (model.sampler.slow.block, model.sampler.fast.block) == (2, 8)
    model = _pathways(slow_bins=2, fast_bins=5)
    assert (model.sampler.slow.bins, model.sampler.fast.bins) == (2, 5)
    assert model(_fast()).isfinite().all()


def test_slowfast_training_reaches_both_samplers() -> None:
    model = _pathways(drop_path_rate=0.2).train()
    model(torch.cat([_fast(), _still(), _fast()])).square().sum().backward()
    for sampler in (model.sampler.slow, model.sampler.fast):
        assert sampler.embedding.conv1.weight.grad.abs().sum() > 0


def test_a_single_sampler_for_two_pathways_is_refused() -> None:
    with pytest.raises(ConfigError, match="PathwaySamplers"):
        vidzoo.create_model("slowfast_r18_8x8").add_sampler(SimilarityGuidedSampling(256), after="fast.layer1")


def test_the_profile_of_a_clip_is_its_own() -> None:
    model = _model("c2d_pool_r18_atfr")
    still, fast = (vidzoo.profile(model, clip=clip) for clip in (_still(), _fast()))
    assert still.measured
    assert still.macs < fast.macs
    assert fast.input_size == (3, FRAMES, 32, 32)
    assert vidzoo.profile(model, clip=_still()[0]).macs == still.macs
    with pytest.raises(ConfigError, match="one clip"):
        vidzoo.profile(model, clip=torch.zeros(2, 3, 4, 8, 8))
    with pytest.raises(ConfigError, match="input_size"):
        vidzoo.profile(model, (4, 8, 8), clip=_still())


@pytest.mark.parametrize("name", ["c2d_pool_r18_atfr", "x3d_s_atfr"])
def test_a_compiled_network_answers_clips_of_different_length_as_uncompiled(name: str) -> None:
    model = _model(name).double()
    clips = torch.cat([_fast(), _still()]).double()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager")(clips), model(clips))
