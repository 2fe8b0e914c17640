"""What a graft is worth on real video: one 2D network with each paper's module in it, trained alike, a person left out.

    python tools/compare_grafts.py run OUT DATA WEIGHTS --seeds 0 1 2     # trainings, the longest part
    python tools/compare_grafts.py report OUT                              # the table: mean, spread of the seeds, drop
    python tools/compare_grafts.py report tools/compare_grafts_results.json        # the one in README.md
    python tools/compare_grafts.py start OUT DATA WEIGHTS                  # save the grafts as they are before training

DATA is the folder of Weizmann videos, ``<action>/<subject>_<action>.avi``, WEIGHTS a state dict of timm's
``mobilenetv2_100`` with 1001 classes and ``pad_type="same"``, trained on ImageNet. Every run has the same budget
(tools/compare_grafts.toml); the person left out chooses nothing, the weights are those of the last epoch. A run that is
there already is not made again. What ``start`` saves can be trained on anything, such as
``tools/measure_order.py --models local-dir:OUT/gst``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import vidzoo
from vidzoo.checkpoint import read_state_dict
from vidzoo.data import VideoDataset
from vidzoo.data.listing import VideoList, scan, split
from vidzoo.evaluation import evaluate
from vidzoo.grafting import Inflate, InsertCTM, Operation, SwapConv, Where
from vidzoo.pretrained import VideoCfg
from vidzoo.train import FinetuneConfig, finetune

CONFIG = Path(__file__).resolve().with_suffix(".toml")
ORDERS = ("normal", "shuffled")
# Depthwise convolutions over time are slow on a CPU: they are grafted where maps are small, from stride 16 on.
LATE = Where(stages=(3, 4), kernels=(3,))
PLANS: dict[str, tuple[Operation, ...]] = {
    "frame average": (Inflate(),),
    "inflate": (Inflate(t_lengths=3, where=LATE),),
    "gst": (SwapConv("gst", where=LATE),),
    "stdcf": (SwapConv("stdcf", where=LATE),),
    "reparam": (SwapConv("reparam", where=LATE),),
    "ctm": (InsertCTM(img_size=(96, 120)),),
}


SOURCE = "timm:mobilenetv2_100?pad_type=same"


def backbone(weights: Path, videos: VideoList) -> torch.nn.Module:
    """The trained 2D network, with batch norms that know their statistics.

    They were folded into the convolutions when the network was quantised: its norms are the identity but for their bias.
    Measured on one clip of each training video and put back, mean and deviation leave every answer what it was.
    """
    import timm

    network = timm.create_model("mobilenetv2_100", num_classes=1001, pad_type="same").eval()
    network.load_state_dict(read_state_dict(weights))
    config = FinetuneConfig.from_file(CONFIG)
    cfg = VideoCfg(
        num_frames=config.num_frames or 8,
        sampling="dense",
        temporal_stride=config.stride or 1,
        fps=config.fps,
        short_side=config.short_side or 96,
        crop_size=config.crop_size or (96, 120),
        mean=config.mean or (0.5,) * 3,
        std=config.std or (0.5,) * 3,
    )
    views = VideoDataset(videos, cfg, training=False, num_clips=1, num_crops=1)
    frames = torch.cat([views[i]["clip"][0, :, ::2].transpose(0, 1) for i in range(len(views))])  # (N, C, H, W)

    def measure(norm: torch.nn.Module, given: tuple[Any, ...]) -> None:
        var, mean = torch.var_mean(given[0], dim=(0, 2, 3), correction=0)
        norm.bias.data += norm.weight * mean / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator, union-attr]
        norm.weight.data *= ((var + norm.eps) / (norm.running_var + norm.eps)).sqrt()  # type: ignore[operator, union-attr]
        norm.running_mean.copy_(mean)  # type: ignore[operator, union-attr]
        norm.running_var.copy_(var)  # type: ignore[operator, union-attr]

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        network(frames)
    for handle in handles:
        handle.remove()
    return network


def run(out: Path, data: Path, weights: Path, plan: str, subject: str, seed: int) -> None:
    """One training and its test; writes ``OUT/<plan>-<subject>-<seed>.json``."""
    report = out / f"{plan.replace(' ', '_')}-{subject}-{seed}.json"
    if report.is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    folder = out / f"{report.stem}.run"
    torch.manual_seed(seed)
    train, videos = split(scan(data), val_match=f"{subject}_*")
    model = vidzoo.graft(backbone(weights, train), PLANS[plan], num_classes=10, num_frames=8, source=SOURCE)
    begin = vidzoo.save_pretrained(model, folder / "start")
    config = FinetuneConfig.from_file(CONFIG).replace(seed=seed, val_match=f"{subject}_*")
    began = time.monotonic()
    finetune(f"local-dir:{begin}", str(data), folder / "tuned", config)
    trained = vidzoo.create_model(f"local-dir:{folder / 'tuned'}")
    reports = {order: evaluate(trained, videos, order=order) for order in ORDERS}
    result = {
        "plan": plan,
        "subject": subject,
        "seed": seed,
        "top1": {order: found.top1 for order, found in reports.items()},
        "loss": {order: found.loss for order, found in reports.items()},
        "parameters": sum(value.numel() for value in trained.parameters()),
        "minutes": (time.monotonic() - began) / 60,
    }
    report.write_text(json.dumps(result, indent=1))
    shutil.rmtree(folder)
    print(json.dumps(result), flush=True)


def start(out: Path, data: Path, weights: Path, plans: Sequence[str]) -> None:
    """Save ``OUT/<plan>``, whose norms have seen all subjects."""
    network = backbone(weights, scan(data))
    for plan in plans:
        torch.manual_seed(0)
        model = vidzoo.graft(network, PLANS[plan], num_classes=10, num_frames=8, source=SOURCE)
        vidzoo.save_pretrained(model, out / plan.replace(" ", "_"))


def table(out: Path) -> str:
    """Mean over everything and, behind ±, the standard deviation of the seeds' means."""
    single = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    results: list[dict[str, Any]] = json.loads(out.read_text()) if out.is_file() else single
    lines = [
        "| plan | parameters | right, in order | right, shuffled | drop | loss, in order | loss, shuffled | trainings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan in PLANS:
        mine = [result for result in results if result["plan"] == plan]
        if not mine:
            continue
        right, loss = ([_mean_and_spread(mine, kind, order) for order in ORDERS] for kind in ("top1", "loss"))
        drop = statistics.mean(result["top1"]["normal"] - result["top1"]["shuffled"] for result in mine)
        cells = (plan, f"{mine[0]['parameters'] / 1e6:.2f} M", *right, f"{drop:.3f}", *loss, str(len(mine)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(results: Sequence[dict[str, Any]], kind: str, order: str) -> str:
    seeds = sorted({result["seed"] for result in results})
    means = [statistics.mean(r[kind][order] for r in results if r["seed"] == seed) for seed in seeds]
    spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.3f}{spread}"


def _all(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in args.seeds:
        for subject in args.subjects:
            for plan in args.plans:
                yield plan, subject, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("run", "start"):
        step = steps.add_parser(name)
        step.add_argument("out", type=Path)
        step.add_argument("data", type=Path)
        step.add_argument("weights", type=Path)
        step.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
        if name == "run":
            step.add_argument("--subjects", nargs="+", default=["daria", "ido", "moshe"])
            step.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    steps.add_parser("report").add_argument("out", type=Path)
    args = parser.parse_args()
    if args.step == "start":
        start(args.out, args.data, args.weights, args.plans)
        return
    if args.step == "run":
        for plan, subject, seed in _all(args):
            run(args.out, args.data, args.weights, plan, subject, seed)
    print(table(args.out))


if __name__ == "__main__":
    main()
