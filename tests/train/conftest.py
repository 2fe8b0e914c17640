"""A data set small enough to be trained on in a second: bright bars that stand, or cross the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidzoo.train.config import FinetuneConfig

CLASSES = ("falls", "rests", "slides")


def write_bars(root: Path, *, videos: int = 4, frames: int = 4, size: int = 32, seed: int = 0) -> Path:
    """``root/<class>/<class>_<n>/0001.png ...``, one colour per class and a random shade per video."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        for number in range(videos):
            folder = root / name / f"{name}_{number}"
            folder.mkdir(parents=True)
            shade = rng.integers(150, 256)
            for frame in range(frames):
                picture = np.full((size, size, 3), 40, np.uint8)
                at = 2 + 6 * frame
                if name == "falls":
                    picture[at : at + 6, :, label] = shade
                else:
                    picture[:, (at if name == "slides" else 10) :][:, :6, label] = shade
                Image.fromarray(picture).save(folder / f"{frame + 1:04d}.png")
    return root


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(tmp_path_factory.mktemp("bars"))


@pytest.fixture(scope="session")
def quick() -> FinetuneConfig:
    """Options that make a run of c2d_r18 on the bars take about a second."""
    return FinetuneConfig(
        epochs=2,
        warmup_epochs=0.0,
        batch_size=4,
        workers=0,
        num_frames=2,
        crop_size=(32, 32),
        short_side=32,
        opt="sgd",
        lr=0.01,
        augment=("scale=0.8,1", "hflip=0"),
        val_match="*_3",
        save_every=100,
    )
