"""Fine-tuning from beginning to end: data, network, epochs, the best weights, a model folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidzoo import hub
from vidzoo.evaluation import Report, evaluate
from vidzoo.hub.card import model_card
from vidzoo.models.base import VideoModel
from vidzoo.train.card import training_section
from vidzoo.train.checkpointing import RunFolder
from vidzoo.train.config import FinetuneConfig
from vidzoo.train.distributed import make_accelerator
from vidzoo.train.inputs import Videos, make_training_data, read_videos, seed_of
from vidzoo.train.start import build_model
from vidzoo.train.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["FinetuneResult", "finetune"]


@dataclass(frozen=True)
class FinetuneResult:
    """What a run leaves: ``model`` holds the weights that lie in ``out``, ``report`` their validation figures."""

    out: Path
    model: VideoModel
    epoch: int
    """The epoch, counted from 1, after which the model had these weights."""
    report: Report | None
    history: tuple[Mapping[str, Any], ...]
    """The rows of ``results.csv``."""
    broken: Mapping[str, str]
    """Path and reason of every training video that could not be read."""


def finetune(
    model: str,
    data: str | Path,
    out: str | Path,
    config: FinetuneConfig | None = None,
    *,
    progress: bool = False,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> FinetuneResult:
    """Train ``model`` on the classes of ``data``; the best weights become a model folder that ``local-dir:OUT`` loads.

    The best epoch is that of the highest validation top-1, then of the lowest loss; without validation, or with
    ``keep="last"``, the last epoch's weights are kept.
    Under torchrun every process calls this and the clips of each update are shared out. After an interruption, the same
    call with ``resume=True`` goes on from the last whole epoch and ends, on a CPU, in the very same weights.

    Args:
        model: a zoo name, ``local-dir:path`` or ``hf-hub:org/name``.
        data: what :func:`vidzoo.data.scan` reads.
        out: a new or empty folder, unless ``config.resume`` or ``config.overwrite``.
        progress: a bar on stderr, where that is a terminal.
        on_epoch: called with each row of ``results.csv``, in the main process.

    Raises:
        ConfigError: options that cannot be meant, or an output folder that cannot be used.
        DataError, VideoDecodeError: data that cannot be used.
        UnknownModelError, WeightsError, HubError: a start that cannot be loaded.
        DistributedError: not as many processes as were asked for.
        MissingExtraError: accelerate is not installed.
        DivergedError: the loss became NaN or infinite.
    """
    config = config or FinetuneConfig()
    accelerator = make_accelerator(processes=config.processes)
    folder = RunFolder(out)
    if accelerator.is_main_process:
        folder.prepare(resume=config.resume, overwrite=config.overwrite)
    accelerator.wait_for_everyone()
    # The caller's random numbers stay his own.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "start"))
        return _Run(model, data, folder, config, accelerator, progress, on_epoch).finish()


class _Run:
    def __init__(
        self,
        model: str,
        data: str | Path,
        folder: RunFolder,
        config: FinetuneConfig,
        accelerator: Accelerator,
        progress: bool,
        on_epoch: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self.folder, self.config, self.accelerator = folder, config, accelerator
        self.progress, self.on_epoch = progress, on_epoch
        self.settings = {**config.to_dict(), "model": model, "data": str(data), "world": accelerator.num_processes}
        state = folder.load_last(self.settings) if config.resume else None
        self.videos: Videos = read_videos(data, config)
        network = build_model(model, self.videos.class_names, self.videos.name, config)
        self.start = network.pretrained_cfg.source.rpartition(" from ")[2]
        self.base_model = model.partition(":")[2].partition("@")[0] if model.startswith(("hf-hub:", "hf_hub:")) else ""
        if config.channels_last:
            network = network.to(memory_format=torch.channels_last_3d)
        network = network.to(accelerator.device)
        loading = make_training_data(
            self.videos,
            network.pretrained_cfg,
            config,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            pin_memory=accelerator.device.type == "cuda",
        )
        self.trainer = Trainer(network, loading, config, accelerator)
        if config.overwrite and accelerator.is_main_process:
            folder.clear()  # only now: whatever the options had wrong has been said, and the start may lie in this folder
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        if state is not None:
            self.trainer.load_state_dict(state["trainer"])
            self.rows, self.best = state["rows"], state["best"]

    def finish(self) -> FinetuneResult:
        """Train what is left, and write the model folder."""
        while self.trainer.epoch < self.config.epochs:
            self._epoch()
        self.accelerator.wait_for_everyone()
        network, epoch = self.trainer.result, self.trainer.epoch
        if self.best is not None and self.config.keep == "best":
            network.load_state_dict(self.folder.load_best())
            epoch = self.best["epoch"]
        report = self._validate()
        broken = self.trainer.data.broken
        if self.accelerator.is_main_process:
            self._save(network, epoch, report, len(broken))
        self.accelerator.wait_for_everyone()
        return FinetuneResult(self.folder.path, network.eval(), epoch, report, tuple(self.rows), broken)

    def _epoch(self) -> None:
        began = time.monotonic()
        figures = self.trainer.train_epoch(progress=self.progress)
        epoch, last = self.trainer.epoch, self.trainer.epoch == self.config.epochs
        due = last or epoch % self.config.val_every == 0
        report = self._validate() if due else None
        row = {
            "epoch": epoch,
            "lr": figures["lr"],
            "train_loss": figures["loss"],
            "train_top1": 100 * figures["top1"],
            "val_loss": None if report is None else report.loss,
            "val_top1": None if report is None else 100 * report.top1,
            "val_top5": None if report is None else 100 * report.top5,
            "seconds": time.monotonic() - began,
        }
        self.rows.append(row)
        better = report is not None and (self.best is None or _rank(row) > _rank(self.best))
        if better:
            self.best = row
        if not self.accelerator.is_main_process:
            return
        if better and self.config.keep == "best":
            self.folder.save_best(self.trainer.result.state_dict())
        self.folder.write_rows(self.rows)
        if last or epoch % self.config.save_every == 0:
            self.folder.save_last(
                {"settings": self.settings, "trainer": self.trainer.state_dict(), "rows": self.rows, "best": self.best}
            )
        if self.on_epoch is not None:
            self.on_epoch(row)

    def _validate(self) -> Report | None:
        if self.videos.val is None:
            return None
        return evaluate(
            self.trainer.result,
            self.videos.val,
            batch_size=self.config.batch_size,
            workers=self.config.workers,
            accelerator=self.accelerator,
            on_error=self.config.on_error,
        )

    def _save(self, network: VideoModel, epoch: int, report: Report | None, broken: int) -> None:
        metrics = {} if report is None else {"top1": 100 * report.top1, "top5": 100 * report.top5}
        section = training_section(
            self.videos,
            self.config,
            start=self.start if "fine-tuned" in network.pretrained_cfg.source else "",
            epoch=epoch,
            processes=self.accelerator.num_processes,
            report=report,
            broken=broken,
        )
        card = model_card(
            network.pretrained_cfg,
            f"{network.pretrained_cfg.architecture} on {self.videos.name}",
            metrics,
            model_args=network.model_args,
            base_model=self.base_model,
        )
        hub.save_pretrained(network, self.folder.path, card=f"{card.rstrip()}\n\n{section}", metrics=metrics)


def _rank(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["val_top1"], -row["val_loss"]
