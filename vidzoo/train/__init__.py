"""Fine-tuning; loaded when it is first used, for it needs accelerate and timm."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidzoo.train.config import FinetuneConfig
    from vidzoo.train.loop import FinetuneResult, finetune
    from vidzoo.train.trainer import DivergedError

__all__ = ["DivergedError", "FinetuneConfig", "FinetuneResult", "finetune"]

_HOMES = {"DivergedError": "trainer", "FinetuneConfig": "config", "FinetuneResult": "loop", "finetune": "loop"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"vidzoo.train.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vidzoo.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
