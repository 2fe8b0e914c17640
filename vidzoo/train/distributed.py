"""The processes of a run: made by torchrun, joined by accelerate, and counted before anything starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, DistributedError, MissingExtraError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["average_buffers", "make_accelerator"]


def make_accelerator(*, processes: int | None = None) -> Accelerator:
    """Join the other processes of this run, on the GPU that is this one's or on the CPU.

    Args:
        processes: how many there must be; None takes the launcher's word (``WORLD_SIZE``).

    Raises:
        MissingExtraError: accelerate is not installed.
        DistributedError: fewer or more processes than were asked for; each would train alone without telling.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "fine-tuning") from error
    wanted = processes or int(os.environ.get("ACCELERATE_NUM_PROCESSES", os.environ.get("WORLD_SIZE", "1")))
    try:
        # Left to itself on a machine without a GPU, accelerate ignores the launcher and every process trains alone.
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    except ValueError as error:
        raise ConfigError(f"accelerate could not be set up: {error}") from error
    found = accelerator.num_processes
    if found != wanted:
        raise DistributedError(
            f"this run was asked for {wanted} {'process' if wanted == 1 else 'processes'} and has {found}: "
            f"start it with  torchrun --nproc-per-node {wanted} --no-python vidzoo finetune ..."
        )
    return accelerator


@torch.no_grad()
def average_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the mean of all processes' running statistics, which each has gathered from its own clips."""
    if accelerator.num_processes == 1:
        return
    buffers: list[Tensor] = [b for b in model.buffers() if b.is_floating_point()]
    if buffers:
        mean = accelerator.reduce(torch.cat([b.flatten() for b in buffers]), reduction="mean")
        for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))
