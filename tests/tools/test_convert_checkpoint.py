"""The tool that makes a model folder of a foreign checkpoint: what it writes, says, and leaves unwritten."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import vidzoo
from vidzoo.convert.mmaction import to_mmaction
from vidzoo.convert.pytorchvideo.x3d import to_x3d


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
    spec = importlib.util.spec_from_file_location("convert_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return vidzoo.create_model("x3d_xs", num_classes=4).state_dict()


@pytest.fixture
def pyth(tmp_path: Path, trained: dict[str, Tensor]) -> Path:
    """A file as pytorchvideo publishes it."""
    path = tmp_path / "X3D_XS.pyth"
    torch.save({"model_state": to_x3d(trained)}, path)
    return path


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["pretrained_cfg"]


def test_the_same_network_becomes_a_folder_that_loads_as_a_classifier(
    tool: ModuleType, pyth: Path, trained: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("bend\njack\njump\nrun\n")
    out = tmp_path / "folder"
    assert tool.main([str(pyth), "--to", "x3d_xs", "--out", str(out), "--class-names", str(names)]) == 0
    printed = capsys.readouterr().out
    assert "layout: pytorchvideo (facebookresearch/pytorchvideo)" in printed
    assert f"local-dir:{out}" in printed
    model = vidzoo.create_model(f"local-dir:{out}")
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
    cfg = model.pretrained_cfg
    assert (cfg.architecture, cfg.is_classifier, cfg.num_classes) == ("x3d_xs", True, 4)
    assert cfg.class_names == ("bend", "jack", "jump", "run")
    digest = hashlib.sha256(pyth.read_bytes()).hexdigest()
    for part in ("X3D_XS.pyth", digest, "pytorchvideo", vidzoo.__version__):
        assert part in cfg.description
    assert (cfg.origin_url, cfg.license, cfg.dataset, dict(cfg.metrics)) == ("", "", "", {})
    assert "pytorchvideo" in cfg.source
    assert cfg.provenance["donor_sha256"] == digest
    assert cfg.provenance["conversion"] == "pytorchvideo"
    # Fed as the network of that name is.
    like = vidzoo.get_pretrained_cfg("x3d_xs")
    assert (cfg.mean, cfg.num_frames, cfg.eval_crop_size) == (like.mean, like.num_frames, like.eval_crop_size)


def test_a_relative_becomes_an_initialisation_that_says_what_is_new(
    tool: ModuleType, pyth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folder"
    assert (
        tool.main([str(pyth), "--to", "x3d_s_atfr", "--out", str(out), "--option", "embed_dim=4", "--seed", "3"]) == 0
    )
    assert "An initialisation" in capsys.readouterr().out
    model = vidzoo.create_model(f"local-dir:{out}")
    assert model.model_args["embed_dim"] == 4
    assert not model.pretrained_cfg.is_classifier
    assert "sampler." in model.pretrained_cfg.description
    assert model.pretrained_cfg.provenance["seed"] == "3"


def test_kernels_that_come_near_are_told_with_their_error(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(vidzoo.create_model("c3d_c3", num_classes=3).state_dict(), tmp_path / "x.pth")
    assert tool.main([str(tmp_path / "x.pth"), "--to", "stdcf_c3", "--out", str(tmp_path / "folder")]) == 0
    assert "3 convolutions come near the trained ones" in capsys.readouterr().out
    assert not _config(tmp_path / "folder")["is_classifier"]


def test_a_published_file_starts_what_it_can(
    tool: ModuleType, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shared_data / "weights" / "pretrain_AVA.model"
    if not file.is_file():
        pytest.skip("LR-ASD's weights are not on this machine")
    assert tool.main([str(file), "--to", "rank1_c3", "--out", str(tmp_path / "folder")]) == 0
    assert "layout: lr-asd (Junhua-Liao/LR-ASD)" in capsys.readouterr().out
    trained = torch.load(file, map_location="cpu", weights_only=True)["model.visualEncoder.block2.s_2.weight"]
    model = vidzoo.create_model(f"local-dir:{tmp_path / 'folder'}")
    assert torch.equal(model.layer2[0].conv.spatial.weight, trained)
    assert not model.pretrained_cfg.is_classifier


def test_a_project_that_feeds_its_networks_otherwise_is_followed(tool: ModuleType, tmp_path: Path) -> None:
    model = vidzoo.create_model("slow_r18", num_classes=3)
    torch.save({"meta": {}, "state_dict": to_mmaction(model.state_dict())}, tmp_path / "x.pth")
    assert tool.main([str(tmp_path / "x.pth"), "--to", "slow_r18", "--out", str(tmp_path / "folder")]) == 0
    assert _config(tmp_path / "folder")["mean"] == [0.485, 0.456, 0.406]
    assert vidzoo.get_pretrained_cfg("slow_r18").mean != (0.485, 0.456, 0.406)


def test_the_folder_is_called_after_the_network_unless_told_otherwise(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(vidzoo.create_model("c3d_c3").state_dict(), tmp_path / "x.pth")
    monkeypatch.chdir(tmp_path)
    assert tool.main(["x.pth", "--to", "c3d_c3", "--source", "vidzoo"]) == 0
    assert vidzoo.create_model("local-dir:c3d_c3").num_classes == 6


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["absent.pth", "--to", "x3d_xs"], "there is no checkpoint at absent.pth"),
        (["{file}", "--to", "x3d_x"], "there is no model 'x3d_x': did you mean"),
        (["{file}", "--to", "slow_r18"], "do not make a slow_r18"),
        (["{file}", "--to", "x3d_xs", "--source", "pytorch"], "there is no layout 'pytorch'"),
        (["{file}", "--to", "x3d_xs", "--source", "gst"], "cannot be read for x3d_xs"),
        (["{file}", "--to", "x3d_xs", "--option", "depth=3"], "has no option 'depth'"),
        (["{file}", "--to", "x3d_xs", "--option", "depth"], "given as key=value"),
        (["{file}", "--to", "x3d_xs", "--class-names", "k400"], "there are 400 class names for 4 classes"),
        (["{file}", "--to", "x3d_xs", "--class-names", "absent.txt"], "the class names cannot be read from absent.txt"),
        (["{file}", "--to", "x3d_xs", "--class-names", "{file}"], "it is no UTF-8 text"),
        (["{evil}", "--to", "x3d_xs"], "cannot be read safely"),
        (["{nan}", "--to", "x3d_xs"], "NaN or infinite values"),
        (["{cut}", "--to", "x3d_xs"], "damaged or cut"),
        (["{overflow}", "--to", "x3d_xs"], "gives NaN or infinity for an ordinary clip"),
    ],
)
def test_a_failure_is_one_sentence_and_nothing_is_written(
    tool: ModuleType,
    pyth: Path,
    trained: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    match: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    damaged = {"nan": float("nan"), "overflow": 3e38}
    files = {"file": pyth, **{kind: tmp_path / f"{kind}.pth" for kind in ("evil", "cut", *damaged)}}
    torch.save({"model": trained, "extra": _Evil()}, files["evil"])
    files["cut"].write_bytes(pyth.read_bytes()[:1000])
    for kind, value in damaged.items():
        torch.save({**trained, "conv5.weight": torch.full_like(trained["conv5.weight"], value)}, files[kind])
    before = sorted(tmp_path.rglob("*"))
    assert tool.main([argument.format(**files) for argument in arguments] + ["--out", "folder"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert match in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_one_sentence_too(
    tool: ModuleType, pyth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert tool.main([str(pyth), "--to", "x3d_xs", "--out", str(tmp_path / "taken")]) == 1
    assert "there is a file of that name" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "a file"
