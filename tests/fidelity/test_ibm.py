"""I3D and S3D ResNets against IBM's: the same weights give the same logits.

``ibm.json`` holds what their networks say of themselves (its ``about`` line tells which and how): keys, shapes, and the
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

from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo.convert.ibm import from_ibm, to_ibm
from vidzoo.errors import WeightsError
from vidzoo.models.i3d import i3d_r18, i3d_r18_reparam_11335, i3d_r50
from vidzoo.models.s3d_resnet import s3d_r18, s3d_r50

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "ibm.json").read_text())
BUILDERS = {"i3d_r18": i3d_r18, "i3d_r50": i3d_r50, "s3d_r18": s3d_r18, "s3d_r50": s3d_r50}
cases = pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["model"])


def _ours(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return BUILDERS[name](num_classes=7, **options).eval()


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


@cases
def test_keys_and_shapes_become_exactly_theirs_and_come_back(case: dict[str, Any]) -> None:
    ours = _ours(case["model"]).state_dict()
    theirs = to_ibm(ours)
    listed = sorted([key, list(shape)] for key, shape in _shapes(theirs).items())
    assert len(listed) == case["tensors"]
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest() == case["keys_sha256"]
    assert from_ibm(theirs) == dict(ours)
    assert from_ibm({f"module.{key}": value for key, value in theirs.items()}) == dict(ours)


@cases
@torch.no_grad()
def test_their_weights_give_their_logits(case: dict[str, Any]) -> None:
    model = _ours(case["model"])
    assert sum(value.numel() for value in model.parameters()) == case["parameters"]
    weights = formula_state_dict(_shapes(to_ibm(model.state_dict())))
    single = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    model.load_state_dict(from_ibm(single), assign=True)
    logits = model(2 * formula_uniform("clip", tuple(case["clip"])).float())[0].double()
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 0.1 * expected.abs().max()  # logits that are all alike would prove nothing


def test_a_network_that_is_not_theirs_is_refused() -> None:
    stem, block = torch.zeros(64, 3, 3, 7, 7), torch.zeros(64, 64, 3, 3, 3)
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1"):
        from_ibm({"conv1.weight": stem, "inception3a.b0.weight": block})
    with pytest.raises(WeightsError, match="over time"):
        from_ibm({"conv1.weight": stem[:, :, 0], "layer1.0.conv1.weight": block[:, :, 0]})
    with pytest.raises(WeightsError, match="residual blocks"):
        to_ibm({"conv1.weight": stem})


def test_two_keys_of_one_meaning_are_refused() -> None:
    theirs = to_ibm(_ours("i3d_r18").state_dict())
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        from_ibm({**theirs, "module.fc.weight": theirs["fc.weight"]})


def test_their_depthwise_variant_is_refused() -> None:
    theirs = to_ibm(_ours("s3d_r18").state_dict())
    theirs["layer1.0.conv1_t.weight"] = torch.zeros(64, 1, 3, 1, 1)
    with pytest.raises(WeightsError, match="depthwise"):
        from_ibm(theirs)


@pytest.mark.parametrize("family", ["i3d_r18", "s3d_r18"])
@pytest.mark.parametrize("lengths", [(1, 3, 3, 3, 3), (3, 3, 1, 3, 3), (3, 3, 3, 3, 5)])
def test_other_temporal_lengths_are_refused(family: str, lengths: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="lengths of 3"):
        to_ibm(_ours(family, t_lengths=lengths).state_dict())


def test_branches_are_refused() -> None:
    with torch.device("meta"), pytest.raises(WeightsError, match="branches"):
        to_ibm(i3d_r18_reparam_11335(num_classes=7).state_dict())


def test_merged_branches_have_no_place_in_their_network() -> None:
    state_dict = _ours("i3d_r18").state_dict()
    with pytest.raises(WeightsError, match="biases"):
        to_ibm({**state_dict, "layer1.0.conv1.bias": torch.zeros(64)})
