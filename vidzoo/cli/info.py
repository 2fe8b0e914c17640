"""``vidzoo info``: everything that is known about a model."""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from vidzoo.cli.common import print_json, table

if TYPE_CHECKING:
    from vidzoo.pretrained import VideoCfg

__all__ = ["add_parser", "describe", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "info", help="what is known about a model", description="Describe a model.", allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="a name of the zoo, with or without a tag, or a model folder")
    parser.add_argument("--json", action="store_true", help="the same as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe one model."""
    found = describe(args.name)
    if args.json:
        print_json(found)
    else:
        print(_text(found))
    return 0


def describe(name: str) -> dict[str, Any]:
    """What ``vidzoo info`` prints, in plain JSON types.

    Raises:
        UnknownModelError, UnknownTagError, HubError: a name that does not exist, a folder that is no model.
    """
    import torch

    from vidzoo.factory import create_model
    from vidzoo.hub import parse_source
    from vidzoo.hub.folder import read_folder
    from vidzoo.prediction import model_source
    from vidzoo.profiling import profile
    from vidzoo.registry import (
        get_arch_pretrained_cfgs,
        get_pretrained_cfg,
        model_entrypoint,
        model_options,
        resolve_deprecated,
        type_name,
    )

    source = model_source(name)
    kind, place = parse_source(source)
    local = bool(kind)
    source = source if local else resolve_deprecated(source)
    with torch.device("meta"):
        model: Any = create_model(source, pretrained=False)
    arch = model.pretrained_cfg.architecture
    # A zoo name without a tag is described by the weights that it would get.
    cfg = model.pretrained_cfg if local else get_pretrained_cfg(source, with_weights=True)
    entrypoint = model_entrypoint(arch)
    cost = profile(source)
    defaults = _defaults(arch)
    return {
        "name": name,
        "architecture": arch,
        "family": entrypoint.__module__.rpartition(".")[2],
        "description": (inspect.getdoc(entrypoint) or "").partition("\n")[0].replace("``", ""),
        "input": {
            "num_frames": cfg.num_frames,
            "sampling": cfg.sampling,
            "temporal_stride": cfg.temporal_stride,
            "fps": cfg.fps,
            "in_chans": cfg.in_chans,
            "short_side": cfg.short_side,
            "crop_size": list(cfg.crop_size),
            "test_crop_size": list(cfg.eval_crop_size),
            "num_clips": cfg.num_clips,
            "num_crops": cfg.num_crops,
            "interpolation": cfg.interpolation,
            "mean": list(cfg.mean),
            "std": list(cfg.std),
            "subtract_clip_mean": cfg.subtract_clip_mean,
        },
        "cost": cost.to_dict(),
        "num_features": model.num_features,
        "stages": [
            {
                "module": s.module,
                "num_chs": s.num_chs,
                "reduction": s.reduction,
                "t_reduction": s.t_reduction,
                "adaptive": s.adaptive,
            }
            for s in model.feature_info
        ],
        "options": [
            {"name": option, "type": type_name(kind), "default": defaults.get(option)}
            for option, kind in model_options(arch).items()
        ],
        "built_with": {key: value for key, value in model.model_args.items() if value is not None} if local else {},
        "weights": (
            [{**_weights(cfg), "name": source, "available": kind == "hf-hub" or read_folder(place).weights is not None}]
            if local
            else [_weights(known) for known in get_arch_pretrained_cfgs(arch).values()]
        ),
    }


def _weights(cfg: VideoCfg) -> dict[str, Any]:
    return {
        "name": cfg.name,
        "tag": cfg.tag,
        "available": cfg.has_weights,
        "is_classifier": cfg.is_classifier,
        "dataset": cfg.dataset,
        "num_classes": cfg.num_classes,
        "class_names": list(cfg.class_names),
        "metrics": dict(cfg.metrics),
        "donor": cfg.donor,
        "license": cfg.license,
        "source": cfg.source,
        "origin_url": cfg.origin_url,
        "paper": cfg.paper,
        "description": cfg.description,
    }


def _defaults(arch: str) -> dict[str, Any]:
    """The values that options have when nobody gives them: seen from what the network's parts receive.

    Signatures alone would not do, for an entrypoint may have a default of its own for an option of its backbone.
    """
    import torch

    from vidzoo.registry import model_entrypoint, model_options

    calls: list[dict[str, Any]] = []

    def watch(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("vidzoo."):
            code = frame.f_code
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            calls.append({name: frame.f_locals[name] for name in names if name in frame.f_locals})

    entrypoint = model_entrypoint(arch)
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        with torch.device("meta"):
            entrypoint()
    finally:
        sys.setprofile(before)
    values = {p.name: p.default for p in inspect.signature(entrypoint).parameters.values() if p.default is not p.empty}
    missing = set(model_options(arch)) - set(values)
    # An option belongs to the call that takes most of those whose value is not known yet; the first of equals.
    while best := max(calls, key=lambda call: len(missing & set(call)), default={}):
        if not missing & set(best):
            break
        values.update({name: best[name] for name in missing & set(best)})
        missing -= set(best)
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _text(found: dict[str, Any]) -> str:
    fed, cost = found["input"], found["cost"]
    _, frames, height, width = cost["input_size"]
    size = f"{frames} x {height} x {width}"
    rate = f" at {fed['fps']:g} fps" if fed["fps"] else ""
    how = "one per segment" if fed["sampling"] == "segments" else f"every {_nth(fed['temporal_stride'])}{rate}"
    tested = f", tested at {_size(fed['test_crop_size'])}" if fed["test_crop_size"] != fed["crop_size"] else ""
    average = "the clip's mean frame subtracted, " if fed["subtract_clip_mean"] else ""
    lines = [
        f"{found['name']}: {found['description']}",
        "",
        table(
            [
                ("family", found["family"]),
                ("parameters", f"{cost['params']:,} ({cost['params'] / 1e6:.2f} M)"),
                ("MACs", f"{cost['macs']:,} ({cost['macs'] / 1e9:.2f} G) for a clip of {size}"),
                ("", "multiply-adds of convolutions and matrix products, one each; the rest is free"),
                *([("", "they depend on the clip: this is one for noise")] if cost["measured"] else []),
                ("activations", f"{cost['activations']:,}"),
                ("frames", f"{fed['num_frames']}, {how}"),
                ("size", f"short side {fed['short_side']}, crop {_size(fed['crop_size'])}{tested}"),
                ("views", f"{_many(fed['num_clips'], 'clip')} x {_many(fed['num_crops'], 'crop')} per video"),
                ("normalised", f"{average}mean {_numbers(fed['mean'])}, std {_numbers(fed['std'])}"),
                ("features", f"{found['num_features']} before the classifier"),
            ]
        ),
        "",
        "stages",
        table(
            [("name", "channels", "1/space", "1/time")]
            + [
                (
                    s["module"],
                    str(s["num_chs"]),
                    str(s["reduction"]),
                    f"{s['t_reduction']}{' or more, by the clip' if s['adaptive'] else ''}",
                )
                for s in found["stages"]
            ]
        ),
        "",
        "options",
        table([("name", "type", "default")] + [(o["name"], o["type"], str(o["default"])) for o in found["options"]]),
    ]
    if found["built_with"]:
        lines += ["", "built with", table([(key, str(value)) for key, value in found["built_with"].items()])]
    usable = any(weights["available"] for weights in found["weights"])
    for weights in found["weights"]:
        if usable and not weights["available"]:
            continue
        lines += ["", f"{'weights' if weights['available'] else 'no published weights:'} {weights['name']}"]
        lines.append(table(_weights_rows(weights)))
    return "\n".join(lines)


def _weights_rows(weights: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if weights["available"]:
        of = f" of {weights['dataset']}" if weights["dataset"] else ""
        learnt = f"{weights['num_classes']} classes{of}"
        rows.append(("knows", learnt if weights["is_classifier"] else "no actions yet: fine-tune it"))
    names = weights["class_names"]
    if names and weights["is_classifier"]:
        rows.append(("classes", ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")))
    rows += [(key, f"{value:g}") for key, value in weights["metrics"].items()]
    if weights.get("donor"):
        rows.append(("made from", f"{weights['donor']}, when first used"))
    for key in ("license", "source", "origin_url", "paper", "description"):
        if weights[key]:
            rows.append((key.replace("_url", ""), weights[key]))
    return rows


def _nth(stride: int) -> str:
    return "frame" if stride == 1 else f"{stride}th frame" if stride > 3 else f"{('', '', '2nd', '3rd')[stride]} frame"


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _size(size: list[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
