"""``vidzoo predict``: what is to be seen in these videos."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from vidzoo.cli.common import check_writable, count, print_json

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "predict", help="name the action in videos", description="Name the action in each video.", allow_abbrev=False
    )
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        nargs="+",
        help="a file, a folder of numbered images, or synthetic:ACTION?seed=N (in quotes)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        default="gst_r18.weizmann",
        help="a name of the zoo, a model folder, or hf-hub:org/name (default: %(default)s)",
    )
    parser.add_argument("--topk", type=count, default=5, metavar="K", help="classes per video (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON list on stdout and nothing else")
    parser.add_argument(
        "--picture", metavar="FILE", help="draw frames and classes of a single video (.png, .jpg, .webp)"
    )
    parser.add_argument("--num-clips", type=count, metavar="N", help="clips per video (default: the model's)")
    parser.add_argument("--num-crops", type=int, choices=(1, 3, 5), help="crops per clip (default: the model's)")
    parser.add_argument(
        "--batch-size", type=count, default=8, metavar="N", help="clips at a time (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a video that cannot be read, or leave it out and say so (default: %(default)s)",
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Predict, print, draw; 1 if not a single video could be read."""
    from vidzoo.prediction import best_device, load_classifier, predict, sampled_frames
    from vidzoo.registry import is_model

    if args.picture is not None and len(args.videos) > 1:
        args.parser.error(f"--picture shows a single video, {len(args.videos)} were given")
    check_writable(args.picture)
    model = load_classifier(args.model)
    broken: dict[str, str] = {}
    found = predict(
        args.videos,
        model,
        topk=args.topk,
        num_clips=args.num_clips,
        num_crops=args.num_crops,
        device=args.device or best_device(),
        batch_size=args.batch_size,
        on_error=args.on_error,
        broken=broken,
    )
    if not is_model(args.model):
        found = [dataclasses.replace(prediction, model=args.model) for prediction in found]
    if args.json:
        print_json([prediction.to_dict() for prediction in found])
    elif found:
        print("\n\n".join(_table(prediction.video, prediction.predictions) for prediction in found))
    for path, reason in broken.items():
        print(f"vidzoo: {path} is left out: {reason}", file=sys.stderr)
    if args.picture is not None and found:
        from vidzoo.picture import write_picture

        write_picture(args.picture, sampled_frames(args.videos[0], model.pretrained_cfg), found[0])
    return 0 if found else 1


def _table(video: str, predictions: list[Any]) -> str:
    width = max((len(guess.label) for guess in predictions), default=0)
    return "\n".join([video, *(f"  {guess.label:<{width}}  {guess.score:7.2%}" for guess in predictions)])
