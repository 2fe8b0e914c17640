"""Graft the papers' modules onto a backbone from the shell, or show where on it something can be grafted.

python tools/graft.py --backbone timm:resnet50 --list
python tools/graft.py --backbone timm:resnet50 --plan gst --num-classes 174 --frames 8 --out DIR
python tools/graft.py --backbone pytorchvideo:x3d_s --plan '[{"op": "InsertSGS", "after": 1}]' --out DIR

A plan is a name, JSON, or a file with JSON; operations and their fields are those of vidzoo.grafting.plan. The weights are
those that the backbone's own library has for it, unless --no-pretrained. DIR is a folder that
vidzoo.create_model("local-dir:DIR") rebuilds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vidzoo
from vidzoo.errors import ConfigError, VidzooError
from vidzoo.grafting.backbone import build
from vidzoo.grafting.graft import graft
from vidzoo.grafting.places import find_places
from vidzoo.grafting.plan import PLANS
from vidzoo.grafting.swap import UNITS, refusal


def main(arguments: Sequence[str] | None = None) -> int:
    """Graft or list; 1 with one sentence on stderr where that cannot be done."""
    options = _options(arguments)
    try:
        if options.list:
            print(places(options.backbone))
        else:
            _graft(options)
    except (VidzooError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def places(source: str) -> str:
    """A table of the convolutions of a backbone, stage by stage, with the units that can stand in their place."""
    network = build(source)
    found = find_places(network, source=source)
    rows = [("stage", "convolution", "kernel", "stride", "groups", "channels", "map", "units")]
    for place in found:
        if place.kind not in ("conv2d", "conv3d"):
            continue
        module: Any = network.get_submodule(place.name)
        units = [unit for unit in UNITS if refusal(module, unit, name=place.name) is None]
        rows.append(
            (
                f"{place.stage}{' stem' if place.stem else ''}",
                place.name,
                _sizes(place.kernel),
                _sizes(place.stride),
                str(place.groups),
                f"{place.in_shape[0]} -> {place.out_shape[0]}",
                f"{_sizes(place.in_shape[1:])} -> {_sizes(place.out_shape[1:])}",
                "all" if len(units) == len(UNITS) else ", ".join(units) or "none",
            )
        )
    lines = _table(rows)
    lines.append(f"all = {', '.join(UNITS)}. Maps are those of a small example.")
    for number, stage in enumerate(found.stages):
        blocks = f"; blocks: {', '.join(stage.blocks)}" if stage.blocks else ""
        lines.append(f"stage {number} ends with {stage.module}, 1/{stage.reduction} of the picture{blocks}")
    return "\n".join(lines)


def read(plan: str) -> Any:
    """A plan as it is given to ``graft``: its name, or what JSON in the text or in the file says.

    Raises:
        ConfigError: none of the three.
    """
    if plan in PLANS:
        return plan
    path = Path(plan)
    text = (
        plan if plan.lstrip().startswith(("[", "{")) else path.read_text(encoding="utf-8") if path.is_file() else None
    )
    if text is None:
        raise ConfigError(f"there is no plan {plan!r}: give JSON, a file with it, or one of {', '.join(PLANS)}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the plan {plan!r} is no JSON: {error}") from error


def _graft(options: argparse.Namespace) -> None:
    backbone = build(options.backbone, pretrained=options.pretrained)
    model = graft(
        backbone,
        read(options.plan),
        num_classes=options.num_classes,
        num_frames=options.frames,
        source=options.backbone,
    )
    print(model.graft_report)
    if options.out is not None:
        vidzoo.save_pretrained(model, options.out)
        print(f"saved: vidzoo.create_model('local-dir:{options.out}')")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="LIBRARY:NAME of timm, torchvision, pytorchvideo or vidzoo")
    parser.add_argument("--list", action="store_true", help="show the places and graft nothing")
    parser.add_argument("--plan", help=f"a name ({', '.join(PLANS)}), JSON, or a file with JSON")
    parser.add_argument("--num-classes", type=int, help="a fresh head of so many classes; left out, the backbone's own")
    parser.add_argument("--frames", type=int, default=8, help="frames of the clips that the model is meant for")
    parser.add_argument("--out", type=Path, help="folder to save to; left out, only the report is printed")
    parser.add_argument(
        "--pretrained", action=argparse.BooleanOptionalAction, default=True, help="start from the library's weights"
    )
    options = parser.parse_args(arguments)
    if not options.list and options.plan is None:
        parser.error("give --plan, or --list to see what there is")
    return options


def _sizes(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
