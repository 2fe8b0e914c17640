"""Donors of a part of a network: LR-ASD for the three-layer networks, SlowFast's fast pathway for 3DResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vidzoo
from fidelity.formula import formula_state_dict
from vidzoo.convert.fast_pathway import from_fast_pathway
from vidzoo.convert.lr_asd import from_lr_asd
from vidzoo.errors import WeightsError
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.models.base import VideoModel

WIDTHS = {1: (1, 32), 2: (32, 64), 3: (64, 128)}
NORM = ("weight", "bias", "running_mean", "running_var")


def _meta(name: str, **options: Any) -> VideoModel:
    with torch.device("meta"):
        return vidzoo.create_model(name, num_classes=7, **options).eval()


def _lr_asd_shapes() -> dict[str, tuple[int, ...]]:
    """Their visual encoder, by model/Encoder.py of Junhua-Liao/LR-ASD (commit 1b6dcd2)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inputs, width) in WIDTHS.items():
        filters = {
            "s_1": (width // 2, inputs, 1, 5, 5),
            "s_2": (width, width // 2, 1, 3, 3),
            "t_1": (width, width, 5, 1, 1),
            "t_2": (width, width, 3, 1, 1),
        }
        for name, shape in filters.items():
            block = f"model.visualEncoder.block{number}"
            shapes[f"{block}.{name}.weight"] = shape
            shapes.update({f"{block}.{name.replace('_', '_norm_')}.{leaf}": (shape[0],) for leaf in NORM})
    return shapes


def _formula_lr_asd() -> dict[str, Tensor]:
    return {key: value.float() for key, value in formula_state_dict(_lr_asd_shapes()).items()}


@pytest.fixture(params=["formula", "file"])
def lr_asd(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """Their state dict: by formula, and the file that they published, where it is at hand."""
    if request.param == "formula":
        return _formula_lr_asd()
    file: Path = request.getfixturevalue("shared_data") / "weights" / "pretrain_AVA.model"
    if not file.is_file():
        pytest.skip("LR-ASD's weights are not on this machine")
    return torch.load(file, map_location="cpu", weights_only=True)


def test_their_file_has_the_shapes_that_their_code_says(lr_asd: dict[str, Tensor]) -> None:
    assert {key: tuple(lr_asd[key].shape) for key in _lr_asd_shapes()} == _lr_asd_shapes()


def test_all_but_the_first_spatial_filter_the_statistics_and_the_classifier_has_a_donor(
    lr_asd: dict[str, Tensor],
) -> None:
    weights, own = from_lr_asd(lr_asd), _meta("rank1_c3").state_dict()
    assert {key: value.shape for key, value in weights.items()} == {key: own[key].shape for key in weights}
    fresh = {key for key in own if key not in weights and "running" not in key and "batches" not in key}
    assert fresh == {"layer1.0.conv.spatial.weight", "fc.weight", "fc.bias"}
    assert not any("running" in key or "batches" in key for key in weights)
    for number in WIDTHS:
        block = f"model.visualEncoder.block{number}"
        assert weights[f"layer{number}.0.conv.temporal.weight"] is lr_asd[f"{block}.t_2.weight"]
        assert weights[f"layer{number}.0.bn.bias"] is lr_asd[f"{block}.t_norm_2.bias"]


@torch.no_grad()
def test_the_dense_kernel_computes_what_the_pair_computes(lr_asd: dict[str, Tensor]) -> None:
    pairs, kernels, own = from_lr_asd(lr_asd), from_lr_asd(lr_asd, dense=True), _meta("c3d_c3").state_dict()
    assert {key: value.shape for key, value in kernels.items()} == {key: own[key].shape for key in kernels}
    assert not any(key.startswith("layer1.") for key in kernels)
    for number in (2, 3):
        inputs, width = WIDTHS[number]
        unit = P3DConv3d(inputs, width, 3, padding=1, bias=False)
        for part in ("spatial", "temporal"):
            unit.get_submodule(part).weight.copy_(pairs[f"layer{number}.0.conv.{part}.weight"])
        x = torch.randn(1, inputs, 4, 6, 5)
        kernel = kernels[f"layer{number}.0.conv.weight"]
        torch.testing.assert_close(F.conv3d(x, kernel, padding=1), unit(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(kernel, unit.to_conv3d().weight, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_atoms_start_from_the_dense_kernel(lr_asd: dict[str, Tensor]) -> None:
    kernel = from_lr_asd(lr_asd, dense=True)["layer2.0.conv.weight"]
    unit = _meta("stdcf_c3").get_submodule("layer2.0.conv").to_empty(device="cpu")
    unit.load_conv_(kernel, None)
    found = unit.to_conv3d().weight
    error = float((found - kernel).norm() / kernel.norm())
    assert unit.projection_error == pytest.approx(error, rel=1e-3)
    assert 0 < error < 1
    full = STDCFConv3d(32, 64, 3, padding=1, bias=False, spatial_atoms=9, temporal_atoms=3).load_conv_(kernel, None)
    torch.testing.assert_close(full.to_conv3d().weight, kernel, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rank1_c3", "c3d_c3"])
@torch.no_grad()
def test_the_three_layer_networks_take_them(name: str) -> None:
    model = vidzoo.create_model(name, num_classes=7).eval()
    x = torch.randn(1, 3, 8, 20, 24)
    before = model(x)
    weights = from_lr_asd(_formula_lr_asd(), dense=name == "c3d_c3")
    assert model.load_state_dict(weights, strict=False).unexpected_keys == []
    after = model(x)
    assert after.isfinite().all()
    assert not torch.allclose(before, after)


def test_another_file_is_no_lr_asd() -> None:
    theirs = _formula_lr_asd()
    key = "model.visualEncoder.block2.s_2.weight"
    with pytest.raises(WeightsError, match=r"block1\.t_2"):
        from_lr_asd({"layer1.0.conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"block2\.s_2"):
        from_lr_asd({**theirs, key: theirs[key][:, :16]})
    with pytest.raises(WeightsError, match="not there"):
        from_lr_asd({name: value for name, value in theirs.items() if name != key})


def _slowfast(name: str) -> tuple[VideoModel, dict[str, Tensor]]:
    """A SlowFast whose fast pathway has weights by formula, and its state dict; the rest stays empty."""
    model = _meta(name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key.startswith("fast.")}
    weights = formula_state_dict(shapes)
    single = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    model.load_state_dict(single, strict=False, assign=True)
    return model, model.state_dict()


def _first_layers(model: VideoModel, prefix: str, x: Tensor, blocks: int) -> list[Tensor]:
    """The maps of the stem and of each block of ``layer1``."""
    for name in ("conv1", "bn1", "relu", "maxpool"):
        x = model.get_submodule(f"{prefix}{name}")(x)
    maps = [x]
    for number in range(blocks):
        maps.append(model.get_submodule(f"{prefix}layer1.{number}")(maps[-1]))
    return maps


@pytest.mark.parametrize("donor", ["slowfast_r50_8x8", "slowfast_r50_4x16", "slowfast_r101_16x8"])
@pytest.mark.parametrize(("name", "blocks"), [("resnet3d_18", 2), ("resnet3d_50", 3)])
@torch.inference_mode()
def test_stem_and_first_stage_give_the_maps_of_the_fast_pathway(donor: str, name: str, blocks: int) -> None:
    slowfast, state_dict = _slowfast(donor)
    model = _meta(name)
    weights = from_fast_pathway(state_dict, blocks=blocks)
    keys = model.load_state_dict(weights, strict=False, assign=True)
    assert keys.unexpected_keys == []
    assert not any(key.startswith(("conv1.", "bn1.", "layer1.")) for key in keys.missing_keys)
    x = torch.randn(1, 3, 5, 32, 40)
    found, expected = _first_layers(model, "", x, blocks), _first_layers(slowfast, "fast.", x, blocks)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert expected[-1].std() > 1e-2


def test_no_other_filter_of_the_fast_pathway_fits() -> None:
    own, fast = _meta("resnet3d_50").state_dict(), _meta("slowfast_r50_8x8").state_dict()
    later = {key.removeprefix("fast."): value.shape for key, value in fast.items() if key.startswith("fast.layer")}
    filters = {key: shape for key, shape in later.items() if len(shape) == 5 and not key.startswith("layer1.")}
    assert filters
    assert not any(own[key].shape == shape for key, shape in filters.items())


def test_a_network_without_such_a_pathway_is_refused() -> None:
    _, small = _slowfast("slowfast_r18_8x8")
    assert len(from_fast_pathway(small, blocks=2)) == len(
        [key for key in _meta("resnet3d_18").state_dict() if key.startswith(("conv1.", "bn1.", "layer1."))]
    )
    with pytest.raises(WeightsError, match="fewer than 3 blocks"):
        from_fast_pathway(small)
    with pytest.raises(WeightsError, match="not there"):
        from_fast_pathway(_meta("slow_r18").state_dict())
    with pytest.raises(WeightsError, match="8 fast channels"):
        from_fast_pathway({**small, "fast.conv1.weight": torch.zeros(16, 3, 5, 7, 7)}, blocks=2)
