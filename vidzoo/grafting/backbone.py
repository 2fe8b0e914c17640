"""Where a backbone comes from: ``timm:NAME``, ``torchvision:NAME``, ``pytorchvideo:NAME``, ``vidzoo:NAME``.

Options of the library's own stand behind the name: ``timm:mobilenetv2_100?pad_type=same&output_stride=16``. A source builds
the same network again, which is what a saved graft needs; the libraries are imported here and nowhere else in
:mod:`vidzoo.grafting`, when they are asked for.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, HubError, MissingExtraError, VidzooError, nearest
from vidzoo.grafting.adaptive import answer_to, replace_module, takes
from vidzoo.grafting.traced import State, twin_of
from vidzoo.registry import is_model

__all__ = ["LIBRARIES", "base_model_of", "build", "difference", "example_for", "is_3d", "name_of", "source_of"]

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
        in_chans: other than 3 where the library can, or where the first convolution can be told.
        num_classes: of a network that is not trained; None is what the library takes. A trained one has the classes of its
            weights.
        pretrained: with the weights that its own library has for it.

    Raises:
        ConfigError: no such library or network, or an option that it cannot have.
        MissingExtraError: the library is not installed.
        HubError: it cannot download the weights.
    """
    library, name, options = _parted(source)
    builders = {"timm": _timm, "torchvision": _torchvision, "pytorchvideo": _pytorchvideo, "vidzoo": _vidzoo}
    with torch.device("cpu"):
        try:
            return builders[library](name, in_chans, None if pretrained else num_classes, pretrained, options)
        except VidzooError:
            raise
        except Exception as error:  # whatever the library's client of its own servers raises, too
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            if pretrained and isinstance(error, (OSError, RuntimeError)):
                raise HubError(
                    f"the trained weights of {source} cannot be had ({said}): {library} fetches them; check the connection, "
                    "or build the network with weights of your own and graft that"
                ) from error
            if options:
                raise ConfigError(
                    f"{library} does not build {name} with {', '.join(options)} as in {source!r} ({said})"
                ) from error
            raise


def source_of(module: nn.Module, example: State | None = None, head: str = "") -> str | None:
    """The source of a network that says its own name (timm's and vidzoo's do), None of any other.

    None too where the name would build something else: a network of other options, or one that was changed. ``example``
    and ``head``: as in :func:`difference`.
    """
    cfg = getattr(module, "pretrained_cfg", None)
    name = cfg.get("architecture") if isinstance(cfg, dict) else getattr(cfg, "architecture", None)
    if not isinstance(name, str) or not name:
        return None
    library = "vidzoo" if is_model(name) and not isinstance(cfg, dict) else "timm"
    classes = getattr(module, "num_classes", None)
    try:
        other = difference(module, f"{library}:{name}", num_classes=classes, example=example, head=head)
        return None if other is not None else f"{library}:{name}"
    except (ConfigError, MissingExtraError, RuntimeError, TypeError):
        return None


def difference(
    module: nn.Module, source: str, *, num_classes: int | None = None, example: State | None = None, head: str = ""
) -> str | None:
    """What is otherwise in the network that ``source`` builds than in ``module``, in a few words; None if nothing is.

    Args:
        num_classes: of the network, where it is known.
        example: an input on which both have to say the same with weights alike, for what no name of a module tells.
        head: the classifier, which may be another one.

    Raises:
        ConfigError: as :func:`build`.
    """
    with torch.random.fork_rng(devices=[]):
        again = build(source, in_chans=_in_chans(module), num_classes=None if head else num_classes)
    if head:
        try:
            replace_module(again, head, copy.deepcopy(module.get_submodule(head)))
        except AttributeError:
            return f"no {head}"
    for ours, theirs in zip(*(str(net).splitlines() for net in (module, again)), strict=False):
        if ours != theirs:
            return f"{theirs.strip()!r} where this network has {ours.strip()!r}"
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (module, again)]
    for key in (*shapes[0], *shapes[1]):
        if shapes[0].get(key) != shapes[1].get(key):
            return f"{key} of another shape, or not at all"
    if example is None:
        return None
    again = again.to(next(module.parameters(), torch.empty(0)))
    with torch.no_grad():
        mine, its = (answer_to(twin_of(net), example) for net in (module, again))
    if isinstance(mine, Tensor) and not bool((mine - its).norm() <= 1e-3 * mine.norm()):
        return "other outputs with weights alike"
    return None


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
    library, name, _ = _parted(source) if source else ("", "", {})
    known = _PYTORCHVIDEO.get(name) if library == "pytorchvideo" else None
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
        f"{type(module).__name__} takes neither a clip {tuple(clip.shape)} nor one for each of two pathways ({reasons[-1]}): "
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


