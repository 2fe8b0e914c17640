"""A prediction as a picture: the frames that the model saw, and its best classes with a bar for each."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vidzoo.errors import ConfigError, MissingExtraError
from vidzoo.files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from vidzoo.prediction import VideoPrediction

__all__ = ["draw_prediction", "write_picture"]

# Pixels; the picture is drawn for a screen of high density.
_MARGIN = 48
_GAP = 10
_TITLE, _TEXT, _SMALL = 36, 30, 22
_LINE = 58
_BAR = 22
_ROW_FRAMES = 8
_FRAME_HEIGHT = {1: 420, 2: 380, 4: 300, 8: 230}

_PAPER = (255, 255, 255)
_INK = (28, 32, 38)
_QUIET = (118, 126, 138)
_TRACK = (236, 239, 243)
_BEST = (38, 99, 201)
_OTHER = (158, 184, 222)


def write_picture(path: str | os.PathLike[str], frames: Tensor, prediction: VideoPrediction) -> None:
    """Draw a prediction and save it; nothing half-written is ever left at ``path``.

    Args:
        path: its suffix says the format (``.png``, ``.jpg``, ``.webp``).
        frames: uint8 ``(T, H, W, 3)``, RGB.

    Raises:
        ConfigError: frames of another kind, or a suffix that is no picture format.
        OSError: the place cannot be written.
    """
    Image, _, _ = _pil()
    target = Path(path)
    format = Image.registered_extensions().get(target.suffix.lower())
    if format not in ("PNG", "JPEG", "WEBP"):
        raise ConfigError(f"{target} must end in .png, .jpg or .webp")
    picture = draw_prediction(frames, prediction)
    with whole_file(target) as file:
        picture.save(file, format=format)


def draw_prediction(frames: Tensor, prediction: VideoPrediction) -> Picture:
    """The picture itself: title, frames in rows of at most eight in the order of time, then a bar for each class.

    Raises:
        ConfigError: ``frames`` is not uint8 ``(T, H, W, 3)`` with at least one frame.
    """
    Image, ImageDraw, ImageFont = _pil()
    if frames.ndim != 4 or frames.shape[-1] != 3 or str(frames.dtype) != "torch.uint8" or len(frames) == 0:
        raise ConfigError(
            f"a picture needs uint8 frames (T, H, W, 3), got {frames.dtype} of shape {tuple(frames.shape)}"
        )
    title, text, small = (ImageFont.load_default(size=size) for size in (_TITLE, _TEXT, _SMALL))
    columns = min(len(frames), _ROW_FRAMES)
    rows = math.ceil(len(frames) / columns)
    columns = math.ceil(len(frames) / rows)  # 9 frames: 5 and 4, not 8 and 1
    height = next(size for most, size in _FRAME_HEIGHT.items() if columns <= most)
    width = max(1, round(height * frames.shape[2] / frames.shape[1]))
    strip = columns * width + (columns - 1) * _GAP
    inner = max(strip, 1000)

    top = _MARGIN + 96
    bars = top + rows * (height + _GAP) + 34
    picture = Image.new("RGB", (inner + 2 * _MARGIN, bars + _LINE * len(prediction.predictions) + _MARGIN - 12), _PAPER)
    draw = ImageDraw.Draw(picture)

    name = Path(prediction.video).name if not prediction.video.startswith("synthetic:") else prediction.video
    draw.text((_MARGIN, _MARGIN - 8), _fit(draw, name, title, inner), font=title, fill=_INK)
    draw.text((_MARGIN, _MARGIN + 42), _fit(draw, prediction.model, small, inner), font=small, fill=_QUIET)

    indent = (inner - strip) // 2
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        left, upper = _MARGIN + indent + column * (width + _GAP), top + row * (height + _GAP)
        tile = Image.fromarray(frame.contiguous().numpy()).resize((width, height), Image.Resampling.LANCZOS)
        picture.paste(tile, (left, upper), _rounded(width, height, 8))

    widest = max((draw.textlength(guess.label, font=text) for guess in prediction.predictions), default=0)
    labels = int(min(widest, inner * 0.4))
    number_width = int(draw.textlength("100.0 %", font=text))
    start, end = _MARGIN + labels + 28, _MARGIN + inner - number_width - 28
    for rank, guess in enumerate(prediction.predictions):
        middle = bars + rank * _LINE + _LINE // 2
        ink = _INK if rank == 0 else _QUIET
        draw.text((_MARGIN, middle), _fit(draw, guess.label, text, labels), font=text, fill=ink, anchor="lm")
        _bar(picture, start, end, middle, 1.0, _TRACK)
        _bar(picture, start, end, middle, guess.score, _BEST if rank == 0 else _OTHER)
        draw.text((_MARGIN + inner, middle), f"{guess.score:.1%}".replace("%", " %"), font=text, fill=ink, anchor="rm")
    return picture


def _bar(picture: Picture, start: int, end: int, middle: int, share: float, colour: tuple[int, int, int]) -> None:
    length = round((end - start) * share)
    if length >= 1:
        picture.paste(
            colour,
            (start, middle - _BAR // 2, start + length, middle + _BAR // 2),
            _rounded(length, _BAR, min(_BAR, length) / 2),
        )


def _rounded(width: int, height: int, radius: float) -> Picture:
    """A mask with smooth round corners: Pillow draws hard edges, so it is drawn larger and brought down."""
    Image, ImageDraw, _ = _pil()
    scale = 4
    mask = Image.new("L", (width * scale, height * scale), 0)
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, width * scale - 1, height * scale - 1), radius=round(radius * scale), fill=255
    )
    smooth: Picture = mask.resize((width, height), Image.Resampling.BOX)
    return smooth


def _fit(draw: Any, words: str, font: Any, width: float) -> str:
    """The words, or as many letters as fit."""
    if draw.textlength(words, font=font) <= width:
        return words
    while words and draw.textlength(words + "...", font=font) > width:
        words = words[:-1]
    return words + "..."


def _pil() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("pillow", "viz", "drawing a picture") from error
    return Image, ImageDraw, ImageFont
