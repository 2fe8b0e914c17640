"""Writes a contact sheet of the synthetic videos: one row per action, time from left to right."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from vidzoo.data.synthetic import ACTIONS, PAIRS, SyntheticVideo


def contact_sheet(actions: list[str], *, seeds: list[int], columns: int, num_frames: int) -> Tensor:
    """One row per action and seed: uint8 (rows * H, columns * W, 3)."""
    rows = []
    for action in actions:
        for seed in seeds:
            video = SyntheticVideo(action, seed=seed, num_frames=num_frames)
            steps = [round(k * (num_frames - 1) / max(columns - 1, 1)) for k in range(columns)]
            rows.append(torch.cat(list(video.frames(steps)), dim=1))  # (H, columns * W, 3)
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument("--actions", nargs="*", help="which actions (default: all ten and all pairs)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--frames", type=int, default=48, help="length of every video")
    options = parser.parse_args()
    from PIL import Image

    actions = options.actions or [*ACTIONS, *(name for pair in PAIRS for name in pair)]
    sheet = contact_sheet(actions, seeds=options.seeds, columns=options.columns, num_frames=options.frames)
    Image.fromarray(sheet.numpy()).save(options.output)


if __name__ == "__main__":
    main()
