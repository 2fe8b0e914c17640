"""Every option of a fine-tuning run, with its default and one line of help; the command line is made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vidzoo.errors import ConfigError, nearest

__all__ = ["FinetuneConfig"]


def option(default: Any, group: str, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help})


@dataclass(frozen=True)
class FinetuneConfig:
    """How a model is fine-tuned; the defaults suit a trained model and a data set of some hundred videos.

    Sizes are in pixels ``(height, width)``, rates of the video in frames per second, durations in epochs. In the input
    options ``None`` means "as the model's own cfg says". The help of each field is in its metadata.

    Raises:
        ConfigError: a value that cannot be meant, or two options that exclude each other.
    """

    # Start.
    pretrained: bool = option(
        False, "start", "load the published weights of a zoo name (local-dir: and hf-hub: always do)"
    )
    checkpoint: str | None = option(None, "start", "start from this file in the model's own keys (.safetensors or .pt)")
    imagenet_2d: str | None = option(None, "start", "start from this state dict of a 2D ResNet of the same depth")
    drop_rate: float | None = option(None, "start", "dropout before the classifier")
    drop_path_rate: float | None = option(None, "start", "stochastic depth, rising to this rate at the last block")
    model_options: tuple[str, ...] = option((), "start", "more options of the architecture, as key=value")

    # Data.
    val: str | None = option(None, "data", "validate on this data")
    val_match: str | None = option(None, "data", "validate on the videos whose file stem matches, e.g. '*moshe*'")
    val_fraction: float | None = option(None, "data", "validate on this share of each class, drawn with the seed")
    val_none: bool = option(False, "data", "train on everything, without validation")
    val_every: int = option(1, "data", "validate after every so many epochs, and after the last")
    keep: Literal["best", "last"] = option(
        "best",
        "data",
        "weights to keep: of the best validation, or of the last epoch (validation then chooses nothing)",
    )
    extra: tuple[str, ...] = option((), "data", "more training data with the same class names, e.g. synthetic:actions")
    extra_samples: int | None = option(
        None, "data", "clips drawn from the extra data per epoch (default: each video once)"
    )
    samples_per_video: int = option(1, "data", "random clips of each video per epoch")
    on_error: Literal["skip", "raise"] = option(
        "skip", "data", "what a broken video does: it is skipped, or stops the run"
    )
    cache: Literal["none", "ram"] = option("none", "data", "ram: keep decoded training videos (small data sets)")
    cache_extra: bool = option(False, "data", "keep the extra data too, where cache is ram")
    cache_gib: float = option(2.0, "data", "GiB that cached frames of one data set may take")
    workers: int = option(2, "data", "processes that read videos, per training process")

    # Input: what the model is fed with, stored with the weights.
    num_frames: int | None = option(None, "input", "frames per clip")
    sampling: Literal["segments", "dense"] | None = option(
        None, "input", "segments: over the whole video; dense: a window"
    )
    stride: int | None = option(None, "input", "distance between the frames of a dense clip")
    fps: float | None = option(None, "input", "frame rate that dense strides refer to")
    crop_size: tuple[int, int] | None = option(None, "input", "height and width of the crop")
    short_side: int | None = option(None, "input", "the shorter side of a frame before the crop")
    subtract_clip_mean: bool | None = option(
        None, "input", "subtract each clip's mean frame: a still background vanishes"
    )
    mean: tuple[float, ...] | None = option(None, "input", "mean of each channel, in [0, 1]")
    std: tuple[float, ...] | None = option(None, "input", "standard deviation of each channel")
    num_clips: int | None = option(None, "input", "clips per video at test time")
    num_crops: int | None = option(None, "input", "crops per clip at test time: 1, 3 or 5")

    # Augmentation.
    augment: tuple[str, ...] = option((), "augmentation", "fields of vidzoo.data.Augment, as key=value")
    label_smoothing: float = option(0.1, "augmentation", "label smoothing")
    mixup: float = option(0.0, "augmentation", "alpha of mixup (0: off)")
    cutmix: float = option(0.0, "augmentation", "alpha of cutmix (0: off)")
    mix_prob: float = option(1.0, "augmentation", "share of the batches that are mixed, if mixup or cutmix is on")

    # Optimisation.
    epochs: int = option(30, "optimisation", "passes over the training data")
    batch_size: int = option(8, "optimisation", "clips per step and process")
    grad_accum: int = option(1, "optimisation", "steps whose gradients make one update")
    opt: str = option("adamw", "optimisation", "any optimiser of timm, e.g. adamw, sgd, lamb")
    lr: float = option(3e-4, "optimisation", "learning rate at its peak, taken as it is (no scaling with the batch)")
    weight_decay: float = option(0.05, "optimisation", "weight decay; norms and biases have none")
    momentum: float = option(0.9, "optimisation", "momentum of SGD-like optimisers")
    layer_decay: float | None = option(
        None, "optimisation", "factor of the learning rate from each layer to the one below"
    )
    sched: Literal["cosine", "step", "poly", "constant"] = option(
        "cosine", "optimisation", "schedule of the learning rate"
    )
    warmup_epochs: float = option(2.0, "optimisation", "epochs of linear warm-up")
    warmup_lr: float = option(1e-6, "optimisation", "learning rate at the start of the warm-up")
    min_lr: float = option(1e-6, "optimisation", "learning rate at the end of cosine and poly")
    decay_epochs: float = option(10.0, "optimisation", "epochs between two drops of the step schedule")
    decay_rate: float = option(0.1, "optimisation", "factor of each drop of the step schedule")
    clip_grad: float = option(5.0, "optimisation", "largest norm of the gradient (0: any)")
    ema_decay: float = option(0.0, "optimisation", "decay of the averaged weights, which are then the result (0: off)")
    ema_warmup: bool = option(True, "optimisation", "average over fewer steps at the beginning")

    # What moves.
    freeze_bn: Literal["none", "all", "all-but-first"] = option(
        "none", "freezing", "batch norms that keep their statistics and affine parameters"
    )
    freeze_backbone: bool = option(False, "freezing", "train the classifier alone")

    # The machine.
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "machine", "precision of the forward pass")
    channels_last: bool = option(False, "machine", "channels-last memory format (faster on many machines)")
    grad_checkpointing: bool = option(False, "machine", "less memory, more compute")
    processes: int | None = option(
        None, "machine", "stop unless exactly so many processes take part (torchrun starts them)"
    )
    seed: int = option(
        0, "machine", "seed of everything random; the same seed gives the same weights, whatever --workers is"
    )

    # The output folder.
    save_every: int = option(1, "output", "write the training state after every so many epochs, and after the last")
    resume: bool = option(False, "output", "go on from the last checkpoint in the output folder")
    overwrite: bool = option(False, "output", "replace the run that is in the output folder")

    def __post_init__(self) -> None:
        _check(self)

    def replace(self, **changes: Any) -> FinetuneConfig:
        """A copy with some fields changed.

        Raises:
            ConfigError: a field that does not exist, with the nearest ones that do.
        """
        return FinetuneConfig.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name; sequences are lists, so that the dict survives JSON."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Read what :meth:`to_dict` wrote, or some of it: fields that are missing take their defaults.

        Raises:
            ConfigError: a field that does not exist, with the nearest ones that do, or a value that cannot be meant.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ConfigError(f"a fine-tuning run has no option {key!r}: {nearest(key, names)}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**given)

    @classmethod
    def from_file(cls, path: str | Path) -> FinetuneConfig:
        """The options in a ``.json`` or ``.toml`` file; dashes in names count as underscores.

        Raises:
            ConfigError: the file is missing or cannot be read, or holds an option that does not exist.
        """
        return cls.from_dict(read_options(path))


def read_options(path: str | Path) -> dict[str, Any]:
    """The plain ``name -> value`` pairs of a ``.json`` or ``.toml`` file."""
    import json
    import tomllib

    path = Path(path)
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers:
        raise ConfigError(f"{path} is no .json or .toml file: options are read from one of these")
    try:
        values = readers[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the options in {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no valid {path.suffix[1:]}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold option: value pairs, it holds a {type(values).__name__}")
    return {key.replace("-", "_"): value for key, value in values.items()}


def parse_pairs(pairs: tuple[str, ...], *, what: str) -> dict[str, Any]:
    """``("hflip=0.5", "scale=0.5,1")`` -> ``{"hflip": 0.5, "scale": (0.5, 1)}``; no Python literal stays a string."""
    import ast

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{what} are given as key=value, got {pair!r}")
        try:
            values[key.strip().replace("-", "_")] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            words = {"true": True, "false": False, "none": None}
            values[key.strip().replace("-", "_")] = words.get(text.strip().lower(), text.strip())
    return values


def option_types() -> dict[str, Any]:
    """The resolved type of every option."""
    return get_type_hints(FinetuneConfig)


def _fits(value: object, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is tuple:
        if not isinstance(value, tuple) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            return False
        return all(_fits(item, parts[0]) for item in value)
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, (int, hint))
    return isinstance(value, hint)


def _said(hint: Any) -> str:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "nothing"}
    return " or ".join(words.get(part, "a list like " + str(part)) for part in parts)


_AT_LEAST_ONE = (
    "val_every",
    "save_every",
    "samples_per_video",
    "epochs",
    "batch_size",
    "grad_accum",
    "processes",
    "extra_samples",
)
_NOT_NEGATIVE = (
    "workers",
    "mixup",
    "cutmix",
    "weight_decay",
    "warmup_epochs",
    "warmup_lr",
    "min_lr",
    "clip_grad",
    "seed",
)
_BELOW_ONE = ("label_smoothing", "ema_decay", "drop_rate", "drop_path_rate", "momentum")


def _check(config: FinetuneConfig) -> None:
    for name, hint in option_types().items():
        value = getattr(config, name)
        if not _fits(value, hint):
            choices = [
                choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)
            ]
            wanted = nearest(str(value), choices) if choices else f"it takes {_said(hint)}"
            raise ConfigError(f"{name} cannot be {value!r}: {wanted}")
    for names, fits, wanted in (
        (_AT_LEAST_ONE, lambda v: v >= 1, "at least 1"),
        (_NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
        (_BELOW_ONE, lambda v: 0 <= v < 1, "in [0, 1)"),
        (("lr", "decay_epochs", "fps", "cache_gib"), lambda v: v > 0, "greater than 0"),
        (("layer_decay", "decay_rate"), lambda v: 0 < v <= 1, "in (0, 1]"),
        (("mix_prob",), lambda v: 0 <= v <= 1, "in [0, 1]"),
        (("val_fraction",), lambda v: 0 < v < 1, "between 0 and 1"),
    ):
        for name in names:
            value = getattr(config, name)
            if value is not None and not fits(value):
                raise ConfigError(f"{name} must be {wanted}, got {value!r}")
    exclusive: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("start", ("pretrained", "checkpoint", "imagenet_2d")),
        ("validation", ("val", "val_match", "val_fraction", "val_none")),
        ("output", ("resume", "overwrite")),
    )
    for what, group in exclusive:
        given = [name for name in group if getattr(config, name)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other: give one {what} option")
    if config.extra_samples is not None and not config.extra:
        raise ConfigError("extra_samples needs extra data: give --extra, or leave it out")
    if config.warmup_epochs >= config.epochs:
        raise ConfigError(
            f"warmup_epochs ({config.warmup_epochs:g}) must be less than epochs ({config.epochs}): "
            "train for longer or warm up for less"
        )
