"""Parameter groups, optimiser and schedule, all timm's; and what is frozen, which timm cannot do for 3D batch norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from vidzoo.errors import ConfigError, nearest
from vidzoo.models.base import VideoModel

if TYPE_CHECKING:
    from vidzoo.train.config import FinetuneConfig

__all__ = ["create_optimiser", "create_schedule", "freeze", "train_mode"]


def freeze(
    model: VideoModel, *, norms: Literal["none", "all", "all-but-first"] = "none", backbone: bool = False
) -> list[nn.Module]:
    """Take parameters out of training; returns the batch norms that :func:`train_mode` must keep in evaluation mode.

    Args:
        norms: ``all-but-first`` is the partial BN of TSN (ECCV 2016): the first norm adapts to the new pixels.
        backbone: everything but the classifier.

    Raises:
        ConfigError: nothing would be left to train.
    """
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    frozen: list[nn.Module] = []
    if backbone:
        head = {id(parameter) for parameter in model.get_classifier().parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in head)
        frozen = list(found)
    elif norms != "none":
        frozen = list(found if norms == "all" else found[1:])
        for norm in frozen:
            norm.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"{type(model).__name__} has nothing left to train: do not freeze all of it")
    return frozen


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode for all but the ``frozen`` norms, whose running statistics stay what they are."""
    model.train()
    for norm in frozen:
        norm.eval()


def create_optimiser(model: VideoModel, config: FinetuneConfig) -> Optimizer:
    """timm's optimiser over what is not frozen: no decay for norms and biases, layer-wise rates if asked for.

    Raises:
        ConfigError: an optimiser that timm does not have, or cannot build.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    name = config.opt.lower()
    known: list[str] = [str(found) for found in list_optimizers()]
    if name not in known:
        raise ConfigError(f"timm has no optimiser {config.opt!r}: {nearest(name, known)}")
    try:
        return create_optimizer_v2(
            model,
            opt=name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
        )
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"timm cannot build the optimiser {config.opt!r}: {error}") from error


def create_schedule(optimiser: Optimizer, config: FinetuneConfig, *, updates_per_epoch: int) -> Any:
    """timm's schedule, stepped once per update: ``step_update(updates done)``; the warm-up is part of the epochs."""
    from timm.scheduler import create_scheduler_v2

    warmup: Any = config.warmup_epochs  # may be a fraction, whatever timm's annotation says
    constant = config.sched == "constant"
    schedule, _ = create_scheduler_v2(
        optimiser,
        sched="step" if constant else config.sched,
        num_epochs=config.epochs,
        decay_epochs=config.decay_epochs,
        decay_rate=1.0 if constant else config.decay_rate,
        min_lr=config.min_lr,
        warmup_lr=min(config.warmup_lr, config.lr),
        warmup_epochs=warmup,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    schedule.step_update(0)
    return schedule
