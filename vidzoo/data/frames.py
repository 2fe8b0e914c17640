"""A folder of numbered images as a video: the form in which many action data sets are handed out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from vidzoo.data.source import DEFAULT_FPS, SourceBase
from vidzoo.errors import MissingExtraError, VideoDecodeError

__all__ = ["IMAGE_SUFFIXES", "FrameFolder", "natural_key"]

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))

_DIGITS = re.compile(r"\d+")


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that puts ``img_2`` before ``img_10``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


class FrameFolder(SourceBase):
    """Images of one folder, ordered by the last number in their names.

    Args:
        start, end: the first and last number to take, both included; by default all of them.
        fps: frames per second at which the numbers count; a missing number leaves a gap in time.

    Raises:
        VideoDecodeError: no folder, no image with such a number, or two images with the same number.
    """

    def __init__(
        self, path: str | PathLike[str], *, start: int | None = None, end: int | None = None, fps: float = DEFAULT_FPS
    ) -> None:
        self.name = str(path)
        self.fps = fps
        folder = Path(path)
        if not folder.is_dir():
            raise VideoDecodeError(f"{self.name}: there is no such folder")
        numbered: dict[int, Path] = {}
        for file in sorted(folder.iterdir(), key=lambda f: natural_key(f.name)):
            digits = _DIGITS.findall(file.stem)
            if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith(".") or not digits:
                continue
            number = int(digits[-1])
            if number in numbered:
                raise VideoDecodeError(
                    f"{self.name}: {numbered[number].name} and {file.name} have the same frame number {number}"
                )
            numbered[number] = file
        low = min(numbered, default=0) if start is None else start
        high = max(numbered, default=0) if end is None else end
        chosen = sorted(number for number in numbered if low <= number <= high)
        if not chosen:
            span = "" if start is None and end is None else f" from {low} to {high}"
            raise VideoDecodeError(f"{self.name}: holds no numbered image{span}")
        self._files = [numbered[number] for number in chosen]
        self.timestamps = [(number - chosen[0]) / fps for number in chosen]
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._files)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the first image; every image must have it."""
        if self._size is None:
            image = self._read(self._files[0])
            self._size = (image.shape[0], image.shape[1])
        return self._size

    def frames(self, indices: Sequence[int]) -> Tensor:
        """uint8 ``(N, H, W, 3)`` RGB.

        Raises:
            VideoDecodeError: an image cannot be read, or has another size than the first.
        """
        numbers = self._checked(indices)
        images: dict[int, Tensor] = {}
        for i in sorted(set(numbers)):
            image = self._read(self._files[i])
            if tuple(image.shape[:2]) != self.size:
                height, width = self.size
                raise VideoDecodeError(
                    f"{self._files[i]}: is {image.shape[1]}x{image.shape[0]}, the first image is {width}x{height}"
                )
            images[i] = image
        return (
            torch.stack([images[i] for i in numbers]) if numbers else torch.empty((0, *self.size, 3), dtype=torch.uint8)
        )

    def _read(self, file: Path) -> Tensor:
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingExtraError("pillow", "all", "reading folders of images") from error
        try:
            with Image.open(file) as picture:
                pixels = picture.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise VideoDecodeError(f"{file}: cannot be read as an image ({error})") from error
        flat = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        return flat.view(pixels.height, pixels.width, 3)
