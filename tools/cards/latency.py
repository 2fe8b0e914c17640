"""Time of a forward pass of every network over that of torchvision's ``r3d_18``, measured on one CPU thread and kept.

Absolute times belong to one machine and one moment, so only ratios are kept, in ``latency.json``. What is timed is the
processor time of a single thread, which other work on the machine stretches less than the time on the wall. Each ratio is
the least time of the network over the least time of the reference, both of as many rounds; disturbances only ever add to
a time, which makes the least one its most stable figure. A few networks are timed in turn with the reference between
them, so that a machine that slows down does so for all. The spread is that of the ratios of the single rounds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor, nn

import vidzoo

__all__ = ["LATENCY", "Latency", "Ratio", "measure"]

FILE = Path(__file__).resolve().parent / "latency.json"
REFERENCE = "torchvision's r3d_18 on 16x112x112"
CPU = "x86-64 CPU, 1 thread"
ROUNDS = 5
AT_ONCE = 5
"""Networks that are timed in turn; all of them are in memory."""


@dataclass(frozen=True)
class Ratio:
    """Of one network at ``size``, frames x height x width: half its test crop."""

    size: tuple[int, int, int]
    clip: str
    """``noise``, or ``still`` for a network that goes on with as many frames as differ: then with one."""
    ratio: float
    low: float
    high: float
    torch: str


class Latency:
    """What was measured, by name."""

    def __init__(self, ratios: dict[str, Ratio]) -> None:
        self.ratios = ratios

    @classmethod
    def read(cls, file: Path) -> Latency:
        """What :meth:`write` wrote; nothing where there is no file."""
        if not file.is_file():
            return cls({})
        entries = json.loads(file.read_text(encoding="utf-8"))["ratios"]
        return cls({name: Ratio(**{**entry, "size": tuple(entry["size"])}) for name, entry in entries.items()})

    def write(self, file: Path) -> None:
        """One line per name, so that a new figure is a small change."""
        lines = [f"  {json.dumps(name)}: {json.dumps(asdict(self.ratios[name]))}" for name in sorted(self.ratios)]
        head = {
            "reference": REFERENCE,
            "cpu": CPU,
            "figure": f"processor time, least of {ROUNDS} rounds over least of the reference",
        }
        facts = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
        file.write_text("{\n" + facts + ' "ratios": {\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")

    def cells(self, name: str) -> tuple[str, str, str]:
        """Ratio, spread and size in words."""
        if name not in self.ratios:
            return ("not measured", "", "")
        found = self.ratios[name]
        size = "x".join(map(str, found.size)) + (", still" if found.clip == "still" else "")
        return (f"{found.ratio:g}", f"{found.low:g} to {found.high:g}", size)

    def words(self, names: Collection[str]) -> str:
        """What the figures of these networks are."""
        found = [self.ratios[name] for name in names if name in self.ratios]
        if not found:
            return f"Latency would be the time of one forward pass over that of {REFERENCE}; it was not measured."
        versions = ", ".join(sorted({one.torch for one in found}))
        parts = [
            f"Latency: time of one forward pass over one clip of the size under *at*, divided by that of {REFERENCE} "
            f"({CPU}, float32, contiguous, evaluation mode, torch {versions}): the least processor time of {ROUNDS} rounds, "
            "in which both take turns; the spread is that of the rounds. Other sizes, batches, layouts and devices have "
            "other ratios: `python tools/benchmark.py` measures them where you are."
        ]
        if any(one.clip == "still" for one in found):
            parts.append("A still clip leaves one frame behind the sampler, so that is the least these networks take.")
        return " ".join(parts)


LATENCY = Latency.read(FILE)


def measure(patterns: Sequence[str] = (), file: Path = FILE) -> None:
    """Time the networks whose names match (all: no pattern) and write the file; others keep their figures."""
    names = [name for name in vidzoo.list_models() if not patterns or any(fnmatch(name, p) for p in patterns)]
    kept = {name: ratio for name, ratio in Latency.read(file).ratios.items() if vidzoo.is_model(name)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, len(names), AT_ONCE):
            found = _timed(names[start : start + AT_ONCE])
            kept.update(found)
            for name, ratio in found.items():
                print(f"{name}: {ratio.ratio:g} ({ratio.low:g} to {ratio.high:g})", file=sys.stderr, flush=True)
    finally:
        torch.set_num_threads(threads)
    Latency(kept).write(file)


def _timed(names: Iterable[str]) -> dict[str, Ratio]:
    from torchvision.models.video import r3d_18

    torch.manual_seed(0)
    reference = r3d_18(weights=None).eval(), torch.rand(1, 3, 16, 112, 112)
    networks = {name: _prepared(name) for name in names}
    with torch.inference_mode():
        for network, clip, _ in networks.values():
            network(clip)  # the first pass is slower than any other
        base: list[float] = []
        taken: dict[str, list[float]] = {name: [] for name in networks}
        for turn in range(ROUNDS + 1):
            base.append(_seconds(*reference))
            for name, (network, clip, _) in networks.items() if turn else ():
                taken[name].append(_seconds(network, clip))
    base = base[1:]  # its own first pass
    return {
        name: Ratio(
            size=(clip.shape[2], clip.shape[3], clip.shape[4]),
            clip=kind,
            ratio=_short(min(taken[name]) / min(base)),
            low=_short(min(a / b for a, b in zip(taken[name], base, strict=True))),
            high=_short(max(a / b for a, b in zip(taken[name], base, strict=True))),
            torch=torch.__version__.partition("+")[0],
        )
        for name, (_, clip, kind) in networks.items()
    }


def _prepared(name: str) -> tuple[nn.Module, Tensor, str]:
    model = vidzoo.create_model(name).eval()
    cfg = model.pretrained_cfg
    height, width = cfg.eval_crop_size
    clip = torch.rand(1, cfg.in_chans, cfg.num_frames, height // 2, width // 2)  # (1, C, T, H, W)
    if any(info.adaptive for info in model.feature_info):
        return model, clip[:, :, :1].expand_as(clip).contiguous(), "still"
    return model, clip, "noise"


def _seconds(network: nn.Module, clip: Tensor) -> float:
    start = time.process_time()
    network(clip)
    return time.process_time() - start


def _short(value: float) -> float:
    return float(f"{value:.2g}")
