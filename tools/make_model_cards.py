"""Write the cards of the weights that ship with the package, from the registry and from measured results.

python tools/make_model_cards.py            # writes model_cards/*.md
python tools/make_model_cards.py --check    # fails where a card is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vidzoo
from vidzoo.hub.card import model_card

HERE = Path(__file__).resolve().parent
CARDS = HERE.parent / "model_cards"


def card(name: str) -> str:
    """The card of ``arch.tag``: what every card says, and the results and the recipe of its training."""
    cfg = vidzoo.get_pretrained_cfg(name)
    text = model_card(cfg, name, load_as=name).rstrip()
    results = json.loads((HERE / f"{cfg.tag}_results.json").read_text())
    recipe = (HERE / f"{cfg.tag}.toml").read_text().strip()
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
    return _table(["top-1, % of frames", *columns], rows)


def _classes(names: Sequence[str], per_class: Mapping[str, float], confusion: Sequence[Sequence[int]]) -> str:
    rows = [
        [name, f"{100 * per_class[name]:.0f}", *(str(count or "") for count in row)]
        for name, row in zip(names, confusion, strict=True)
    ]
    return "Rows are the truth, columns the answer, over all folds.\n\n" + _table(["", "%", *names], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a card is stale")
    check = parser.parse_args().check
    stale = []
    CARDS.mkdir(exist_ok=True)
    for name in vidzoo.list_pretrained():
        if not vidzoo.get_pretrained_cfg(name).file:
            continue
        file, text = CARDS / f"{name}.md", card(name)
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file))
    if stale:
        sys.exit(f"stale: {', '.join(stale)}; run python tools/make_model_cards.py")


if __name__ == "__main__":
    main()
