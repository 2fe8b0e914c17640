"""The card of a set of weights that ships with the package: what every card says, its results and its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import vidzoo
from vidzoo.hub.card import model_card
from vidzoo.hub.markdown import table

__all__ = ["embedded", "weights_card"]

TOOLS = Path(__file__).resolve().parents[1]


def embedded() -> list[str]:
    """``arch.tag`` of everything whose weights are a file of the package."""
    return [name for name in vidzoo.list_pretrained() if vidzoo.get_pretrained_cfg(name).file]


def weights_card(name: str) -> str:
    """The card of ``arch.tag``, with ``TAG_results.json`` and ``TAG.toml`` beside the tool that trained it."""
    cfg = vidzoo.get_pretrained_cfg(name)
    text = model_card(cfg, name, load_as=name, costs=vidzoo.profile(name)).rstrip()
    results = json.loads((TOOLS / f"{cfg.tag}_results.json").read_text(encoding="utf-8"))
    recipe = (TOOLS / f"{cfg.tag}.toml").read_text(encoding="utf-8").strip()
    sections = [
        text,
        "## How it was measured\n\n" + "\n\n".join(results["notes"]),
        "### Order of the frames\n\n" + _orders(results["top1"]),
        "### Classes\n\n" + _classes(results["class_names"], results["per_class"], results["confusion"]),
        *(f"### {title}\n\n{text}" for title, text in results.get("more", {}).items()),
        f"## Recipe\n\n`tools/train_{cfg.tag}.py` runs it; the options of `vidzoo finetune` are\n\n```toml\n{recipe}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _orders(top1: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(top1.values())))
    rows = [[order, *(f"{100 * figures[column]:.1f}" for column in columns)] for order, figures in top1.items()]
    return table(["top-1, % of frames", *columns], rows)


def _classes(names: Sequence[str], per_class: Mapping[str, float], confusion: Sequence[Sequence[int]]) -> str:
    rows = [
        [name, f"{100 * per_class[name]:.0f}", *(str(count or "") for count in row)]
        for name, row in zip(names, confusion, strict=True)
    ]
    return "Rows are the truth, columns the answer, over all folds.\n\n" + table(["", "%", *names], rows)
