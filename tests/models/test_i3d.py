"""I3D and S3D ResNets of temporal-filter analysis: what Tables 2 and 5 print, and what training adds to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.reparam import ReparamConv3d
from vidzoo.models import s3d_resnet
from vidzoo.models.i3d import i3d_r18, i3d_r18_11335, i3d_r18_reparam_11335, i3d_r50, i3d_r50_reparam_11335
from vidzoo.models.resnet import BasicBlock, VideoResNet
from vidzoo.models.s3d_resnet import s3d_r18, s3d_r18_reparam_11335, s3d_r50, s3d_r50_reparam_11335

# Temporal lengths, the GFLOPs of Table 2 and the same figure unrounded. Row f is printed as 151.
TABLE_2 = [
    ("33333", 240, 239.75),
    ("13333", 233, 232.72),
    ("11333", 212, 212.05),
    ("11133", 184, 184.48),
    ("11113", 143, 143.14),
    ("11111", 122, 122.47),
    ("31111", 130, 129.50),
    ("33111", 150, 150.17),
    ("33311", 178, 177.74),
    ("33331", 219, 219.08),
    ("11335", 233, 232.72),
    ("11355", 274, 274.06),
    ("11555", 302, 301.63),
    ("11135", 205, 205.16),
    ("11155", 247, 246.50),
]
TABLE_5 = [
    ("i3d_r18", 161, 161.14),
    ("i3d_r18_11335", 151, 150.67),
    ("s3d_r50", 148, 147.96),
    ("s3d_r50_11335", 140, 139.74),
]
REPARAM = [i3d_r18_reparam_11335, s3d_r18_reparam_11335, i3d_r50_reparam_11335, s3d_r50_reparam_11335]


def _meta(build: Callable[..., VideoResNet], **options: Any) -> VideoResNet:
    with torch.device("meta"):
        return build(num_classes=174, **options)


def _cost(model: VideoResNet) -> tuple[int, int]:
    """Multiply-adds of a clip of 32 frames at 224 pixels, and outputs of batch norms."""
    outputs: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda module, given, found: outputs.append(found.numel()))
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 32, 224, 224, device="meta"))
    return counter.get_total_flops() // 2, sum(outputs)


@cache
def _figure(name: str) -> float:
    macs, outputs = _cost(_meta(vidzoo.model_entrypoint(name)).eval())
    return (macs + 2 * outputs) / 2**30


@pytest.mark.parametrize(
    ("name", "printed", "unrounded"),
    [*((f"i3d_r50_{row}" if row != "33333" else "i3d_r50", *figures) for row, *figures in TABLE_2), *TABLE_5],
)
def test_operations_are_those_of_the_tables(name: str, printed: int, unrounded: float) -> None:
    assert _figure(name) == pytest.approx(unrounded, abs=0.0051)
    # Rounded half up: 246.50 is printed as 247, and 129.5 as 130.
    assert int(_figure(name) + 0.5) == printed


@pytest.mark.parametrize("row", [row for row, *_ in TABLE_2 if row != "33333"])
def test_a_named_row_has_its_temporal_lengths(row: str) -> None:
    model = _meta(vidzoo.model_entrypoint(f"i3d_r50_{row}"))
    kernels = [model.conv1, *(getattr(model, f"layer{stage}")[-1].conv2 for stage in (1, 2, 3, 4))]
    assert "".join(str(kernel.kernel_size[0]) for kernel in kernels) == row
    by_option = _meta(i3d_r50, t_lengths=tuple(int(digit) for digit in row))
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in by_option.state_dict().items()
    }


@pytest.mark.parametrize(
    ("build", "deployed", "units", "training", "gmacs", "with_a_norm_behind"),
    [
        (i3d_r18_reparam_11335, 49_456_878, 12, 85_078_766, 239.3, 85.086),
        (i3d_r50_reparam_11335, 60_433_646, 13, 92_884_206, 330.6, 92.891),
    ],
)
def test_branches_cost_parameters_and_time_in_training_only(
    build: Any, deployed: int, units: int, training: int, gmacs: float, with_a_norm_behind: float
) -> None:
    model = _meta(build)
    found = [module for module in model.modules() if isinstance(module, ReparamConv3d)]
    assert [unit.lengths for unit in found].count((1, 3)) + [unit.lengths for unit in found].count((1, 3, 5)) == units
    assert sum(value.numel() for value in model.parameters()) == training
    # Counted with a further norm behind each sum, which Eq. 2 does not have.
    assert round((training + sum(2 * unit.out_channels for unit in found)) / 1e6, 3) == with_a_norm_behind
    assert round(_cost(model.train())[0] / 1e9, 1) == gmacs
    plain = _meta(build, eta=None)
    assert sum(value.numel() for value in plain.parameters()) == deployed
    assert _cost(model.eval())[0] == _cost(plain.eval())[0]


@pytest.mark.parametrize("build", REPARAM, ids=lambda build: build.__name__)
def test_the_norm_behind_the_sum_is_that_of_the_branches(build: Any) -> None:
    model = _meta(build)
    for stage, lengths in ((1, None), (2, (1, 3)), (3, (1, 3)), (4, (1, 3, 5))):
        for block in getattr(model, f"layer{stage}"):
            pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
            for unit, norm in pairs if isinstance(block, BasicBlock) else pairs[1:]:
                over_time = unit.temporal if isinstance(unit, P3DConv3d) else unit
                if lengths is None:
                    assert isinstance(unit, FullConv3d)
                    assert isinstance(norm, nn.BatchNorm3d)
                else:
                    assert over_time.lengths == lengths
                    assert over_time.eta == 2
                    assert isinstance(norm, nn.Identity)


def _lively(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("build", [i3d_r18_reparam_11335, s3d_r18_reparam_11335], ids=lambda build: build.__name__)
@torch.no_grad()
def test_fused_units_in_their_places_make_a_plain_network_of_the_same_answers(build: Any) -> None:
    model = _lively(build(num_classes=5)).eval()
    for norm in (norm for unit in model.modules() if isinstance(unit, ReparamConv3d) for norm in unit.norms):
        norm.weight.div_(2)  # two or three branches would otherwise outgrow their shortcut
    clip = torch.randn(1, 3, 5, 48, 48)
    expected = model(clip)
    for name, unit in list(model.named_modules()):
        if isinstance(unit, ReparamConv3d):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, unit.fuse())
    assert not any(isinstance(module, ReparamConv3d) for module in model.modules())
    assert (model(clip) - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_single_filters_without_regularisation_are_the_plain_network() -> None:
    plain = _lively(i3d_r18_11335(num_classes=5)).eval()
    single = i3d_r18_reparam_11335(num_classes=5, eta=1, single=True).eval()

    def renamed(key: str) -> str:
        block, _, last = key.rpartition(".")
        if f"{block}.branches.0.weight" in theirs:
            return f"{block}.branches.0.{last}"
        inside = f"{block.replace('bn', 'conv')}.norms.0.{last}"
        return inside if inside in theirs else key

    theirs = single.state_dict()
    single.load_state_dict({renamed(key): value for key, value in plain.state_dict().items()})
    clip = torch.randn(1, 3, 5, 48, 48)
    expected = plain(clip)
    assert (single(clip) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("build", [i3d_r18, s3d_r18])
def test_a_stem_over_time_has_branches_too(build: Any) -> None:
    model = build(num_classes=5, t_lengths=(3, 1, 1, 1, 5), eta=4)
    assert isinstance(model.conv1, ReparamConv3d)
    assert model.conv1.lengths == (1, 3)
    assert isinstance(model.bn1, nn.Identity)
    assert model.conv1.branches[1].weight.shape == (64, 3, 3, 7, 7)
    assert model.conv1.branches[1].weight.std().item() == pytest.approx((2 / (64 * 3 * 49)) ** 0.5, rel=0.05)
    assert model(torch.randn(2, 3, 2, 32, 32)).shape == (2, 5)


def test_s3d_keeps_a_dense_stem_and_drops_time_where_it_is_one_frame_long() -> None:
    model = _meta(s3d_r50, t_lengths=(3, 1, 3, 3, 5))
    assert model.conv1.weight.shape == (64, 3, 3, 7, 7)
    assert type(model.layer1[0].conv2) is FullConv3d
    assert model.layer2[0].conv2.temporal.weight.shape == (128, 128, 3, 1, 1)
    assert model.layer4[0].conv2.temporal.weight.shape == (512, 512, 5, 1, 1)
    assert {m.kernel_size[1:] for m in model.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1} == {
        (7, 7),
        (1, 1),
    }


def test_networks_are_fed_as_in_section_2_2() -> None:
    for name in vidzoo.list_models(["i3d_r*", "s3d_r*"], module="i3d") + vidzoo.list_models(module="s3d_resnet"):
        cfg = vidzoo.get_pretrained_cfg(name)
        assert (cfg.num_frames, cfg.sampling, cfg.temporal_stride, cfg.crop_size) == (32, "dense", 2, (224, 224))
        model = _meta(vidzoo.model_entrypoint(name))
        assert (model.num_frames, model.dropout.p) == (32, 0.5)
    assert s3d_resnet.s3d_r50_11335.__name__ in vidzoo.list_models(module="s3d_resnet")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"t_lengths": (3, 3, 3, 3)}, "five"),
        ({"t_lengths": (3, 3, 3, 3, 2)}, "odd"),
        ({"t_lengths": (2, 3, 3, 3, 3), "eta": 2}, "odd"),
        ({"single": True}, "eta"),
        ({"eta": 0.1}, ">= 1"),
    ],
)
@pytest.mark.parametrize("build", [i3d_r18, s3d_r18])
def test_options_that_no_network_has_are_refused(build: Any, options: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        _meta(build, **options)


@pytest.mark.parametrize("eta", ["inf", float("inf")])
def test_an_infinite_eta_survives_a_saved_configuration(tmp_path: Any, eta: Any) -> None:
    from vidzoo.hub import save_pretrained

    options = {"t_lengths": (1, 1, 1, 1, 3), "eta": eta, "single": True}
    model = vidzoo.create_model("s3d_r18", num_classes=3, **options).eval()
    save_pretrained(model, tmp_path / "saved")
    again = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    clip: Tensor = torch.randn(1, 3, 2, 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert again.layer4[0].conv1.temporal.eta == float("inf")
