"""From decoded frames to what a model takes, the same for every frame of a clip.

Frames stay uint8, and in the decoder's memory order, until they have been resized and cropped: that is where most
pixels go away. Random operations draw their parameters once per clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vidzoo.errors import ConfigError, MissingExtraError, nearest
from vidzoo.pretrained import VideoCfg

if TYPE_CHECKING:
    from torchvision.transforms import InterpolationMode

__all__ = ["Augment", "TrainTransform", "eval_transform", "normalise", "train_transform"]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: what "gray" means to torchvision, PIL and OpenCV."""

POLICIES = ("randaugment", "trivialaugment", "autoaugment", "augmix")


@dataclass(frozen=True)
class Augment:
    """What training does to a clip, in this order; the defaults are the mild ones that suit most data.

    Fractions are of the crop's sides, angles are in degrees, probabilities in ``[0, 1]``.

    Raises:
        ConfigError: a value that cannot be meant.
    """

    crop: Literal["resized", "short_side", "centre"] = "resized"
    """``resized``: a random part of the frame (``scale``, ``ratio``). ``short_side``: resize to a random
    ``short_side``, then crop at a random place. ``centre``: as at test time."""
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    short_side: tuple[int, int] | None = None
    """Range for ``crop="short_side"``; ``None`` is 1 to 1.25 times the cfg's own."""
    hflip: float = 0.5
    rotate: float = 0.0
    """Largest angle, either way."""
    translate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    """Largest angle along the width, either way."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """At most 0.5."""
    gray: float = 0.0
    """Probability that a clip loses its colour."""
    invert: float = 0.0
    """Probability that a clip becomes its negative: dark on light is light on dark."""
    auto_augment: str | None = None
    """``randaugment``, ``trivialaugment``, ``autoaugment`` or ``augmix``."""
    magnitude: int = 9
    layers: int = 2
    """Strength and number of operations of ``randaugment``."""
    erase: float = 0.0
    """Probability that a rectangle is blanked, the same one in every frame."""
    time_scale: tuple[float, float] = (1.0, 1.0)
    """Range of random speed; see :class:`vidzoo.data.sample.ClipSampler`."""

    def __post_init__(self) -> None:
        if self.crop not in ("resized", "short_side", "centre"):
            raise ConfigError(f"Augment.crop must be 'resized', 'short_side' or 'centre', got {self.crop!r}")
        for name in ("scale", "ratio", "zoom", "time_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"Augment.{name} must be (low, high) with 0 < low <= high, got {(low, high)}")
        if self.scale[1] > 1:
            raise ConfigError(f"Augment.scale is a share of the frame's area, at most 1, got {self.scale}")
        if self.short_side is not None and not 0 < self.short_side[0] <= self.short_side[1]:
            raise ConfigError(f"Augment.short_side must be (low, high) in pixels, got {self.short_side}")
        for name in ("hflip", "gray", "invert", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Augment.{name} is a probability, got {getattr(self, name)}")
        for name in ("rotate", "translate", "shear", "brightness", "contrast", "saturation", "hue"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Augment.{name} must not be negative, got {getattr(self, name)}")
        if self.hue > 0.5 or self.translate >= 1:
            raise ConfigError(f"Augment.hue is at most 0.5 and .translate below 1, got {self.hue} and {self.translate}")
        if self.auto_augment is not None and self.auto_augment not in POLICIES:
            raise ConfigError(
                f"no policy {self.auto_augment!r} for Augment.auto_augment: {nearest(self.auto_augment, POLICIES)}"
            )
        if not 0 <= self.magnitude <= 30 or self.layers < 1:
            raise ConfigError(f"Augment.magnitude is 0 to 30 and .layers >= 1, got {self.magnitude} and {self.layers}")

    @classmethod
    def none(cls) -> Augment:
        """Training clips as at test time: resize, centre crop."""
        return cls(crop="centre", hflip=0.0)


def normalise(clip: Tensor, cfg: VideoCfg) -> Tensor:
    """uint8 or 0..255 float ``(..., 3 or 1, T, H, W)`` to float32 ``(..., in_chans, T, H, W)``.

    Divides by 255, turns to gray where ``in_chans`` is 1, subtracts the clip's mean frame where the cfg says so, then
    subtracts ``mean`` and divides by ``std``. Works on any device; safe to call on a whole batch.

    Raises:
        ConfigError: a number of channels that pictures cannot give.
    """
    channels = clip.shape[-4]
    if cfg.in_chans not in (1, 3) or channels not in (cfg.in_chans, 3):
        raise ConfigError(
            f"a clip of {channels} channels cannot be fed to a model of in_chans={cfg.in_chans}: 3 or 1 are possible"
        )
    mean, std = torch.tensor(cfg.mean), torch.tensor(cfg.std)
    luma = torch.tensor(LUMA)
    if cfg.in_chans == 1 and len(mean) == 3:
        mean, std = (luma * mean).sum(0, keepdim=True), (luma * std).sum(0, keepdim=True)
    if len(mean) not in (1, cfg.in_chans):
        raise ConfigError(f"{len(mean)} means cannot normalise in_chans={cfg.in_chans}")
    x = clip.to(torch.float32) / 255
    if cfg.in_chans == 1 and channels == 3:
        x = torch.einsum("...cthw,c->...thw", x, luma.to(x.device)).unsqueeze(-4)
    if cfg.subtract_clip_mean:
        x = x - x.mean(dim=-3, keepdim=True)
    # In place is safe: x is new since the division.
    return x.sub_(mean.to(x.device).view(-1, 1, 1, 1)).div_(std.to(x.device).view(-1, 1, 1, 1))


def eval_transform(cfg: VideoCfg, *, num_crops: int | None = None) -> Callable[[Tensor], Tensor]:
    """Resize the short side, crop, normalise: uint8 ``(T, H, W, 3)`` to float32 ``(crops, C, T, h, w)``.

    One crop is the centre; three lie at the start, centre and end of the longer side; five are the centre and the four
    corners. Where the crop is larger than ``short_side`` allows, the frame is resized until it fits.

    Raises:
        ConfigError: another number of crops.
    """
    crops = cfg.num_crops if num_crops is None else num_crops
    if crops not in (1, 3, 5):
        raise ConfigError(f"num_crops must be 1, 3 or 5, got {crops}")
    _v2()

    def transform(clip: Tensor) -> Tensor:
        frames = _resize_short(_channels_first(clip), cfg.short_side, cfg.eval_crop_size, _mode(cfg))
        height, width = cfg.eval_crop_size
        views = [
            frames[..., top : top + height, left : left + width].transpose(0, 1)  # (3, T, h, w)
            for top, left in _places(frames.shape[-2], frames.shape[-1], height, width, crops)
        ]
        return normalise(torch.stack(views), cfg)  # (crops, C, T, h, w)

    return transform


class TrainTransform:
    """Random crop, flip and the rest of an ``Augment``, then normalise; all randomness comes from the generator."""

    def __init__(self, cfg: VideoCfg, augment: Augment) -> None:
        v2 = _v2()
        self.cfg = cfg
        self.augment = augment
        a = augment
        low, high = a.short_side or (cfg.short_side, round(1.25 * cfg.short_side))
        self._short_sides = (low, high)
        self._random_resized = v2.RandomResizedCrop(
            cfg.crop_size, scale=a.scale, ratio=a.ratio, interpolation=_mode(cfg)
        )
        self._colour: list[Any] = []
        if max(a.brightness, a.contrast, a.saturation, a.hue) > 0:
            self._colour.append(v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue))
        if a.auto_augment:
            self._colour.append(_policy(v2, a))
        self._erase = v2.RandomErasing(p=a.erase) if a.erase > 0 else None

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 ``(T, H, W, 3)`` to float32 ``(C, T, h, w)``."""
        return self.apply(clip, generator)[0]

    def apply(self, clip: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
        """The clip, and whether it was flipped left to right (which changes some labels)."""
        seed = int(torch.randint(2**62, (), generator=generator))
        # torchvision draws from the global generator: lend it ours and put the old state back. Only the CPU's one, for
        # torch.manual_seed would reset those of the accelerators too.
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            return self._apply(clip)
        finally:
            torch.default_generator.set_state(state)

    def _apply(self, clip: Tensor) -> tuple[Tensor, bool]:
        frames = self._crop(_channels_first(clip)).contiguous()  # (T, 3, h, w)
        flipped = bool(torch.rand(()) < self.augment.hflip)
        if flipped:
            frames = frames.flip(-1)
        frames = self._affine(frames)
        for operation in self._colour:
            frames = operation(frames)
        if torch.rand(()) < self.augment.gray:
            frames = _v2().functional.rgb_to_grayscale(frames, num_output_channels=3)
        if torch.rand(()) < self.augment.invert:
            frames = 255 - frames
        x = normalise(frames.transpose(0, 1).contiguous(), self.cfg)  # (C, T, h, w)
        return x if self._erase is None else self._erase(x), flipped

    def _crop(self, frames: Tensor) -> Tensor:
        size = self.cfg.crop_size
        if self.augment.crop == "resized":
            return self._random_resized(frames)
        short = self.cfg.short_side
        if self.augment.crop == "short_side":
            short = int(torch.randint(self._short_sides[0], self._short_sides[1] + 1, ()))
        frames = _resize_short(frames, short, size, _mode(self.cfg))
        top, left = _places(frames.shape[-2], frames.shape[-1], *size, 1)[0]
        if self.augment.crop == "short_side":
            top = int(torch.randint(frames.shape[-2] - size[0] + 1, ()))
            left = int(torch.randint(frames.shape[-1] - size[1] + 1, ()))
        return frames[..., top : top + size[0], left : left + size[1]]

    def _affine(self, frames: Tensor) -> Tensor:
        a = self.augment
        if max(a.rotate, a.translate, a.shear) == 0 and a.zoom == (1.0, 1.0):
            return frames
        draw = torch.rand(5).tolist()
        shift = [
            round((2 * draw[i] - 1) * a.translate * size) for i, size in enumerate((frames.shape[-1], frames.shape[-2]))
        ]
        log_low, log_high = math.log(a.zoom[0]), math.log(a.zoom[1])
        return _v2().functional.affine(
            frames,
            angle=(2 * draw[2] - 1) * a.rotate,
            translate=shift,
            scale=math.exp(log_low + draw[3] * (log_high - log_low)),
            shear=[(2 * draw[4] - 1) * a.shear, 0.0],
            interpolation=_mode(self.cfg) if self.cfg.interpolation == "bilinear" else _bilinear(),
            # The clip's own mean colour: a black border would be the strongest edge in the picture.
            fill=frames.float().mean(dim=(0, 2, 3)).tolist(),
        )


def train_transform(cfg: VideoCfg, augment: Augment) -> TrainTransform:
    """A callable from uint8 ``(T, H, W, 3)`` and a CPU ``torch.Generator`` to float32 ``(C, T, h, w)``."""
    return TrainTransform(cfg, augment)


def resize_short(clip: Tensor, short_side: int) -> Tensor:
    """uint8 ``(T, H, W, 3)`` with its shorter side brought down to ``short_side`` (antialiased), never up."""
    if min(clip.shape[1:3]) <= short_side:
        return clip
    return _resize_short(_channels_first(clip), short_side, (1, 1), _bilinear()).permute(0, 2, 3, 1).contiguous()


def _v2() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise MissingExtraError("torchvision", "all", "preparing clips") from error
    return v2


def _bilinear() -> InterpolationMode:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR


def _mode(cfg: VideoCfg) -> InterpolationMode:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BICUBIC if cfg.interpolation == "bicubic" else InterpolationMode.BILINEAR


def _policy(v2: Any, augment: Augment) -> Callable[[Tensor], Tensor]:
    if augment.auto_augment == "randaugment":
        return v2.RandAugment(num_ops=augment.layers, magnitude=augment.magnitude)
    if augment.auto_augment == "trivialaugment":
        return v2.TrivialAugmentWide()
    if augment.auto_augment == "autoaugment":
        return v2.AutoAugment()
    from torchvision import tv_tensors

    # On a plain tensor AugMix weighs every frame differently; on a Video it does not.
    mix = v2.AugMix()
    return lambda frames: mix(tv_tensors.Video(frames)).as_subclass(Tensor)


def _channels_first(clip: Tensor) -> Tensor:
    """A (T, 3, H, W) view of a (T, H, W, 3) clip: copying it before the resize would cost more than the resize.

    Raises:
        ConfigError: not a uint8 (T, H, W, 3) clip.
    """
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != torch.uint8:
        raise ConfigError(f"a transform takes a uint8 (T, H, W, 3) clip, got {clip.dtype} {tuple(clip.shape)}")
    return clip.permute(0, 3, 1, 2)


def _resize_short(frames: Tensor, short_side: int, cover: tuple[int, int], mode: InterpolationMode) -> Tensor:
    """(T, 3, H, W) with the shorter side ``short_side``, or as much more as a crop of size ``cover`` needs."""
    height, width = frames.shape[-2:]
    factor = max(short_side / min(height, width), cover[0] / height, cover[1] / width)
    # The longer side is cut off, not rounded, as torchvision's Resize does; the epsilon guards whole numbers.
    size = [max(int(height * factor + 1e-6), cover[0]), max(int(width * factor + 1e-6), cover[1])]
    if size == [height, width]:
        return frames
    return _v2().functional.resize(frames, size, interpolation=mode, antialias=True)


def _places(height: int, width: int, crop_height: int, crop_width: int, crops: int) -> list[tuple[int, int]]:
    """(top, left) of each crop."""
    down, right = height - crop_height, width - crop_width
    centre = (round(down / 2), round(right / 2))
    if crops == 1:
        return [centre]
    if crops == 5:
        return [centre, (0, 0), (0, right), (down, 0), (down, right)]
    if height > width:
        return [(0, centre[1]), centre, (down, centre[1])]
    return [(centre[0], 0), centre, (centre[0], right)]