def _parted(source: str) -> tuple[str, str, dict[str, Any]]:
    """Library, name and options."""
    library, colon, rest = source.partition(":")
    name, asks, query = rest.partition("?")
    if not colon or library not in LIBRARIES or not name:
        raise ConfigError(
            f"a backbone is named by its library and its name there, such as timm:resnet50, got {source!r}; libraries: "
            + ", ".join(LIBRARIES)
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if asks else []
    except ValueError as error:
        raise ConfigError(f"options of a backbone are written ?key=value&key=value, got {source!r}") from error
    return library, name, {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    """Numbers, ``true``, ``false``, ``null`` and lists as JSON has them, or else a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _own(options: Mapping[str, Any], door: Callable[..., Any], *more: str) -> Mapping[str, Any]:
    """The options, if each belongs to the network: those of ``door``, the library's function, load files or are set here."""
    taken = {*inspect.signature(door).parameters, *more}
    for key in options:
        if key in taken:
            raise ConfigError(
                f"{key} is no option that a source can set: it names what a network is, not its weights or classes"
            )
    return options


def _timm(name: str, in_chans: int, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"timm has no network {name!r}: {nearest(name, timm.list_models())}")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    own = _own(options, timm.create_model, "num_classes", "in_chans", "pretrained_strict", "features_only")
    if pretrained and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no trained weights for {name}: build it, load yours, and give the network itself")
    return timm.create_model(name, pretrained=pretrained, in_chans=in_chans, **classes, **own)


def _torchvision(
    name: str, in_chans: int, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]
) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models) + models.list_models(module=models.video)
    if name not in known:
        raise ConfigError(f"torchvision classifies with no network {name!r}: {nearest(name, known)}")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    own = _own(options, models.get_model, "num_classes", "weights", "weights_backbone", "progress")
    network = models.get_model(name, weights="DEFAULT" if pretrained else None, **classes, **own)
    return network if in_chans == 3 else _with_channels(network, in_chans, name)


def _with_channels(network: nn.Module, in_chans: int, name: str) -> nn.Module:
    """The network with a fresh first convolution: torchvision's have no option for it."""
    for path, module in network.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Conv3d)):
            continue
        if module.in_channels != 3 or module.groups != 1:
            break
        shape = (in_chans, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation)
        # The kinds of arguments that the two take are the same, which their types do not say together.
        fresh: nn.Module = type(module)(*shape, bias=module.bias is not None)  # type: ignore[arg-type]
        replace_module(network, path, fresh)
        return network
    raise ConfigError(f"torchvision's {name} takes 3 channels, it cannot have in_chans={in_chans}")


def _pytorchvideo(
    name: str, in_chans: int, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]
) -> nn.Module:
    if name not in _PYTORCHVIDEO:
        raise ConfigError(f"pytorchvideo has no network of convolutions {name!r}: {nearest(name, _PYTORCHVIDEO)}")
    try:
        from pytorchvideo.models import hub
    except ImportError as error:
        raise MissingExtraError("pytorchvideo", "graft", "a backbone of pytorchvideo") from error
    given: dict[str, Any] = {} if num_classes is None else {"model_num_class": num_classes}
    if in_chans != 3:
        given |= {"input_channels": (in_chans, in_chans)} if _PYTORCHVIDEO[name] else {"input_channel": in_chans}
    entrypoint = getattr(hub, name)
    own = _own(options, entrypoint, "model_num_class", "input_channel", "input_channels")
    return entrypoint(pretrained=pretrained, **given, **own)


def _vidzoo(
    name: str, in_chans: int, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]
) -> nn.Module:
    from vidzoo.factory import create_model  # it registers every network, grafted ones too

    own = _own(options, create_model, "num_classes", "in_chans", "backbone", "plan")
    return create_model(name, pretrained=pretrained, in_chans=in_chans, num_classes=num_classes, **own)
