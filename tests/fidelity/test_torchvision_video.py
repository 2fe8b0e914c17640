"""R3D-18, MC3-18, R(2+1)D-18 and S3D against torchvision's: the same weights give the same logits and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.networks import count_macs
from vidzoo.convert.torchvision import from_s3d, to_s3d
from vidzoo.errors import WeightsError
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel
from vidzoo.models.s3d import s3d
from vidzoo.models.tran import mc3_18, r2plus1d_18, r3d_18
from vidzoo.registry import get_pretrained_cfg

video = pytest.importorskip("torchvision.models.video")

OURS: dict[str, Any] = {"r3d_18": r3d_18, "mc3_18": mc3_18, "r2plus1d_18": r2plus1d_18, "s3d": s3d}
RESNETS = ["r3d_18", "mc3_18", "r2plus1d_18"]
# The clip that torchvision counted for its "_ops"; for s3d it has one window in the head, as "min_temporal_size" hints.
CLIPS = {"r3d_18": (16, 112), "mc3_18": (16, 112), "r2plus1d_18": (16, 112), "s3d": (16, 224)}
WEIGHTS = {
    "r3d_18": "R3D_18_Weights",
    "mc3_18": "MC3_18_Weights",
    "r2plus1d_18": "R2Plus1D_18_Weights",
    "s3d": "S3D_Weights",
}


def _lively(net: nn.Module) -> nn.Module:
    """Weights and statistics that make every path count."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
        elif isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    return net


