"""GST against the network that its authors published: the same weights give the same logits.

``gst_authors.json`` holds what their network says of itself (its ``about`` line tells which and how): keys, shapes, and the
logits, computed in double precision, for weights and a clip that ``formula.py`` makes anew here.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidzoo
from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo.convert.gst import from_gst, to_gst
from vidzoo.errors import WeightsError

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "gst_authors.json").read_text())
CASES = RECORD["cases"]
SHAPES = {key: tuple(shape) for key, shape in RECORD["keys"].items()}


def _ours(case: dict[str, Any], device: str = "cpu") -> torch.nn.Module:
    name = "gst_large_r50" if case["beta"] == "1/1" else "gst_r50"
    with torch.device(device):
        return vidzoo.create_model(name, num_classes=7, alpha=float(Fraction(case["alpha"]))).eval()


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """Their state dict for alpha = 1/4, beta = 1/2."""
    return formula_state_dict(SHAPES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"alpha={case['alpha']}, beta={case['beta']}")
def test_the_authors_weights_give_the_authors_logits(case: dict[str, Any]) -> None:
    model = _ours(case, device="meta")
    weights = formula_state_dict({key: tuple(value.shape) for key, value in to_gst(model.state_dict()).items()})
    assert {key: list(weights[key].shape) for key in case["block"]} == case["block"]
    assert sum(value.numel() for value in model.parameters()) == case["parameters"]
    single = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    model.load_state_dict(from_gst(single), assign=True)
    clip = 2 * formula_uniform("clip", (1, 3, case["frames"], 224, 224)).float()
    with torch.no_grad():
        logits = model(clip)[0].double()
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 1e-2 * expected.abs().max()  # logits that are all alike would prove nothing


def test_their_keys_and_shapes_become_exactly_ours(theirs: dict[str, Tensor]) -> None:
    ours = _ours(CASES[0], device="meta").state_dict()
    converted = from_gst(theirs)
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in ours.items()}


def test_our_keys_become_exactly_theirs_and_come_back(theirs: dict[str, Tensor]) -> None:
    back = to_gst(from_gst(theirs))
    assert back.keys() == theirs.keys()
    assert all(back[key] is value for key, value in theirs.items())


def test_wrappers_of_their_training_code_are_removed(theirs: dict[str, Tensor]) -> None:
    expected = from_gst(theirs)
    wrapped = to_gst(expected, wrapped=True)
    assert {"new_fc.weight", "new_fc.bias", "base_model.layer1.0.Tconv.weight"} <= wrapped.keys()
    assert from_gst(wrapped) == expected
    assert from_gst({f"module.{key}": value for key, value in wrapped.items()}) == expected
    assert from_gst({f"base_model.{key}": value for key, value in theirs.items()}) == expected


def test_batch_norms_from_before_they_counted_batches_get_a_counter_at_zero(theirs: dict[str, Tensor]) -> None:
    old = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    converted = from_gst(old)
    assert converted.keys() == from_gst(theirs).keys()
    assert converted["layer1.0.bn1.num_batches_tracked"].item() == 0


def test_a_state_dict_of_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match="Tconv"):
        from_gst({"conv1.weight": torch.zeros(1), "layer1.0.conv2.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="temporal"):
        to_gst({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="bottlenecks"):
        to_gst(vidzoo.create_model("gst_r18", num_classes=2).state_dict())


def test_two_classifiers_in_one_state_dict_are_refused(theirs: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        from_gst({**theirs, "new_fc.weight": theirs["fc.weight"]})
