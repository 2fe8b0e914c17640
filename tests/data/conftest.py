"""Tiny videos, written on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from data.tiny_videos import numbered_frames

Writer = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> Writer:
    """``write_video(name, count=30, codec="libx264", pts=None, ...)`` writes :func:`numbered_frames` and returns the path."""
    import av

    def write(
        name: str,
        *,
        count: int = 30,
        codec: str = "libx264",
        rate: int = 25,
        pts: Sequence[int] | None = None,
        size: tuple[int, int] = (48, 64),
        gop: int = 10,
        options: dict[str, str] | None = None,
        moov_first: bool = False,
        moving: bool = False,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = {"movflags": "faststart"} if moov_first else {}
        with av.open(str(path), "w", options=flags) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.gop_size = gop
            stream.codec_context.time_base = Fraction(1, rate)
            pictures = numbered_frames(count, *size)
            if moving:
                generator = torch.Generator().manual_seed(0)
                coarse = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
                texture = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0].permute(1, 2, 0)
                moved = [texture.roll((i, 2 * i), (0, 1)) * (0.5 + 0.5 * (i % 60) / 60) for i in range(count)]
                pictures = (torch.stack(moved) * 255).byte()
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
                frame.pts = i if pts is None else pts[i]
                frame.time_base = Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def write_images(tmp_path: Path) -> Writer:
    """``write_images(folder, numbers)`` writes ``img_00001.png`` ... whose gray value is its number."""
    from PIL import Image

    def write(folder: str, numbers: Sequence[int], *, size: tuple[int, int] = (20, 30)) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.new("RGB", (size[1], size[0]), (number, number, number)).save(path / f"img_{number:05d}.png")
        return path

    return write
