"""How a clip becomes the input of the networks of a family, as their cfgs say."""

from __future__ import annotations

from collections.abc import Sequence

from vidzoo.hub.card import input_rows
from vidzoo.hub.markdown import table
from vidzoo.pretrained import VideoCfg

__all__ = ["feeding_section"]

_NAMED = 8
"""Names in the last row: of more, nobody reads which they are."""

_COLUMNS = ("clip", "frame", "views", "mean", "standard deviation")


def feeding_section(cfgs: Sequence[VideoCfg]) -> str:
    """One row for all cfgs that are fed alike; the most of them come last, and many are not named one by one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for cfg in cfgs:
        words = dict(input_rows(cfg))
        training = " x ".join(map(str, cfg.crop_size))
        alike.setdefault((*(words[column] for column in _COLUMNS), training), []).append(f"`{cfg.name}`")
    groups = sorted(alike.items(), key=lambda group: len(group[1]) == max(map(len, alike.values())))
    rows = [(", ".join(names), *words) for words, names in groups]
    if len(groups[-1][1]) > _NAMED:
        rows[-1] = ("all others" if len(rows) > 1 else "all", *rows[-1][1:])
    return table(("for", *_COLUMNS, "crop in training"), rows)
