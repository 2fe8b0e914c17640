"""vidzoo: video models, their weights, and the parts they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidzoo import layers, models
from vidzoo.errors import VidzooError
from vidzoo.evaluation import evaluate
from vidzoo.factory import create_model
from vidzoo.fusion import fuse
from vidzoo.grafting import graft
from vidzoo.hub import push, save_pretrained
from vidzoo.prediction import predict
from vidzoo.pretrained import VideoCfg
from vidzoo.profiling import profile
from vidzoo.registry import (
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    is_model,
    is_model_pretrained,
    list_models,
    list_modules,
    list_pretrained,
    model_entrypoint,
    model_options,
    register_deprecation,
    register_model,
    split_model_name_tag,
)

if TYPE_CHECKING:
    from vidzoo.train import finetune

__version__ = "0.1.0"

__all__ = [
    "VideoCfg",
    "VidzooError",
    "__version__",
    "create_model",
    "evaluate",
    "finetune",
    "fuse",
    "get_arch_pretrained_cfgs",
    "get_pretrained_cfg",
    "graft",
    "is_model",
    "is_model_pretrained",
    "layers",
    "list_models",
    "list_modules",
    "list_pretrained",
    "model_entrypoint",
    "model_options",
    "models",
    "predict",
    "profile",
    "push",
    "register_deprecation",
    "register_model",
    "save_pretrained",
    "split_model_name_tag",
]


def __getattr__(name: str) -> Any:
    # Training needs accelerate and timm: the one public function that is not loaded with the package.
    if name == "finetune":
        from vidzoo.train import finetune

        return finetune
    raise AttributeError(f"module 'vidzoo' has no attribute {name!r}")
