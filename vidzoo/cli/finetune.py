"""``vidzoo finetune``: teach a model the classes of your own videos."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from vidzoo.train.config import FinetuneConfig, option_types, read_options

__all__ = ["add_parser", "run"]

_METAVARS = {int: "N", float: "X", str: "TEXT"}
_NAMED = {"val": "DATA", "extra": "DATA", "val_match": "PATTERN", "checkpoint": "FILE", "imagenet_2d": "FILE"}
_PAIRS = ("augment", "model_options")


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand; its options are the fields of FinetuneConfig."""
    parser = subparsers.add_parser(
        "finetune",
        help="teach a model the classes of your videos",
        description="Train a model on your own videos; the result is a model folder, local-dir:OUT.",
        epilog="Several processes: torchrun --nproc-per-node N --no-python vidzoo finetune ...",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a name of the zoo, local-dir:FOLDER, or hf-hub:org/name")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder with one folder per class (or train/ and val/), a list file, synthetic:actions",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="where the model goes; new, or with --resume/--overwrite"
    )
    parser.add_argument("--config", metavar="FILE", help="a .json or .toml file of these options; those given here win")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no line per epoch")
    types = option_types()
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(FinetuneConfig):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = "" if field.default in (None, (), False) else f" (default: {field.default})"
        groups[title].add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            default=argparse.SUPPRESS,
            help=(field.metadata["help"] + default).replace("%", "%%"),
            **_shape(field.name, types[field.name], field.default),
        )
    parser.set_defaults(run=run)


def _shape(name: str, hint: Any, default: object) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if hint is bool:
        return {"action": "store_true" if default is False else argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if Ellipsis not in parts:
            return {"nargs": len(parts), "type": parts[0], "metavar": ("H", "W")}
        metavar = "KEY=VALUE" if name in _PAIRS else _NAMED.get(name, _METAVARS[parts[0]])
        return {"nargs": "+", "action": "extend" if parts[0] is str else "store", "type": parts[0], "metavar": metavar}
    return {"type": hint, "metavar": _NAMED.get(name, _METAVARS[hint])}


def run(args: argparse.Namespace) -> int:
    """Train, say how each epoch went, and print the final figures."""
    given = {
        field.name: getattr(args, field.name) for field in dataclasses.fields(FinetuneConfig) if field.name in args
    }
    config = FinetuneConfig.from_dict({**(read_options(args.config) if args.config else {}), **given})

    from vidzoo.train.loop import finetune

    def tell(row: Mapping[str, Any]) -> None:
        if not args.quiet:
            print(_line(row, config.epochs), flush=True)

    speaks = os.environ.get("RANK", "0") == "0"
    try:
        result = finetune(args.model, args.data, args.out, config, progress=not args.quiet, on_epoch=tell)
    except KeyboardInterrupt:
        if speaks:
            print(f"vidzoo: the training state is in {args.out}: go on with --resume", file=sys.stderr)
        raise
    finally:
        _leave_group()
    if not speaks:
        return 0
    if result.broken:
        print(f"{len(result.broken)} training videos could not be read:")
        for path, reason in result.broken.items():
            print(f"  {path}: {reason.removeprefix(f'{path}: ')}")
    if result.report is not None:
        print(f"\nafter epoch {result.epoch}:\n{result.report.to_text()}\n")
    print(f"the model is in {result.out}: use it as local-dir:{result.out}")
    return 0


def _line(row: Mapping[str, Any], epochs: int) -> str:
    text = (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}  lr {row['lr']:.2e}  "
        f"train loss {row['train_loss']:.4f} top-1 {row['train_top1']:5.1f}%"
    )
    if row["val_loss"] is not None:
        text += f"  val loss {row['val_loss']:.4f} top-1 {row['val_top1']:5.1f}%"
    return f"{text}  {row['seconds']:.1f} s"


def _leave_group() -> None:
    """Processes that end without leaving their group are complained about."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
