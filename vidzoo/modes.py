"""Borrowing a network: evaluation mode and another device for a while, everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vidzoo.errors import ConfigError

__all__ = ["as_device", "evaluating", "home_of"]


@contextmanager
def evaluating(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode and ``device`` inside; afterwards every module has its own mode and device again."""
    modes = [(module, module.training) for module in model.modules()]
    home = home_of(model)
    model.eval()
    try:
        if device is not None and device != home:
            model.to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        if device is not None and device != home:
            model.to(home)


def home_of(model: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU for a network without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def as_device(device: str | torch.device) -> torch.device:
    """A device that exists.

    Raises:
        ConfigError: a name that torch does not know, or hardware that is not here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"the device {str(device)!r} cannot be used ({reason}): try 'cpu' or 'cuda'") from error
    if found.type == "meta":
        raise ConfigError("the device 'meta' has no values to compute with: try 'cpu' or 'cuda'")
    return found
