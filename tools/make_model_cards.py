"""Write the model cards, one for each family and one for the weights that ship, from the registry and what was measured.

python tools/make_model_cards.py                 # writes model_cards/*.md
python tools/make_model_cards.py --check         # fails where a card is not what would be written
python tools/make_model_cards.py --only kth      # one card, or a few
python tools/make_model_cards.py --measure       # times every network first (minutes); --measure "x3d*": some
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cards.family import families, family_card
from cards.latency import FILE, Latency, measure
from cards.shortcut import Shortcut
from cards.weights import embedded, weights_card

CARDS = Path(__file__).resolve().parents[1] / "model_cards"


def writers(latency: Latency) -> dict[str, Callable[[], str]]:
    """What writes each card, by the name of its file without ``.md``."""
    by_family = {name: partial(family_card, family, latency) for name, family in families().items()}
    return by_family | {name: partial(weights_card, name) for name in embedded()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the cards; the number of those that are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a card is stale")
    parser.add_argument("--only", nargs="+", metavar="CARD", help="these cards alone: a family, or arch.tag")
    parser.add_argument("--folder", type=Path, default=CARDS, help="where the cards are")
    parser.add_argument("--measure", nargs="*", metavar="PATTERN", help="time the networks first")
    options = parser.parse_args(arguments)
    if options.measure is not None:
        measure(options.measure)
    cards = writers(Latency.read(FILE))
    unknown = [name for name in options.only or () if name not in cards]
    if unknown:
        parser.error(f"no such card: {', '.join(unknown)}; there are {', '.join(cards)}")
    stale = []
    if not options.check:
        options.folder.mkdir(exist_ok=True)
    if not options.only:
        stale = [file for file in sorted(options.folder.glob("*.md")) if file.stem not in cards]
    for name in options.only or cards:
        with Shortcut():
            file, text = options.folder / f"{name}.md", cards[name]()
        if not options.check:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(file)
    for file in stale:
        print(f"stale: {file.name}", file=sys.stderr)
    if stale:
        print("run python tools/make_model_cards.py; delete cards of what is no longer there", file=sys.stderr)
    return len(stale)


if __name__ == "__main__":
    sys.exit(bool(main()))
