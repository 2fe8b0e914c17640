"""What is to be seen in a video: the best classes of a model, with their probabilities."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, HubError, VideoDecodeError, WeightsError
from vidzoo.factory import create_model
from vidzoo.models.base import VideoModel
from vidzoo.modes import as_device, evaluating, home_of
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import (
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    is_model,
    list_pretrained,
    resolve_deprecated,
    split_model_name_tag,
)
from vidzoo.scoring import ViewDataset, classifier_cfg, score_videos

__all__ = [
    "LabelScore",
    "VideoPrediction",
    "best_device",
    "load_classifier",
    "model_source",
    "predict",
    "sampled_frames",
]


@dataclass(frozen=True)
class LabelScore:
    """A class and its probability in ``[0, 1]``."""

    label: str
    score: float


@dataclass(frozen=True)
class VideoPrediction:
    """The best classes of one video, best first."""

    video: str
    model: str
    predictions: list[LabelScore]

    def to_dict(self) -> dict[str, Any]:
        """``{"video", "model", "predictions": [{"label", "score"}]}``, plain JSON types."""
        return {
            "video": self.video,
            "model": self.model,
            "predictions": [{"label": guess.label, "score": guess.score} for guess in self.predictions],
        }


@dataclass(frozen=True)
class _Item:
    path: str
    start: int | None = None
    end: int | None = None


def predict(
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    model: str | nn.Module,
    *,
    topk: int = 5,
    num_clips: int | None = None,
    num_crops: int | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    on_error: Literal["raise", "skip"] = "raise",
    broken: dict[str, str] | None = None,
) -> list[VideoPrediction]:
    """Name the action in each video.

    Args:
        videos: files, folders of numbered images, or ``synthetic:ACTION?seed=3``; one of them or several.
        model: a name of the zoo (without a tag: its first classifier), a folder with ``config.json`` (as a path or
            ``local-dir:``), ``hf-hub:org/name``, or a network, which comes back in its mode and on its device.
        topk: classes per video, at most as many as the model has.
        num_clips, num_crops: views per video, where they shall differ from the model's cfg; the softmax outputs of
            the views are averaged.
        device: where to compute; left out, where the network is, or for a name the GPU if there is one.
        batch_size: clips (views) of one forward pass.
        on_error: stop at a video that cannot be read, or leave it out with a warning.
        broken: with ``skip``, takes up the reason for each path left out, in the place of the warnings.

    Raises:
        UnknownModelError, UnknownTagError, HubError, WeightsError: a model that cannot be had.
        ConfigError: impossible arguments, or a model that is no action classifier.
        VideoDecodeError: a video that cannot be read, with ``on_error="raise"``.
    """
    if topk < 1:
        raise ConfigError(f"topk must be at least 1, got {topk}")
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error is 'raise' or 'skip', got {on_error!r}")
    paths = [os.fspath(videos)] if isinstance(videos, (str, os.PathLike)) else [os.fspath(video) for video in videos]
    where = None if device is None else as_device(device)
    network: nn.Module = load_classifier(model) if isinstance(model, str) else model
    if where is None:
        where = best_device() if isinstance(model, str) else home_of(network)
    cfg = classifier_cfg(network)
    # A name may stand for one of several sets of weights: say which; a folder is known by its path.
    name = model if isinstance(model, str) and not is_model(model) else cfg.name or type(network).__name__
    dataset = ViewDataset([_Item(path) for path in paths], cfg, num_clips=num_clips, num_crops=num_crops)
    found = []
    with evaluating(network, where):
        for index, scores in score_videos(network, dataset, range(len(paths)), batch_size=batch_size, device=where):
            if not isinstance(scores, str):
                found.append(VideoPrediction(paths[index], name, _best(scores.exp(), cfg, topk)))
            elif on_error == "raise":
                raise VideoDecodeError(f"{paths[index]}: {scores}")
            elif broken is not None:
                broken[paths[index]] = scores
            else:
                warnings.warn(f"{paths[index]} is left out: {scores}", stacklevel=2)
    return found


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampled_frames(video: str | os.PathLike[str], cfg: VideoCfg) -> Tensor:
    """The frames that a model of this ``cfg`` looks at when it sees one clip: uint8 ``(T, H, W, 3)``.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    from vidzoo.data.decode import open_video
    from vidzoo.data.sample import ClipSampler

    with open_video(video) as source:
        return source.frames(ClipSampler.from_cfg(cfg).views(source, 1)[0])


def load_classifier(name: str) -> VideoModel:
    """A trained action classifier by its name or from its folder; a name without a tag takes the first that there is.

    Raises:
        UnknownModelError, UnknownTagError, HubError, WeightsError: it cannot be had.
        ConfigError: its weights are an initialisation that has learnt no actions.
    """
    source = model_source(name)
    if ":" not in source:
        source = _first_classifier(resolve_deprecated(source))
    model = create_model(source, pretrained=True)
    classifier_cfg(model)
    return model


def model_source(name: str) -> str:
    """What ``create_model`` takes, for what a user may type: a name, ``hf-hub:``, ``local-dir:``, a folder's path.

    A name of the zoo wins over a folder of the same name; ``./name`` means the folder.

    Raises:
        HubError: a folder that is no model.
    """
    path = Path(name)
    if is_model(name) or name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or not path.exists():
        return name
    if path.is_dir() and (path / "config.json").is_file():
        return f"local-dir:{name}"
    what = "a folder without config.json" if path.is_dir() else "a file"
    raise HubError(f"{name} is {what}, not a model: give a name of the zoo, or the folder that a model was saved to")


def _first_classifier(name: str) -> str:
    arch, tag = split_model_name_tag(name)
    cfgs = [get_pretrained_cfg(name)] if tag else list(get_arch_pretrained_cfgs(arch).values())
    weighted = [cfg for cfg in cfgs if cfg.has_weights]
    for cfg in weighted:
        if cfg.is_classifier:
            return cfg.name
    others = [other for other in list_pretrained() if get_pretrained_cfg(other).is_classifier]
    offer = f"; action classifiers are {', '.join(others[:6])}" if others else ""
    if weighted:
        raise ConfigError(
            f"{weighted[0].name} is an initialisation, not an action classifier: fine-tune it first{offer}"
        )
    raise WeightsError(
        f"{name} has no published weights, so it knows no actions: fine-tune it and name its folder{offer}"
    )


def _best(scores: Tensor, cfg: VideoCfg, topk: int) -> list[LabelScore]:
    best = scores.topk(min(topk, len(scores)))
    named = len(cfg.class_names) == len(scores)
    return [
        LabelScore(label=cfg.class_names[i] if named else f"class {i}", score=value)
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
