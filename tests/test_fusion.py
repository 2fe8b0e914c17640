"""``vidzoo.fuse``: the same answers from fewer layers, or the layers as they were."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn

import vidzoo
from vidzoo.errors import ConfigError, HubError
from vidzoo.grafting.traced import twin_of
from vidzoo.layers import ReparamConv3d, STDCFConv3d

NAMES = ["gst_r18", "stdcf_r18", "i3d_r18_reparam_11335", "p3d_r18", "s3d", "x3d_xs", "r2plus1d_18"]


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _trained(model: nn.Module) -> nn.Module:
    """Weights and statistics that make every path count, in double precision."""
    return twin_of(model).double().eval()


def _clip(frames: int = 4, side: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_fused_network_has_no_norm_and_says_the_same(name: str) -> None:
    model = _trained(vidzoo.create_model(name, num_classes=5))
    expected, before = model(_clip()), copy.deepcopy(model.state_dict())
    fused = vidzoo.fuse(model)
    torch.testing.assert_close(fused(_clip()), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert _norms(fused) == 0
    assert not any(isinstance(module, (STDCFConv3d, ReparamConv3d)) for module in fused.modules())
    size = (4, 32, 32)
    assert vidzoo.profile(fused, size).macs <= vidzoo.profile(model, size).macs
    assert not fused.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("plan", ["inflate", "gst", "stdcf", "reparam", "p3d", "ctm", "shift"])
@torch.no_grad()
def test_a_grafted_network_of_timm_is_fused_with_its_own_norms(plan: str) -> None:
    # MobileNetV2 has its activations inside the norms, ResNet behind them.
    for name in ("mobilenetv2_035", "test_resnet"):
        model = _trained(vidzoo.graft(timm.create_model(name, num_classes=5), plan))
        expected = model(_clip(side=64))
        fused = vidzoo.fuse(model)
        torch.testing.assert_close(fused(_clip(side=64)), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        assert _norms(fused) <= 3  # those of CTM blocks that come before a convolution


@torch.no_grad()
def test_the_norms_of_a_network_with_a_sampler_stay() -> None:
    model = _trained(vidzoo.create_model("x3d_s_atfr", num_classes=5))
    fused = vidzoo.fuse(model)
    assert _norms(fused) == _norms(model)
    torch.testing.assert_close(fused(_clip()), model(_clip()))


class _Net(nn.Module):
    """A norm behind a convolution whose output is used once more, one behind another, one that standardises its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv3d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm3d(4)
        self.once = nn.Conv3d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm3d(4)
        self.standard = ScaledStdConv2d(4, 4, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(4)
        self.twice = nn.Conv3d(4, 4, 1)
        self.bn4 = nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.used(x)
        y = self.bn2(self.once(self.bn1(y) + y))
        frames = self.bn3(self.standard(y.mean(2)))[:, :, None]
        return self.bn4(self.twice(frames)) + self.twice(y)


@torch.no_grad()
def test_a_norm_is_folded_only_where_nothing_else_sees_the_convolution() -> None:
    net = _trained(_Net())
    fused = vidzoo.fuse(net, clip=_clip(side=8))
    torch.testing.assert_close(fused(_clip(side=8)), net(_clip(side=8)))
    kept = [name for name, module in fused.named_children() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kept == ["bn1", "bn3", "bn4"]


def test_a_fused_copy_is_not_saved() -> None:
    fused = vidzoo.fuse(vidzoo.create_model("gst_r18", num_classes=5))
    with pytest.raises(HubError, match="save it before surgery or fusing"):
        vidzoo.save_pretrained(fused, "unused")


def test_what_cannot_be_fused_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="Conv3d is no model of the zoo: give clip="):
        vidzoo.fuse(nn.Conv3d(3, 4, 3))
    with torch.device("meta"):
        shadow = vidzoo.create_model("gst_r18")
    with pytest.raises(ConfigError, match="meta device"):
        vidzoo.fuse(shadow)
    broken = vidzoo.create_model("gst_r18")
    with torch.no_grad():
        broken.fc.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="NaN or infinite"):
        vidzoo.fuse(broken)


@torch.no_grad()
def test_a_fused_network_can_be_fused_again_and_traced() -> None:
    model = _trained(vidzoo.create_model("gst_r18", num_classes=5))
    fused = vidzoo.fuse(vidzoo.fuse(model))
    traced = torch.export.export(fused, (_clip(),)).module()
    torch.testing.assert_close(traced(_clip()), model(_clip()))
