"""The benchmark tool runs, and its table says what it should; how fast anything is, no test can know."""

from __future__ import annotations

import importlib
import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from vidzoo.profiling import profile


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    tools = str(Path(__file__).resolve().parents[2] / "tools")
    sys.path.insert(0, tools)
    threads = torch.get_num_threads()
    yield importlib.import_module("benchmark")
    torch.set_num_threads(threads)
    sys.path.remove(tools)


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
    assert rows[0].gmacs == pytest.approx(2 * profile("c2d_r50", (2, 32, 32)).macs / 1e9)  # two clips
    assert len(json.loads(file.read_text())["rows"]) == len(rows)
    printed = capsys.readouterr().out
    assert all(f"| {row.group} | {row.mode} | {row.name} |" in printed for row in rows)


@pytest.mark.parametrize("library", ["pytorchvideo", "torchvision"])
def test_a_counterpart_that_does_the_same_work_has_as_many_parameters_and_multiply_adds(
    benchmark: ModuleType, library: str
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    options = Namespace(batch=1, frames=6, size=40)  # sizes that halve to odd numbers
    compared = 0
    for name, group in benchmark.groups().items():
        for theirs in group[1:]:
            if theirs.library != library or not theirs.note.startswith("same work"):
                continue
            with torch.device("meta"):
                networks = [contender.build(options).eval() for contender in (group[0], theirs)]
                shapes = [network(torch.empty(2, 3, 6, 40, 40)).shape for network in networks]
            assert shapes[0] == shapes[1] == (2, 400)
            ours, other = (profile(network, (6, 40, 40)) for network in networks)
            assert ours.params == other.params, name
            classifier = 5 * 2048 * 400 if name == "frame by frame" and library == "torchvision" else 0  # on each frame
            assert ours.macs + classifier == other.macs, name
            compared += 1
    assert compared >= 5


def test_an_adaptive_network_is_charged_for_the_clip_that_it_sees(benchmark: ModuleType) -> None:
    small = ["--frames", "8", "--size", "32", "--runs", "1", "--warmup", "0"]
    rows = benchmark.main([*small, "--models", "atfr c2d"])
    for mode in ("inference", "training"):
        host, still, fast = (row.gmacs for row in rows if row.mode == mode)
        assert still < fast < host


def test_the_clips_are_what_they_are_called(benchmark: ModuleType) -> None:
    options = Namespace(batch=2, frames=4, size=8)
    clips = {kind: benchmark.make_clip(kind, options) for kind in ("noise", "still", "fast")}
    change = {kind: (x[:, :, 1:] - x[:, :, :1]).abs().amax(dim=(1, 3, 4)) for kind, x in clips.items()}  # (B, T - 1)
    assert all(x.shape == (2, 3, 4, 8, 8) and x.is_contiguous() for x in clips.values())
    assert (change["still"] == 0).all()
    assert (change["noise"] > 0).all()
    brightness = {kind: x.mean(dim=(1, 3, 4)).std(dim=1) for kind, x in clips.items()}  # (B,)
    assert (brightness["fast"] > brightness["noise"]).all()
    with pytest.raises(ValueError, match="slow"):
        benchmark.make_clip("slow", options)


def test_branches_are_charged_for_where_they_run(benchmark: ModuleType) -> None:
    rows = benchmark.main(["--quick", "--models", "reparam"])
    plain, merged, plain_in_training, branches = (row.gmacs for row in rows)
    assert plain == merged == plain_in_training < branches


def test_bf16_and_channels_last_run_in_both_modes(benchmark: ModuleType) -> None:
    rows = benchmark.main(["--quick", "--models", "memory and precision of gst_r50"])
    assert len(rows) == 8
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)


def test_channels_last_lays_out_every_network_images_included(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    seen: list[tuple[bool, bool]] = []
    original = benchmark._macs

    def spy(network: nn.Module, clip: Tensor) -> int:
        kernel = next(parameter for parameter in network.parameters() if parameter.ndim >= 4)  # the stem
        layout = torch.channels_last_3d if kernel.ndim == 5 else torch.channels_last
        seen.append(
            (kernel.is_contiguous(memory_format=layout), clip.is_contiguous(memory_format=torch.channels_last_3d))
        )
        return original(network, clip)

    monkeypatch.setattr(benchmark, "_macs", spy)
    file = tmp_path / "figures.json"
    arguments = ["--quick", "--modes", "training", "--models", "torchvision resnet50", "--json", str(file)]
    benchmark.main([*arguments, "--channels-last"])
    assert seen == [(True, True)] * 2
    assert json.loads(file.read_text())["environment"]["channels_last"] is True
    seen.clear()
    benchmark.main(arguments)
    assert seen == [(False, False)] * 2
