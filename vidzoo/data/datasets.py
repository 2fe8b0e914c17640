"""Labelled videos as a torch data set, and the loader that feeds them.

A run is reproducible whatever the number of workers: everything random about a sample follows from
``(seed, epoch, index)``. A video that cannot be read is named once, counted, and skipped or fatal.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vidzoo.data.cache import FrameCache
from vidzoo.data.decode import VideoSource, open_video
from vidzoo.data.listing import VideoItem, VideoList
from vidzoo.data.sample import ClipSampler
from vidzoo.data.transform import Augment, TrainTransform, eval_transform
from vidzoo.errors import ConfigError, DataError, VideoDecodeError
from vidzoo.pretrained import VideoCfg

__all__ = ["IGNORED", "EpochSampler", "Sample", "VideoDataset", "loader"]

IGNORED = -1
"""The label of a broken video's place in an evaluation: leave it out of every figure."""


class Sample(TypedDict):
    """What a data set gives for one index."""

    clip: Tensor
    label: int
    index: int


class VideoDataset(Dataset[Sample]):
    """Clips of labelled videos.

    ``dataset[i]`` is ``{"clip", "label", "index"}``. In training, ``clip`` is one random augmented clip, float32
    ``(C, T, h, w)``; otherwise all views of the video, float32 ``(num_clips * num_crops, C, T, h, w)``, the crops of
    the first clip first.

    Args:
        videos: from :func:`vidzoo.data.listing.scan` or :func:`vidzoo.data.listing.split`.
        cfg: how clips are cut and prepared.
        training: random clips and augmentation, or the fixed views of an evaluation.
        augment: training only; the defaults of :class:`Augment` when not given.
        num_clips, num_crops: evaluation only; the cfg's when not given.
        flip_labels: the label that a mirrored clip of a class has, where it is another one (left for right).
        on_error: ``"skip"``: a broken video is replaced in training by another one of its class (of any class when
            there is none), and in an evaluation gives a zero clip with label :data:`IGNORED`, so that batches keep
            their shape and nothing is counted twice. ``"raise"``: the first broken video ends the run.
        tolerant: read damaged files as far as possible, see :class:`vidzoo.data.decode.VideoFile`.
        seed: of everything random.
        cache: ``"ram"`` keeps decoded videos, so that each is decoded once. Only the process that owns the data set
            fills the cache, never a worker, so memory is spent once: :func:`loader` fills it before it forks workers,
            which then share it. Workers that are spawned instead would each get a copy of it.
        cache_short_side: resize cached frames to this short side; training then sees these smaller frames.
        cache_bytes: once the cache is full, further videos are decoded every time; one warning says so.
        frame_rate: of folders of images.

    Raises:
        DataError: no videos; later, when every video is broken.
        ConfigError: an option that does not exist.
    """

    def __init__(
        self,
        videos: VideoList,
        cfg: VideoCfg,
        *,
        training: bool,
        augment: Augment | None = None,
        num_clips: int | None = None,
        num_crops: int | None = None,
        flip_labels: Mapping[int, int] | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        tolerant: bool = False,
        seed: int = 0,
        cache: Literal["ram"] | None = None,
        cache_short_side: int | None = None,
        cache_bytes: int = 2 << 30,
        frame_rate: float | None = None,
    ) -> None:
        if not videos.items:
            raise DataError("this data set has no videos")
        if on_error not in ("skip", "raise"):
            raise ConfigError(f"on_error must be 'skip' or 'raise', got {on_error!r}")
        if cache not in (None, "ram"):
            raise ConfigError(f"cache must be 'ram' or None, got {cache!r}")
        self.videos = videos
        self.cfg = cfg
        self.training = training
        self.on_error = on_error
        self.tolerant = tolerant
        self.seed = seed
        self.frame_rate = frame_rate
        self.flip_labels = dict(flip_labels or {})
        self.num_clips = cfg.num_clips if num_clips is None else num_clips
        self.num_crops = cfg.num_crops if num_crops is None else num_crops
        augment = augment or Augment()
        self.sampler = ClipSampler.from_cfg(cfg, time_scale=augment.time_scale if training else (1.0, 1.0))
        self._train = TrainTransform(cfg, augment) if training else None
        self._eval = None if training else eval_transform(cfg, num_crops=self.num_crops)
        if self.num_clips < 1:
            raise ConfigError(f"num_clips must be at least 1, got {self.num_clips}")
        self.cache = FrameCache(budget=cache_bytes, short_side=cache_short_side) if cache else None
        self._reasons: dict[int, str] = {}
        # Shared with worker processes: which epoch it is, and which videos any of them has found broken.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._flags = torch.zeros(len(videos.items), dtype=torch.uint8).share_memory_()
        by_label: dict[int, list[int]] = defaultdict(list)
        for i, item in enumerate(videos.items):
            by_label[item.label].append(i)
        self._by_label = dict(by_label)

    def __len__(self) -> int:
        return len(self.videos.items)

    @property
    def epoch(self) -> int:
        """The epoch that random choices belong to; :meth:`set_epoch` reaches running workers too."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Call before iterating over the epoch."""
        self._epoch[0] = epoch

    @property
    def broken(self) -> dict[str, str]:
        """Path and reason of every video found broken so far, by this process or any of its workers."""
        for index in torch.nonzero(self._flags).flatten().tolist():
            if index not in self._reasons:
                # A worker found it: ask the file itself for the reason, for the worker's memory is not ours.
                try:
                    with self._open(self.videos.items[index]) as source:
                        source.frames([0, len(source) - 1])
                    self._reasons[index] = "could not be read by a worker process"
                except (VideoDecodeError, OSError) as error:
                    self._reasons[index] = str(error)
        return {self.videos.items[index].path: self._reasons[index] for index in sorted(self._reasons)}

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"this data set has videos 0 to {len(self) - 1}, got {index}")
        generator = self._generator(index)
        for candidate in self._candidates(index, generator):
            if self._flags[candidate]:
                continue
            try:
                clip, label = self._load(candidate, generator)
            except (VideoDecodeError, OSError) as error:
                self._note(candidate, error)
                continue
            return {"clip": clip, "label": label, "index": index}
        if bool(self._flags.all()):
            reasons = list(self.broken.values())
            raise DataError(f"all {len(self)} videos of this data set are broken, the first because: {reasons[0]}")
        shape = (self.num_clips * self.num_crops, self.cfg.in_chans, self.cfg.num_frames, *self.cfg.eval_crop_size)
        return {"clip": torch.zeros(shape), "label": IGNORED, "index": index}

    def preload(self) -> None:
        """Fill the cache now, as far as its budget goes; broken videos are noted as usual."""
        for index in range(len(self)) if self.cache is not None else ():
            if not self._flags[index]:
                try:
                    self._source(index).close()
                except (VideoDecodeError, OSError) as error:
                    self._note(index, error)

    def _candidates(self, index: int, generator: torch.Generator) -> Iterator[int]:
        """The video itself; in training then the others of its class in random order, then all the rest."""
        yield index
        if not self.training:
            return
        own = self._by_label[self.videos.items[index].label]
        others = [i for i in range(len(self)) if self.videos.items[i].label != self.videos.items[index].label]
        for group in (own, others):
            for place in torch.randperm(len(group), generator=generator).tolist():
                if group[place] != index:
                    yield group[place]

    def _load(self, index: int, generator: torch.Generator) -> tuple[Tensor, int]:
        item = self.videos.items[index]
        with self._source(index) as source:
            if self._train is not None:
                frames = source.frames(self.sampler.training(source, generator))  # (T, H, W, 3)
                clip, flipped = self._train.apply(frames, generator)
                return clip, self.flip_labels.get(item.label, item.label) if flipped else item.label
            views = self.sampler.views(source, self.num_clips)
            # One pass over the file for all clips.
            numbers = sorted({i for view in views for i in view})
            place = {number: k for k, number in enumerate(numbers)}
            frames = source.frames(numbers)
        if self._eval is None:
            raise ConfigError("this data set has no transform for evaluation")
        clips = [self._eval(frames[[place[i] for i in view]]) for view in views]
        return torch.cat(clips), item.label  # (V, C, T, h, w)

    def _source(self, index: int) -> VideoSource:
        if self.cache is None:
            return self._open(self.videos.items[index])
        held = self.cache.get(index)
        if held is not None:
            return held
        source = self._open(self.videos.items[index])
        # A worker's cache would be one more copy, and die with the worker.
        return source if get_worker_info() is not None else self.cache.keep(index, source)

    def _open(self, item: VideoItem) -> VideoSource:
        return open_video(item.path, tolerant=self.tolerant, start=item.start, end=item.end, fps=self.frame_rate)

    def _generator(self, index: int) -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed}/{self.epoch}/{index}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    def _note(self, index: int, error: Exception) -> None:
        if self.on_error == "raise":
            raise DataError(f"a video cannot be used, and on_error is 'raise': {error}") from error
        if not self._flags[index]:
            warnings.warn(f"skipping a broken video: {error}", stacklevel=2)
        self._reasons[index] = str(error)
        self._flags[index] = 1


class EpochSampler(Sampler[int]):
    """Every index once, in an order that follows from ``(seed, epoch)`` and survives a resumed run."""

    def __init__(self, dataset: VideoDataset, *, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        digest = hashlib.blake2b(f"order/{self._seed}/{self._dataset.epoch}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        yield from torch.randperm(len(self), generator=generator).tolist()


def loader(
    dataset: VideoDataset,
    *,
    batch_size: int,
    workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches ``{"clip": (B, ...), "label": (B,), "index": (B,)}``; call ``dataset.set_epoch`` before each epoch.

    A cached data set is filled here, before its workers are forked, and shared with them. Where processes cannot be
    forked it is loaded without workers, for each of them would copy the cache.
    """
    context = None
    if dataset.cache is not None and workers > 0:
        if "fork" in multiprocessing.get_all_start_methods():
            dataset.preload()
            context = "fork"
        else:
            warnings.warn("this system cannot fork: a cached data set is loaded without workers", stacklevel=2)
            workers = 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset, seed=seed) if shuffle else None,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
    )
