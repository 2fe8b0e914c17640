"""A network of this test whose weights lie at an address of the web."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidzoo
from vidzoo.donors import cache_folder
from vidzoo.errors import WeightsError

URL = "https://files.example.org/zoo/tiny.pth"


def load(**options: Any) -> Any:
    return vidzoo.create_model("hub_tiny.other", pretrained=True, **options)


def kept() -> list[str]:
    """Whatever is in the cache, locks apart."""
    root = cache_folder()
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file() and file.suffix != ".lock")


def refused(error: type[Exception] = WeightsError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        load(**options)
    text = str(caught.value)
    assert "\n" not in text
    assert [name for name in kept() if "converted" in name] == []
    return text


class Malice:
    """A pickle of it makes a folder when it is executed."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


CHANGES = {
    "renamed": "conv1",
    "missing": "conv1.bias",
    "extra": "more.weight",
    "another architecture": "these weights",
    "another shape": "conv1.weight",
    "whole numbers": "conv1.weight",
    "not finite": "NaN or infinite",
}
"""What may be wrong with weights, and what is said of it."""


def changed(theirs: Mapping[str, Tensor], change: str) -> dict[str, Tensor]:
    weights = dict(theirs)
    if change == "renamed":
        return {key.replace("conv1", "first"): value for key, value in weights.items()}
    if change == "another architecture":
        return {"layer1.0.conv.weight": torch.zeros(32, 3, 3, 3, 3), "fc.weight": torch.zeros(6, 128)}
    kernel = weights["conv1.weight"]
    if change == "missing":
        del weights["conv1.bias"]
    elif change == "extra":
        weights["more.weight"] = torch.zeros(2)
    elif change == "another shape":
        weights["conv1.weight"] = kernel[:, :, :2].contiguous()
    elif change == "whole numbers":
        weights["conv1.weight"] = kernel.int()
    elif change == "not finite":
        weights["conv1.weight"] = kernel * float("nan")
    return weights
