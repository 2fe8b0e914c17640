"""Counting without what costs nothing: norms and activations of shapes give their input back, and no weight is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["shortcut"]

# All of them keep the shape, and none is counted; on the meta device they take most of the time. What they keep for a
# backward pass is counted, so with gradients they run.
_FREE = frozenset((F.batch_norm, F.relu, F.relu_, torch.relu, torch.relu_, F.silu, torch.sigmoid, F.dropout))
_DRAWS = frozenset((Tensor.normal_, Tensor.uniform_))


class _Shortcut(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        free = func in _DRAWS or (func in _FREE and not torch.is_grad_enabled())
        if free and type(args[0]) in (Tensor, torch.nn.Parameter) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def shortcut() -> Iterator[None]:
    """Parameters and multiply-adds that are counted inside are the same, and come sooner."""
    with _Shortcut():
        yield
