"""Short videos of an articulated figure, rendered on the fly: ten actions, and pairs that differ only in time order."""

from __future__ import annotations

from vidzoo.data.synthetic.motion import ACTIONS, PAIRS
from vidzoo.data.synthetic.video import (
    KINDS,
    SyntheticItem,
    SyntheticVideo,
    parse,
    render,
    video_list,
    write_videos,
)

__all__ = [
    "ACTIONS",
    "KINDS",
    "PAIRS",
    "SyntheticItem",
    "SyntheticVideo",
    "parse",
    "render",
    "video_list",
    "write_videos",
]
