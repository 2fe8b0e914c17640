"""Counting without what costs nothing: norms and activations of shapes give their input back, and no weight is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidzoo.blank import NothingDrawn

__all__ = ["Shortcut"]

# All of them keep the shape, and none is counted; on the meta device they take most of the time.
_FREE = frozenset((F.batch_norm, F.relu, F.relu_, torch.relu, torch.relu_, F.silu, torch.sigmoid, F.dropout))


class Shortcut(NothingDrawn):
    """``with Shortcut():`` parameters and multiply-adds that are counted are the same, and come sooner.

    What is kept for a backward pass is counted too by some, so with gradients everything runs.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FREE and not torch.is_grad_enabled() and type(args[0]) is Tensor and args[0].is_meta:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)
