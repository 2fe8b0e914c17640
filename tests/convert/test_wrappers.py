"""What training programs put around a state dict comes off, and nothing of the network with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vidzoo.convert import detect
from vidzoo.convert.wrappers import unwrap
from vidzoo.errors import WeightsError

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize(
    "container", ["", "state_dict_ema", "model_ema", "state_dict", "model_state", "model_state_dict", "model"]
)
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "base_model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.base_model.",
    ],
)
def test_containers_and_prefixes_are_removed(container: str, prefix: str) -> None:
    content: dict[str, Any] = {prefix + key: value for key, value in WEIGHTS.items()}
    found = unwrap({container: content, "epoch": 3, "optimizer": {"state": {}}} if container else content)
    assert found.keys() == WEIGHTS.keys()
    assert all(found[key] is WEIGHTS[key] for key in WEIGHTS)


def test_a_container_inside_a_container_is_opened_and_averaged_weights_come_first() -> None:
    assert unwrap({"model": {"state_dict": WEIGHTS}}).keys() == WEIGHTS.keys()
    assert unwrap({"state_dict": {"last": torch.zeros(1)}, "model_ema": WEIGHTS}).keys() == WEIGHTS.keys()


def test_a_backbone_is_unwrapped_although_its_classifier_lies_beside_it() -> None:
    wrapped = {f"module.base_model.{key}": value for key, value in WEIGHTS.items()}
    found = unwrap({**wrapped, "module.new_fc.weight": torch.zeros(2)})
    assert found.keys() == {*WEIGHTS, "new_fc.weight"}


def test_a_prefix_that_one_key_lacks_belongs_to_the_network() -> None:
    assert unwrap({"module.a": torch.zeros(1), "b": torch.zeros(1)}).keys() == {"module.a", "b"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1], "this checkpoint holds a list"),
        ({"epoch": 3, "args": "x"}, "holds no tensors: its keys are epoch, args"),
        ({"state_dict": {}}, "holds no tensors: its keys are none"),
    ],
)
def test_what_holds_no_tensors_is_refused(content: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        detect(content)
