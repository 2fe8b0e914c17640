"""vidzoo: video models, their weights, and the parts they are made of."""

from vidzoo import layers, models
from vidzoo.errors import VidzooError
from vidzoo.factory import create_model
from vidzoo.pretrained import VideoCfg
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

__version__ = "0.1.0"

__all__ = [
    "VideoCfg",
    "VidzooError",
    "__version__",
    "create_model",
    "get_arch_pretrained_cfgs",
    "get_pretrained_cfg",
    "is_model",
    "is_model_pretrained",
    "layers",
    "list_models",
    "list_modules",
    "list_pretrained",
    "model_entrypoint",
    "model_options",
    "models",
    "register_deprecation",
    "register_model",
    "split_model_name_tag",
]
