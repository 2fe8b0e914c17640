"""``vidzoo.graft``: a network of any library, a plan, and out comes a model of the zoo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.adaptive import takes
from vidzoo.grafting.backbone import base_model_of, build, difference, example_for, is_3d, name_of, source_of
from vidzoo.grafting.folded import Host2D
from vidzoo.grafting.hosts3d import Host3D
from vidzoo.grafting.inflate import inflate, swap
from vidzoo.grafting.insert import insert_ctm, insert_sgs, insert_shift, replace_head
from vidzoo.grafting.model import GraftedModel, Origin
from vidzoo.grafting.places import Host
from vidzoo.grafting.plan import (
    Inflate,
    InsertCTM,
    InsertSGS,
    InsertShift,
    Operation,
    Plan,
    ReplaceHead,
    SwapConv,
    read_plan,
    write_plan,
)
from vidzoo.grafting.surgery import Surgery
from vidzoo.grafting.traced import State, twin_of
from vidzoo.grafting.values import whole
from vidzoo.modes import evaluating
from vidzoo.pretrained import VideoCfg

if TYPE_CHECKING:
    from vidzoo.grafting.report import GraftReport, Row

__all__ = ["adopt", "graft", "rebuild", "regraft"]

_FRAMES = 4
_APPLY: Mapping[type[Operation], Callable[[Surgery, Any], Operation]] = {
    Inflate: inflate,
    SwapConv: swap,
    InsertCTM: insert_ctm,
    InsertSGS: insert_sgs,
    InsertShift: insert_shift,
    ReplaceHead: replace_head,
}


def graft(
    backbone: nn.Module | str,
    plan: Plan,
    *,
    num_classes: int | None = None,
    num_frames: int = 8,
    example: Any = None,
    source: str | None = None,
) -> GraftedModel:
    """Put the papers' modules into a network and give it the contract of the zoo; its trained weights are used.

    A network that takes pictures runs on all frames of a clip side by side, only what is grafted looks over time; one that
    takes clips has its modules exchanged in place. What was frozen stays frozen, what is grafted learns.
    ``model.graft_report`` says what was changed, and how far outputs moved.

    Args:
        backbone: the network, which stays as it is (a copy is grafted), or the source of a trained one: ``timm:resnet50``,
            ``torchvision:r3d_18``, ``pytorchvideo:x3d_s``, ``vidzoo:i3d_r50``.
        plan: a name of :data:`vidzoo.grafting.PLANS` (``gst``, ``stdcf``, ``reparam``, ``ctm``, ``inflate``, ...), an operation
            or a sequence of them, see :mod:`vidzoo.grafting.plan`.
        num_classes: another number gets a fresh classifier, 0 none; None keeps the backbone's, or what the plan says.
        num_frames: the length of clip that the model is meant for.
        example: what the backbone takes, where the small one that is tried does not do: pictures ``(N, C, H, W)``, a clip
            ``(1, C, T, H, W)``, or a clip for each pathway.
        source: where a backbone that was given as a module can be built again, for a model that is to be saved. Networks of
            timm and of this zoo say it themselves.

    Raises:
        ConfigError: a plan or source that does not exist, a source that builds another network, a network that cannot be
            followed, or nothing in it that the plan could change; the message names the module.
        MissingExtraError: a backbone of a library that is not installed.
        HubError: a source whose library cannot download its weights.
    """
    operations = read_plan(plan)
    if num_classes is not None:
        whole("num_classes", num_classes, least=0)
    if isinstance(backbone, str):
        source, network = backbone, build(backbone, pretrained=True)
    else:
        network = copy.deepcopy(_checked(backbone))
    example_given = example
    example = _taken(network, source, example)
    original = copy.deepcopy(network)
    host, clip = adopt(network, example, source=source)
    head = host.classifier_name.removeprefix("network.")
    if source:
        _confirm(original, source, example, head)
    else:
        source = source_of(original, example, head)
    cfg = _cfg(network, source, num_frames)
    before = copy.deepcopy(host)
    model, done, surgery = _operate(host, clip, operations, cfg, num_frames, measure=True)
    model.graft_report = _report(before, model, surgery)
    if num_classes is None:
        num_classes = surgery.num_classes
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    model.pretrained_cfg = cfg.replace(
        architecture="graft",
        num_classes=model.num_classes,
        in_chans=model.in_chans,
        hf_hub_id=base_model_of(source or "", network) or "",
        classifier=("fc",),
    )
    model.origin = Origin(
        source or "", tuple(done), num_frames, None, None if example_given is None else _sizes(example)
    )
    model.model_args = {
        "backbone": source or "",
        "plan": _written(done),
        "num_classes": model.num_classes,
        "in_chans": model.in_chans,
        "num_frames": num_frames,
        **({} if example_given is None else {"example": _sizes(example_given)}),
    }
    return model


def rebuild(
    backbone: str,
    plan: Plan,
    *,
    num_classes: int,
    in_chans: int,
    num_frames: int,
    drop_rate: float | None = None,
    example: Sequence[Any] | None = None,
) -> GraftedModel:
    """The same model again, untrained, from what ``model_args`` of a grafted one say.

    It is traced with real numbers, so it is built on the CPU; under another default device it moves there in the end.

    Raises:
        ConfigError: as :func:`graft`; a plan whose backbone has no source.
    """
    if not backbone:
        raise ConfigError(
            "it is not known where the backbone of this model can be built again: give source='timm:NAME' (or torchvision:, "
            "pytorchvideo:, vidzoo:) to vidzoo.graft; a network that no source builds needs an entrypoint of its own, see "
            "vidzoo.register_model"
        )
    operations = read_plan(plan)
    write_plan(operations)  # what no file can hold cannot come back either
    origin = Origin(backbone, operations, num_frames, drop_rate, example)
    device = torch.get_default_device()
    model, _ = regraft(origin, None, in_chans=in_chans, num_classes=None)
    with torch.device("cpu"):
        if num_classes != model.num_classes:
            model.reset_classifier(num_classes)
    model.pretrained_cfg = model.pretrained_cfg.replace(num_classes=num_classes, in_chans=in_chans)
    return model if device.type == "cpu" else model.to(device)


def regraft(
    origin: Origin, load: Callable[[nn.Module], None] | None, *, in_chans: int, num_classes: int | None
) -> tuple[GraftedModel, tuple[Row, ...]]:
    """Build the backbone of ``origin`` on the CPU, give it weights, carry out the plan; ``num_classes`` is the backbone's own.

    Returns:
        the model, and a row of the report for each layer that was looked at if there were weights.
    """
    with torch.device("cpu"):
        network = build(origin.source, in_chans=in_chans, num_classes=num_classes)
        if load is not None:
            load(network)
        cfg = _cfg(network, origin.source, origin.num_frames)
        host, clip = adopt(network, _example(origin.example), source=origin.source)
        model, _, surgery = _operate(
            host, clip, origin.plan, cfg, origin.num_frames, measure=load is not None, drop_rate=origin.drop_rate
        )
    model.pretrained_cfg = cfg
    model.origin = origin
    return model, tuple(surgery.rows)


def adopt(network: nn.Module, example: Any = None, *, source: str | None = None) -> tuple[Host, Tensor]:
    """A network as a host, and a clip ``(1, C, T, H, W)`` to look at it with.

    Raises:
        ConfigError: the network cannot be followed.
    """
    name = name_of(network, source)
    given = example_for(network, source) if example is None else example
    if is_3d(network, given):
        clip = given[-1] if isinstance(given, list) else given
        return Host3D(network, given, name=name), clip[:1]
    if not isinstance(given, Tensor) or given.ndim != 4:
        raise ConfigError(f"the example of {name} is pictures (N, C, H, W), got {getattr(given, 'shape', type(given))}")
    frames = given if len(given) > 1 else torch.cat([given.roll(shift, -1) for shift in range(_FRAMES)])
    host: Host = Host2D(network, twin_of(network).float(), frames.float(), name=name)
    return host, frames.transpose(0, 1)[None]


def _checked(backbone: Any) -> nn.Module:
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f"a backbone is a network or a source such as timm:resnet50, got {backbone!r}")
    if isinstance(backbone, GraftedModel):
        raise ConfigError(
            "this model is grafted already: give vidzoo.graft its backbone and one plan with all operations"
        )
    if any(parameter.is_meta for parameter in backbone.parameters()):
        raise ConfigError("this backbone is on the meta device and has no values: build it on another one")
    return backbone


def _taken(network: nn.Module, source: str | None, example: Any) -> State:
    """The example, or one that is found, in the precision and on the device of the network, which takes it."""
    if example is None:
        return example_for(network, source)
    like = next(network.parameters(), torch.empty(0))
    parts = example if isinstance(example, (list, tuple)) else [example]
    if not all(isinstance(part, Tensor) for part in parts):
        raise ConfigError(f"an example is a tensor, or a list of one for each pathway, got {type(example).__name__}")
    parts = [part.to(like) for part in parts]
    given: State = parts if isinstance(example, (list, tuple)) else parts[0]
    why = takes(network, given)
    if why is not None:
        raise ConfigError(f"{name_of(network, source)} does not take its example ({why}): give another one")
    return given


def _confirm(network: nn.Module, source: str, example: State, head: str) -> None:
    other = difference(network, source, example=example, head=head)
    if other is not None:
        raise ConfigError(
            f"{source} builds another network than the one that is to be grafted, and a saved graft would come back as it: it "
            f"has {other}; options of its library stand behind the name, such as timm:mobilenetv2_100?pad_type=same"
        )


def _operate(
    host: Host,
    clip: Tensor,
    operations: Sequence[Operation],
    cfg: VideoCfg,
    num_frames: int,
    *,
    measure: bool,
    drop_rate: float | None = None,
) -> tuple[GraftedModel, list[Operation], Surgery]:
    surgery = Surgery(host, clip, cfg.crop_size, measure)
    done = []
    for operation in operations:
        done.append(_APPLY[type(operation)](surgery, operation))
        surgery.settle()
    if isinstance(host, Host2D):
        host.consensus = surgery.consensus
    model = GraftedModel(
        host,
        surgery.places,
        in_chans=clip.shape[1],
        num_frames=num_frames,
        drop_rate=surgery.drop_rate if drop_rate is None else drop_rate,
    )
    return model, done, surgery


@torch.no_grad()
def _report(before: Host, model: GraftedModel, surgery: Surgery) -> GraftReport:
    from vidzoo.grafting.report import GraftReport, measure

    clip = surgery.clip
    with evaluating(before), evaluating(model):
        old, new = before(clip), model(clip)
    whole = old.double().norm()
    (params_before, macs_before), (params_after, macs_after) = measure(before, clip), measure(model, clip)
    return GraftReport(
        rows=tuple(surgery.rows),
        params_before=params_before,
        params_after=params_after,
        macs_before=macs_before,
        macs_after=macs_after,
        input_size=(clip.shape[2], clip.shape[3], clip.shape[4]),
        warnings=(*surgery.host.warnings, *surgery.warnings),
        change=float((new.double() - old.double()).norm() / whole) if whole else None,
    )


def _cfg(network: nn.Module, source: str | None, num_frames: int) -> VideoCfg:
    """How the backbone's own cfg says that pictures are fed; what it learnt is no video classes."""
    own: Any = getattr(network, "pretrained_cfg", None)
    if isinstance(own, VideoCfg):
        unsaid: dict[str, Any] = {
            "architecture": "",
            "tag": "",
            "class_names": (),
            "file": "",
            "donor": "",
            "metrics": {},
        }
        return own.replace(num_frames=num_frames, is_classifier=False, provenance={}, sha256="", **unsaid)
    cfg = VideoCfg(num_frames=num_frames, is_classifier=False, source=source or "")
    if not isinstance(own, Mapping):
        return cfg
    changes: dict[str, Any] = {key: tuple(own[key]) for key in ("mean", "std") if own.get(key)}
    if own.get("input_size"):
        _, height, width = own["input_size"]
        changes["crop_size"] = (height, width)
        changes["short_side"] = round(min(height, width) / (own.get("crop_pct") or 0.875))
    if own.get("interpolation") in ("bilinear", "bicubic"):
        changes["interpolation"] = own["interpolation"]
    for key in ("license", "origin_url"):
        if isinstance(own.get(key), str):
            changes[key] = own[key]
    return cfg.replace(**changes)


def _written(operations: Sequence[Operation]) -> tuple[Any, ...]:
    """The plan for ``config.json``; what cannot be written stays an operation, which is told when the model is saved."""
    written: list[Any] = []
    for operation in operations:
        try:
            written += write_plan([operation])
        except ConfigError:
            written.append(operation)
    return tuple(written)


def _sizes(example: Any) -> tuple[Any, ...]:
    return tuple(tuple(x.shape) for x in example) if isinstance(example, list) else tuple(example.shape)


def _example(sizes: Sequence[Any] | None) -> Any:
    if sizes is None:
        return None
    generator = torch.Generator().manual_seed(0)
    if all(isinstance(size, int) for size in sizes):
        return torch.randn(*sizes, generator=generator)
    return [torch.randn(*size, generator=generator) for size in sizes]
