"""The benchmark tool runs, and its table says what it should; how fast anything is, no test can know."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    path = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("vidzoo_tools_benchmark", path)
    if spec is None or spec.loader is None:
        pytest.fail(f"there is no tool at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)
    del sys.modules[spec.name]


def test_a_quick_run_measures_both_modes_and_writes_what_it_prints(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    rows = benchmark.main(["--quick", "--models", "dense r18", "torchvision resnet50", "--json", str(file)])
    names = [(row.group, row.name, row.mode) for row in rows]
    assert names == [
        ("frame by frame", "c2d_r50", "inference"),
        ("frame by frame", "torchvision resnet50", "inference"),
        ("frame by frame", "c2d_r50", "training"),
        ("frame by frame", "torchvision resnet50", "training"),
        ("dense r18", "c3d_r18", "inference"),
        ("dense r18", "torchvision r3d_18", "inference"),
        ("dense r18", "c3d_r18", "training"),
        ("dense r18", "torchvision r3d_18", "training"),
    ]
    for row in rows:
        for figure in (row.gmacs, row.median_ms, row.min_ms, row.ratio, row.per_mac):
            assert math.isfinite(figure)
            assert figure > 0
    assert rows[0].ratio == rows[0].per_mac == 1
    assert rows[0].gmacs == pytest.approx(rows[1].gmacs, rel=0.01)  # torchvision's classifier runs on every frame
    assert len(json.loads(file.read_text())["rows"]) == len(rows)
    printed = capsys.readouterr().out
    assert all(f"| {row.group} | {row.mode} | {row.name} |" in printed for row in rows)


def test_a_pytorchvideo_network_that_does_the_same_work_has_as_many_multiply_adds(benchmark: ModuleType) -> None:
    pytest.importorskip("pytorchvideo", reason="pytorchvideo is not installed")
    rows = benchmark.main(["--quick", "--models", "pytorchvideo c[23]d_r50", "--modes", "inference"])
    assert [row.name for row in rows] == ["c2d_r50", "pytorchvideo c2d_r50", "c3d_r50", "pytorchvideo c3d_r50"]
    assert rows[0].gmacs == rows[1].gmacs
    assert rows[2].gmacs == rows[3].gmacs


def test_bf16_and_channels_last_run_in_both_modes(benchmark: ModuleType) -> None:
    rows = benchmark.main(["--quick", "--models", "memory and precision of gst_r50"])
    assert len(rows) == 8
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)
