"""X3D against pytorchvideo's: the same weights give the same logits, before its softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.networks import count_macs
from vidzoo.convert.pytorchvideo.x3d import from_x3d, to_x3d
from vidzoo.errors import WeightsError
from vidzoo.models.x3d import X3D, x3d_l, x3d_m, x3d_s, x3d_xl, x3d_xs

hub = pytest.importorskip("pytorchvideo.models.hub")
create_x3d = pytest.importorskip("pytorchvideo.models.x3d").create_x3d

# Ours, and the factors of theirs where they differ from create_x3d's own.
L, XL = {"depth_factor": 5.0}, {"width_factor": 2.9, "depth_factor": 5.0}
NETWORKS: dict[str, tuple[Any, dict[str, float]]] = {
    "x3d_xs": (x3d_xs, {}),
    "x3d_s": (x3d_s, {}),
    "x3d_m": (x3d_m, {}),
    "x3d_l": (x3d_l, L),
    "x3d_xl": (x3d_xl, XL),
}
# Name, frames, crop, parameters, and what ATFR (CVPR 2021, Tables 7 to 9) prints: 1e9 multiply-adds, 1e6 parameters.
COSTS = [
    ("x3d_xs", 4, 160, 3_794_274, None, None),
    ("x3d_s", 13, 160, 3_794_274, 1.9, 3.79),
    ("x3d_m", 16, 256, 3_794_274, 6.2, None),
    ("x3d_l", 16, 312, 6_153_384, 18.3, 6.1),
    ("x3d_l", 16, 356, 6_153_384, 24.8, 6.1),
    ("x3d_xl", 16, 312, 11_095_840, 35.8, 11.09),
    ("x3d_xl", 16, 356, 11_095_840, 48.4, 11.09),
]


def _lively(net: nn.Module) -> nn.Module:
    """Weights and statistics that make every path count; in particular no residual branch stays at zero."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
        elif getattr(module, "bias", None) is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    return net


def _pair(ours: Any, **options: Any) -> tuple[X3D, nn.Module]:
    torch.manual_seed(0)
    theirs = _lively(create_x3d(head_activation=None, dropout_rate=0.0, **options))
    with torch.device("meta"):
        model = ours(drop_rate=0.0)
    model.load_state_dict({k: v.clone() for k, v in from_x3d(theirs.state_dict()).items()}, assign=True)
    return model, theirs


def _close(found: Tensor, expected: Tensor) -> bool:
    assert expected.std() > 1e-2 * expected.abs().max()  # values that are all alike would prove nothing
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (x3d_xs, {"input_clip_length": 4, "input_crop_size": 64}),
        (x3d_s, {"input_clip_length": 5, "input_crop_size": 70}),
        (x3d_l, {"input_clip_length": 2, "input_crop_size": 64, **L}),
        (x3d_xl, {"input_clip_length": 3, "input_crop_size": 33, **XL}),
        (x3d_xs, {"input_clip_length": 4, "input_crop_size": 160}),
    ],
    ids=["xs", "s", "l", "xl", "xs at its own size"],
)
def test_their_weights_give_their_logits(ours: Any, options: dict[str, Any]) -> None:
    model, theirs = _pair(ours, **options)
    x = torch.randn(2, 3, options["input_clip_length"], *[options["input_crop_size"]] * 2)
    with torch.inference_mode():
        assert _close(model.eval()(x), theirs.eval()(x))


def test_every_stage_gives_their_map() -> None:
    model, theirs = _pair(x3d_xs, input_clip_length=4, input_crop_size=64)
    x = torch.randn(1, 3, 4, 64, 64)
    with torch.inference_mode():
        maps = model.eval().forward_intermediates(x, intermediates_only=True)
        for found, block in zip(maps[:5], theirs.eval().blocks[:5], strict=True):
            x = block(x)
            assert _close(found, x)
        pool = theirs.blocks[5].pool
        assert _close(maps[5], pool.pre_act(pool.pre_norm(pool.pre_conv(x))))


