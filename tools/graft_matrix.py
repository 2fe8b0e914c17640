"""Every host with every plan: does it run, learn, survive saving, and keep its function? Or does it refuse clearly?

python tools/graft_matrix.py             # all of it, full-size networks on small clips: minutes
python tools/graft_matrix.py --small     # one host of each kind
python tools/graft_matrix.py --hosts 'pytorchvideo:*' --plans sgs stdcf

Each cell builds the host with random weights that make every path count, grafts the plan, runs a clip forward and
backward, saves, reloads, and compares. "kept": the outputs are those from before, to 1e-5. "moved": by so much, relative
to their norm. "refused": one sentence of vidzoo's. Anything else is FAILED, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.grafting.backbone import build, is_3d
from vidzoo.grafting.graft import graft
from vidzoo.grafting.model import GraftedModel
from vidzoo.grafting.plan import PLANS
from vidzoo.grafting.traced import twin_of

_TIMM = (
    *("resnet18", "resnet50", "resnext50_32x4d", "regnety_004"),
    *("mobilenetv2_100", "efficientnet_b0", "convnext_atto", "densenet121"),
)
PICTURES = ("inflate", "gst", "stdcf", "reparam", "ctm", "shift")
CLIPS = ("stdcf", "reparam", "sgs", "ctm")
HOSTS: dict[str, tuple[str, ...]] = {
    **{f"timm:{name}": PICTURES for name in _TIMM},
    **dict.fromkeys(("torchvision:resnet18", "torchvision:densenet121", "torchvision:mobilenet_v3_small"), PICTURES),
    **{f"pytorchvideo:{name}": CLIPS for name in ("x3d_xs", "slow_r50", "r2plus1d_r50", "slowfast_r50", "csn_r101")},
    **{f"torchvision:{name}": CLIPS for name in ("r3d_18", "r2plus1d_18", "mc3_18", "s3d")},
}
SMALL = ("timm:resnet18", "timm:mobilenetv2_100", "pytorchvideo:x3d_xs", "torchvision:s3d")
CLASSES = 5


@dataclass(frozen=True)
class Cell:
    """What came of one host with one plan; ``bad``: it neither works nor refuses clearly."""

    host: str
    plan: str
    verdict: str
    detail: str
    seconds: float
    bad: bool = False


def cell(host: str, plan: str) -> Cell:
    """Try one host with one plan; only the graft itself may refuse."""
    start = time.perf_counter()
    bad = False
    try:
        torch.manual_seed(0)
        network = twin_of(build(host, num_classes=CLASSES)).eval()
        frames = 16 if is_3d(network) else 4
        whole = graft(network, "frame", num_frames=frames, source=host).eval()
        try:
            model = graft(network, plan, num_frames=frames, source=host).eval()
        except ConfigError as error:
            verdict, detail, bad = "refused", str(error), "\n" in str(error)
        else:
            verdict, detail = _tried(whole, model, frames)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict, detail, bad = "FAILED", f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", True
    return Cell(host, plan, verdict, detail, time.perf_counter() - start, bad)


def _tried(whole: GraftedModel, model: GraftedModel, frames: int) -> tuple[str, str]:
    x = torch.randn(2, 3, frames, 64, 64)
    x[0, :, 1:] = x[0, :, :1]  # one clip that is still, which a sampler makes shorter than the other
    with torch.no_grad():
        before, after = whole(x), model(x)
        alone = torch.cat([model(clip[None]) for clip in x])
        moved = _distance(after, before)
        _expect(bool(after.isfinite().all()), "outputs are not finite")
        _expect(_distance(alone, after) < 1e-4, f"a clip is answered otherwise alone ({_distance(alone, after):.1e})")
    with tempfile.TemporaryDirectory() as folder:
        vidzoo.save_pretrained(model, folder)
        again = vidzoo.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        _expect(torch.equal(again(x), after), f"reloaded, the outputs moved by {_distance(again(x), after):.1e}")
    model.train()(x).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    _expect(not dead, f"no gradient for {', '.join(dead[:3])}")
    rows = model.graft_report.rows if model.graft_report is not None else ()
    kept = sum(row.what == "kept" for row in rows)
    return "kept" if moved < 1e-5 else "moved", f"{moved:.1e}; {len(rows) - kept} layers new, {kept} kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matrix; the number of cells that are bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--hosts", nargs="+", default=["*"], metavar="PATTERN", help="only these hosts")
    parser.add_argument("--plans", nargs="+", choices=sorted(PLANS), metavar="PLAN", help="these plans instead")
    options = parser.parse_args(arguments)
    hosts = [host for host in HOSTS if any(fnmatch(host, pattern) for pattern in options.hosts)]
    hosts = [host for host in hosts if host in SMALL] if options.small else hosts
    bad = 0
    print("| host | plan | verdict | detail | seconds |\n|---|---|---|---|---|", flush=True)
    for host in hosts:
        for plan in options.plans or HOSTS[host]:
            found = cell(host, plan)
            bad += found.bad
            print(f"| {host} | {plan} | {found.verdict} | {found.detail} | {found.seconds:.0f} |", flush=True)
            gc.collect()
    print(f"\n{bad} cells neither work nor refuse clearly")
    return bad


def _expect(holds: bool, sentence: str) -> None:
    if not holds:
        raise RuntimeError(sentence)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


if __name__ == "__main__":
    sys.exit(bool(main()))
