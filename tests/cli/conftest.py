"""A small trained-looking model in a folder, and small videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import vidzoo
from ramps import NAMES, write_ramp, write_ramps
from vidzoo.cli import main
from vidzoo.hub.folder import save_pretrained


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What stderr says, which must be a single line."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def vidzoo_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``vidzoo ARGS`` in this process."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """c2d_r18 on clips of 3 x 32 x 32, two classes."""
    torch.manual_seed(0)
    overlay = {"num_classes": 2, "class_names": NAMES, "crop_size": (32, 32), "short_side": 32}
    model = vidzoo.create_model("c2d_r18", num_classes=2, num_frames=3, pretrained_cfg_overlay=overlay)
    return save_pretrained(model, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def untrained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialisation: weights whose head has learnt nothing."""
    overlay = {"is_classifier": False}
    model = vidzoo.create_model("gst_r18", num_classes=2, pretrained_cfg_overlay=overlay)
    return save_pretrained(model, tmp_path_factory.mktemp("models") / "untrained")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_ramp(tmp_path / "video", "brighter")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with five videos in all."""
    root = tmp_path_factory.mktemp("data")
    write_ramps(root, 5)
    return root
