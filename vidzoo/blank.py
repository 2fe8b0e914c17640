"""Networks of shapes alone: built on the meta device, with nothing drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["blank"]

_DRAWS = (Tensor.normal_, Tensor.uniform_)


class _NothingDrawn(TorchFunctionMode):
    """Random values are not drawn where there is no place for them.

    The first normal value on the meta device makes torch import its symbolic algebra, which takes longer than building
    dozens of networks; without any, a network is built in half the time.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWS and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def blank() -> Iterator[None]:
    """What is built inside has shapes and dtypes, and neither values nor memory."""
    with torch.device("meta"), _NothingDrawn():
        yield
