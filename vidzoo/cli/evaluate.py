"""``vidzoo eval``: how good a model is on a data set."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vidzoo.cli.common import check_writable, count, count_or_zero, print_json, write_json

if TYPE_CHECKING:
    from vidzoo.data.listing import VideoList
    from vidzoo.pretrained import VideoCfg

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "eval",
        help="test a model on labelled videos",
        description="Test a model on labelled videos.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a name of the zoo, a model folder, or hf-hub:org/name")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="class folders, a list file, or synthetic:actions; where it names a val or test part, only that",
    )
    parser.add_argument(
        "--order",
        choices=("normal", "shuffled", "reversed", "still"),
        default="normal",
        help="a probe: frames in random order, backwards, or the middle one repeated (default: %(default)s)",
    )
    parser.add_argument(
        "--match", metavar="PATTERN", action="append", help="only videos whose name (no suffix) fits, such as '*moshe*'"
    )
    parser.add_argument("--num-clips", type=count, metavar="N", help="clips per video (default: the model's)")
    parser.add_argument("--num-crops", type=int, choices=(1, 3, 5), help="crops per clip (default: the model's)")
    parser.add_argument(
        "--average",
        choices=("scores", "logits"),
        default="scores",
        help="what is averaged over views (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=8, metavar="N", help="clips at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=count_or_zero, default=0, metavar="N", help="processes that decode (default: 0)"
    )
    parser.add_argument("--seed", type=count_or_zero, default=0, metavar="N", help="of --order shuffled (default: 0)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout and nothing else")
    parser.add_argument("--out", metavar="FILE", help="write the report as JSON to a file")
    parser.add_argument(
        "--on-error",
        choices=("skip", "raise"),
        default="skip",
        help="leave out a video that cannot be read and list it, or stop (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and report."""
    from vidzoo.evaluation import evaluate
    from vidzoo.prediction import best_device, load_classifier

    check_writable(args.out)
    model = load_classifier(args.model)
    videos = _selected(_scanned(args.data, model.pretrained_cfg), args.match)
    report = evaluate(
        model,
        videos,
        num_clips=args.num_clips,
        num_crops=args.num_crops,
        order=args.order,
        average=args.average,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device or best_device(),
        seed=args.seed,
        on_error=args.on_error,
    )
    if args.out is not None:
        write_json(args.out, report.to_dict())
    if args.json:
        print_json(report.to_dict())
    else:
        print(f"{args.model} on {args.data}")
        print(report.to_text())
    return 0


def _scanned(data: str, cfg: VideoCfg) -> VideoList:
    from vidzoo.data.listing import scan

    videos = scan(data)
    # A list that has numbers for labels names no classes: its numbers are then the model's.
    if cfg.class_names and videos.class_names == tuple(str(i) for i in range(len(videos.class_names))):
        return scan(data, class_names=cfg.class_names)
    return videos


def _selected(videos: VideoList, patterns: list[str] | None) -> VideoList:
    """The validation (or test) part where the data name one, and of it what fits the patterns.

    Raises:
        DataError: nothing fits.
    """
    from fnmatch import fnmatchcase

    from vidzoo.errors import DataError

    items = list(videos.items)
    parts = {item.part for item in items}
    part = next((name for name in ("val", "test") if name in parts), None)
    if part is not None:
        items = [item for item in items if item.part == part]
        print(f"vidzoo: the data name their parts: this is {part}", file=sys.stderr)
    if patterns:
        items = [item for item in items if any(fnmatchcase(item.stem, pattern) for pattern in patterns)]
        if not items:
            shown = ", ".join(item.stem for item in videos.items[:3])
            raise DataError(f"no video fits {' or '.join(map(repr, patterns))}: they are named like {shown}")
    return videos.only(items)
