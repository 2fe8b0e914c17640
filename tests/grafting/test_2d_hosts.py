"""Networks over pictures: what a graft keeps of their function, and that it is the zoo's own network where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from grafting.networks import (
    CifarResNet,
    frame_by_frame,
    lively,
    real_cifar,
    real_mobilenet,
    still,
    timm_network,
)
from vidzoo.errors import ConfigError
from vidzoo.grafting import Inflate, InsertCTM, InsertShift, SwapConv, Where, graft
from vidzoo.grafting.folded import OverTime
from vidzoo.layers import CTMBlock, FullConv3d, STDCFConv3d
from vidzoo.models import init_from_2d

ALL_ATOMS = {"spatial_atoms": 9, "temporal_atoms": 3}
SPATIAL = Where(kernels=(3, 5, 7))
# A host and one plan that keeps its function: all five kinds of network, every kind of kernel in them.
KEEPERS: list[tuple[str, Any]] = [
    ("resnet18", SwapConv("stdcf", options=ALL_ATOMS)),
    ("mobilenetv2_100", Inflate(t_lengths=5, where=SPATIAL)),
    ("efficientnet_b0", SwapConv("stdcf", options={"spatial_atoms": 25, "temporal_atoms": 3})),
    ("regnety_004", SwapConv("reparam")),
    ("convnext_atto", InsertCTM(reduction=4)),
    ("resnext50_32x4d", InsertCTM()),
    ("densenet121", SwapConv("p3d", Where(stages=(3,), kernels=(3,)))),
]
CIFAR_EXAMPLE = torch.linspace(-1, 1, 4 * 3 * 32 * 32).sin().reshape(4, 3, 32, 32)


def _clip(batch: int = 2, frames: int = 3, side: int = 64) -> Tensor:
    return torch.randn(batch, 3, frames, side, side)


@pytest.mark.parametrize(("name", "plan"), KEEPERS, ids=[name for name, _ in KEEPERS])
@torch.no_grad()
def test_a_graft_that_keeps_the_function_answers_every_frame_as_the_2d_network(name: str, plan: Any) -> None:
    network = timm_network(name)
    model = graft(network, plan)
    x = _clip()
    expected = frame_by_frame(network, x).mean(dim=1)
    scale = expected.abs().max()
    torch.testing.assert_close(model(x) / scale, expected / scale, rtol=1e-5, atol=1e-5)
    assert model.graft_report.change < 1e-5
    assert max((row.change or 0.0) for row in model.graft_report.rows) < 1e-5


@pytest.mark.parametrize("plan", ["inflate", "gst", "stdcf", "reparam", "ctm", "p3d", "r2plus1d", "shift"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_every_plan_trains_or_refuses_in_a_sentence(name: str, plan: str) -> None:
    network = timm_network(name)
    if name == "mobilenetv2_100" and plan == "r2plus1d":
        with pytest.raises(ConfigError, match=r"blocks\.0\.0\.conv_dw is a depthwise convolution"):
            graft(network, plan)
        return
    before = {key: value.clone() for key, value in network.state_dict().items()}
    model = graft(network, plan, num_classes=5).train()
    model(_clip()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("unit", ["gst", "stdcf"])
def test_where_the_function_moves_the_report_says_by_how_much_in_each_layer(unit: str) -> None:
    network = timm_network("resnet18")
    report = graft(network, SwapConv(unit, Where(stages=(1, 2), kernels=(3,)))).graft_report
    assert len(report.rows) == 8
    assert all(0.05 < row.change < 2 for row in report.rows)
    assert report.change > 0.05
    assert report.rows[0].before == "Conv2d 3x3"


@torch.no_grad()
def test_the_spatial_group_of_gst_is_the_2d_convolution_on_its_channels() -> None:
    network = timm_network("resnet18")
    conv = network.layer2[0].conv2
    grafted = graft(network, "gst").host.network.layer2[0].conv2
    assert isinstance(grafted, OverTime)
    x = torch.randn(8, 128, 8, 8)
    seen = x.clone()
    seen[:, 64:] = 0  # the spatial group sees the first half of the input
    grafted.count.frames = 4
    torch.testing.assert_close(grafted(x)[:, :96], conv(seen)[:, :96], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_inflated_kernels_of_any_length_keep_each_frame() -> None:
    network = lively(CifarResNet(2)).eval()
    x = torch.randn(2, 3, 6, 32, 32)
    expected = frame_by_frame(network, x).mean(dim=1)
    for lengths in (1, 3, 7, (1, 3, 5)):
        model = graft(network, Inflate("centre", lengths), example=CIFAR_EXAMPLE)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    found = [m.kernel_size[0] for m in model.modules() if isinstance(m, FullConv3d)]
    assert found == [3] * 4 + [5] * 4  # no kernel in the first stage, the last two have theirs


@torch.no_grad()
def test_mean_inflation_keeps_a_still_clip_with_its_ends_repeated_and_its_middle_with_zeros() -> None:
    network = lively(CifarResNet(1)).eval()
    x = still(1, 9, 32)
    expected = network(x[:, :, 0])
    mean = Inflate("mean", 3, time_padding="replicate")
    torch.testing.assert_close(graft(network, mean, example=CIFAR_EXAMPLE)(x), expected, rtol=1e-5, atol=1e-5)
    zeros = graft(network, Inflate("mean", (1, 1, 3)), example=CIFAR_EXAMPLE)
    features = zeros.forward_features(x)
    plain = graft(network, "frame", example=CIFAR_EXAMPLE).forward_features(x)
    torch.testing.assert_close(features[:, :, 2:-2], plain[:, :, 2:-2], rtol=1e-5, atol=1e-5)  # two layers deep
    assert (features - plain)[:, :, 0].abs().max() > 0.1


@torch.no_grad()
def test_a_joint_squeeze_answers_a_still_clip_as_the_2d_network_and_lets_frames_meet() -> None:
    network = timm_network("test_efficientnet")
    for layer in (
        m for block in network.blocks for m in block.modules() if isinstance(m, nn.Conv2d) and m.bias is not None
    ):
        layer.weight *= 5  # fresh gates hardly depend on what they see
    model = graft(network, Inflate(squeeze="joint"))
    assert sum(row.what == "added" for row in model.graft_report.rows) == 2  # the two blocks that have one
    x = still(2, 3, 64)
    torch.testing.assert_close(model(x), network(x[:, :, 0]), rtol=1e-4, atol=1e-5)
    moved = x.clone()
    moved[:, :, 2] = torch.randn_like(moved[:, :, 2])
    alone, met = (graft(network, plan).forward_features(moved)[:, :, 0] for plan in ("frame", Inflate(squeeze="joint")))
    assert (alone - met).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="no squeeze-and-excitation"):
        graft(timm_network("test_resnet"), Inflate(squeeze="joint"))


@torch.no_grad()
def test_the_joint_squeeze_is_the_mean_over_the_clip() -> None:
    network = timm_network("test_efficientnet")
    model = graft(network, Inflate(squeeze="joint"))
    plain, joint = network.blocks[3][0].se, model.host.network.blocks[3][0].se
    x = torch.randn(6, 128, 4, 4)
    model.host.count.frames = 3
    squeezed = x.unflatten(0, (2, 3)).mean(dim=(1, 3, 4))[:, :, None, None]  # (2, C, 1, 1)
    gate = plain.gate(plain.conv_expand(plain.act1(plain.conv_reduce(squeezed))))
    torch.testing.assert_close(joint(x), x * gate.repeat_interleave(3, dim=0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_shift_moves_an_eighth_of_the_channels_each_way() -> None:
    from vidzoo.grafting.insert import TemporalShift

    x = torch.arange(1, 4.0).reshape(1, 1, 3, 1, 1).expand(1, 16, 3, 1, 1)
    out = TemporalShift(16)(x)[0, :, :, 0, 0].tolist()
    assert out == [[2, 3, 0]] * 2 + [[0, 1, 2]] * 2 + [[1, 2, 3]] * 12
    names = [row.name for row in graft(timm_network("resnet50"), "shift").graft_report.rows]
    assert len(names) == 16
    assert all(name.endswith(".conv1 (in front)") for name in names)  # never the shortcut's
    with pytest.raises(ConfigError, match="smaller fold"):
        graft(timm_network("test_resnet"), InsertShift(Where(names=("conv1*",))))


def test_places_that_a_unit_cannot_take_are_kept_and_told_unless_they_were_named() -> None:
    network = timm_network("mobilenetv2_100")
    where = Where(kernels=(3,), stem=True)
    report = graft(network, SwapConv("r2plus1d", where)).graft_report
    assert [row.name for row in report.rows if row.what == "replaced"] == ["conv_stem"]
    kept = [row for row in report.rows if row.what == "kept"]
    assert len(kept) == 17
    assert all("depthwise" in row.note for row in kept)
    assert "17 of 18" in report.warnings[-1]
    with pytest.raises(ConfigError, match=r"blocks\.1\.0\.conv_dw"):
        graft(network, SwapConv("r2plus1d", Where(names=("conv_stem", "blocks.1.0.conv_dw"))))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SwapConv("gst", Where(kernels=(9,))), "16 of 3x3"),
        (SwapConv("gst", options={"alpah": 0.5}), "alpha"),
        (SwapConv("gts"), "gst"),
        (Inflate(t_lengths=(1, 3)), "5 stages"),
        (InsertCTM(stage=7), "no stage 7"),
        (InsertCTM(stage=0), "no blocks"),
        (InsertCTM(after=("layer5",)), "layer4"),
        (InsertCTM(blocks=9), "1 to 2 CTM blocks"),
        (InsertCTM(after=("fc",)), "does not put out one map"),
        ("sgs", "single pictures"),
    ],
)
def test_what_cannot_be_grafted_is_refused_with_what_there_is(plan: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graft(timm_network("resnet18"), plan)


# The zoo's own networks.


def _as_in_the_zoo(key: str) -> str:
    return key.removeprefix("host.network.").replace(".layer.", ".")


@pytest.mark.parametrize(("family", "depth"), [("gst", 18), ("gst", 50), ("stdcf", 18)])
def test_a_grafted_resnet_is_the_network_of_the_zoo(family: str, depth: int) -> None:
    network = timm_network(f"resnet{depth}")
    grafted = graft(network, family, num_classes=7).eval()
    zoo = vidzoo.create_model(f"{family}_r{depth}", num_classes=7).eval()
    random = init_from_2d(zoo, network.state_dict())
    assert bool(random) is (family == "gst")
    own, theirs = zoo.state_dict(), {_as_in_the_zoo(key): value for key, value in grafted.state_dict().items()}
    assert own.keys() == theirs.keys()
    theirs = {key: value.reshape(own[key].shape) for key, value in theirs.items()}  # (O, I, k, k), (O, I, 1, k, k)
    for key in own.keys() - set(random) - {"fc.weight", "fc.bias"}:
        torch.testing.assert_close(own[key], theirs[key], rtol=1e-5, atol=1e-5, msg=key)
    zoo.load_state_dict({key: theirs[key] if key in random or key.startswith("fc.") else own[key] for key in own})
    x = _clip(1, 3, 32)
    torch.testing.assert_close(grafted(x), zoo(x), rtol=1e-5, atol=1e-5)


def test_a_resnet_with_grafted_ctm_blocks_is_the_network_of_the_zoo() -> None:
    network = timm_network("resnet18")
    grafted = graft(network, "ctm", num_classes=7).eval()
    zoo = vidzoo.create_model("ctm_r18", num_classes=7).eval()
    init_from_2d(zoo, network.state_dict())
    blocks = [name for name, m in grafted.named_modules() if isinstance(m, CTMBlock)]
    own = [name for name, m in zoo.named_modules() if isinstance(m, CTMBlock)]
    assert [f"layer3.ctm_{name.split('.')[3]}" for name in blocks] == own  # behind the same residual blocks
    generator = torch.Generator().manual_seed(3)
    for name, other in zip(blocks, own, strict=True):
        block = lively(grafted.get_submodule(name))
        for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm3d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        zoo.get_submodule(other).load_state_dict(block.state_dict())  # the tables too: they have the same size
    zoo.fc.load_state_dict(grafted.fc.state_dict())
    x = _clip(1, 3, 32)
    assert (grafted(x) - graft(network, "frame", num_classes=7).eval()(x)).abs().max() > 1e-3
    torch.testing.assert_close(grafted(x), zoo(x), rtol=1e-5, atol=1e-5)


# Real weights.


@pytest.mark.parametrize("t_length", [1, 3, 5])
@torch.no_grad()
def test_a_real_mobilenet_inflated_at_the_centre_answers_a_still_clip_as_a_picture(
    shared_data: Path, t_length: int
) -> None:
    network = real_mobilenet(shared_data)
    model = graft(network, Inflate("centre", t_length, SPATIAL))
    x = still(1, 4, 96)
    difference = (model(x) - network(x[:, :, 0])).abs().max()
    assert difference < 1e-4 * network(x[:, :, 0]).abs().max()


@pytest.mark.parametrize("blocks", [3, 9])
@torch.no_grad()
def test_real_cifar_resnets_inflated_either_way_answer_a_still_clip_as_a_picture(
    shared_data: Path, blocks: int
) -> None:
    network = real_cifar(shared_data, blocks)
    x = still(2, 5, 32)
    expected = network(x[:, :, 0])
    for plan in (Inflate("centre", 3), Inflate("centre", (1, 3, 7)), Inflate("mean", 3, time_padding="replicate")):
        found = graft(network, plan, example=CIFAR_EXAMPLE)(x)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_a_real_mobilenet_padded_as_tensorflow_does_keeps_its_answer_in_every_unit(shared_data: Path) -> None:
    network = real_mobilenet(shared_data)
    x = torch.randn(1, 3, 3, 90, 97)  # odd sides: the padding of strided kernels differs from map to map
    expected = frame_by_frame(network, x).mean(dim=1)
    for plan in (SwapConv("reparam"), SwapConv("p3d"), SwapConv("stdcf", options=ALL_ATOMS)):
        model = graft(network, plan)
        assert any(isinstance(m, STDCFConv3d) for m in model.modules()) == (plan.unit == "stdcf")
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
