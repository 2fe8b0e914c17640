"""What the five papers print about the networks of a family, beside what is computed here."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from papers.beyond import OPEN, PATHWAYS, SAMPLED
from papers.claims import CLAIMS, Claim
from papers.costs import line, pathways
from verify_papers import matches
from vidzoo.hub.markdown import table, text

__all__ = ["figures_section", "home"]

# Where a figure goes that belongs to no network of the zoo.
_HOMES = {"STDCF": "stdcf", "I3D filters": "i3d", "GST": "gst", "ATFR": "atfr"}


def home(claim: Claim) -> str:
    """The name of the network whose figure it is; without one, the family of the paper."""
    if claim.figure is None:
        return _HOMES[claim.paper]
    # What recomputes a figure is a function made for one network, whose name it has kept.
    return str(inspect.getclosurevars(claim.figure).nonlocals.get("name", _HOMES[claim.paper]))


def figures_section(names: Sequence[str], family: str) -> str:
    """Sizes and costs only: no accuracy of a paper is claimed."""
    own = {*names, family}
    parts = []
    rows = [_row(claim) for claim in (*CLAIMS, *OPEN) if home(claim) in own]
    if rows:
        parts.append(table(("paper", "where", "what", "unit", "printed", "computed here", "verdict"), rows))
    sampled = [row for row in SAMPLED if row.model in own]
    if sampled:
        found = [(row, line(row.model, row.size, row.options)) for row in sampled]
        parts.append(
            "What the clip decides: GMAC = const + slope B', and how many frames B' each printed figure means."
        )
        parts.append(
            table(
                ("paper", "where", "what", "const", "slope", "printed", "B' that it means", "at most"),
                [
                    (
                        "ATFR",
                        row.place,
                        text(row.what),
                        f"{cost.const:.4f}",
                        f"{cost.slope:.5f}",
                        ", ".join(row.printed),
                        ", ".join(f"{cost.bins(float(printed)):.2f}" for printed in row.printed),
                        str(row.bins),
                    )
                    for row, cost in found
                ],
            )
        )
    both = [row for row in PATHWAYS if row[3] in own]
    if both:
        parts.append("Two pathways are sampled, each by itself: GMAC at (slow, fast) frames around the printed figure.")
        parts.append(
            table(
                ("paper", "where", "what", "printed", "computed here"),
                [
                    ("ATFR", place, text(what), printed, ", ".join(f"{b}: {pathways(name, size, b):.2f}" for b in bins))
                    for place, what, printed, name, size, bins in both
                ],
            )
        )
    if not parts:
        return "None of the five papers that this zoo recomputes prints a size or a cost of these networks."
    return "\n\n".join(
        [*parts, "`python tools/verify_papers.py` computes them all. No accuracy of a paper is claimed."]
    )


def _row(claim: Claim) -> tuple[str, ...]:
    computed = None if claim.figure is None else claim.figure()
    agrees = f"agrees within {claim.within:.0%}" if claim.within else "agrees"
    verdict = claim.why or (agrees if computed is not None and matches(claim, computed) else "does not agree")
    digits = len(claim.printed.partition(".")[2]) + 1
    ours = "-" if computed is None else f"{computed:.{digits}f}"
    return (claim.paper, claim.place, text(claim.what), text(claim.unit), claim.printed, ours, text(verdict))
