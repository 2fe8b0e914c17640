"""Networks of shapes alone: built on the meta device, with nothing drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["NothingDrawn", "blank"]

# Those of torch.nn.init that are told of as a whole, and what the others end in.
_DRAWS = frozenset((nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_))


class NothingDrawn(TorchFunctionMode):
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
        named = kwargs or {}
        if func in _DRAWS:
            tensor: Tensor = named["tensor"] if "tensor" in named else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)


@contextmanager
def blank() -> Iterator[None]:
    """What is built inside has shapes and dtypes, and neither values nor memory."""
    with torch.device("meta"), NothingDrawn():
        yield
