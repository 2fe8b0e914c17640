"""CTM networks: where the blocks stand, what they cost, and that everything else is the 2D ResNet that it was."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.hub import save_pretrained
from vidzoo.layers.ctm import CTMBlock, TemporalChannelConv
from vidzoo.models import init_from_2d
from vidzoo.models.ctm import CTMResNet, ctm_places


def _model(name: str = "ctm_r18", **options: Any) -> CTMResNet:
    model = vidzoo.create_model(name, **{"num_classes": 5, "img_size": 64, **options})
    assert isinstance(model, CTMResNet)
    return model


def _lively(model: CTMResNet) -> CTMResNet:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def _blocks(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, CTMBlock)]


@cache
def _image() -> dict[str, Tensor]:
    import torchvision

    return torchvision.models.resnet18(num_classes=5).state_dict()


@pytest.mark.parametrize(
    ("residual", "blocks", "places"),
    [
        (6, 1, [5]),  # section 4.3: before the last residual block
        (6, 3, [1, 3, 5]),
        (6, 6, [1, 2, 3, 4, 5, 6]),
        (23, 3, [6, 12, 18]),  # section 4.4
        (3, 1, [2]),
        (4, 1, [3]),
        (2, 1, [1]),
        (2, 2, [1, 2]),
    ],
)
def test_blocks_stand_where_the_paper_puts_them(residual: int, blocks: int, places: list[int]) -> None:
    assert ctm_places(residual, blocks) == places


def test_any_number_of_blocks_has_as_many_places_in_the_stage() -> None:
    for residual in (2, 3, 4, 6, 23):
        for blocks in range(1, residual + 1):
            places = ctm_places(residual, blocks)
            assert len(set(places)) == blocks
            assert set(places) <= set(range(1, residual + 1))


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("ctm_r18", {}, ["layer3.ctm_0"]),
        ("ctm_r50", {}, ["layer3.ctm_0", "layer3.ctm_2", "layer3.ctm_4"]),
        ("ctm_r101", {}, ["layer3.ctm_5", "layer3.ctm_11", "layer3.ctm_17"]),
        ("ctm_r50", {"blocks": 1}, ["layer3.ctm_4"]),
        ("ctm_r50", {"blocks": 6}, [f"layer3.ctm_{i}" for i in range(6)]),
        ("ctm_r50", {"blocks": 1, "stage": "res2"}, ["layer1.ctm_1"]),
        ("ctm_r50", {"blocks": 1, "stage": "res5"}, ["layer4.ctm_1"]),
    ],
)
def test_a_block_stands_behind_the_residual_block_of_its_number(
    name: str, options: dict[str, Any], names: list[str]
) -> None:
    import torchvision

    with torch.device("meta"):
        model = _model(name, **options)
        image = torchvision.models.get_model(name.replace("ctm_r", "resnet"), num_classes=5)
    assert _blocks(model) == names
    for path in names:
        stage, _, own = path.partition(".")
        order = [key for key, _ in model.get_submodule(stage).named_children()]
        assert order[order.index(own) - 1] == own.removeprefix("ctm_")
    assert [key for key in model.state_dict() if "ctm" not in key] == list(image.state_dict())


# Figures recomputed for the paper, which prints none: with the classifier on each of the 8 frames, 7 x 2048 x classes
# multiply-adds more than on their mean.
@pytest.mark.parametrize(
    ("name", "classes", "options", "params", "macs"),
    [
        ("ctm_r50", 200, {"reduction": 2}, 32_598_452, 46_286_422_016),
        ("ctm_r50", 200, {"reduction": 4}, 27_677_108, 38_568_550_400),
        ("ctm_r50", 200, {}, 25_658_804, 35_403_247_616),
        ("ctm_r50", 200, {"reduction": 16}, 24_760_244, 33_994_004_480),
    ],
)
def test_parameters_and_multiply_adds_are_the_golden_ones(
    name: str, classes: int, options: dict[str, Any], params: int, macs: int
) -> None:
    assert _cost(name, num_classes=classes, **options) == (params, macs - 7 * 2048 * classes)


@pytest.mark.parametrize(
    ("name", "classes", "blocks", "reduction", "millions", "billions"),
    [
        ("ctm_r50", 200, 1, 2, 26.811, 37.229),
        ("ctm_r50", 200, 1, 8, 24.498, 33.601),
        ("ctm_r50", 200, 6, 4, 31.436, 44.437),
        ("ctm_r50", 200, 6, 16, 25.603, 35.288),
        ("ctm_r101", 600, 3, 2, 52.410, 75.991),
        ("ctm_r101", 600, 3, 4, 47.489, 68.273),
        ("ctm_r101", 600, 3, 8, 45.471, 65.108),
        ("ctm_r101", 600, 3, 16, 44.572, 63.698),
    ],
)
def test_costs_are_those_recomputed_for_the_paper(
    name: str, classes: int, blocks: int, reduction: int, millions: float, billions: float
) -> None:
    params, macs = _cost(name, num_classes=classes, blocks=blocks, reduction=reduction)
    assert params / 1e6 == pytest.approx(millions, abs=6e-4)
    assert (macs + 7 * 2048 * classes) / 1e9 == pytest.approx(billions, abs=6e-4)


@pytest.mark.parametrize(("stage", "millions"), [("res2", 0.108), ("res3", 0.321), ("res4", 1.253), ("res5", 4.993)])
def test_one_block_in_any_stage_costs_about_as_many_multiply_adds(stage: str, millions: float) -> None:
    params, macs = _cost("ctm_r50", num_classes=200, blocks=1, reduction=4, stage=stage)
    base_params, base_macs = _cost("c2d_r50", num_classes=200)
    assert (params - base_params) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert (macs - base_macs) / 1e9 == pytest.approx(1.96, abs=0.01)


def _cost(name: str, **options: Any) -> tuple[int, int]:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = vidzoo.create_model(name, **options).eval()
        model(torch.empty(1, 3, 8, 224, 224))
    return sum(value.numel() for value in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("img_size", [64, 112, (96, 64)])
@torch.no_grad()
def test_a_fresh_network_answers_as_the_2d_network_at_any_size(img_size: int | tuple[int, int]) -> None:
    plain, model = vidzoo.create_model("c2d_r18", num_classes=5), _model(img_size=img_size, blocks=2)
    for network in (plain, model):
        init_from_2d(network, _image())
        network.fc.load_state_dict({key: _image()[f"fc.{key}"] for key in ("weight", "bias")})
    clip = torch.randn(1, 3, 4, 64, 80)
    assert torch.equal(model.eval()(clip), plain.eval()(clip))


def test_initialising_from_images_names_the_blocks_as_random_and_leaves_them_alone() -> None:
    model = _model()
    before = copy.deepcopy(model.state_dict())
    random = init_from_2d(model, _image())
    assert sorted(random) == sorted(name for name, _ in model.named_parameters() if ".ctm_" in name)
    assert len(random) == 18
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if ".ctm_" in key)


@torch.no_grad()
def test_the_blocks_make_the_order_of_the_frames_count() -> None:
    model = _lively(_model()).double().eval()
    clip = torch.randn(1, 3, 4, 64, 64, dtype=torch.float64)
    for paths in ("both", "tccm", "shared"):
        alone = _lively(_model(paths=paths)).double().eval()
        ordered, mixed = alone(clip), alone(clip[:, :, [2, 0, 3, 1]])
        assert (ordered - mixed).abs().max() > 1e-6 * ordered.abs().max()
    nn.init.zeros_(model.get_parameter("layer3.ctm_0.tccm.bn3.weight"))
    nn.init.zeros_(model.get_parameter("layer3.ctm_0.shared.bn3.weight"))
    torch.testing.assert_close(model(clip), model(clip[:, :, [2, 0, 3, 1]]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("stage", "img_size", "table"),
    [
        ("res2", 224, (56, 56)),
        ("res3", 224, (28, 28)),
        ("res4", 224, (14, 14)),
        ("res5", 224, (7, 7)),
        ("res4", (240, 320), (15, 20)),
        ("res5", (72, 90), (3, 3)),
    ],
)
def test_the_table_has_the_size_of_its_stages_map(stage: str, img_size: Any, table: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = _model(stage=stage, img_size=img_size)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        maps = model.eval().forward_intermediates(torch.empty(1, 3, 1, height, width), intermediates_only=True)
    assert maps[int(stage[-1]) - 1].shape[-2:] == table
    assert [m.size for m in model.modules() if isinstance(m, TemporalChannelConv)] == [table]


def test_without_an_img_size_the_tables_fit_the_crop_of_the_cfg() -> None:
    with torch.device("meta"):
        model = vidzoo.create_model("ctm_r18")
        other = vidzoo.create_model("ctm_r18", pretrained_cfg_overlay={"crop_size": (160, 192)})
    assert model.get_submodule("layer3.ctm_0.tccm.conv2").size == (14, 14)
    assert other.get_submodule("layer3.ctm_0.tccm.conv2").size == (10, 12)
    cfg = model.pretrained_cfg
    assert (cfg.num_frames, cfg.sampling, cfg.temporal_stride, cfg.crop_size) == (8, "dense", 8, (224, 224))


def test_the_cfg_cuts_the_crop_that_the_network_was_built_for() -> None:
    with torch.device("meta"):
        for img_size, crop, short_side in ((224, (224, 224), 256), (112, (112, 112), 128), ((84, 112), (84, 112), 96)):
            cfg = _model(img_size=img_size).pretrained_cfg
            assert (cfg.crop_size, cfg.eval_crop_size, cfg.short_side) == (crop, crop, short_side)


@pytest.mark.parametrize("img_size", [64, 112, (96, 64)])
@torch.no_grad()
def test_a_checkpoint_of_another_size_is_resized_as_it_is_loaded(img_size: Any, tmp_path: Path) -> None:
    trained = _lively(_model()).eval()
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    model = vidzoo.create_model("ctm_r18", checkpoint_path=tmp_path / "trained.safetensors", img_size=img_size).eval()
    sides = (img_size, img_size) if isinstance(img_size, int) else img_size
    for block in _blocks(trained):
        trained.get_submodule(block).resize((sides[0] // 16, sides[1] // 16))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())
    clip = torch.randn(1, 3, 2, *sides)
    assert torch.equal(model(clip), trained(clip))


@torch.no_grad()
def test_a_saved_network_comes_back_at_its_own_size_and_can_be_asked_for_another(tmp_path: Path) -> None:
    model = _lively(_model(img_size=(64, 96))).eval()
    save_pretrained(model, tmp_path / "saved")
    again = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert again.pretrained_cfg.crop_size == (64, 96)
    other = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}", img_size=112).eval()
    assert other.get_submodule("layer3.ctm_0.tccm.conv2").size == (7, 7)
    assert other.pretrained_cfg.crop_size == (112, 112)


def test_checkpointing_runs_every_block_twice_and_changes_no_gradient() -> None:
    plain = _lively(_model(blocks=2)).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    clip, runs = torch.randn(2, 3, 3, 64, 64), []
    for block in _blocks(saving):
        saving.get_submodule(block).register_forward_pre_hook(lambda *_, block=block: runs.append(block))
    for model in (plain, saving):
        model(clip).square().sum().backward()
    assert sorted(runs) == sorted(2 * _blocks(saving))
    for (key, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6, msg=key)
    for (key, one), two in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, two), key


def test_a_block_learns_at_the_rate_of_the_residual_block_before_it() -> None:
    from timm.models import group_parameters

    with torch.device("meta"):
        model = _model("ctm_r50")
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    for index in (0, 2, 4):
        own = {groups[key] for key in groups if key.startswith(f"layer3.ctm_{index}.")}
        assert own == {groups[f"layer3.{index}.conv1.weight"]}
    assert len(set(groups.values())) == 1 + 16 + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 0},
        {"blocks": 3},
        {"blocks": True},
        {"stage": "res1"},
        {"stage": "layer3"},
        {"paths": "none"},
        {"reduction": 3},
        {"img_size": 0},
        {"img_size": (64, 64, 64)},
        {"img_size": 64.0},
        {"img_size": "64"},
    ],
    ids=str,
)
def test_an_option_that_no_network_has_is_refused(wrong: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        _model(**wrong)


def test_a_network_is_set_to_another_size_for_good_and_saved_so(tmp_path: Path) -> None:
    from vidzoo.hub import save_pretrained

    model = vidzoo.create_model("ctm_r18", num_classes=3, img_size=64).eval()
    clip = torch.randn(1, 3, 2, 96, 96)
    nn.init.ones_(model.layer3.ctm_0.tccm.bn3.weight)
    expected = model(clip)
    model.set_img_size(96)
    assert model.layer3.ctm_0.tccm.conv2.size == (6, 6)
    torch.testing.assert_close(model(clip), expected)
    save_pretrained(model, tmp_path / "saved")
    torch.testing.assert_close(vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}").eval()(clip), expected)
