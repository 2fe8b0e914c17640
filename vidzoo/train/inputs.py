"""What a run trains on and validates with: the lists of videos, and the batches of every epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Sampler

from vidzoo.data.datasets import VideoDataset
from vidzoo.data.listing import VideoList, scan, split
from vidzoo.data.transform import Augment
from vidzoo.errors import ConfigError, DataError, nearest
from vidzoo.pretrained import VideoCfg
from vidzoo.train.config import parse_pairs

if TYPE_CHECKING:
    from vidzoo.train.config import FinetuneConfig

__all__ = ["EpochBatches", "TrainingData", "Videos", "make_augment", "make_training_data", "read_videos", "seed_of"]


@dataclass(frozen=True)
class Videos:
    """The lists of a run, all with the same class names; ``val`` is None where there is no validation."""

    train: VideoList
    val: VideoList | None
    extra: VideoList | None
    name: str
    """What the data are called in cfg and card."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names


def read_videos(data: str | Path, config: FinetuneConfig) -> Videos:
    """Scan and divide the data as the options say.

    Raises:
        DataError: no videos, fewer than two classes, extra data with other classes, or an impossible split.
        ConfigError: nothing says which videos validate.
    """
    found = scan(data)
    val: VideoList | None
    if config.val_none:
        train, val = found, None
    elif config.val_match is not None or config.val_fraction is not None:
        train, val = split(found, val_match=config.val_match, val_fraction=config.val_fraction, seed=config.seed)
    else:
        train, val = split(found)
        if config.val is not None:
            val = scan(config.val, class_names=found.class_names)
        if not val.items:
            raise ConfigError(
                f"{data} does not say which videos validate (it has no val/ folder): give --val DATA, "
                "--val-match PATTERN, --val-fraction SHARE, or --val-none to train on everything"
            )
    if len(found.class_names) < 2:
        raise DataError(f"{data} has one class only ({', '.join(found.class_names)}): there is nothing to tell apart")
    if not train.items:
        raise DataError(f"{data} leaves no videos to train on")
    extras = [item for more in config.extra for item in scan(more, class_names=found.class_names).items]
    extra = train.only(extras) if extras else None
    if extra is not None and (config.extra_samples or 0) > len(extra):
        raise ConfigError(
            f"extra_samples is {config.extra_samples}, but the extra data have {len(extra)} videos: ask for fewer, "
            "or give more (synthetic:actions?videos_per_class=1000)"
        )
    return Videos(train, val, extra, " + ".join(map(_called, (data, *config.extra))))


