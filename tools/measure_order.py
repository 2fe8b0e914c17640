"""How much of an answer comes from the order of the frames: GST against C2D on actions that differ in nothing else.

The eight synthetic actions form four pairs, each the other one played backwards, so a network that does not look over time
cannot beat 1/2 within a pair, and no network can once the frames are shuffled. Trains each model from scratch with the same
options, tests it on videos that it has not seen, in order, shuffled and reversed, and prints one table.

    python tools/measure_order.py --models gst_r18 c2d_r18
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

import vidzoo
from vidzoo.data.listing import scan
from vidzoo.data.synthetic import PAIRS
from vidzoo.evaluation import Report, evaluate
from vidzoo.train import FinetuneConfig, finetune

CONFIG = FinetuneConfig(
    num_frames=8,
    sampling="segments",
    crop_size=(56, 70),
    short_side=56,
    subtract_clip_mean=True,
    mean=(0.0, 0.0, 0.0),
    std=(0.1, 0.1, 0.1),
    augment=("crop=centre", "hflip=0.5"),
    drop_rate=0.0,
    label_smoothing=0.0,
    batch_size=8,
    lr=1e-3,
    warmup_epochs=1.0,
    mixed_precision="bf16",
    channels_last=True,
    cache="ram",
    val_none=True,
)


def within_pairs(report: Report) -> float:
    """Of the videos that were given to the right pair, the share that was also given to the right one of the two."""
    index = {name: i for i, name in enumerate(report.class_names)}
    right = wrong = 0
    for pair in PAIRS:
        first, second = (index[name] for name in pair)
        right += report.confusion[first][first] + report.confusion[second][second]
        wrong += report.confusion[first][second] + report.confusion[second][first]
    return right / max(right + wrong, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["gst_r18", "c2d_r18"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--videos-per-class", type=int, default=120, help="for training; a third as many for the test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    args = parser.parse_args()

    # Both videos of a pair come from one seed: other seeds for the test, or each test video has its mirror in training.
    train = f"synthetic:pairs?videos_per_class={args.videos_per_class}&seed={2 * args.seed}&frames=32"
    test = scan(f"synthetic:pairs?videos_per_class={args.videos_per_class // 3}&seed={2 * args.seed + 1}&frames=32")
    rows = []
    for name in args.models:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = CONFIG.replace(epochs=args.epochs, seed=args.seed, workers=0)
            finetune(name, train, Path(folder) / "run", config)
            model = vidzoo.create_model(f"local-dir:{folder}/run")
        seconds = time.perf_counter() - start
        for order in ("normal", "shuffled", "reversed"):
            report = evaluate(model, test, order=order, seed=args.seed)
            rows.append(
                {
                    "model": name,
                    "frames": order,
                    "top1": round(report.top1, 4),
                    "within_pairs": round(within_pairs(report), 4),
                    "videos": report.num_videos,
                    "training_seconds": round(seconds, 1),
                }
            )
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{args.epochs} epochs of {args.videos_per_class} videos per class, seed {args.seed}, torch {torch.__version__}"
    )
    print("| model | frames | top-1 of 8 | within pairs | test videos |\n|---|---|---|---|---|")
    for row in rows:
        print("| {model} | {frames} | {top1:.3f} | {within_pairs:.3f} | {videos} |".format(**row))


if __name__ == "__main__":
    main()
