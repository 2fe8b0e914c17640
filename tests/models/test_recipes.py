"""Grafts by name: their backbone's weights go in, what the backbone says of the frames comes out, where it can."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.video import r3d_18

import vidzoo
from vidzoo.convert import convert
from vidzoo.errors import WeightsError
from vidzoo.grafting import SwapConv
from vidzoo.grafting.grouped import GroupedGSTConv3d
from vidzoo.grafting.traced import twin_of
from vidzoo.models import start_from


def _model(name: str, weights: dict[str, Tensor]) -> nn.Module:
    model = vidzoo.create_model(name, num_classes=weights["fc.weight"].shape[0])
    model.load_state_dict(weights)
    return model.eval()


def _clip(frames: int = 4) -> Tensor:
    return torch.randn(2, 3, frames, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["gst_mobilenetv2_100", "ctm_mobilenetv2_100", "gst_convnext_tiny"])
@torch.no_grad()
def test_a_recipe_starts_from_its_backbones_answers_to_the_frames(name: str) -> None:
    backbone = twin_of(timm.create_model(name.partition("_")[2])).eval()
    found = convert(backbone.state_dict(), name)
    assert found.layout == "backbone"
    assert not found.exact
    assert all(".tccm." in key or ".shared." in key or "after.layer" in key for key in found.fresh)
    assert bool(found.fresh) == name.startswith("ctm")
    assert found.approximated == ()
    x = _clip()
    frames = backbone(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1)).mean(1)
    scale = float(frames.abs().max())
    torch.testing.assert_close(_model(name, found.weights)(x) / scale, frames / scale, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_stdcf_r3d_18_is_torchvisions_network_grafted() -> None:
    backbone = twin_of(r3d_18()).eval()
    found = convert(backbone.state_dict(), "stdcf_r3d_18")
    assert [name for name, _ in found.approximated][:2] == ["layer1.0.conv1.0", "layer1.0.conv2.0"]
    assert len(found.approximated) == 16
    assert all(0.05 < error < 1 for _, error in found.approximated)
    grafted = vidzoo.graft(backbone, SwapConv("stdcf"), source="torchvision:r3d_18").eval()
    torch.testing.assert_close(_model("stdcf_r3d_18", found.weights)(_clip(8)), grafted(_clip(8)))


def test_a_recipes_own_weights_come_back_as_they_are() -> None:
    model = vidzoo.create_model("gst_mobilenetv2_100", num_classes=5)
    found = convert(model.state_dict(), "gst_mobilenetv2_100")
    assert (found.layout, found.exact) == ("vidzoo", True)
    assert all(torch.equal(value, found.weights[key]) for key, value in model.state_dict().items())


def test_another_number_of_classes_or_channels_gets_a_fresh_head_and_a_summed_stem() -> None:
    backbone = timm.create_model("mobilenetv2_100", num_classes=12)
    model = vidzoo.create_model("gst_mobilenetv2_100", num_classes=5, in_chans=1)
    head = model.get_classifier().weight.clone()
    report = start_from(model, backbone.state_dict())
    assert report.fresh == ("fc.weight", "fc.bias")
    assert torch.equal(model.get_classifier().weight, head)
    stem = model.get_submodule("host.network.conv_stem").weight
    torch.testing.assert_close(stem, backbone.conv_stem.weight.sum(1, keepdim=True))


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    model = vidzoo.create_model("gst_mobilenetv2_100", num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"258 missing: conv_stem\.weight"):
        start_from(model, resnet18().state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_alpha_is_the_share_of_groups_that_look_over_time() -> None:
    model = vidzoo.create_model("gst_mobilenetv2_100", alpha=0.5, num_classes=5)
    units = [module for module in model.modules() if isinstance(module, GroupedGSTConv3d)]
    assert len(units) == 17
    assert all(unit.temporal_channels == unit.spatial_channels for unit in units)
    assert model.model_args["alpha"] == 0.5


def test_a_graft_of_ones_own_takes_its_backbones_weights_too() -> None:
    backbone = timm.create_model("test_resnet", num_classes=7)
    model = vidzoo.create_model("graft", backbone="timm:test_resnet", plan="gst", num_classes=7)
    report = start_from(model, backbone.state_dict())
    # GST between ungrouped channels starts those over time at random.
    assert report.fresh
    assert all(key.endswith("temporal.weight") for key in report.fresh)
    grafted = vidzoo.graft(backbone, "gst").state_dict()
    same = [
        key for key, value in model.state_dict().items() if key not in report.fresh and torch.equal(value, grafted[key])
    ]
    assert len(same) == len(grafted) - len(report.fresh)
