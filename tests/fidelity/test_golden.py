"""Parameters and multiply-adds of GST's Tables 1 and 2, as whole numbers, for 174 classes and clips of 8 x 224 x 224."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vidzoo

GOLDEN: dict[str, dict[str, int]] = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_multiply_adds_are_the_golden_ones(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = vidzoo.create_model(name, num_classes=174).eval()
        model(torch.empty(1, 3, 8, 224, 224))
    params = sum(value.numel() for value in model.parameters())
    assert {"params": params, "macs": counter.get_total_flops() // 2} == GOLDEN[name]
