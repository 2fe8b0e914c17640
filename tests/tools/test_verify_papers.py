"""The printed figures of the five papers are recomputed, and a wrong one does not pass."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    tools = str(Path(__file__).resolve().parents[2] / "tools")
    sys.path.insert(0, tools)
    yield importlib.import_module("verify_papers")
    sys.path.remove(tools)


@pytest.mark.parametrize("paper", ["STDCF", "I3D filters", "GST", "ATFR"])
def test_no_figure_of_a_paper_is_missed(tool: ModuleType, paper: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--paper", paper]) == 0
    printed = capsys.readouterr().out
    assert "MISSED" not in printed
    assert printed.count(f"| {paper} |") == sum(claim.paper == paper for claim in (*tool.CLAIMS, *tool.OPEN))


def test_every_reason_for_an_open_figure_is_given(tool: ModuleType) -> None:
    assert all(claim.why for claim in tool.OPEN)
    assert not any(claim.why for claim in tool.CLAIMS)


def test_a_figure_matches_to_its_last_printed_digit_and_no_further(tool: ModuleType) -> None:
    claim = next(claim for claim in tool.CLAIMS if claim.printed == "21.0")
    assert tool.matches(claim, 21.035)
    assert tool.matches(claim, 20.951)
    assert not tool.matches(claim, 20.949)
    assert not tool.matches(claim, 21.1)
    cut = replace(claim, printed="1.9")
    assert tool.matches(cut, 1.963)  # the papers cut as often as they round
    assert not tool.matches(cut, 2.0)
    loose = replace(claim, printed="0.24", within=0.05)
    assert tool.matches(loose, 0.25)
    assert not tool.matches(loose, 0.26)


def test_a_missed_figure_is_counted(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [replace(claim, printed="99.9") for claim in tool.CLAIMS if claim.paper == "GST"]
    monkeypatch.setattr(tool, "CLAIMS", wrong)
    assert tool.main(["--paper", "GST"]) == len(wrong)
    assert capsys.readouterr().out.count("MISSED") == len(wrong)


# ATFR's own cost against active bins, recomputed by hand from its printed figures: const, slope.
@pytest.mark.parametrize(
    ("name", "size", "options", "const", "slope"),
    [
        ("x3d_s_atfr", (13, 160, 160), (("after", "stem"),), 0.0658, 0.14793),
        ("x3d_s_atfr", (13, 160, 160), (), 0.4113, 0.11985),
        ("x3d_s_atfr", (13, 160, 160), (("after", "res3"),), 0.7897, 0.09050),
        ("i3d_r50_atfr", (32, 256, 256), (), 62.245, 2.7263),
        ("c2d_pool_r50_atfr", (32, 256, 256), (), 32.852, 2.1894),
        ("resnet3d_18_atfr", (32, 224, 224), (), 2.649, 0.485),
    ],
)
def test_the_cost_of_an_adaptive_network_is_its_line(
    tool: ModuleType,
    name: str,
    size: tuple[int, int, int],
    options: tuple[tuple[str, str], ...],
    const: float,
    slope: float,
) -> None:
    found = tool.line(name, size, options)
    assert found.const == pytest.approx(const, rel=1e-3)
    assert found.slope == pytest.approx(slope, rel=1e-3)
    assert found.bins(found.const + 3 * found.slope) == pytest.approx(3)


def test_two_pathways_cost_what_their_bins_cost(tool: ModuleType) -> None:
    name, size = "slowfast_r50_4x16_atfr", (32, 256, 256)
    # By hand, without the sums over frames, which are bins x frames x channels x positions in each pathway.
    for slow, fast, by_hand in ((2, 4, 20.65), (2, 8, 21.05), (2, 16, 21.99)):
        sums = (slow * 4 * 256 + fast * 32 * 32) * 64 * 64 / 1e9
        assert tool.pathways(name, size, (slow, fast)) - sums == pytest.approx(by_hand, abs=0.005)
