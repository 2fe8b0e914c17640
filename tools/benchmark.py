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

import vidzoo
from vidzoo.profiling import profile

CLASSES = 400


@dataclass(frozen=True)
class Contender:
    """A network and how it is run; ``note`` says in what its work differs from that of the group's first row."""

    name: str
    build: Callable[[argparse.Namespace], nn.Module]
    note: str = ""
    library: str = "vidzoo"
    channels_last: bool = False
    bf16: bool = False


@dataclass(frozen=True)
class Row:
    """Times in milliseconds; ratios to the first row of the group, ``per_mac`` after division by the multiply-adds."""

    group: str
    name: str
    note: str
    gmacs: float
    mode: str
    median_ms: float
    min_ms: float
    ratio: float
    per_mac: float


class PerFrame(nn.Module):
    """A 2D network over the frames of a clip, the logits averaged: ``(B, C, T, H, W) -> (B, num_classes)``."""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        logits = self.image(x.transpose(1, 2).flatten(0, 1))  # (B * T, num_classes)
        return logits.unflatten(0, (x.shape[0], x.shape[2])).mean(dim=1)


def _ours(name: str) -> Callable[[argparse.Namespace], nn.Module]:
    return lambda options: vidzoo.create_model(name, num_classes=CLASSES, drop_rate=0.0)


def _resnet50_per_frame(options: argparse.Namespace) -> nn.Module:
    from torchvision.models import resnet50

    return PerFrame(resnet50(num_classes=CLASSES))


def _r3d_18(options: argparse.Namespace) -> nn.Module:
    from torchvision.models.video import r3d_18

    return r3d_18(num_classes=CLASSES)


def _pytorchvideo(
    stem: int, reduce: tuple[int, int, int, int], spatial: int
) -> Callable[[argparse.Namespace], nn.Module]:
    """A ResNet-50 of pytorchvideo with these temporal kernels: stem, 1x1 convolution per stage, 3x3 convolution."""

    def build(options: argparse.Namespace) -> nn.Module:
        from pytorchvideo.models.resnet import create_resnet

        return create_resnet(
            model_num_class=CLASSES,
            dropout_rate=0.0,
            stem_conv_kernel_size=(stem, 7, 7),
            stage_conv_a_kernel_size=tuple((length, 1, 1) for length in reduce),
            stage_conv_b_kernel_size=((spatial, 3, 3),) * 4,
            head_pool_kernel_size=(options.frames, -(-options.size // 32), -(-options.size // 32)),
        )

    return build


def groups() -> dict[str, list[Contender]]:
    """Every comparison by its name; ratios refer to the first contender."""
    table = {
        "frame by frame": [
            Contender("c2d_r50", _ours("c2d_r50")),
            Contender("torchvision resnet50", _resnet50_per_frame, "same work, on B*T images", "torchvision"),
            Contender(
                "pytorchvideo c2d_r50",
                _pytorchvideo(1, (1, 1, 1, 1), 1),
                "same work (its pooling over time left out)",
                "pytorchvideo",
            ),
        ],
        "dense": [
            Contender("c3d_r50", _ours("c3d_r50")),
            Contender(
                "pytorchvideo c3d_r50", _pytorchvideo(1, (1, 1, 1, 1), 3), "same work, 3x3x3 kernels", "pytorchvideo"
            ),
        ],
        "dense r18": [
            Contender("c3d_r18", _ours("c3d_r18")),
            Contender(
                "torchvision r3d_18",
                _r3d_18,
                "stem 3x7x7 and no pooling after it, time halved in three stages: compare per MAC",
                "torchvision",
            ),
        ],
        "units": [
            Contender("gst_r50", _ours("gst_r50")),
            Contender("c2d_r50", _ours("c2d_r50"), "no time"),
            Contender("p3d_r50", _ours("p3d_r50"), "1x3x3, then 3x1x1"),
            Contender("gst_large_r50", _ours("gst_large_r50"), "both groups see all channels"),
            Contender("c3d_g2_r50", _ours("c3d_g2_r50"), "3x3x3 in two groups"),
            Contender("c3d_r50", _ours("c3d_r50"), "3x3x3"),
            Contender(
                "pytorchvideo slow_r50",
                _pytorchvideo(1, (1, 1, 3, 3), 1),
                "3x1x1 before the 3x3 in two stages",
                "pytorchvideo",
            ),
        ],
    }
    for name in ("c2d_r50", "c3d_r50", "p3d_r50", "gst_r50"):
        table[f"memory and precision of {name}"] = [
            Contender(name, _ours(name), "contiguous, fp32"),
            Contender(name, _ours(name), "channels_last_3d, fp32", channels_last=True),
            Contender(name, _ours(name), "contiguous, bf16 autocast", bf16=True),
            Contender(name, _ours(name), "channels_last_3d, bf16 autocast", channels_last=True, bf16=True),
        ]
    return table


def measure(group: str, contenders: list[Contender], options: argparse.Namespace) -> list[Row]:
    """One row per contender and mode."""
    device = torch.device(options.device)
    clip = torch.rand(options.batch, 3, options.frames, options.size, options.size, device=device)
    labels = torch.zeros(options.batch, dtype=torch.long, device=device)
    networks = [contender.build(options).to(device) for contender in contenders]
    macs = [profile(network, (options.frames, options.size, options.size)).macs * options.batch for network in networks]
    rows: list[Row] = []
    for mode in options.modes:
        steps = []
        for contender, network in zip(contenders, networks, strict=True):
            layout = torch.channels_last_3d if contender.channels_last else torch.contiguous_format
            network.to(memory_format=layout).train(mode == "training")
            steps.append(_step(network, clip.contiguous(memory_format=layout), labels, mode=mode, bf16=contender.bf16))
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