def test_training_moves_the_same_statistics_by_the_same_amount() -> None:
    model, theirs = _pair(x3d_xs, input_clip_length=4, input_crop_size=64)
    x = torch.randn(3, 3, 4, 64, 64)
    before = {key: value.clone() for key, value in model.named_buffers()}
    model, theirs = model.double().train(), theirs.double().train()
    assert _close(model(x.double()), theirs(x.double()))
    moved = from_x3d(theirs.state_dict())
    for key, value in model.named_buffers():
        torch.testing.assert_close(value, moved[key], rtol=1e-7, atol=1e-9)
        assert not torch.equal(value.to(before[key].dtype), before[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_their_keys_and_shapes_become_exactly_ours_and_come_back(name: str) -> None:
    ours = NETWORKS[name][0]
    with torch.device("meta"):
        published = getattr(hub, name)(pretrained=False) if hasattr(hub, name) else create_x3d(**XL)
        theirs, weights = published.state_dict(), ours().state_dict()
    assert _shapes(from_x3d(theirs)) == _shapes(weights)
    assert _shapes(to_x3d(weights)) == _shapes(theirs)


def test_no_number_is_changed_or_copied_on_the_way_there_and_back() -> None:
    weights = create_x3d(depth_factor=1.0, model_num_class=3).state_dict()
    converted = from_x3d(weights)
    back = to_x3d(converted)
    assert list(back) == list(weights)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    assert {v.data_ptr() for v in converted.values()} == {v.data_ptr() for v in weights.values()}


@pytest.mark.parametrize(("name", "frames", "crop", "parameters", "gmacs", "millions"), COSTS)
def test_size_and_cost_are_theirs_and_those_that_atfr_prints(
    name: str, frames: int, crop: int, parameters: int, gmacs: float | None, millions: float | None
) -> None:
    ours, factors = NETWORKS[name]
    with torch.device("meta"):
        pair = ours(), create_x3d(input_clip_length=frames, input_crop_size=crop, **factors)
        macs = [count_macs(net, torch.empty(1, 3, frames, crop, crop)) for net in pair]
    assert [sum(value.numel() for value in net.parameters()) for net in pair] == [parameters] * 2
    assert macs[0] == macs[1]
    # The paper rounds some of its figures and cuts others off.
    assert gmacs is None or gmacs in (round(macs[0] / 1e9, 1), macs[0] // 10**8 / 10)
    assert millions is None or f"{parameters / 1e6:.6f}".startswith(str(millions))


def test_a_fresh_network_starts_as_theirs_does() -> None:
    torch.manual_seed(0)
    theirs, ours = from_x3d(create_x3d().state_dict()), x3d_s().state_dict()
    for key, value in ours.items():
        expected = theirs[key]
        if value.is_floating_point() and expected.std() > 0:
            error = 6 / value.numel() ** 0.5  # six standard errors of the ratio of two standard deviations
            assert abs(value.std() / expected.std() - 1) < error, key
            assert abs(value.mean() / value.std()) < error, key
        else:
            assert torch.equal(value, expected), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.res_blocks.0.branch2.conv_d.weight": (1,)}, "conv_d"),
        ({"blocks.6.proj.weight": (1,)}, "blocks.6"),
        ({"module.blocks.5.proj.weight": (1,)}, "module"),
        ({"blocks.5.pool.post_conv.weight": (2048, 432)}, "1x1x1"),
        ({"blocks.5.pool.post_conv.weight": (2048, 432, 1, 2, 2)}, "1x1x1"),
        ({"blocks.5.proj.weight": None}, "lacks blocks.5.proj.weight"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    with torch.device("meta"):
        weights = create_x3d().state_dict()
        for key, shape in change.items():
            if shape is None:
                del weights[key]
            else:
                weights[key] = torch.empty(shape)
    with pytest.raises(WeightsError, match=message):
        from_x3d(weights)


def test_a_network_that_theirs_has_no_place_for_is_refused() -> None:
    with torch.device("meta"):
        model = x3d_xs()
        model.add_sampler(nn.Linear(3, 3), after="layer1")
        with pytest.raises(WeightsError, match=r"sampler\.weight"):
            to_x3d(model.state_dict())
        with pytest.raises(WeightsError, match=r"lacks fc\.weight"):
            to_x3d(x3d_xs(num_classes=0).state_dict())


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in weights.items()}
