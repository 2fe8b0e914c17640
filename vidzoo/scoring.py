"""From videos to class scores: decode, cut the views, run the network, average over the views.

Used by testing and by prediction, which therefore see the same numbers for the same video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from vidzoo.data.decode import open_video
from vidzoo.data.sample import ClipSampler, reorder
from vidzoo.data.transform import eval_transform
from vidzoo.errors import ConfigError, DataError, VideoDecodeError, WeightsError
from vidzoo.pretrained import VideoCfg

__all__ = ["Average", "Order", "ScoredItem", "ViewDataset", "classifier_cfg", "score_videos"]

Order = Literal["normal", "shuffled", "reversed", "still"]
Average = Literal["scores", "logits"]
ORDERS: tuple[Order, ...] = ("normal", "shuffled", "reversed", "still")
AVERAGES: tuple[Average, ...] = ("scores", "logits")


class ScoredItem(Protocol):
    """What is asked of an entry of a list of videos."""

    @property
    def path(self) -> str: ...

    @property
    def start(self) -> int | None: ...

    @property
    def end(self) -> int | None: ...


class ViewDataset(torch.utils.data.Dataset[tuple[int, Tensor | str]]):
    """``self[i]``: ``i`` and all views of video ``i``, float ``(clips * crops, C, T, H, W)``, or why it cannot be read.

    A video that cannot be read is a string, not an exception, so that the reason survives the way out of a worker.
    """

    def __init__(
        self,
        items: Sequence[ScoredItem],
        cfg: VideoCfg,
        *,
        num_clips: int | None = None,
        num_crops: int | None = None,
        order: Order = "normal",
        seed: int = 0,
    ) -> None:
        if order not in ORDERS:
            raise ConfigError(f"order is one of {', '.join(map(repr, ORDERS))}, got {order!r}")
        self.num_clips = cfg.num_clips if num_clips is None else num_clips
        if self.num_clips < 1:
            raise ConfigError(f"num_clips must be at least 1, got {num_clips}")
        self.num_crops = cfg.num_crops if num_crops is None else num_crops
        self.items = items
        self.cfg = cfg
        self.order = order
        self.seed = seed
        self.sampler = ClipSampler.from_cfg(cfg)
        eval_transform(cfg, num_crops=num_crops)  # refuses an impossible number now, not in a worker

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        item = self.items[index]
        try:
            with open_video(item.path, start=item.start, end=item.end) as source:
                clips = self.sampler.views(source, self.num_clips)
                if self.order != "normal":
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
                    clips = [reorder(clip, self.order, generator) for clip in clips]
                frames = source.frames([number for clip in clips for number in clip])  # (clips * T, H, W, 3)
            transform = eval_transform(self.cfg, num_crops=self.num_crops)
            views = torch.cat([transform(clip) for clip in frames.split([len(clip) for clip in clips])])
        except (VideoDecodeError, DataError, OSError) as error:
            return index, str(error).removeprefix(f"{item.path}: ")
        return index, views


def score_videos(
    model: nn.Module,
    dataset: ViewDataset,
    indices: Iterable[int],
    *,
    batch_size: int,
    workers: int = 0,
    device: torch.device,
    average: Average = "scores",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[int, Tensor | str]]:
    """For each of ``indices`` in turn: ``i`` and float64 log-probabilities ``(num_classes,)``, or why it is unreadable.

    Args:
        model: in evaluation mode and on ``device`` already.
        batch_size: clips (views, not videos) of one forward pass.
        average: over the views of a video: ``scores`` the softmax outputs, ``logits`` the logits before softmax.

    Raises:
        ConfigError: a batch size, a number of workers or an average that cannot be meant.
        WeightsError: the network answers with NaN or infinite logits.
    """
    if batch_size < 1 or workers < 0:
        raise ConfigError(f"batch_size must be at least 1 and workers at least 0, got {batch_size} and {workers}")
    if average not in AVERAGES:
        raise ConfigError(f"average is one of {', '.join(map(repr, AVERAGES))}, got {average!r}")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, list(indices)), batch_size=None, num_workers=workers, pin_memory=False
    )
    waiting: list[tuple[int, Tensor | str]] = []
    for index, views in loader:
        waiting.append((index, views))
        if sum(len(v) for _, v in waiting if isinstance(v, Tensor)) >= batch_size:
            yield from _score_batch(model, dataset, waiting, batch_size, device, average, autocast)
            waiting = []
    yield from _score_batch(model, dataset, waiting, batch_size, device, average, autocast)


def classifier_cfg(model: nn.Module, cfg: VideoCfg | None = None) -> VideoCfg:
    """How to feed ``model`` and what its classes are called: ``cfg``, or what it says itself.

    Raises:
        ConfigError: it does not say, it has no classifier, or only one that has learnt nothing about actions.
    """
    found = cfg if cfg is not None else getattr(model, "pretrained_cfg", None)
    name = type(model).__name__
    if not isinstance(found, VideoCfg):
        raise ConfigError(f"{name} has no pretrained_cfg that says how to feed it: give cfg=VideoCfg(...)")
    if getattr(model, "num_classes", found.num_classes) == 0:
        raise ConfigError(f"{found.name or name} has no classifier (num_classes=0), so it has no class to name")
    if not found.is_classifier:
        raise ConfigError(f"{found.name or name} is an initialisation, not an action classifier: fine-tune it first")
    return found


def _score_batch(
    model: nn.Module,
    dataset: ViewDataset,
    waiting: Sequence[tuple[int, Tensor | str]],
    batch_size: int,
    device: torch.device,
    average: Average,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[int, Tensor | str]]:
    stacks = [views for _, views in waiting if isinstance(views, Tensor)]
    if stacks:
        outputs = []
        for clips in torch.cat(stacks).split(batch_size):
            with torch.inference_mode(), autocast():
                outputs.append(model(clips.to(device, non_blocking=True)).double().cpu())
        per_video = iter(torch.cat(outputs).split([len(views) for views in stacks]))
    for index, views in waiting:
        if isinstance(views, str):
            yield index, views
            continue
        logits = next(per_video)  # (V, num_classes)
        if not bool(logits.isfinite().all()):
            raise WeightsError(
                f"{dataset.items[index].path}: the network answers with NaN or infinite logits; its weights, its "
                "normalisation or its precision are not what they should be"
            )
        if average == "logits":
            yield index, logits.mean(0).log_softmax(0)
        else:
            yield index, logits.log_softmax(1).logsumexp(0) - math.log(len(logits))
