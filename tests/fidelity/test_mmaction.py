"""C2D, Slow, SlowFast and X3D against mmaction2's: the same weights give the same logits.

``mmaction.json`` holds what their networks say of themselves (its ``about`` line tells which and how): keys, shapes, and the
logits, computed in double precision, for weights and a clip that ``formula.py`` makes anew here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo.convert.mmaction import from_mmaction, to_mmaction
from vidzoo.errors import WeightsError
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "mmaction.json").read_text())
cases = pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["model"])
with_logits = pytest.mark.parametrize(
    "case", [case for case in RECORD["cases"] if "clip" in case], ids=lambda case: case["model"]
)
FAMILIES = ("c2d_r18", "slow_r18", "slowfast_r18_8x8", "x3d_s")
FOLDED = "backbone.layer1.0.downsample.bn."  # X3D's first shortcut: the norm that ours has not


class EveryFourth(nn.Module):
    """The frames of the slow pathway as mmaction2 picks them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :, ::4], x


def _ours(name: str, **options: Any) -> VideoModel:
    with torch.device("meta"):
        return vidzoo.create_model(name, num_classes=7, **options).eval()


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def _their_weights(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    weights = formula_state_dict(_shapes(to_mmaction(_ours(name).state_dict())))
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}


def _zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {key: torch.zeros(shape, device="meta") for key, shape in shapes.items()}


@cases
def test_keys_and_shapes_become_exactly_theirs(case: dict[str, Any]) -> None:
    theirs = to_mmaction(_ours(case["model"]).state_dict())
    listed = sorted([key, list(shape)] for key, shape in _shapes(theirs).items())
    assert len(listed) == case["tensors"]
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest() == case["keys_sha256"]


@cases
def test_size_is_theirs(case: dict[str, Any]) -> None:
    extra = 2 * 24 if case["model"].startswith("x3d") else 0  # weight and bias of the folded norm
    parameters = sum(value.numel() for value in _ours(case["model"]).parameters())
    assert parameters + extra == case["parameters"]


@with_logits
@torch.no_grad()
def test_their_weights_give_their_logits(case: dict[str, Any]) -> None:
    model = _ours(case["model"])
    load_weights(model, from_mmaction(_their_weights(case["model"])), source="mmaction2", assign=True)
    if case["model"].startswith("slowfast"):
        model.pack = EveryFourth()
    logits = model(2 * formula_uniform("clip", tuple(case["clip"])).float())[0].double()
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 0.1 * expected.abs().max()  # logits that are all alike would prove nothing


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_changes_no_number(name: str) -> None:
    torch.manual_seed(1)
    weights = vidzoo.create_model(name, num_classes=7).state_dict()
    back = from_mmaction(to_mmaction(weights))
    assert set(back) == set(weights)
    assert all(torch.equal(back[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", ["c2d_r18", "slow_r18", "slowfast_r18_8x8"])
def test_nothing_but_the_classifier_of_slowfast_is_copied(name: str) -> None:
    theirs = _their_weights(name)
    ours = from_mmaction(
        {**theirs, "data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3)}
    )
    own = {value.data_ptr() for value in theirs.values()}
    assert {key for key, value in ours.items() if value.data_ptr() not in own} == (
        {"fc.weight"} if name.startswith("slowfast") else set()
    )


@torch.no_grad()
def test_a_folded_norm_is_a_shortcut_with_its_norm_and_the_given_weights_stay() -> None:
    theirs = _their_weights("x3d_s", torch.float64)
    before = {key: value.clone() for key, value in theirs.items()}
    ours = from_mmaction(theirs)
    x = torch.randn(1, 24, 2, 6, 6, dtype=torch.float64)
    norm = nn.BatchNorm3d(24).double().eval()
    norm.load_state_dict({key.removeprefix(FOLDED): value for key, value in theirs.items() if key.startswith(FOLDED)})
    expected = norm(nn.functional.conv3d(x, theirs["backbone.layer1.0.downsample.conv.weight"]))
    shift = ours["layer1.0.bn3.bias"] - theirs["backbone.layer1.0.conv3.bn.bias"]
    found = nn.functional.conv3d(x, ours["layer1.0.downsample.0.weight"]) + shift[:, None, None, None]
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(theirs[key], value) for key, value in before.items())


@pytest.mark.parametrize("case", RECORD["refused"], ids=lambda case: case["config"])
def test_their_networks_that_are_not_ours_are_refused_with_the_difference(case: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=case["says"]):
        from_mmaction(_zeros({key: tuple(shape) for key, shape in case["some_shapes"]}))


@pytest.mark.parametrize(
    ("name", "key", "says"),
    [
        ("slow_r18", "backbone.layer1.0.conv1.conv.net.weight", "have no"),  # TSM
        ("slow_r18", "neck.level_fusion_1.fusion_conv.bn.weight", "have no"),  # TPN
        ("c2d_r18", "cls_head.fc3d.2.weight", "OmniSource"),
    ],
)
def test_a_key_of_another_network_of_theirs_is_refused(name: str, key: str, says: str) -> None:
    theirs = to_mmaction(_ours(name).state_dict())
    with pytest.raises(WeightsError, match=says):
        from_mmaction({**theirs, key: torch.zeros(4, device="meta")})


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("c2d_r18", "backbone.conv1.conv.weight"),
        ("slow_r18", "cls_head.fc_cls.weight"),
        ("slowfast_r18_8x8", "backbone.fast_path.layer4.0.conv3.bn.weight"),
        ("slowfast_r18_8x8", "backbone.slow_path.layer3_lateral.bn.weight"),
        ("x3d_s", f"{FOLDED}running_var"),
        ("x3d_s", "cls_head.fc1.weight"),
    ],
)
def test_a_file_that_lacks_a_layer_is_refused(name: str, missing: str) -> None:
    theirs = to_mmaction(_ours(name).state_dict())
    del theirs[missing]
    with pytest.raises(WeightsError, match="this is not a"):
        from_mmaction(theirs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("i3d_3x1x1_r18", "5 frames long"),
        ("resnet3d_18", "5 frames long"),
        ("i3d_r18", "3 frames long"),
        ("r2plus1d_r18", "no place for"),
        ("gst_r50", "no place for"),
        ("r3d_18", "none of their stems"),
        ("slowfast_r18_8x8_atfr", "no place for"),
    ],
)
def test_our_networks_that_they_do_not_have_are_refused(name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        to_mmaction(_ours(name).state_dict())


def test_a_network_of_single_frames_is_no_network_of_ours() -> None:
    torchvision = {
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "bn1.weight": torch.ones(64),
        "fc.weight": torch.zeros(7, 512),
    }
    with pytest.raises(WeightsError, match="no filter of a video network"):
        to_mmaction(torchvision)
