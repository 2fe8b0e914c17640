"""Recompute what the five papers print about parameters and cost, and fail where a figure is missed.

python tools/verify_papers.py              # every figure: printed, computed, verdict
python tools/verify_papers.py --paper GST  # one paper

A figure matches when the computed one, rounded or cut to the printed digits, is the printed one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from papers.beyond import COPIED, OPEN, PATHWAYS, SAMPLED
from papers.claims import CLAIMS, Claim
from papers.costs import line, pathways

PAPERS = ("STDCF", "CTM", "I3D filters", "GST", "ATFR")


def matches(claim: Claim, computed: float) -> bool:
    """Whether the computed figure is the printed one, to its last digit or within the claim's own distance."""
    printed = float(claim.printed)
    if claim.within:
        return abs(computed - printed) <= claim.within * abs(printed)
    digits = len(claim.printed.partition(".")[2])
    scaled = round(computed * 10**digits, 6)
    return round(printed * 10**digits) in (round(scaled), math.floor(scaled + 0.5), math.floor(scaled))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; the number of figures that were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", choices=PAPERS, help="only this paper")
    asked = parser.parse_args(arguments).paper
    missed = 0

    print("| paper | where | what | unit | printed | computed | verdict |\n|---|---|---|---|---|---|---|")
    for claim in CLAIMS:
        if asked in (None, claim.paper) and claim.figure is not None:
            computed = claim.figure()
            good = matches(claim, computed)
            missed += not good
            printed = f"{claim.unit} | {claim.printed} | {computed:.4f} | {'matches' if good else 'MISSED'}"
            print(f"| {claim.paper} | {claim.place} | {claim.what} | {printed} |")

    if asked in (None, "ATFR"):
        print("\nATFR: the cost of a clip is const + slope x B', B' being its active bins.\n")
        print("| where | what | const | slope | printed -> B' |\n|---|---|---|---|---|")
        for row in SAMPLED:
            found = line(row.model, row.size, row.options)
            bins = [found.bins(float(printed)) for printed in row.printed]
            missed += sum(abs(value - other) > 0.06 for value, other in zip(bins, row.meant, strict=True))
            meant = ", ".join(f"{printed} -> {value:.2f}" for printed, value in zip(row.printed, bins, strict=True))
            print(f"| {row.place} | {row.what} | {found.const:.4f} | {found.slope:.5f} | {meant} of {row.bins} |")

        print("\nSlowFast samples each pathway: G MAC at (slow, fast) bins.\n")
        print("| where | what | printed | ours |\n|---|---|---|---|")
        for place, what, printed, name, size, bins in PATHWAYS:
            costs = {pair: pathways(name, size, pair) for pair in bins}
            missed += not min(costs.values()) * 0.99 <= float(printed) <= max(costs.values()) * 1.01
            ours = ", ".join(f"{pair}: {value:.2f}" for pair, value in costs.items())
            print(f"| {place} | {what} | {printed} | {ours} |")

    print("\nPrinted figures that cannot be recomputed from what is printed:\n")
    print("| paper | where | what | unit | printed | ours | why |\n|---|---|---|---|---|---|---|")
    for claim in OPEN:
        if asked in (None, claim.paper):
            computed = None if claim.figure is None else claim.figure()
            missed += computed is not None and matches(claim, computed)  # then it belongs among the others
            ours = "-" if computed is None else f"{computed:.4f}"
            print(
                f"| {claim.paper} | {claim.place} | {claim.what} | {claim.unit} | {claim.printed} | {ours} | {claim.why} |"
            )
    if asked is None:
        print("\nCTM prints no figure of this kind. Other authors' figures, for networks outside this zoo:\n")
        for place, what in COPIED:
            print(f"- {place}: {what}")
    print(f"\n{missed} missed")
    return missed


if __name__ == "__main__":
    sys.exit(bool(main()))
