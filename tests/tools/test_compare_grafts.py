"""The comparison of grafts: norms get their statistics back without changing an answer, and the table adds up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vidzoo.data.listing import scan
from vidzoo.grafting.traced import twin_of


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "tools")
    return importlib.import_module("compare_grafts")


@torch.no_grad()
def test_norms_that_were_folded_away_get_statistics_and_change_nothing(comparison: ModuleType, tmp_path: Path) -> None:
    folded = twin_of(timm.create_model("mobilenetv2_100", num_classes=1001, pad_type="same")).eval()
    for module in folded.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1)
            module.running_mean.zero_()  # type: ignore[union-attr]
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
    save_file(folded.state_dict(), tmp_path / "weights.safetensors")
    videos = scan("synthetic:actions?videos_per_class=1&seed=1&frames=24")
    network = comparison.backbone(tmp_path / "weights.safetensors", videos)
    x = torch.rand(2, 3, 64, 64)
    expected = folded(x)
    scale = float(expected.abs().max())
    torch.testing.assert_close(network(x) / scale, expected / scale, rtol=1e-4, atol=1e-4)
    means = [m.running_mean for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool(mean.abs().max() > 0) for mean in means)  # type: ignore[union-attr]


def test_the_table_has_the_mean_and_the_spread_of_the_seeds(comparison: ModuleType, tmp_path: Path) -> None:
    for seed, subject, right in ((0, "a", 1.0), (0, "b", 0.8), (1, "a", 0.7), (1, "b", 0.7)):
        found = {"normal": right, "shuffled": right - 0.1}
        result = {
            "plan": "gst",
            "subject": subject,
            "seed": seed,
            "top1": found,
            "loss": found,
            "parameters": 2_000_000,
        }
        (tmp_path / f"gst-{subject}-{seed}.json").write_text(json.dumps(result))
    row = comparison.table(tmp_path).splitlines()[-1]
    assert row == ("| gst | 2.00 M | 0.800 ± 0.141 | 0.700 ± 0.141 | 0.100 | 0.800 ± 0.141 | 0.700 ± 0.141 | 4 |")


def test_the_readme_prints_what_was_measured(comparison: ModuleType) -> None:
    root = Path(__file__).resolve().parents[2]
    assert comparison.table(root / "tools" / "compare_grafts_results.json") in (root / "README.md").read_text()
