"""Make a model folder of a checkpoint of another project: the layout is found, the tensors renamed, the result verified.

python tools/convert_checkpoint.py X3D_S.pyth --to x3d_s                           # the same network: a classifier
python tools/convert_checkpoint.py K400-I3D-ResNet-50-f32.pth.tar --to stdcf_r50 --class-names k400
python tools/convert_checkpoint.py resnet50.pth --to gst_r50 --option alpha=0.125  # an initialisation

The folder is read by ``vidzoo.create_model("local-dir:FOLDER")``. What a file may hold besides tensors is never executed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vidzoo
from vidzoo.checkpoint import read_state_dict, sha256_of
from vidzoo.convert import LAYOUTS, Conversion, convert
from vidzoo.errors import ConfigError, VidzooError, WeightsError
from vidzoo.labels import class_names
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel
from vidzoo.pretrained import VideoCfg
from vidzoo.train.config import parse_pairs

DATASETS = ("k400", "ssv2", "imagenet")


def convert_file(
    file: Path,
    name: str,
    out: Path,
    *,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Path, Conversion]:
    """Convert, verify, save; nothing is written unless all of it went well.

    Args:
        names: of the classes.

    Raises:
        VidzooError: the file cannot be read, is not of such a network, or the folder cannot be written.
    """
    converted = convert(read_state_dict(file), name, source, seed=seed, **(options or {}))
    model = build(name, converted, options or {})
    if names and len(names) != model.num_classes:
        raise ConfigError(f"there are {len(names)} class names for {model.num_classes} classes: they must be as many")
    model.pretrained_cfg = describe(model, converted, file, seed).replace(class_names=tuple(names))
    return vidzoo.save_pretrained(model, out), converted


def build(name: str, converted: Conversion, options: Mapping[str, Any]) -> VideoModel:
    """The network with the converted weights, loaded strictly and run once.

    Raises:
        WeightsError: they do not fit, or the network gives no finite numbers.
    """
    head = converted.weights.get("fc.weight")
    sizes = {"num_classes": 0 if head is None else head.shape[0]}
    model = vidzoo.create_model(name, pretrained=False, **{**options, **sizes}).eval()
    load_weights(model, converted.weights, source="the converted file")
    shape = (1, model.in_chans, min(model.pretrained_cfg.num_frames, 16), 64, 64)
    clip = torch.linspace(-2, 2, torch.Size(shape).numel()).reshape(shape)
    with torch.inference_mode():
        output = model(clip)
    if not bool(output.isfinite().all()):
        raise WeightsError(f"{name} with these weights gives NaN or infinity for an ordinary clip: they are damaged")
    return model


def describe(model: VideoModel, converted: Conversion, file: Path, seed: int) -> VideoCfg:
    """How the network is fed, where its weights come from, and whether it can name classes."""
    layout, digest = LAYOUTS[converted.layout], sha256_of(file)
    cfg = model.pretrained_cfg.replace(
        **dict.fromkeys(("tag", "dataset", "file", "hf_hub_id", "sha256", "license", "origin_url"), ""),
        **dict.fromkeys(("donor", "donor_layout", "donor_sha256"), ""),
        class_names=(),
        metrics={},
        is_classifier=converted.exact and model.num_classes > 0,
        source=f"{file.name}, in the layout of {layout.project}",
        description=f"Converted from {file.name} (sha256 {digest}), layout {layout.name}, by vidzoo {vidzoo.__version__}. "
        + summary(converted, seed),
        provenance={
            "donor": file.name,
            "donor_sha256": digest,
            "conversion": layout.name,
            "seed": str(seed) if converted.fresh else "",
            "vidzoo_version": vidzoo.__version__,
            "torch_version": str(torch.__version__),
        },
    )
    # mmaction2's X3D is fed as ours is, its other networks as those of pictures are.
    if layout.mean and not cfg.architecture.startswith("x3d_"):
        cfg = cfg.replace(mean=layout.mean, std=layout.std)
    return cfg


def summary(converted: Conversion, seed: int) -> str:
    """What became of the weights, in a sentence or two."""
    if converted.exact:
        return "The network is the one that was trained."
    parts = ["An initialisation, which has to be trained."]
    if converted.fresh:
        parts.append(f"{len(converted.fresh)} tensors are new, from seed {seed}: {_some(converted.fresh)}.")
    if converted.approximated:
        names, errors = zip(*converted.approximated, strict=True)
        parts.append(
            f"{len(names)} convolutions come near the trained ones, with a relative error of their kernels of up to "
            f"{max(errors):.2f}: {_some(names)}."
        )
    return " ".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _class_names(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if given in DATASETS:
        return class_names(given)
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(f"the class names cannot be read from {given}: {reason}") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 it could not be done and one sentence says why, 2 the command line makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", type=Path, help="a checkpoint: .pth, .pyth, .safetensors ...")
    parser.add_argument("--to", metavar="NAME", required=True, help="a name of the zoo")
    parser.add_argument("--source", metavar="LAYOUT", help=f"the layout, if the keys do not tell: {', '.join(LAYOUTS)}")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to write (default: NAME)")
    parser.add_argument(
        "--option", metavar="K=V", nargs="+", action="extend", default=[], help="options of the network"
    )
    parser.add_argument(
        "--class-names", metavar="FILE", help=f"one name on each line, or the name of a list: {', '.join(DATASETS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what the file does not have (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        folder, converted = convert_file(
            args.file,
            args.to,
            args.out or Path(args.to),
            source=args.source,
            options=parse_pairs(tuple(args.option), what="options"),
            names=_class_names(args.class_names),
            seed=args.seed,
        )
    except VidzooError as error:
        print(f"convert_checkpoint: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    layout = LAYOUTS[converted.layout]
    print(f"layout: {layout.name} ({layout.project})")
    print(f"{args.to}: {len(converted.weights)} tensors. {summary(converted, args.seed)}")
    print(f'saved: vidzoo.create_model("local-dir:{folder}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
