"""How the embedded ``gst_r18.weizmann`` came about, step by step; each step is a call of the ``vidzoo`` command.

    python tools/train_weizmann.py synthetic OUT                       # learn the ten actions from rendered videos
    python tools/train_weizmann.py fold OUT DATA daria denis eli ...   # then from real ones, leaving a subject out
    python tools/train_weizmann.py final OUT DATA                      # then from all subjects: the weights that ship
    python tools/train_weizmann.py report OUT                          # results of the folds, weights and card into place

DATA is the folder of Weizmann videos, ``<action>/<subject>_<action>.avi``. Folds may run side by side. The subject left out
is never used to choose anything: the weights are those of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import torch
from safetensors.torch import load_file

import vidzoo
from vidzoo.checkpoint import sha256_of
from vidzoo.cli import main as command
from vidzoo.data.listing import scan, split
from vidzoo.evaluation import evaluate
from vidzoo.saving import save_tensors

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "weizmann.toml"
RESULTS = HERE / "weizmann_results.json"
WEIGHTS = HERE.parent / "vidzoo" / "weights" / "gst_r18.weizmann.safetensors"
ORDERS = ("normal", "shuffled", "reversed", "still")

NOTES = (
    'Data: Weizmann, "Actions as Space-Time Shapes" (Gorelick et al., 2005): ten actions of six people (daria, denis, eli, '
    "ido, ira, moshe), one video each, 60 in all, 180 x 144 pixels, 25 frames per second, still camera, one person in the "
    "picture. The videos were published for research without a formal licence; what they allow holds for these weights.",
    "Protocol: each person is left out in turn. The network first learns the same ten actions from rendered figures "
    "(`vidzoo.data.synthetic`, no real video in it), then from the videos of five people, and is tested on the ten of the "
    "sixth, five clips per video. The weights are those of the last epoch: the person left out chooses nothing. The file "
    "that ships was trained in the same way on all six, so the figures are those of its recipe, not of the file itself.",
    "Read them with care: one fold is ten videos, and with 60 right of 60 the true rate may still be as low as 95 % "
    "(one-sided 95 % bound). Input size, augmentation and length of training were chosen while looking at such folds, so "
    "the figures may flatter a little.",
    "The frames hardly need their order for these actions, as the next table shows. A clip of one still frame has nothing "
    "left once its mean is subtracted, so the network can only guess.",
)

RENDERED = "synthetic:actions?videos_per_class=400"
PRETRAINING = ["--epochs", "4", "--samples-per-video", "1", "--warmup-epochs", "0.25", "--cache", "none"]


def run(arguments: list[str]) -> None:
    print("vidzoo", shlex.join(arguments), flush=True)
    if code := command(arguments):
        raise SystemExit(code)


def synthetic(out: Path) -> None:
    run(
        [
            "finetune",
            "gst_r18",
            RENDERED,
            "--config",
            str(CONFIG),
            *PRETRAINING,
            "--val-none",
            "--out",
            f"{out}/synthetic",
        ]
    )


def fold(out: Path, data: Path, subjects: list[str]) -> None:
    for subject in subjects:
        folder = out / subject
        left_out = ["--val-match", f"{subject}_*"]
        run(
            [
                "finetune",
                f"local-dir:{out}/synthetic",
                str(data),
                "--config",
                str(CONFIG),
                *left_out,
                "--out",
                str(folder),
            ]
        )
        model = vidzoo.create_model(f"local-dir:{folder}")
        _, videos = split(scan(data), val_match=f"{subject}_*")
        reports = {order: evaluate(model, videos, order=order).to_dict() for order in ORDERS}
        (folder / "reports.json").write_text(json.dumps(reports, indent=1))
        print(subject, {order: report["top1"] for order, report in reports.items()}, flush=True)


def final(out: Path, data: Path) -> None:
    start = f"local-dir:{out}/synthetic"
    run(["finetune", start, str(data), "--config", str(CONFIG), "--val-none", "--out", f"{out}/final"])


def report(out: Path) -> None:
    folds = {file.parent.name: json.loads(file.read_text()) for file in sorted(out.glob("*/reports.json"))}
    names = next(iter(folds.values()))["normal"]["class_names"]
    confusion = torch.stack([torch.tensor(reports["normal"]["confusion"]) for reports in folds.values()]).sum(0)
    top1 = {order: {who: reports[order]["top1"] for who, reports in folds.items()} for order in ORDERS}
    results = {
        "notes": NOTES,
        "class_names": names,
        "top1": {order: {"mean": sum(by.values()) / len(by), **by} for order, by in top1.items()},
        "per_class": {n: confusion[i, i].item() / confusion[i].sum().item() for i, n in enumerate(names)},
        "confusion": confusion.tolist(),
    }
    trained = load_file(out / "final" / "model.safetensors")
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in trained.items()}
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_tensors(half, WEIGHTS, {"format": "pt", "vidzoo_version": vidzoo.__version__})
    WEIGHTS.chmod(0o644)
    results["sha256"] = sha256_of(WEIGHTS)
    if RESULTS.is_file():
        results["more"] = json.loads(RESULTS.read_text()).get("more", {})
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["top1"], indent=1))
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 2**20:.1f} MiB, sha256 {results['sha256']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("synthetic", "fold", "final", "report"):
        step = steps.add_parser(name)
        step.add_argument("out", type=Path)
        if name in ("fold", "final"):
            step.add_argument("data", type=Path)
        if name == "fold":
            step.add_argument("subjects", nargs="+")
    args = parser.parse_args()
    if args.step == "synthetic":
        synthetic(args.out)
    elif args.step == "fold":
        fold(args.out, args.data, args.subjects)
    elif args.step == "final":
        final(args.out, args.data)
    else:
        report(args.out)


if __name__ == "__main__":
    main()
