"""The grafting tools: the list of places, the shell's graft, and the matrix with its exit code."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.grafting import GraftedModel, InsertSGS, write_plan


@pytest.fixture(scope="module")
def tools() -> Iterator[tuple[ModuleType, ModuleType]]:
    folder = str(Path(__file__).resolve().parents[2] / "tools")
    sys.path.insert(0, folder)
    yield importlib.import_module("graft"), importlib.import_module("graft_matrix")
    sys.path.remove(folder)


@pytest.fixture
def graft(tools: tuple[ModuleType, ModuleType]) -> ModuleType:
    return tools[0]


@pytest.fixture
def matrix(tools: tuple[ModuleType, ModuleType]) -> ModuleType:
    return tools[1]


def test_the_list_shows_each_convolution_with_its_stage_shapes_and_units(graft: ModuleType) -> None:
    lines = graft.places("timm:mobilenetv2_100").splitlines()
    rows = [line.split() for line in lines[1:53]]
    assert lines[0].split() == ["stage", "convolution", "kernel", "stride", "groups", "channels", "map", "units"]
    assert rows[0][:4] == ["0", "stem", "conv_stem", "3x3"]
    depthwise = next(line for line in lines if "blocks.1.0.conv_dw" in line)
    assert depthwise.split()[:7] == ["1", "blocks.1.0.conv_dw", "3x3", "2x2", "96", "96", "->"]
    assert depthwise.endswith("stdcf, reparam, p3d, full, frame")
    point = next(line for line in lines if "blocks.1.0.conv_pw " in line)
    assert point.endswith("reparam, full, frame")
    assert sum("conv" in line.split()[1] or "stem" in line for line in lines[1:53]) == 52
    assert any(line.startswith("stage 1 ends with blocks.1, 1/4 of the picture; blocks: blocks.1.0") for line in lines)


def test_a_graft_from_the_shell_is_printed_saved_and_comes_back(
    graft: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    arguments = ["--backbone", "timm:resnet18", "--plan", "gst", "--num-classes", "6", "--frames", "4"]
    assert graft.main([*arguments, "--no-pretrained", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "layer1.0.conv1" in printed
    assert "GSTConv3d 3x3x3" in printed
    assert f"create_model('local-dir:{out}')" in printed
    model = vidzoo.create_model(f"local-dir:{out}").eval()
    assert isinstance(model, GraftedModel)
    assert (model.num_classes, model.pretrained_cfg.num_frames) == (6, 4)
    assert model.model_args["backbone"] == "timm:resnet18"
    assert model(torch.randn(1, 3, 4, 64, 64)).shape == (1, 6)


def test_the_librarys_weights_are_asked_for_unless_told_otherwise(
    graft: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def build(source: str, *, pretrained: bool = False) -> Any:
        asked.append(pretrained)
        raise ConfigError(f"{source} is not there")

    monkeypatch.setattr(graft, "build", build)
    for extra in ([], ["--pretrained"], ["--no-pretrained"]):
        assert graft.main(["--backbone", "timm:resnet18", "--plan", "gst", *extra]) == 1
    assert asked == [True, True, False]


def test_a_plan_is_a_name_or_json_or_a_file_with_it(graft: ModuleType, tmp_path: Path) -> None:
    operations = [dict(operation) for operation in write_plan([InsertSGS(after=1)])]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(operations), encoding="utf-8")
    assert graft.read("gst") == "gst"
    assert graft.read(json.dumps(operations)) == graft.read(str(file)) == operations
    with pytest.raises(ConfigError, match="no plan 'gts': give JSON, a file with it, or one of"):
        graft.read("gts")
    with pytest.raises(ConfigError, match="is no JSON"):
        graft.read("[{]")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--backbone", "timm:resnet_18", "--list"], "timm has no network 'resnet_18': did you mean 'resnet18'"),
        (["--backbone", "timm:resnet18", "--plan", "sgs", "--no-pretrained"], "takes single pictures"),
        (["--backbone", "timm:resnet18", "--plan", "nothing", "--no-pretrained"], "there is no plan 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_1(
    graft: ModuleType, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graft.main(arguments) == 1
    complaint = capsys.readouterr().err
    assert why in complaint
    assert complaint.count("\n") == 1


def test_neither_a_plan_nor_the_list_is_a_wrong_command_line(graft: ModuleType) -> None:
    with pytest.raises(SystemExit) as stop:
        graft.main(["--backbone", "timm:resnet18"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("host", "plan", "verdict"),
    [
        ("timm:resnet18", "gst", "moved"),
        ("timm:resnet18", "ctm", "kept"),
        ("timm:mobilenetv2_100", "reparam", "kept"),
        ("timm:mobilenetv2_100", "r2plus1d", "refused"),
        ("timm:resnet18", "sgs", "refused"),
    ],
)
def test_a_cell_runs_learns_is_saved_and_says_what_it_kept(
    matrix: ModuleType, host: str, plan: str, verdict: str
) -> None:
    found = matrix.cell(host, plan)
    assert (found.verdict, found.bad) == (verdict, False), found.detail


def test_a_cell_that_fails_counts(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(network: Any, plan: str, **options: Any) -> Any:
        raise RuntimeError("two shapes do not fit")

    monkeypatch.setattr(matrix, "graft", broken)
    assert matrix.main(["--small", "--hosts", "timm:resnet18", "--plans", "gst", "ctm"]) == 2
    printed = capsys.readouterr().out
    assert printed.count("FAILED") == 2
    assert "two shapes do not fit" in printed


def test_the_matrix_has_every_host_and_plan_that_was_asked_for(matrix: ModuleType) -> None:
    timm = ["resnet18", "resnet50", "resnext50_32x4d", "regnety_004"]
    timm += ["mobilenetv2_100", "efficientnet_b0", "convnext_atto", "densenet121"]
    video = ["x3d_xs", "slow_r50", "r2plus1d_r50", "slowfast_r50", "csn_r101"]
    for host in (f"timm:{name}" for name in timm):
        assert {"inflate", "gst", "stdcf", "reparam", "ctm"} <= set(matrix.HOSTS[host])
    for host in (f"pytorchvideo:{name}" for name in video):
        assert {"stdcf", "reparam", "sgs"} <= set(matrix.HOSTS[host])
    for host in ("torchvision:r3d_18", "torchvision:r2plus1d_18", "torchvision:mc3_18", "torchvision:s3d"):
        assert {"stdcf", "reparam", "sgs"} <= set(matrix.HOSTS[host])
    assert set(matrix.SMALL) <= set(matrix.HOSTS)
