"""The part of a model card that tells how the model was trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidzoo.evaluation import Report
    from vidzoo.train.config import FinetuneConfig
    from vidzoo.train.inputs import Videos

__all__ = ["training_section"]

# Options of other groups that a reader needs to repeat the run.
_RECIPE = ("drop_rate", "drop_path_rate", "samples_per_video", "mixed_precision", "seed")


def training_section(
    videos: Videos,
    config: FinetuneConfig,
    *,
    start: str,
    epoch: int,
    processes: int,
    report: Report | None,
    broken: int,
) -> str:
    """Markdown: data, start, recipe, and the validation figures with what they are worth."""
    from vidzoo import __version__

    train = f"{len(videos.train)} videos of {len(videos.class_names)} classes"
    if videos.extra is not None:
        train += f", and {config.extra_samples or len(videos.extra)} of {len(videos.extra)} extra videos per epoch"
    if broken:
        train += f"; {broken} of them could not be read and were replaced by others"
    averaged = " (averaged weights)" if config.ema_decay else ""
    rows = {
        "data": videos.name,
        "trained on": train,
        "started from": start or "random weights",
        "weights": f"after epoch {epoch} of {config.epochs}{averaged}",
        "clips per update": str(config.batch_size * config.grad_accum * processes),
        "vidzoo": __version__,
    }
    lines = ["## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]
    lines += ["Options that differ from the defaults of `vidzoo finetune`:", "", _options(config), ""]
    lines += ["## Validation", "", *_validation(videos, config, report), ""]
    return "\n".join(lines)


def _options(config: FinetuneConfig) -> str:
    told = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        in_recipe = field.name in _RECIPE or field.metadata["group"] in ("augmentation", "optimisation", "freezing")
        if in_recipe and value != field.default:
            told.append(f"`{field.name}={' '.join(map(str, value)) if isinstance(value, tuple) else value}`")
    return ", ".join(told) or "none"


def _validation(videos: Videos, config: FinetuneConfig, report: Report | None) -> list[str]:
    if report is None or videos.val is None:
        return ["None: the model was trained on all of the data, so there is no figure to print."]
    how = {
        "val": "data given apart",
        "val_match": f"videos whose name matches `{config.val_match}`",
        "val_fraction": f"a random share of {config.val_fraction} of each class (seed {config.seed})",
    }
    chosen = next((text for name, text in how.items() if getattr(config, name)), "the data's own val/ part")
    clips, crops = report.views
    lines = [
        f"On {report.num_videos} videos: {chosen}. {clips} x {crops} views per video.",
        "",
        "| top-1 | top-5 | mean class | loss |",
        "|---|---|---|---|",
        f"| {report.top1:.1%} | {report.top5:.1%} | {report.mean_class:.1%} | {report.loss:.3f} |",
    ]
    if config.keep == "best" and config.epochs > 1:
        lines += ["", "The epoch was chosen by these same videos, so the figures are somewhat better than on new ones."]
    if config.val_fraction is not None:
        lines += ["", "A random split may put the same person or scene on both sides, which flatters a model."]
    return lines
