"""Speed of vidzoo's networks beside torchvision's and pytorchvideo's, measured in one interleaved run.

The contenders of a group take turns (A B C A B C ...), so that whatever else the machine does hits all of them alike. A ratio
is the median over the rounds of a contender's time divided by that of the group's first row in the same round: above 1 it is
slower than ours. Absolute times belong to one machine and one moment, only the ratios are meant to be quoted.

On the CPU torch hands a single float32 clip to oneDNN only where C * T * H of a layer's input exceeds 20480; below that it
falls back to a far slower convolution, which hits layers with few channels hardest. Hence two clips unless told otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.contenders import Contender, groups
from bench.options import make_clip

_LAYOUTS = {
    False: {4: torch.contiguous_format, 5: torch.contiguous_format},
    True: {4: torch.channels_last, 5: torch.channels_last_3d},
}


@dataclass(frozen=True)
class Row:
    """Times in milliseconds of a step; ratios to the first row of the group, ``per_mac`` after division by ``gmacs``.

    ``gmacs``: multiply-adds of the forward pass over the very batch that is timed, in the mode in which it is timed.
    """

    group: str
    name: str
    note: str
    gmacs: float
    mode: str
    median_ms: float
    min_ms: float
    ratio: float
    per_mac: float


def measure(group: str, contenders: list[Contender], options: argparse.Namespace) -> list[Row]:
    """One row per contender and mode."""
    device = torch.device(options.device)
    torch.manual_seed(0)  # weights and clips decide what an adaptive network does
    labels = torch.zeros(options.batch, dtype=torch.long, device=device)
    networks = [contender.build(options).to(device) for contender in contenders]
    clips = {kind: make_clip(kind, options).to(device) for kind in sorted({contender.clip for contender in contenders})}
    rows: list[Row] = []
    for mode in options.modes:
        steps, macs = [], []
        for contender, network in zip(contenders, networks, strict=True):
            last = contender.channels_last or options.channels_last
            _lay_out(network.train(mode == "training"), channels_last=last)
            seen = clips[contender.clip].contiguous(memory_format=_LAYOUTS[last][5])
            steps.append(_step(network, seen, labels, mode=mode, bf16=contender.bf16))
            macs.append(_macs(network, seen))
        for step in steps * options.warmup:
            step()
        times: list[list[float]] = [[] for _ in steps]
        for _ in range(options.runs):
            for step, taken in zip(steps, times, strict=True):
                taken.append(_timed(step, device))
        for contender, work, taken in zip(contenders, macs, times, strict=True):
            ratio = statistics.median(a / b for a, b in zip(taken, times[0], strict=True))
            rows.append(
                Row(
                    group=group,
                    name=contender.name,
                    note=contender.note,
                    gmacs=work / 1e9,
                    mode=mode,
                    median_ms=1e3 * statistics.median(taken),
                    min_ms=1e3 * min(taken),
                    ratio=ratio,
                    per_mac=ratio * macs[0] / work,
                )
            )
    return rows


def _lay_out(network: nn.Module, *, channels_last: bool) -> None:
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            parameter.data = parameter.data.to(memory_format=_LAYOUTS[channels_last][parameter.ndim])


def _macs(network: nn.Module, seen: Tensor) -> int:
    """Counted in a run: what an adaptive network costs, only the clip can tell."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(seen)
    return counter.get_total_flops() // 2  # torch counts the product and the sum as two


def _step(network: nn.Module, clip: Tensor, labels: Tensor, *, mode: str, bf16: bool) -> Callable[[], None]:
    def precision() -> AbstractContextManager[object]:
        return torch.autocast(clip.device.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    def infer() -> None:
        with torch.inference_mode(), precision():
            network(clip)

    if mode == "inference":
        return infer
    # A tiny rate: the update costs the same, and the weights stay sound however often it runs.
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

    def train() -> None:
        optimiser.zero_grad()
        with precision():
            loss = nn.functional.cross_entropy(network(clip), labels)
        loss.backward()
        optimiser.step()

    return train


def _timed(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def environment(options: argparse.Namespace) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "clip": [options.batch, 3, options.frames, options.size, options.size],
        "channels_last": options.channels_last,
        "runs": options.runs,
    }


def markdown(facts: dict[str, object], rows: list[Row]) -> str:
    """The figures as a table, with the circumstances above it."""
    lines = [
        ", ".join(f"{key} {value}" for key, value in facts.items()),
        "",
        "Ratios refer to the first row of a group and mode; above 1 is slower. Quote ratios, not times.",
        "",
        "| group | mode | network | differs in | GMACs | median ms | min ms | ratio | ratio per MAC |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.group} | {row.mode} | {row.name} | {row.note} | {row.gmacs:.2f} | {row.median_ms:.0f} | {row.min_ms:.0f} "
        f"| {row.ratio:.2f} | {row.per_mac:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["*"], help="groups or networks to measure, as patterns")
    parser.add_argument("--modes", nargs="*", default=["inference", "training"], choices=["inference", "training"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--runs", type=int, default=7, help="rounds")
    parser.add_argument("--warmup", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--batch", type=int, default=2, help="clips per step; see above for what a single one does")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--channels-last", action="store_true", help="lay out every network's memory so, not some")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="one round on tiny clips, to see that everything runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.runs, options.warmup, options.frames, options.size = 1, 0, 2, 32
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for group, contenders in groups().items():
        there = [c for c in contenders if c.library == "vidzoo" or importlib.util.find_spec(c.library)]
        for absent in {c.library for c in contenders if c not in there}:
            print(f"{group}: {absent} is not installed, its networks are left out", file=sys.stderr)
        chosen = [c for c in there if any(fnmatch(group, p) or fnmatch(c.name, p) for p in options.models)]
        if chosen and there[0] not in chosen:
            chosen.insert(0, there[0])  # what the ratios refer to
        if len(chosen) > 1:
            rows += measure(group, chosen, options)
    facts = environment(options)
    print(markdown(facts, rows))
    if options.json:
        options.json.write_text(
            json.dumps({"environment": facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    return rows


if __name__ == "__main__":
    main()
