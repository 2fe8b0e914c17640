"""How a clip becomes the input of the networks of a family, as their cfgs say."""

from __future__ import annotations

from collections.abc import Sequence

from vidzoo.hub.card import input_rows
from vidzoo.hub.markdown import table
from vidzoo.pretrained import VideoCfg

__all__ = ["feeding_section"]

_COLUMNS = ("clip", "frame", "views", "mean", "standard deviation")


def feeding_section(cfgs: Sequence[VideoCfg]) -> str:
    """One row for all cfgs that are fed alike."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for cfg in cfgs:
        words = dict(input_rows(cfg))
        training = " x ".join(map(str, cfg.crop_size))
        alike.setdefault((*(words[column] for column in _COLUMNS), training), []).append(f"`{cfg.name}`")
    rows = [(", ".join(names), *words) for words, names in alike.items()]
    return table(("for", *_COLUMNS, "crop in training"), rows)
