"""Where a backbone comes from: ``timm:NAME``, ``torchvision:NAME``, ``pytorchvideo:NAME``, ``vidzoo:NAME``.

A source builds the same network again, which is what a saved graft needs; the libraries are imported here and nowhere
else in :mod:`vidzoo.grafting`, when they are asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, MissingExtraError, nearest
from vidzoo.grafting.adaptive import takes
from vidzoo.grafting.traced import State
from vidzoo.registry import is_model

__all__ = ["LIBRARIES", "base_model_of", "build", "example_for", "is_3d", "name_of", "source_of"]

LIBRARIES = ("timm", "torchvision", "pytorchvideo", "vidzoo")
# The networks of convolutions in pytorchvideo.models.hub, with the frames of the fast pathway for one of the slow.
_PYTORCHVIDEO = {
    **dict.fromkeys(("c2d_r50", "i3d_r50", "slow_r50", "csn_r101", "r2plus1d_r50"), 0),
    **dict.fromkeys(("x3d_xs", "x3d_s", "x3d_m", "x3d_l"), 0),
    **dict.fromkeys(("slowfast_r50", "slowfast_r101", "slowfast_16x8_r101_50_50"), 4),
}
# Small enough for a trace, large enough that the last map of a network with strides 8 over time and 32 over space keeps
# two positions along each axis.
_FRAMES, _SIDE = 16, 64
_ALPHAS = (4, 8)


def build(source: str, *, in_chans: int = 3, num_classes: int | None = None, pretrained: bool = False) -> nn.Module:
    """The network that ``source`` names, on the CPU whatever torch's default device is: to be traced it needs values.

    Args:
        in_chans: other than 3 only where the library can.
        num_classes: of a network that is not trained; None is what the library takes. A trained one has the classes of its
            weights.
        pretrained: with the weights that its own library has for it.

    Raises:
        ConfigError: no such library or network, or an option that it cannot have.
        MissingExtraError: the library is not installed.
    """
    library, name = _parted(source)
    builders = {"timm": _timm, "torchvision": _torchvision, "pytorchvideo": _pytorchvideo, "vidzoo": _vidzoo}
    with torch.device("cpu"):
        return builders[library](name, in_chans, None if pretrained else num_classes, pretrained)


def source_of(module: nn.Module) -> str | None:
    """The source of a network that says its own name (timm's and vidzoo's do), None of any other.

    None too where the name would build something else: a network of other options, or one that was changed.
    """
    cfg = getattr(module, "pretrained_cfg", None)
    name = cfg.get("architecture") if isinstance(cfg, dict) else getattr(cfg, "architecture", None)
    if not isinstance(name, str) or not name:
        return None
    library = "vidzoo" if is_model(name) and not isinstance(cfg, dict) else "timm"
    classes = getattr(module, "num_classes", None)
    try:
        with torch.random.fork_rng(devices=[]):
            again = build(f"{library}:{name}", in_chans=_in_chans(module), num_classes=classes)
    except (ConfigError, MissingExtraError, RuntimeError, TypeError):
        return None
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (module, again)]
    return f"{library}:{name}" if shapes[0] == shapes[1] and str(module) == str(again) else None


def name_of(module: nn.Module, source: str | None) -> str:
    """What to call a network in messages."""
    return source or type(module).__name__


def base_model_of(source: str, module: nn.Module | None = None) -> str | None:
    """The Hub repository whose weights a backbone has, for ``base_model`` of a card; None where there is none."""
    cfg = getattr(module, "pretrained_cfg", None)
    if not source.startswith("timm:") or not isinstance(cfg, dict):
        return None
    found = cfg.get("hf_hub_id")
    if not isinstance(found, str) or not found:
        return None
    return f"{found}{cfg['architecture']}.{cfg['tag']}" if found.endswith("/") and cfg.get("tag") else found


def is_3d(module: nn.Module, example: State | None = None) -> bool:
    """Whether a network takes clips rather than pictures: by its example, or else by its first convolution."""
    if example is not None:
        return isinstance(example, list) or example.ndim == 5
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            return isinstance(part, nn.Conv3d)
    raise ConfigError(
        f"{type(module).__name__} has no convolution that would say whether it takes pictures or clips: give example=..., "
        "a picture (1, C, H, W) or a clip (1, C, T, H, W)"
    )


def example_for(module: nn.Module, source: str | None = None) -> State:
    """A small input that the network takes: noise ``(1, C, H, W)`` or ``(1, C, T, H, W)``, or a clip for each pathway.

    Raises:
        ConfigError: none of the usual ones is accepted; the caller has to give one.
    """
    generator = torch.Generator().manual_seed(0)
    like = next(module.parameters(), torch.empty(0))
    channels = _in_chans(module)

    def noise(*size: int) -> Tensor:
        return torch.randn(1, channels, *size, generator=generator).to(like)

    if not is_3d(module):
        return noise(*_picture(module))
    clip = noise(_FRAMES, _SIDE, _SIDE)
    pathways: list[State] = [[clip[:, :, ::alpha].contiguous(), clip] for alpha in _ALPHAS]
    known = _PYTORCHVIDEO.get(source.partition(":")[2]) if source and source.startswith("pytorchvideo:") else None
    if known is not None:
        return [clip[:, :, ::known].contiguous(), clip] if known else clip
    if source is not None:
        return clip
    reasons = []
    for example in (clip, *pathways):
        reason = takes(module, example)
        if reason is None:
            return example
        reasons.append(reason)
    raise ConfigError(
        f"{type(module).__name__} takes neither a clip {tuple(clip.shape)} nor one for each of two pathways ({reasons[0]}): "
        "give example=..., as the network takes it"
    )


def _picture(module: nn.Module) -> tuple[int, int]:
    cfg = getattr(module, "pretrained_cfg", None)
    cfg = cfg if isinstance(cfg, dict) else {}
    if cfg.get("fixed_input_size") and cfg.get("input_size"):
        _, height, width = cfg["input_size"]
        return height, width
    _, height, width = cfg.get("min_input_size") or (3, _SIDE, _SIDE)
    return max(height, _SIDE), max(width, _SIDE)


def _in_chans(module: nn.Module) -> int:
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            return part.in_channels
    return 3


def _parted(source: str) -> tuple[str, str]:
    library, colon, name = source.partition(":")
    if not colon or library not in LIBRARIES or not name:
        raise ConfigError(
            f"a backbone is named by its library and its name there, such as timm:resnet50, got {source!r}; libraries: "
            + ", ".join(LIBRARIES)
        )
    return library, name


def _timm(name: str, in_chans: int, num_classes: int | None, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"timm has no network {name!r}: {nearest(name, timm.list_models())}")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return timm.create_model(name, pretrained=pretrained, in_chans=in_chans, **classes)


def _torchvision(name: str, in_chans: int, num_classes: int | None, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models) + models.list_models(module=models.video)
    if name not in known:
        raise ConfigError(f"torchvision classifies with no network {name!r}: {nearest(name, known)}")
    if in_chans != 3:
        raise ConfigError(f"torchvision's networks take 3 channels, {name} cannot have in_chans={in_chans}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return models.get_model(name, weights="DEFAULT" if pretrained else None, **options)


def _pytorchvideo(name: str, in_chans: int, num_classes: int | None, pretrained: bool) -> nn.Module:
    if name not in _PYTORCHVIDEO:
        raise ConfigError(f"pytorchvideo has no network of convolutions {name!r}: {nearest(name, _PYTORCHVIDEO)}")
    try:
        from pytorchvideo.models import hub
    except ImportError as error:
        raise MissingExtraError("pytorchvideo", "graft", "a backbone of pytorchvideo") from error
    options: dict[str, Any] = {} if num_classes is None else {"model_num_class": num_classes}
    if in_chans != 3:
        options |= {"input_channels": (in_chans, in_chans)} if _PYTORCHVIDEO[name] else {"input_channel": in_chans}
    return getattr(hub, name)(pretrained=pretrained, **options)


def _vidzoo(name: str, in_chans: int, num_classes: int | None, pretrained: bool) -> nn.Module:
    from vidzoo.factory import create_model  # it registers every network, grafted ones too

    return create_model(name, pretrained=pretrained, in_chans=in_chans, num_classes=num_classes)
