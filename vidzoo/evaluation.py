"""How good a model is on a list of videos: multi-view testing, and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, DataError, DistributedError, MissingExtraError, VideoDecodeError, VidzooError
from vidzoo.modes import as_device, evaluating, home_of
from vidzoo.pretrained import VideoCfg
from vidzoo.scoring import Average, Order, ViewDataset, classifier_cfg, score_videos

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vidzoo.data.listing import VideoList

__all__ = ["Report", "evaluate"]

# A wider confusion matrix cannot be read in a terminal.
_WIDEST_MATRIX = 20


@dataclass(frozen=True)
class Report:
    """Result of :func:`evaluate`. Accuracies are shares in ``[0, 1]``; ``loss`` is the mean cross-entropy in nats.

    ``mean_class`` and ``per_class`` are over the classes that occur; ``confusion[truth][prediction]`` counts videos,
    both in the order of ``class_names``; ``broken`` says why a video was left out; ``views`` is (clips, crops).
    """

    top1: float
    top5: float
    mean_class: float
    loss: float
    num_videos: int
    per_class: Mapping[str, float]
    confusion: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    broken: Mapping[str, str]
    views: tuple[int, int]
    order: Order
    average: Average

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "loss": self.loss,
            "num_videos": self.num_videos,
            "per_class": dict(self.per_class),
            "confusion": [list(row) for row in self.confusion],
            "class_names": list(self.class_names),
            "broken": dict(self.broken),
            "views": {"num_clips": self.views[0], "num_crops": self.views[1]},
            "order": self.order,
            "average": self.average,
        }

    def to_text(self) -> str:
        """A table to read: the figures, each class, who is taken for whom, what could not be read."""
        clips, crops = self.views
        frames = "" if self.order == "normal" else f", frames {self.order}"
        lines = [
            f"{self.num_videos} videos, {len(self.class_names)} classes, {clips} x {crops} views{frames}",
            "",
            f"top-1 {self.top1:.2%}   top-5 {self.top5:.2%}   mean class {self.mean_class:.2%}   loss {self.loss:.4f}",
            "",
            *self._class_lines(),
            "",
            *(self._matrix_lines() if len(self.class_names) <= _WIDEST_MATRIX else self._mistake_lines()),
        ]
        if self.broken:
            lines += ["", f"{len(self.broken)} could not be read, not counted:"]
            lines += [f"  {path}: {reason}" for path, reason in self.broken.items()]
        return "\n".join(line.rstrip() for line in lines)

    def _class_lines(self) -> list[str]:
        width = max(map(len, (*self.class_names, "class")))
        lines = [f"{'class':<{width}}  videos  accuracy"]
        for name, row in zip(self.class_names, self.confusion, strict=True):
            share = f"{self.per_class[name]:8.1%}" if name in self.per_class else f"{'-':>8}"
            lines.append(f"{name:<{width}}  {sum(row):6d}  {share}")
        return lines

    def _matrix_lines(self) -> list[str]:
        names = max(map(len, self.class_names))
        cell = max(len(str(max(map(max, self.confusion)))), len(str(len(self.class_names) - 1))) + 1
        number = len(str(len(self.class_names) - 1))
        head = "".join(f"{i:>{cell}}" for i in range(len(self.class_names)))
        lines = ["confusion (rows: truth, columns: prediction)", f"{'':>{number}} {'':<{names}} {head}"]
        for i, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True)):
            lines.append(f"{i:>{number}} {name:<{names}} " + "".join(f"{count or '.':>{cell}}" for count in row))
        return lines

    def _mistake_lines(self) -> list[str]:
        mistakes = [
            (count, self.class_names[i], self.class_names[j])
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        worst = sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))[:10]
        lines = [f"  {count:5d}  {truth} taken for {guess}" for count, truth, guess in worst]
        return ["most frequent mistakes", *(lines or ["  none"])]


def evaluate(
    model: nn.Module,
    videos: VideoList,
    cfg: VideoCfg | None = None,
    *,
    num_clips: int | None = None,
    num_crops: int | None = None,
    order: Order = "normal",
    average: Average = "scores",
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device | None = None,
    accelerator: Accelerator | None = None,
    seed: int = 0,
    on_error: Literal["skip", "raise"] = "skip",
    progress: bool = False,
) -> Report:
    """Test a classifier on labelled videos; the model comes back in the mode and on the device where it was.

    Args:
        model: takes ``(B, C, T, H, W)``, answers with logits; may be wrapped by the ``accelerator``.
        videos: what ``vidzoo.data.listing.scan`` returns. Its classes must be the model's, in any order.
        cfg: how to cut and normalise clips; left out, the model's own.
        num_clips, num_crops: views per video, where they shall differ from the cfg.
        order: a probe of what the model knows from motion: frames of a clip in random order, backwards, or the middle
            frame repeated.
        average: of the views of a video. ``scores``: of the softmax outputs, as SlowFast's test code sums them;
            ``logits``: of the logits, as TSN's consensus does.
        batch_size: clips (views) of one forward pass.
        workers: processes that decode.
        device: where to compute; left out, where the model is.
        accelerator: share the videos among the processes of an ``accelerate.Accelerator``. Every process calls, every
            process gets the same report; each video is counted once, whatever the number of processes.
        seed: of the random order.
        on_error: leave out a video that cannot be read and list it in the report, or stop.
        progress: a bar on stderr (needs the extra ``train``).

    Raises:
        ConfigError: impossible arguments, or a model that is no classifier.
        DataError: no videos, none that can be read, or classes that differ from the model's.
        VideoDecodeError: a video that cannot be read, with ``on_error="raise"``.
        WeightsError: the model answers with NaN or infinite logits.
        DistributedError: another process failed.
    """
    if on_error not in ("skip", "raise"):
        raise ConfigError(f"on_error is 'skip' or 'raise', got {on_error!r}")
    if accelerator is not None and device is not None:
        raise ConfigError("give either device or accelerator: the accelerator has a device of its own")
    network = model if accelerator is None else accelerator.unwrap_model(model)
    cfg = classifier_cfg(network, cfg)
    if not videos.items:
        raise DataError("there are no videos to evaluate: the list is empty")
    names, columns = _match_classes(videos, cfg)
    dataset = ViewDataset(videos.items, cfg, num_clips=num_clips, num_crops=num_crops, order=order, seed=seed)

    rank, world = 0, 1
    where = home_of(network) if device is None else as_device(device)
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    if accelerator is not None:
        rank, world, where, autocast = (
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.device,
            accelerator.autocast,
        )
        _share_buffers(network, world)
    mine = range(rank, len(dataset), world)

    results: list[tuple[int, list[float] | str]] = []
    failure: VidzooError | None = None
    try:
        with evaluating(network, where):
            found = score_videos(
                network,
                dataset,
                mine,
                batch_size=batch_size,
                workers=workers,
                device=where,
                average=average,
                autocast=autocast,
            )
            for index, scores in _with_bar(found, len(mine), progress and rank == 0):
                if isinstance(scores, str) and on_error == "raise":
                    raise VideoDecodeError(f"{videos.items[index].path}: {scores}")
                results.append((index, scores if isinstance(scores, str) else scores.tolist()))
    except VidzooError as error:
        if world == 1:
            raise
        failure = error
    if world > 1:
        results = _gather(results, failure)

    return _report(results, videos, names, columns, (dataset.num_clips, dataset.num_crops), order, average)


def _match_classes(videos: VideoList, cfg: VideoCfg) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes in the order of the data, and for each the output of the model that means it.

    Raises:
        DataError: the classes differ.
    """
    data, model = tuple(videos.class_names), tuple(cfg.class_names)
    names = data or model or tuple(str(i) for i in range(cfg.num_classes))
    for item in videos.items:
        if not 0 <= item.label < len(names):
            raise DataError(
                f"{item.path} has the label {item.label}, but there are only the classes 0 to {len(names) - 1}"
            )
    if model and data and model != data:
        lacking = [name for name in data if name not in set(model)]
        unseen = [name for name in model if name not in set(data)]
        if lacking or unseen:
            parts = [f"the model does not know {_some(lacking)}"] if lacking else []
            parts += [f"the data have no {_some(unseen)}"] if unseen else []
            raise DataError(
                f"the {len(data)} classes of the data are not the {len(model)} of {cfg.name or 'the model'}: "
                f"{' and '.join(parts)}; use data of the same classes, or fine-tune the model on these"
            )
        place = {name: i for i, name in enumerate(model)}
        return data, [place[name] for name in data]
    if data and len(data) != cfg.num_classes:
        raise DataError(
            f"the data have {len(data)} classes, {cfg.name or 'the model'} has {cfg.num_classes}: they must be the same"
        )
    return names, list(range(len(names)))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _with_bar(found: Iterable[tuple[int, Tensor | str]], total: int, show: bool) -> Iterable[tuple[int, Tensor | str]]:
    if not show:
        return found
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError("tqdm", "train", "a progress bar") from error
    bar: Iterable[tuple[int, Tensor | str]] = tqdm(found, total=total, unit="video", leave=False)
    return bar


