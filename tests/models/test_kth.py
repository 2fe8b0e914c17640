"""The three networks for KTH differ in their convolution alone, and run on every size of clip of the two stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.models.stdcf import set_dilation

NAMES = ["c3d_c3", "rank1_c3", "stdcf_c3"]
names = pytest.mark.parametrize("name", NAMES)
PAIRS = [(3, 32), (32, 64), (64, 128)]  # channels of the three convolutions


def _convolutions(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(f"layer{index}.0.conv") for index in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("c3d_c3", [27 * i * o for i, o in PAIRS]),
        ("rank1_c3", [9 * i * o + 3 * o * o for i, o in PAIRS]),  # section 2.1.1
        ("stdcf_c3", [12 * i * o + 6 * 9 + 2 * 3 for i, o in PAIRS]),  # section 2.4
    ],
)
def test_parameters_are_those_of_the_convolutions_and_the_rest_is_shared(name: str, weights: list[int]) -> None:
    model = vidzoo.create_model(name)
    assert [sum(p.numel() for p in conv.parameters()) for conv in _convolutions(model)] == weights
    norms, head = 2 * (32 + 64 + 128), 128 * 6 + 6
    assert sum(value.numel() for value in model.parameters()) == sum(weights) + norms + head


def test_the_convolutions_are_plain_rank_1_and_stdcf() -> None:
    kinds = {name: [type(conv) for conv in _convolutions(vidzoo.create_model(name))] for name in NAMES}
    assert kinds == {"c3d_c3": [FullConv3d] * 3, "rank1_c3": [P3DConv3d] * 3, "stdcf_c3": [STDCFConv3d] * 3}
    for conv in _convolutions(vidzoo.create_model("rank1_c3")):
        assert isinstance(conv, P3DConv3d)
        assert isinstance(conv.norm, nn.Identity)
        assert (conv.spatial.kernel_size, conv.temporal.kernel_size) == ((1, 3, 3), (3, 1, 1))
        assert (conv.temporal.in_channels, conv.temporal.out_channels) == (conv.out_channels, conv.out_channels)


@names
@torch.no_grad()
def test_the_logits_are_those_of_conv_norm_relu_pool_three_times_and_a_linear_mean(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=4).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    clip = torch.randn(2, 3, 5, 30, 40, dtype=torch.float64)
    x = clip
    for index, conv in enumerate(_convolutions(model), start=1):
        x = conv.to_conv3d()(x)
        norm = model.get_submodule(f"layer{index}.0.bn")
        scale = (norm.weight / (norm.running_var + 1e-5).sqrt())[:, None, None, None]
        x = (x - norm.running_mean[:, None, None, None]) * scale + norm.bias[:, None, None, None]
        x = nn.functional.max_pool3d(x.clamp(min=0), 2, ceil_mode=True)
    expected = x.mean(dim=(2, 3, 4)) @ model.fc.weight.t() + model.fc.bias
    assert (model(clip) - expected).abs().max() <= 1e-10 * expected.abs().max()


@names
@pytest.mark.parametrize("size", [(16, 60, 80), (16, 30, 40), (8, 60, 80), (1, 9, 11)], ids=str)
@torch.no_grad()
def test_full_clips_those_of_both_stages_and_a_single_frame_are_answered(name: str, size: tuple[int, ...]) -> None:
    for channels in (1, 3):
        model = vidzoo.create_model(name, in_chans=channels).eval()
        x = torch.randn(1, channels, *size)
        assert model(x).shape == (1, 6)
        _, maps = model.forward_intermediates(x)
        assert [tuple(m.shape[2:]) for m in maps] == [tuple(-(-n // 2**i) for n in size) for i in (1, 2, 3)]


@names
@torch.no_grad()
def test_dilations_of_a_network_are_those_of_its_convolutions_with_the_same_weights(name: str) -> None:
    model = vidzoo.create_model(name).eval()
    dilated = vidzoo.create_model(name, spatial_dilation=2, temporal_dilation=3).eval()
    dilated.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 9, 30, 40)
    assert dilated(x).shape == (1, 6)
    for one, two in zip(_convolutions(model), _convolutions(dilated), strict=True):
        plain, spread = one.to_conv3d(), two.to_conv3d()
        assert (spread.dilation, spread.padding) == ((3, 2, 2), (3, 2, 2))
        assert torch.equal(plain.weight, spread.weight)
    if name == "stdcf_c3":
        set_dilation(model, spatial=2, temporal=3)
        assert torch.equal(model(x), dilated(x))


def test_they_are_fed_as_in_section_3_1() -> None:
    for name in NAMES:
        cfg = vidzoo.get_pretrained_cfg(name)
        assert (cfg.num_frames, cfg.sampling, cfg.short_side, cfg.crop_size) == (16, "dense", 60, (60, 80))
        assert cfg.num_classes == 6


def test_a_drop_rate_that_drops_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="drop_rate"):
        vidzoo.create_model("c3d_c3", drop_rate=1.0)


def _saved_bytes(name: str, **options: str) -> int:
    """What training keeps for the backward pass, each tensor once, for the paper's batch of 16 clips."""
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        kept.setdefault(value.untyped_storage()._cdata, value)
        return value

    with torch.device("meta"):
        model = vidzoo.create_model(name, **options).train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            logits = model(torch.empty(16, 3, 16, 60, 80))
        assert logits.requires_grad
    return sum(value.numel() * value.element_size() for value in kept.values())


def test_in_training_the_dense_mode_costs_the_memory_of_a_plain_layer_and_the_three_steps_cost_more() -> None:
    plain = _saved_bytes("c3d_c3")
    assert _saved_bytes("stdcf_c3") == pytest.approx(plain, rel=0.01)
    assert _saved_bytes("rank1_c3") > 1.2 * plain
    assert _saved_bytes("stdcf_c3", mode="factorised") > 2 * plain
