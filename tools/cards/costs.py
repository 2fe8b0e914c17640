"""Parameters, multiply-adds and latency of every name of a family; all but the latency is counted without computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

import vidzoo
from cards.latency import Latency
from papers.costs import line, pathways
from vidzoo.hub.card import MACS
from vidzoo.hub.markdown import table
from vidzoo.models.slowfast import SlowFast
from vidzoo.pretrained import VideoCfg

__all__ = ["costs_section"]


def costs_section(cfgs: Mapping[str, Sequence[VideoCfg]], latency: Latency) -> str:
    """One row per name, for a clip as its default cfg feeds it at test time."""
    rows, adaptive = [], False
    for name, (cfg, *_) in cfgs.items():
        params, gmac, depends = _counted(name, cfg)
        adaptive |= depends
        clip = "x".join(map(str, (cfg.num_frames, *cfg.eval_crop_size)))
        rows.append((f"`{name}`", str(cfg.num_classes), f"{params / 1e6:.2f} M", clip, gmac, *latency.cells(name)))
    head = ("name", "classes", "parameters", "clip", "GMAC", "latency", "spread", "at")
    notes = [f"A clip is frames x height x width, one view. {MACS}", latency.words(cfgs)]
    if adaptive:
        notes.insert(
            1,
            "B' is the number of frames that stay behind the sampler: 1 for a still clip, all of them at most; in between "
            "the clip decides, and what the sampler has learnt. Its embedding and its sum over frames are counted.",
        )
    return "\n\n".join([table(head, rows), *notes])


def _counted(name: str, cfg: VideoCfg) -> tuple[int, str, bool]:
    """Parameters, the words for GMAC, and whether that depends on what a clip shows."""
    size = (cfg.num_frames, *cfg.eval_crop_size)
    if not {"bins", "slow_bins"} & vidzoo.model_options(name).keys():
        profile = vidzoo.profile(name, size)
        return profile.params, f"{profile.macs / 1e9:.2f}", False
    with torch.device("meta"):
        model = vidzoo.create_model(name)
    params = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, SlowFast):
        slow, fast = -(-cfg.num_frames // model.alpha), cfg.num_frames
        few, most = pathways(name, size, (1, 1)), pathways(name, size, (slow, fast))
        return params, f"{few:.2f} with 1 and 1 frames left, {most:.2f} with all {slow} and {fast}", True
    found = line(name, size)
    most = found.const + found.slope * cfg.num_frames
    return params, f"{found.const:.3f} + {found.slope:.4f} B', at most {most:.2f}", True
