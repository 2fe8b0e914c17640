"""Entry points of ``torch.hub``: one for every model of the zoo, and ``create_model``.

model = torch.hub.load("OWNER/REPOSITORY", "gst_r50", num_classes=174)
model = torch.hub.load("OWNER/REPOSITORY", "gst_r18", pretrained=True, tag="weizmann")
print(torch.hub.help("OWNER/REPOSITORY", "gst_r18"))
"""

from __future__ import annotations

import inspect as _inspect
import warnings as _warnings
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

import vidzoo as _vidzoo
from vidzoo.registry import type_name as _type_name

# By the names under which they are imported: what building any network and loading its weights needs. torchvision and numpy
# are here because timm and safetensors import them; reading videos, which needs av too, is not what torch.hub is for.
# torch.hub names those that are missing only because this file can be imported with torch alone.
dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "filelock", "numpy"]


def _entrypoint(arch: str) -> _Callable[..., _Any]:
    def build(pretrained: bool = False, *, tag: str = "", **options: _Any) -> _Any:
        return _vidzoo.create_model(f"{arch}.{tag}" if tag else arch, pretrained, **options)

    build.__name__ = build.__qualname__ = arch
    build.__doc__ = _help(arch)
    return build


def _help(arch: str) -> str:
    cfgs = _vidzoo.get_arch_pretrained_cfgs(arch)
    cfg = _vidzoo.get_pretrained_cfg(arch, with_weights=True)
    height, width = cfg.crop_size
    what = _inspect.getdoc(_vidzoo.model_entrypoint(arch)) or arch
    lines = [
        f'{arch}(pretrained=False, *, tag="", **options)',
        "",
        *what.splitlines(),
        "",
        *([f"Paper: {cfg.paper}."] if cfg.paper else []),
        f"Input: float (B, {cfg.in_chans}, {cfg.num_frames}, {height}, {width}), normalised as model.pretrained_cfg says.",
        "Output: logits (B, num_classes).",
        "",
        "Weights (pretrained=True takes the first, tag= another):",
        *([_weights(one) for one in cfgs.values() if one.has_weights] or ["    none"]),
        "",
        "Options:",
        *(f"    {name}: {_type_name(kind)}" for name, kind in _vidzoo.model_options(arch).items()),
        "    features_only, out_indices, checkpoint_path, cache_dir, token, local_files_only, pretrained_cfg_overlay:",
        "        as in vidzoo.create_model, see torch.hub.help(..., 'create_model')",
    ]
    return "\n".join(lines)


def _weights(cfg: _Any) -> str:
    knows = f"{cfg.num_classes} classes" if cfg.is_classifier else "an initialisation, its head knows no actions"
    return f"    {cfg.tag}: {', '.join(filter(None, (cfg.dataset, knows)))}; licence {cfg.license or 'not stated'}"


def _warn_of_another_copy() -> None:
    loaded, here = _Path(_vidzoo.__file__).resolve().parent, _Path(__file__).resolve().parent / "vidzoo"
    if loaded != here:
        _warnings.warn(
            f"this process has imported vidzoo from {loaded} already, so that is used and not {here}: start a new process "
            "for the other one",
            stacklevel=2,
        )


_warn_of_another_copy()
create_model = _vidzoo.create_model
globals().update({name: _entrypoint(name) for name in _vidzoo.list_models()})
