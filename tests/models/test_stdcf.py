"""The STDCF ResNets: what is replaced, what it costs, and the two stages of their learning."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.models.inflation import init_from_2d
from vidzoo.models.resnet import VideoResNet
from vidzoo.models.stdcf import freeze_atoms, set_dilation

# Parameters and multiply-adds for 400 classes, counted with a network that was written for the purpose.
GOLDEN = [
    (6, 2, (8, 224, 224), 28_101_008, 38_623_895_552),
    (6, 2, (8, 256, 256), 28_101_008, 50_447_286_272),
    (3, 2, (8, 256, 256), 20_555_744, 36_913_577_984),
]


def _units(model: nn.Module) -> list[STDCFConv3d]:
    return [module for module in model.modules() if isinstance(module, STDCFConv3d)]


def _small(**options: Any) -> VideoResNet:
    model = vidzoo.create_model("stdcf_r18", num_classes=5, **options)
    assert isinstance(model, VideoResNet)
    return model


@pytest.mark.parametrize(("m", "n", "size", "parameters", "macs"), GOLDEN)
def test_parameters_and_multiply_adds_of_the_three_steps_are_the_golden_ones(
    m: int, n: int, size: tuple[int, int, int], parameters: int, macs: int
) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = vidzoo.create_model("stdcf_r50", spatial_atoms=m, temporal_atoms=n, mode="factorised").eval()
        model(torch.empty(1, 3, *size))
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert counter.get_total_flops() // 2 == macs


@pytest.mark.parametrize(("depth", "units"), [(18, 16), (34, 32), (50, 16), (101, 33)])
def test_every_3x3_is_replaced_and_the_parameters_differ_by_the_formula(depth: int, units: int) -> None:
    with torch.device("meta"):
        model, plain = vidzoo.create_model(f"stdcf_r{depth}"), vidzoo.create_model(f"c2d_r{depth}", num_classes=400)
    found = _units(model)
    assert len(found) == units
    assert all(unit.kernel_size == (3, 3, 3) for unit in found)
    kernels = Counter(module.kernel_size for module in model.modules() if isinstance(module, nn.Conv3d))
    assert kernels.pop((1, 7, 7)) == 1
    assert set(kernels) == {(1, 1, 1)}
    change = sum(unit.out_channels * unit.in_channels * (12 - 9) + 6 * 9 + 2 * 3 for unit in found)
    counts = [sum(value.numel() for value in net.parameters()) for net in (model, plain)]
    assert counts[0] - counts[1] == change > 0


def test_it_is_fed_as_in_section_3_2() -> None:
    cfg = vidzoo.get_pretrained_cfg("stdcf_r50")
    assert (cfg.num_frames, cfg.temporal_stride, cfg.sampling, cfg.num_classes) == (8, 8, "dense", 400)
    assert (cfg.short_side, cfg.crop_size, cfg.eval_crop_size) == (256, (224, 224), (256, 256))
    assert (cfg.num_clips, cfg.num_crops) == (10, 3)


@pytest.mark.parametrize("order", ["space_first", "time_first"])
@torch.no_grad()
def test_the_three_steps_give_the_logits_of_the_dense_network(order: str) -> None:
    dense = _small().double().eval()
    factorised = _small(mode="factorised", order=order).double().eval()
    factorised.load_state_dict(dense.state_dict())
    clip = torch.randn(1, 3, 4, 64, 48, dtype=torch.float64)
    for dilation in (1, 2):
        for model in (dense, factorised):
            set_dilation(model, spatial=dilation, temporal=dilation)
        expected = dense(clip)
        assert (factorised(clip) - expected).abs().max() <= 1e-12 * expected.abs().max()


@torch.no_grad()
def test_nine_spatial_atoms_start_as_the_2d_network_on_every_frame_and_six_lose_something() -> None:
    torchvision = pytest.importorskip("torchvision")
    image = torchvision.models.resnet18(num_classes=5).double().eval()
    clip = torch.randn(1, 3, 3, 64, 48, dtype=torch.float64)
    expected = torch.stack([image(frame) for frame in clip.unbind(2)]).mean(dim=0)

    def start(atoms: int) -> tuple[VideoResNet, Tensor]:
        model = _small(spatial_atoms=atoms).double().eval()
        assert init_from_2d(model, image.state_dict()) == []
        model.fc.load_state_dict(image.fc.state_dict())
        return model, model(clip)

    exact, logits = start(9)
    assert (logits - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert all((unit.projection_error or 0) < 1e-12 for unit in _units(exact))
    lossy, logits = start(6)
    assert (logits - expected).abs().max() > 1e-3 * expected.abs().max()
    assert all(0.4 < (unit.projection_error or 0) < 0.6 for unit in _units(lossy))


def test_dilations_keep_every_map_and_every_weight_and_change_the_answer() -> None:
    model, clip = _small().eval(), torch.randn(1, 3, 4, 64, 64)
    before = copy.deepcopy(model.state_dict())
    plain = model.forward_intermediates(clip, intermediates_only=True)
    set_dilation(model, spatial=2)
    set_dilation(model, temporal=2)
    assert {(unit.spatial_dilation, unit.temporal_dilation) for unit in _units(model)} == {(2, 2)}
    dilated = model.forward_intermediates(clip, intermediates_only=True)
    assert [one.shape for one in plain] == [two.shape for two in dilated]
    assert (plain[-1] - dilated[-1]).abs().max() > 1e-3 * plain[-1].abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    built = _small(spatial_dilation=2, temporal_dilation=2).eval()
    built.load_state_dict(before)
    assert torch.equal(built(clip), model(clip))
    set_dilation(model, spatial=1, temporal=1)
    assert torch.equal(model.forward_features(clip), plain[-1])


def test_a_saved_network_comes_back_with_its_dilations(tmp_path: Path) -> None:
    model, clip = _small().eval(), torch.randn(1, 3, 2, 32, 32)
    set_dilation(model, spatial=2, temporal=3)
    assert (model.model_args["spatial_dilation"], model.model_args["temporal_dilation"]) == (2, 3)
    vidzoo.save_pretrained(model, tmp_path / "saved")
    again = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    assert {(unit.spatial_dilation, unit.temporal_dilation) for unit in _units(again)} == {(2, 3)}
    torch.testing.assert_close(again(clip), model(clip))


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, clip: Tensor) -> set[str]:
    """Names of the parameters that one step moves."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model(clip).square().sum().backward()
    optimiser.step()
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def test_each_stage_trains_what_algorithm_1_says_and_the_stages_alternate() -> None:
    model = _small().train()
    # Momentum, decay and gradients that stay from step to step: all of them would move what is not really frozen.
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    clip = torch.randn(2, 3, 4, 32, 32)
    every = {name for name, _ in model.named_parameters()}
    spatial = {name for name in every if name.endswith("psi")}
    temporal = {name for name in every if name.endswith("phi")}
    assert len(spatial) == len(temporal) == 16
    assert _step(model, optimiser, clip) == every
    freeze_atoms(model, "spatial")  # stage t
    assert _step(model, optimiser, clip) == every - spatial
    freeze_atoms(model, "temporal")  # stage s
    assert _step(model, optimiser, clip) == every - temporal
    freeze_atoms(model, None)
    assert _step(model, optimiser, clip) == every


def test_only_atoms_are_frozen_and_thawed() -> None:
    model = _small()
    model.conv1.requires_grad_(False)
    freeze_atoms(model, "spatial")
    assert model.fc.weight.requires_grad
    freeze_atoms(model, None)
    assert not model.conv1.weight.requires_grad
    assert all(unit.psi.requires_grad and unit.phi.requires_grad for unit in _units(model))


def test_networks_inside_others_are_reached_and_networks_without_atoms_are_refused() -> None:
    unit = STDCFConv3d(4, 4, 3, 1, 1)
    outer = nn.Sequential(nn.ReLU(), nn.Sequential(unit))
    set_dilation(outer, spatial=2)
    freeze_atoms(outer, "temporal")
    assert (unit.dilation, unit.phi.requires_grad, unit.psi.requires_grad) == ((1, 2, 2), False, True)
    with pytest.raises(ConfigError, match="no STDCF unit"):
        set_dilation(nn.Conv3d(4, 4, 3), spatial=2)
    with pytest.raises(ConfigError, match="no STDCF unit"):
        freeze_atoms(nn.Conv3d(4, 4, 3), "spatial")
    with pytest.raises(ConfigError, match="atoms are"):
        freeze_atoms(unit, "both")  # type: ignore[arg-type]