def make_augment(config: FinetuneConfig) -> Augment:
    """The augmentation that ``key=value`` options describe.

    Raises:
        ConfigError: a field that does not exist, or a value that it cannot have.
    """
    values = parse_pairs(config.augment, what="augmentations")
    names = [field.name for field in dataclasses.fields(Augment)]
    for key in values:
        if key not in names:
            raise ConfigError(f"there is no augmentation {key!r}: {nearest(key, names)}")
    try:
        return Augment(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the augmentation {' '.join(config.augment)} cannot be meant: {error}") from error


class EpochBatches(Sampler[list[int]]):
    """This process's batches of an epoch: every draw of the training data once, extra videos in turn, in random order.

    All follows from ``(seed, epoch)``; what does not fill a batch in every process is left to another epoch.

    Args:
        main: number of draws from the training data.
        extra: number of videos in the extra data; their indices follow those of the draws.
        extra_samples: how many of them an epoch takes, going round until each has had its turn.
    """

    def __init__(
        self,
        main: int,
        *,
        batch_size: int,
        seed: int,
        extra: int = 0,
        extra_samples: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.main, self.extra, self.extra_samples = main, extra, extra_samples
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = 0
        total = main + extra_samples
        if total < batch_size * world:
            raise ConfigError(
                f"an epoch has {total} clips, fewer than one batch of {batch_size}"
                + (f" in each of {world} processes" if world > 1 else "")
                + ": lower --batch-size or raise --samples-per-video"
            )

    def __len__(self) -> int:
        return (self.main + self.extra_samples) // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        draws = torch.cat([torch.arange(self.main), self.main + self._extras()])
        order = draws[_permutation(len(draws), self.seed, "order", self.epoch)].tolist()
        for batch in range(len(self)):
            start = (batch * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size]

    def _extras(self) -> torch.Tensor:
        places = torch.arange(self.extra_samples) + self.epoch * self.extra_samples
        if not self.extra_samples:
            return places
        rounds = range(int(places[0]) // self.extra, int(places[-1]) // self.extra + 1)
        queue = torch.cat([_permutation(self.extra, self.seed, "extra", number) for number in rounds])
        return queue[places - rounds[0] * self.extra]


@dataclass(frozen=True)
class TrainingData:
    """The loader of a process, and the data sets behind it."""

    loader: DataLoader[Any]
    batches: EpochBatches
    datasets: tuple[VideoDataset, ...]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the random clips of an epoch."""
        self.batches.epoch = epoch
        for dataset in self.datasets:
            dataset.set_epoch(epoch)

    @property
    def broken(self) -> dict[str, str]:
        """Path and reason of every video that could not be read so far."""
        return {path: reason for dataset in self.datasets for path, reason in dataset.broken.items()}


def make_training_data(
    videos: Videos, cfg: VideoCfg, config: FinetuneConfig, *, rank: int = 0, world: int = 1, pin_memory: bool = False
) -> TrainingData:
    """Data sets, batches and loader of one process.

    Raises:
        ConfigError: fewer clips than one batch, or an augmentation that cannot be meant.
    """
    augment = make_augment(config)

    def dataset(part: VideoList, draw: int, cached: bool) -> VideoDataset:
        return VideoDataset(
            part,
            cfg,
            training=True,
            augment=augment,
            on_error=config.on_error,
            seed=seed_of(config.seed, "draw", draw),
            cache="ram" if cached else None,
            cache_bytes=int(config.cache_gib * 2**30),
        )

    # One data set per draw of a video: they differ in their seed and share the decoded frames.
    main = [dataset(videos.train, draw, config.cache == "ram") for draw in range(config.samples_per_video)]
    for other in main[1:]:
        other.cache = main[0].cache
    extra = [] if videos.extra is None else [dataset(videos.extra, -1, config.cache == "ram" and config.cache_extra)]
    size = len(videos.extra) if videos.extra else 0
    batches = EpochBatches(
        len(videos.train) * config.samples_per_video,
        batch_size=config.batch_size,
        seed=config.seed,
        extra=size,
        extra_samples=config.extra_samples or size,
        rank=rank,
        world=world,
    )
    workers, context = _workers(main[0], extra, config)
    loader: DataLoader[Any] = DataLoader(
        ConcatDataset([*main, *extra]),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        # Its own generator: starting workers must not move the one that dropout and mixup draw from.
        generator=torch.Generator().manual_seed(config.seed),
    )
    return TrainingData(loader, batches, (*main, *extra))


def _workers(main: VideoDataset, extra: list[VideoDataset], config: FinetuneConfig) -> tuple[int, str | None]:
    """Cached frames are decoded once, before the workers are forked, and shared with them."""
    cached = [dataset for dataset in (main, *extra) if dataset.cache is not None]
    if not cached or config.workers == 0:
        return config.workers, None
    if "fork" not in multiprocessing.get_all_start_methods():
        warnings.warn("this system cannot fork: cached videos are loaded without workers", stacklevel=2)
        return 0, None
    for dataset in cached:
        dataset.preload()
    return config.workers, "fork"


def seed_of(*parts: object) -> int:
    """One seed from several values; equal values give equal seeds on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def _permutation(size: int, *parts: object) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(*parts)))


def _called(data: object) -> str:
    text = str(data)
    return text if text.startswith("synthetic:") else Path(text).resolve().name