def _share_buffers(model: nn.Module, world: int) -> None:
    # Running statistics drift apart between processes in training; a report is about one network, that of process 0.
    if world > 1:
        from accelerate.utils import broadcast

        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.detach().clone()))


def _gather(
    results: list[tuple[int, list[float] | str]], failure: VidzooError | None
) -> list[tuple[int, list[float] | str]]:
    from accelerate.utils import gather_object

    # Everybody hears of a failure before anybody stops, or the others would wait for ever.
    failures = [text for text in gather_object([None if failure is None else str(failure)]) if text is not None]
    if failure is not None:
        raise failure
    if failures:
        raise DistributedError(f"another process of this evaluation failed: {failures[0]}")
    everything: list[tuple[int, list[float] | str]] = gather_object(results)
    return sorted(everything, key=lambda result: result[0])


def _report(
    results: Sequence[tuple[int, list[float] | str]],
    videos: VideoList,
    names: tuple[str, ...],
    columns: list[int],
    views: tuple[int, int],
    order: Order,
    average: Average,
) -> Report:
    broken = {str(videos.items[i].path): scores for i, scores in results if isinstance(scores, str)}
    good = [(videos.items[i].label, scores) for i, scores in results if not isinstance(scores, str)]
    if not good:
        path, reason = next(iter(broken.items()))
        raise DataError(f"none of the {len(results)} videos can be read; the first is {path}: {reason}")
    labels = torch.tensor([label for label, _ in good])  # (N,)
    logs = torch.tensor([scores for _, scores in good], dtype=torch.float64)  # (N, num_classes)
    if logs.shape[1] != len(columns):
        raise ConfigError(
            f"the model has {logs.shape[1]} outputs, but its cfg and the data speak of {len(columns)} classes"
        )
    logs = logs[:, columns]
    classes = len(names)
    ranked = logs.topk(min(5, classes), dim=1).indices  # (N, 5)
    hits = ranked == labels[:, None]
    confusion = torch.bincount(labels * classes + ranked[:, 0], minlength=classes * classes).view(classes, classes)
    counts = confusion.sum(1)
    per_class = {name: int(confusion[i, i]) / int(counts[i]) for i, name in enumerate(names) if int(counts[i]) > 0}
    return Report(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        mean_class=math.fsum(per_class.values()) / len(per_class),
        loss=-logs.gather(1, labels[:, None]).mean().item(),
        num_videos=len(good),
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        class_names=names,
        broken=broken,
        views=views,
        order=order,
        average=average,
    )
