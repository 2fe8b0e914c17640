"""3DResNet: the table of the paper, its costs, and the network that the authors published.

``fidelity/resnet3d_authors.json`` holds what their network says of itself (its ``about`` line tells which and how): keys,
shapes, and the logits, computed in double precision, for weights and a clip that ``fidelity/formula.py`` makes anew here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo.models.resnet import Bottleneck

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fidelity" / "resnet3d_authors.json").read_text())
CASES = RECORD["cases"]
case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"depth {case['depth']}")

# Parameters and multiply-adds for 200 classes and 32 frames, counted with a network that was written for the purpose.
GOLDEN = [
    ("resnet3d_18", 224, 4_424_720, 18_063_564_800),
    ("resnet3d_18", 256, 4_424_720, 23_593_164_800),
    ("resnet3d_50", 224, 7_328_944, 31_274_704_896),
    ("resnet3d_50", 256, 7_328_944, 40_848_531_456),  # 40.8 in Table 7
]
# Table A.1: output size after each row, for 32 x 224 x 224.
TABLE_A1 = {
    "relu": (8, 32, 112, 112),
    "layer1": (32, 32, 56, 56),
    "layer2": (256, 32, 28, 28),
    "layer3": (512, 32, 14, 14),
    "layer4": (1024, 32, 7, 7),
}
_PARTS = {
    "downsample.0": "branch1",
    "downsample.1": "branch1_bn",
    **{f"conv{i}": f"branch2.{letter}" for i, letter in zip((1, 2, 3), "abc", strict=True)},
    **{f"bn{i}": f"branch2.{letter}_bn" for i, letter in zip((1, 2, 3), "abc", strict=True)},
}


def _their_key(key: str) -> str:
    stem, _, leaf = key.rpartition(".")
    ends = {"conv1": "s1.pathway0_stem.conv", "bn1": "s1.pathway0_stem.bn", "fc": "head.projection"}
    if stem in ends:
        return f"{ends[stem]}.{leaf}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", stem)
    assert found is not None, key
    return f"s{int(found[1]) + 1}.pathway0_res{found[2]}.{_PARTS[found[3]]}.{leaf}"


@case
def test_the_authors_weights_give_the_authors_logits(case: dict[str, Any]) -> None:
    model = vidzoo.create_model(f"resnet3d_{case['depth']}", num_classes=7).double().eval()
    assert sum(value.numel() for value in model.parameters()) == case["parameters"]
    names = {_their_key(key): key for key in model.state_dict()}
    shapes = {theirs: tuple(model.state_dict()[ours].shape) for theirs, ours in names.items()}
    weights = formula_state_dict(shapes)
    model.load_state_dict({names[key]: value for key, value in weights.items()})
    with torch.no_grad():
        logits = model(2 * formula_uniform("clip", tuple(case["clip"])))[0]
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert expected.std() > 1e-2 * expected.abs().max()  # logits that are all alike would prove nothing


def test_keys_and_shapes_are_those_of_the_authors_under_other_names() -> None:
    with torch.device("meta"):
        ours = vidzoo.create_model("resnet3d_18", num_classes=7).state_dict()
    assert {_their_key(key): list(value.shape) for key, value in ours.items()} == RECORD["keys"]


@case
def test_residual_branches_start_at_zero_as_the_authors_do(case: dict[str, Any]) -> None:
    model = vidzoo.create_model(f"resnet3d_{case['depth']}", num_classes=7)
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    assert len(blocks) == case["zero_norms"]
    zero = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d) and not m.weight.any()]
    assert zero == [block.bn3 for block in blocks]
    lively = vidzoo.create_model("resnet3d_18", num_classes=7, zero_init_last=False)
    assert all(m.weight.all() for m in lively.modules() if isinstance(m, nn.BatchNorm3d))


@pytest.mark.parametrize(("name", "size", "parameters", "macs"), GOLDEN)
def test_parameters_and_multiply_adds_are_the_golden_ones(name: str, size: int, parameters: int, macs: int) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = vidzoo.create_model(name, num_classes=200).eval()
        model(torch.empty(1, 3, 32, size, size))
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert counter.get_total_flops() // 2 == macs


def test_the_maps_have_the_sizes_of_table_a1() -> None:
    with torch.device("meta"):
        model = vidzoo.create_model("resnet3d_18").eval()
        _, maps = model.forward_intermediates(torch.empty(1, 3, 32, 224, 224))
    found = {info.module: tuple(m.shape[1:]) for info, m in zip(model.feature_info, maps, strict=True)}
    assert found == TABLE_A1


def test_the_kernels_are_those_of_table_a1() -> None:
    with torch.device("meta"):
        model = vidzoo.create_model("resnet3d_18")
    assert model.get_submodule("conv1").kernel_size == (5, 7, 7)
    for stage, (length, width) in enumerate([(3, 8), (1, 64), (1, 128), (3, 256)], start=1):
        blocks = [m for m in model.get_submodule(f"layer{stage}").children() if isinstance(m, Bottleneck)]
        assert len(blocks) == 2
        for block in blocks:
            kernels = [conv.kernel_size for conv in (block.conv1, block.conv2, block.conv3)]
            widths = [conv.out_channels for conv in (block.conv1, block.conv2, block.conv3)]
            assert kernels == [(length, 1, 1), (1, 3, 3), (1, 1, 1)]
            assert widths == [width, width, 4 * width]


def test_it_is_fed_as_in_section_5_1() -> None:
    cfg = vidzoo.get_pretrained_cfg("resnet3d_50")
    assert (cfg.num_frames, cfg.temporal_stride, cfg.sampling) == (32, 2, "dense")
    assert (cfg.short_side, cfg.crop_size, cfg.eval_crop_size) == (256, (224, 224), (256, 256))
    assert (cfg.num_clips, cfg.num_crops) == (10, 3)
