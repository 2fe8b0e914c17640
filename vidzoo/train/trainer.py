"""One epoch of training, and everything that a run must remember between two of them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from vidzoo.data.mix import mixup_cutmix
from vidzoo.errors import ConfigError, VidzooError
from vidzoo.models.base import VideoModel
from vidzoo.train.distributed import average_buffers
from vidzoo.train.inputs import TrainingData, seed_of
from vidzoo.train.optimiser import create_optimiser, create_schedule, freeze, train_mode

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vidzoo.train.config import FinetuneConfig

__all__ = ["DivergedError", "Trainer"]


class DivergedError(VidzooError, ArithmeticError):
    """The loss is no longer a number."""


class Trainer:
    """A network, its optimiser and schedule, and the average of its weights.

    Args:
        network: on the accelerator's device already.
        accelerator: wraps the network where there are several processes; precision and accumulation are done here.

    Raises:
        ConfigError: nothing to train, an optimiser that does not exist, or fp16 without a GPU.
    """

    def __init__(
        self, network: VideoModel, data: TrainingData, config: FinetuneConfig, accelerator: Accelerator
    ) -> None:
        from timm.utils import ModelEmaV3

        self.network, self.data, self.config, self.accelerator = network, data, config, accelerator
        device = accelerator.device.type
        if config.mixed_precision == "fp16" and device != "cuda":
            raise ConfigError(f"fp16 needs a GPU and this run is on the {device}: take bf16 or no mixed precision")
        self.frozen = freeze(network, norms=config.freeze_bn, backbone=config.freeze_backbone)
        self.ema = (
            ModelEmaV3(network, decay=config.ema_decay, use_warmup=config.ema_warmup) if config.ema_decay else None
        )
        self.optimiser = create_optimiser(network, config)
        self.updates_per_epoch = math.ceil(len(data.batches) / config.grad_accum)
        self.schedule = create_schedule(self.optimiser, config, updates_per_epoch=self.updates_per_epoch)
        self.scaler = torch.amp.GradScaler(device, enabled=config.mixed_precision == "fp16")
        self.wrapped = accelerator.prepare_model(network)
        self.epoch = 0
        """Epochs that are over."""

    @property
    def result(self) -> VideoModel:
        """The network that is validated and kept: the averaged one where there is one."""
        averaged: VideoModel | None = None if self.ema is None else self.ema.module
        return self.network if averaged is None else averaged

    def train_epoch(self, *, progress: bool = False) -> dict[str, float]:
        """One pass; returns ``loss`` (nats), ``top1`` (in ``[0, 1]``, of the clips as augmented) and the last ``lr``.

        Raises:
            DivergedError: the loss is NaN or infinite; the weights are not touched by that step.
        """
        config, device = self.config, self.accelerator.device
        # Every epoch starts from seeds of its own, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed(seed_of(config.seed, "epoch", self.epoch, self.accelerator.process_index))
        mixing = torch.Generator().manual_seed(seed_of(config.seed, "mix", self.epoch, self.accelerator.process_index))
        self.data.set_epoch(self.epoch)
        train_mode(self.wrapped, self.frozen)
        steps, updates = len(self.data.batches), self.epoch * self.updates_per_epoch
        totals = torch.zeros(3, dtype=torch.float64)  # loss, hits, clips
        lr = 0.0
        for step, batch in enumerate(_with_bar(self.data.loader, steps, progress and self.accelerator.is_main_process)):
            clips = batch["clip"].to(device, non_blocking=True)  # (B, C, T, H, W)
            labels = batch["label"].to(device, non_blocking=True)  # (B,)
            if config.channels_last:
                clips = clips.contiguous(memory_format=torch.channels_last_3d)
            first = step - step % config.grad_accum
            group = min(config.grad_accum, steps - first)
            last = step == first + group - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss, logits = self._loss(clips, labels, mixing)
                value = loss.item()
                if not math.isfinite(value):
                    raise DivergedError(
                        f"the loss became {value} in epoch {self.epoch + 1}, step {step + 1} of {steps}: "
                        "try a lower --lr, a longer --warmup-epochs or a smaller --clip-grad, or another precision"
                    )
                self.scaler.scale(loss / group).backward()
            hits = (logits.argmax(1) == labels).sum().item()
            totals += torch.tensor([value * len(labels), hits, len(labels)], dtype=torch.float64)
            if last:
                lr = max(g["lr"] / g.get("lr_scale", 1.0) for g in self.optimiser.param_groups)
                self._update()
                updates += 1
                self.schedule.step_update(updates)
                if self.ema is not None:
                    self.ema.update(self.network, step=updates)
        self.epoch += 1
        for model in {id(m): m for m in (self.network, self.result)}.values():
            average_buffers(model, self.accelerator)
        loss_sum, hit_sum, count = self.accelerator.reduce(totals.to(device, torch.float32)).tolist()
        return {"loss": loss_sum / count, "top1": hit_sum / count, "lr": lr}

    def _loss(self, clips: Tensor, labels: Tensor, mixing: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        targets = labels
        smoothing = config.label_smoothing
        if max(config.mixup, config.cutmix) > 0 and float(torch.rand((), generator=mixing)) < config.mix_prob:
            clips, targets = mixup_cutmix(
                clips, labels, self.network.num_classes, config.mixup, config.cutmix, mixing, smoothing=smoothing
            )
            smoothing = 0.0
        kind = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
        with torch.autocast(self.accelerator.device.type, dtype=kind, enabled=config.mixed_precision != "no"):
            logits = self.wrapped(clips)
        logits = logits.float()  # (B, num_classes)
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing), logits

    def _update(self) -> None:
        self.scaler.unscale_(self.optimiser)
        if self.config.clip_grad > 0:
            trained = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.config.clip_grad)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only; equal in every process."""
        return {
            "epoch": self.epoch,
            "model": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; seeds follow from the epoch."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.step_update(self.epoch * self.updates_per_epoch)


def _with_bar(batches: Any, total: int, show: bool) -> Any:
    if not show:
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, total=total, unit="step", leave=False, disable=None)  # None: silent where nobody looks