def _ours(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return from_s3d(weights) if name == "s3d" else dict(weights)


def _pair(name: str) -> tuple[VideoModel, nn.Module]:
    torch.manual_seed(0)
    theirs = _lively(getattr(video, name)(weights=None, num_classes=11))
    with torch.device("meta"):
        model = OURS[name](num_classes=11)
    weights = {key: value.clone() for key, value in _ours(name, theirs.state_dict()).items()}
    load_weights(model, weights, source="torchvision", assign=True)
    return model, theirs


def _close(found: Tensor, expected: Tensor) -> bool:
    assert expected.std() > 1e-2 * expected.abs().max()  # values that are all alike would prove nothing
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("shape", [(8, 48, 48), (1, 40, 56), (5, 33, 47)])
@torch.inference_mode()
def test_their_files_load_as_they_are_and_give_their_logits(name: str, shape: tuple[int, int, int]) -> None:
    model, theirs = _pair(name)
    x = torch.randn(2, 3, *shape)
    assert _close(model.eval()(x), theirs.eval()(x))


# One window in the head; several over time; several over space; odd maps in front of each pooling.
@pytest.mark.parametrize("shape", [(14, 224, 224), (30, 224, 224), (16, 256, 224), (20, 242, 226)])
@torch.inference_mode()
def test_s3d_gives_their_logits_wherever_theirs_gives_any(shape: tuple[int, int, int]) -> None:
    model, theirs = _pair("s3d")
    x = torch.randn(1, 3, *shape)
    assert _close(model.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", RESNETS)
@torch.inference_mode()
def test_every_stage_gives_their_map(name: str) -> None:
    model, theirs = _pair(name)
    x = torch.randn(1, 3, 8, 48, 48)
    maps = model.eval().forward_intermediates(x, intermediates_only=True)
    theirs.eval()
    for found, stage in zip(maps, ("stem", "layer1", "layer2", "layer3", "layer4"), strict=True):
        x = theirs.get_submodule(stage)(x)
        assert _close(found, x)


@torch.inference_mode()
def test_every_stage_of_s3d_gives_their_map() -> None:
    model, theirs = _pair("s3d")
    x = torch.randn(1, 3, 16, 64, 64)
    maps = dict(enumerate(model.eval().forward_intermediates(x, intermediates_only=True)))
    last = {0: 0, 3: 1, 6: 2, 12: 3, 15: 4}  # of their features, of our stages
    for index, layer in enumerate(theirs.eval().features):
        x = layer(x)
        assert index not in last or _close(maps[last[index]], x)


@pytest.mark.parametrize("name", WEIGHTS)
def test_training_gives_the_same_gradients_and_moves_the_same_statistics(name: str) -> None:
    model, theirs = _pair(name)
    if name == "s3d":
        theirs.avgpool.kernel_size = (2, 2, 2)  # ours takes the smaller window by itself
    x = torch.randn(2, 3, *((8, 32, 32) if name in RESNETS else (16, 64, 64)), dtype=torch.float64)
    before = {key: value.clone() for key, value in model.named_buffers()}
    for net in (model, theirs):
        net.double().train()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        net(x).square().sum().backward()
    moved = _ours(name, theirs.state_dict())
    for key, value in model.named_buffers():
        torch.testing.assert_close(value, moved[key], rtol=1e-7, atol=1e-9)
        assert not torch.equal(value.to(before[key].dtype), before[key])
    gradients = {key: value.grad for key, value in theirs.named_parameters()}
    expected = _ours(name, {**theirs.state_dict(), **gradients})
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = expected[key].abs().max()
        assert scale > 0, key
        assert (parameter.grad - expected[key]).abs().max() <= 1e-6 * scale, key


@pytest.mark.parametrize("name", RESNETS)
def test_keys_shapes_and_order_are_theirs(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = OURS[name]().state_dict(), getattr(video, name)(weights=None).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


def test_keys_and_shapes_of_s3d_become_exactly_ours_and_come_back() -> None:
    with torch.device("meta"):
        ours, theirs = s3d().state_dict(), video.s3d(weights=None).state_dict()
    assert _shapes(from_s3d(theirs)) == _shapes(ours)
    assert _shapes(to_s3d(ours)) == _shapes(theirs)


def test_no_number_is_changed_or_copied_on_the_way_there_and_back() -> None:
    weights = video.s3d(weights=None, num_classes=3).state_dict()
    converted = from_s3d(weights)
    back = to_s3d(converted)
    assert list(back) == list(weights)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    assert {v.data_ptr() for v in converted.values()} == {v.data_ptr() for v in weights.values()}


@pytest.mark.parametrize("name", CLIPS)
def test_size_and_cost_are_those_that_torchvision_publishes(name: str) -> None:
    frames, crop = CLIPS[name]
    meta = getattr(video, WEIGHTS[name]).DEFAULT.meta
    with torch.device("meta"):
        pair = OURS[name](), getattr(video, name)(weights=None)
        macs = [count_macs(net, torch.empty(1, 3, frames, crop, crop)) for net in pair]
    assert [sum(value.numel() for value in net.parameters()) for net in pair] == [meta["num_params"]] * 2
    assert macs[0] == macs[1]
    assert round(macs[0] / 1e9, 3) == meta["_ops"]


def test_on_long_clips_s3d_saves_the_classifier_of_all_windows_but_one() -> None:
    with torch.device("meta"):
        pair = s3d(), video.s3d(weights=None)
        ours, theirs = (count_macs(net, torch.empty(1, 3, 64, 224, 224)) for net in pair)
    windows = 64 // 8 - 1
    assert theirs - ours == 400 * 1024 * (windows - 1)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_clip_is_fed_as_they_feed_it(name: str) -> None:
    feed = getattr(video, WEIGHTS[name]).DEFAULT.transforms()
    cfg = get_pretrained_cfg(name)
    assert (list(cfg.mean), list(cfg.std)) == (feed.mean, feed.std)
    assert list(cfg.eval_crop_size) == feed.crop_size
    assert cfg.short_side == min(feed.resize_size)
    assert cfg.interpolation == feed.interpolation.value
    assert cfg.num_classes == len(getattr(video, WEIGHTS[name]).DEFAULT.meta["categories"])


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_fresh_network_starts_as_theirs_does(name: str) -> None:
    torch.manual_seed(0)
    theirs = _ours(name, getattr(video, name)(weights=None).state_dict())
    for key, value in OURS[name]().state_dict().items():
        expected = theirs[key]
        if name == "s3d" and key.startswith("fc."):
            continue  # a linear layer here, it starts as every classifier of the zoo does
        if value.is_floating_point() and expected.std() > 0:
            error = 6 / value.numel() ** 0.5  # six standard errors of the ratio of two standard deviations
            assert abs(value.std() / expected.std() - 1) < error, key
            assert abs(value.mean() / value.std()) < error, key
        else:
            assert torch.equal(value, expected), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.4.0.weight": (1,)}, r"features\.4\.0\.weight"),
        ({"features.0.0.0.bias": (64,)}, r"features\.0\.0\.0\.bias"),
        ({"module.classifier.1.weight": (1,)}, "module"),
        ({"classifier.1.weight": (400, 1024)}, "1x1x1"),
        ({"classifier.1.weight": (400, 1024, 1, 2, 2)}, "1x1x1"),
        ({"classifier.1.bias": None}, r"lacks classifier\.1\.bias"),
        ({"features.15.branch3.1.1.running_var": None}, r"lacks features\.15\.branch3\.1\.1\.running_var"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    with torch.device("meta"):
        weights = video.s3d(weights=None).state_dict()
        for key, shape in change.items():
            if shape is None:
                del weights[key]
            else:
                weights[key] = torch.empty(shape)
    with pytest.raises(WeightsError, match=message):
        from_s3d(weights)


def test_a_network_that_theirs_has_no_place_for_is_refused() -> None:
    with torch.device("meta"):
        model = s3d()
        model.add_sampler(nn.Linear(3, 3), after="conv1")
        with pytest.raises(WeightsError, match=r"sampler\.weight"):
            to_s3d(model.state_dict())
        with pytest.raises(WeightsError, match=r"lacks fc\.weight"):
            to_s3d(s3d(num_classes=0).state_dict())
        with pytest.raises(WeightsError, match=r"lacks .* and \d+ more"):
            from_s3d({})


def _shapes(weights: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in weights.items()}
