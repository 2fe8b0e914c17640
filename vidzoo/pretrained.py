"""What a set of weights is, and how a clip must be fed to it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vidzoo.errors import ConfigError, nearest

__all__ = ["VideoCfg"]

CONFIG_VERSION = 1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VideoCfg:
    """What is true of one set of weights: the input they expect, the classes they name, where they come from.

    Sizes are in pixels, ``(height, width)``; means and standard deviations are for RGB in ``[0, 1]``; ``fps`` is in
    frames per second and ``temporal_stride`` counts frames at that rate. An instance never changes: use
    :meth:`replace`. It survives ``config.json`` exactly: ``VideoCfg.from_dict(json.loads(json.dumps(cfg.to_dict())))
    == cfg``.

    Raises:
        ConfigError: a field has a value that cannot be meant.
    """

    architecture: str = ""
    tag: str = ""

    # How a clip is cut out of a video.
    num_frames: int = 8
    sampling: Literal["segments", "dense"] = "segments"
    """``segments``: one frame from each of ``num_frames`` equal parts (TSN). ``dense``: frames with a fixed stride."""
    temporal_stride: int = 1
    """Distance between the frames of a dense clip, in frames at ``fps``."""
    fps: float | None = None
    """Frame rate that dense strides refer to; ``None`` takes each video at its own rate."""
    num_clips: int = 1
    """Clips per video at test time; their softmax scores are averaged."""

    # How a frame becomes a tensor.
    in_chans: int = 3
    short_side: int = 256
    """The shorter side of a frame is resized to this before the crop."""
    crop_size: tuple[int, int] = (224, 224)
    test_crop_size: tuple[int, int] | None = None
    """``None``: the same as ``crop_size``."""
    num_crops: int = 1
    """Crops per clip at test time: 1 (centre), 3 (along the longer side) or 5 (corners and centre)."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    subtract_clip_mean: bool = False
    """Subtract from every frame the mean frame of its clip (a still background vanishes), then divide by ``std``."""

    # What the weights have learnt.
    num_classes: int = 400
    class_names: tuple[str, ...] = ()
    dataset: str = ""
    is_classifier: bool = True
    """False for an initialisation whose head has not learnt actions: it must not be asked to name classes."""

    # Where they come from.
    file: str = ""
    """Name of an embedded file in ``vidzoo/weights/``."""
    hf_hub_id: str = ""
    """``org/name`` or ``org/name@revision`` on the Hugging Face Hub."""
    sha256: str = ""
    donor: str = ""
    """Somebody else's checkpoint that these weights are made from when they are first asked for: ``timm:NAME`` for a 2D
    backbone that timm knows, or the address of a file."""
    donor_layout: str = ""
    """Which conversion reads it: a name in ``vidzoo.convert.LAYOUTS``."""
    donor_sha256: str = ""
    """The donor's sha256, or the start of it where its publisher gives no more."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How weights that were made from a donor came about: its address, revision and hash, the conversion, the version."""
    source: str = ""
    """The code or publication that the weights stem from."""
    license: str = ""
    origin_url: str = ""
    paper: str = ""
    description: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures measured by this project, or printed by ``source``; the key says which."""

    # Which parameters a loader may replace.
    first_conv: tuple[str, ...] = ("conv1",)
    classifier: tuple[str, ...] = ("fc",)

    extra: Mapping[str, Any] = field(default_factory=dict)
    """Unknown keys of a foreign or newer config, kept as they came."""

    def __post_init__(self) -> None:
        for name in ("crop_size", "test_crop_size", "mean", "std", "class_names", "first_conv", "classifier"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, tuple):
                if isinstance(value, (str, int, float)):
                    raise ConfigError(f"VideoCfg.{name} must be a sequence, got {value!r}")
                object.__setattr__(self, name, tuple(value))
        for name in ("num_frames", "temporal_stride", "num_clips", "in_chans", "short_side"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"VideoCfg.{name} must be a positive whole number, got {value!r}")
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise ConfigError(f"VideoCfg.num_classes must be a whole number >= 0, got {self.num_classes!r}")
        for name in ("crop_size", "test_crop_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ConfigError(f"VideoCfg.{name} must be (height, width) in pixels, got {size!r}")
        if self.sampling not in ("segments", "dense"):
            raise ConfigError(f"VideoCfg.sampling must be 'segments' or 'dense', got {self.sampling!r}")
        if self.num_crops not in (1, 3, 5):
            raise ConfigError(f"VideoCfg.num_crops must be 1, 3 or 5, got {self.num_crops!r}")
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"VideoCfg.fps must be positive or None, got {self.fps!r}")
        if len(self.mean) != len(self.std) or min(self.std, default=0.0) <= 0:
            raise ConfigError(f"VideoCfg.mean and .std must have equal length and std > 0, got {self.mean}, {self.std}")
        if self.class_names and self.num_classes and len(self.class_names) != self.num_classes:
            raise ConfigError(
                f"VideoCfg has {len(self.class_names)} class names for {self.num_classes} classes: they must match"
            )

    @property
    def eval_crop_size(self) -> tuple[int, int]:
        """The crop used at test time, ``(height, width)``."""
        return self.test_crop_size or self.crop_size

    @property
    def name(self) -> str:
        """``architecture.tag``, or the architecture alone when there is no tag."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    @property
    def has_weights(self) -> bool:
        """Whether there is a place that weights can be loaded from."""
        return bool(self.file or self.hf_hub_id or self.donor)

    def replace(self, **changes: Any) -> VideoCfg:
        """A copy with some fields changed.

        Raises:
            ConfigError: a field that does not exist, with the nearest ones that do.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for key in changes:
            if key not in names:
                raise ConfigError(f"VideoCfg has no field {key!r}: {nearest(key, names)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every field present, ``extra`` merged at the top level."""
        values: dict[str, Any] = {"config_version": CONFIG_VERSION}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "extra":
                continue
            values[f.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
        return {**self.extra, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VideoCfg:
        """Read what :meth:`to_dict` wrote; unknown keys go to ``extra`` with a warning, missing ones take their defaults.

        Raises:
            ConfigError: not a mapping, or a known field with an impossible value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a pretrained_cfg must be a JSON object, got {type(values).__name__}")
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        known = {key: value for key, value in values.items() if key in names}
        extra = {key: value for key, value in values.items() if key not in names and key != "config_version"}
        if extra:
            warnings.warn(
                f"these keys of a pretrained_cfg are unknown to this vidzoo, kept but not used: {', '.join(sorted(extra))}",
                stacklevel=2,
            )
        try:
            return cls(**known, extra=extra)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"this pretrained_cfg cannot be read: {error}") from error
