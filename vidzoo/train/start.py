"""The network that a run begins with: where its weights come from, which rows of its head are kept, how it is fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vidzoo.checkpoint import read_state_dict
from vidzoo.errors import ConfigError
from vidzoo.factory import create_model
from vidzoo.models.base import VideoModel
from vidzoo.models.inflation import init_from_2d
from vidzoo.models.resnet import VideoResNet
from vidzoo.train.config import parse_pairs

if TYPE_CHECKING:
    from vidzoo.train.config import FinetuneConfig

__all__ = ["build_model", "rename_classes"]


def build_model(name: str, class_names: Sequence[str], data: str, config: FinetuneConfig) -> VideoModel:
    """The model in its first state, with a head for ``class_names`` and a ``pretrained_cfg`` that says how it is fed.

    Raises:
        ConfigError: an option that does not apply to this model; and all that :func:`vidzoo.create_model` raises.
    """
    options = parse_pairs(config.model_options, what="model options")
    reserved = {"num_classes", "num_frames", "pretrained", "checkpoint_path", "features_only"} & set(options)
    if reserved:
        raise ConfigError(
            f"{', '.join(sorted(reserved))} cannot be given as a model option: it follows from other options"
        )
    from_elsewhere = ":" in name
    loaded = from_elsewhere or config.pretrained or config.checkpoint is not None
    if from_elsewhere and (config.checkpoint or config.imagenet_2d):
        raise ConfigError(f"{name} brings its own weights: leave out checkpoint and imagenet_2d, or give a zoo name")
    model: Any = create_model(
        name,
        pretrained=True if config.pretrained else None,
        # With weights the head comes as it was, so that classes of the same name can keep their rows.
        num_classes=None if loaded else len(class_names),
        num_frames=config.num_frames,
        checkpoint_path=config.checkpoint,
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
        **options,
    )
    if config.imagenet_2d is not None:
        if not isinstance(model, VideoResNet):
            raise ConfigError(f"{name} is no video ResNet, a 2D ResNet cannot start it: leave out imagenet_2d")
        init_from_2d(model, read_state_dict(config.imagenet_2d))
    rename_classes(model, class_names)
    start = config.checkpoint or config.imagenet_2d or (name if loaded else "")
    _describe(model, class_names, data, Path(start).name if start and not from_elsewhere else start, config)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


@torch.no_grad()
def rename_classes(model: VideoModel, class_names: Sequence[str]) -> list[str]:
    """Give ``model`` a head for ``class_names``; a class that it knew by the same name keeps its row of the classifier.

    A head of the right size whose classes have no names is left as it is.

    Returns:
        The classes that were kept.
    """
    cfg = model.pretrained_cfg
    old, known = model.get_classifier(), cfg.class_names if cfg.is_classifier else ()
    if tuple(class_names) == known or (not known and model.num_classes == len(class_names)):
        return list(known)
    model.reset_classifier(len(class_names))
    new = model.get_classifier()
    kept = [name for name in class_names if name in known]
    if not (isinstance(old, nn.Linear) and isinstance(new, nn.Linear)):
        return []
    for name in kept:
        row, source = list(class_names).index(name), known.index(name)
        new.weight[row] = old.weight[source]
        if new.bias is not None and old.bias is not None:
            new.bias[row] = old.bias[source]
    return kept


def _describe(model: VideoModel, class_names: Sequence[str], data: str, start: str, config: FinetuneConfig) -> None:
    given = {
        "sampling": config.sampling,
        "temporal_stride": config.stride,
        "fps": config.fps,
        "crop_size": config.crop_size,
        "short_side": config.short_side,
        "subtract_clip_mean": config.subtract_clip_mean,
        "mean": config.mean,
        "std": config.std,
        "num_clips": config.num_clips,
        "num_crops": config.num_crops,
        "num_frames": config.num_frames,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if config.crop_size is not None:
        changes["test_crop_size"] = None
        # A crop that the short side cannot hold, or that shows a corner of it, is hardly ever meant.
        if config.short_side is None:
            changes["short_side"] = round(min(config.crop_size) * 8 / 7)
    model.pretrained_cfg = model.pretrained_cfg.replace(
        **changes,
        tag="",
        num_classes=len(class_names),
        class_names=tuple(class_names),
        dataset=data,
        is_classifier=True,
        file="",
        hf_hub_id="",
        sha256="",
        donor="",
        donor_layout="",
        donor_sha256="",
        metrics={},
        source=f"fine-tuned with vidzoo from {start}" if start else "trained with vidzoo from random weights",
        description="",
    )
    if "num_classes" in model.model_args:
        model.model_args = {**model.model_args, "num_classes": len(class_names)}
