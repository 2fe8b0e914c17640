"""Parameters and multiply-adds as whole numbers, of every network whose figures the five papers print or imply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vidzoo

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden.json").read_text())


def _label(row: dict[str, Any]) -> str:
    frames, height, _ = row["size"]
    return "-".join([row["model"], *(f"{key}={value}" for key, value in row["options"].items()), f"{frames}x{height}"])


@pytest.mark.parametrize("row", GOLDEN, ids=_label)
def test_parameters_and_multiply_adds_are_the_golden_ones(row: dict[str, Any]) -> None:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in row["options"].items()}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = vidzoo.create_model(row["model"], **options).eval()
        model(torch.empty(1, 3, *row["size"]))
    params = sum(value.numel() for value in model.parameters())
    # A row may count the classifier on each of its frames; ours is run once, on their mean, for the same logits.
    once = model.get_classifier().weight.numel()
    macs = counter.get_total_flops() // 2 + (row.get("classified", 1) - 1) * once
    assert {"params": params, "macs": macs} == {"params": row["params"], "macs": row["macs"]}
