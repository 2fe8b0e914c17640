"""How the networks of a family are used, and where they end."""

from __future__ import annotations

from collections.abc import Sequence

from vidzoo.pretrained import VideoCfg

__all__ = ["limits_section", "usage_section"]


def usage_section(cfgs: Sequence[VideoCfg]) -> str:
    """Build, run, fine-tune and take features, shown on the plainest of the cfgs of the family that can do most."""
    cfg = max(cfgs, key=_shows)
    height, width = cfg.eval_crop_size
    weights = ", pretrained=True" if cfg.has_weights else ""
    classes = f"  # (1, {cfg.num_classes})"
    if cfg.has_weights and not cfg.is_classifier:
        classes += " logits that mean nothing before fine-tuning"
    code = f"""\
```python
import torch
import vidzoo

model = vidzoo.create_model("{cfg.name}"{weights}).eval()
clip = torch.rand(1, {cfg.in_chans}, {cfg.num_frames}, {height}, {width})  # normalised as model.pretrained_cfg says
with torch.inference_mode():
    logits = model(clip){classes}

own = vidzoo.create_model("{cfg.name}"{weights}, num_classes=5)  # a head of your own
features = vidzoo.create_model("{cfg.name}"{weights}, features_only=True)
maps = features(clip)  # one per stage, see features.feature_info
```"""
    tune = f"""\
```sh
vidzoo finetune {cfg.name} VIDEOS{" --pretrained" if cfg.has_weights else ""} --val-fraction 0.2 --epochs 30 --out my_model
vidzoo predict clip.mp4 --model my_model
```"""
    words = "`VIDEOS` is a folder with one folder of videos per class; `vidzoo info NAME` lists the options of a name."
    return "\n\n".join([code, tune, words])


def _shows(cfg: VideoCfg) -> tuple[bool, bool, bool, int]:
    knows = cfg.has_weights and cfg.is_classifier
    return cfg.has_weights, knows, "50" in cfg.architecture, -len(cfg.name)


def limits_section(cfgs: Sequence[VideoCfg]) -> str:
    """What follows from the cfgs, and what holds for every network of the zoo."""
    lines = [
        "A network gives one answer for a whole clip, and always one of its classes, also for a video that shows none.",
        "This project has trained none of these networks on Kinetics or Something-Something; figures of accuracy are "
        "those of whoever trained the weights.",
    ]
    if any(cfg.has_weights and not cfg.is_classifier for cfg in cfgs):
        lines.append("Weights that are an initialisation must be trained on videos before their output means anything.")
    if any(not cfg.has_weights for cfg in cfgs) and not any(cfg.has_weights for cfg in cfgs):
        lines.append("There are no weights: a new network must be trained before its output means anything.")
    if any(cfg.sampling == "segments" for cfg in cfgs):
        lines.append(
            "Frames taken from equal parts are spread over the whole video: in a long one a short action falls between "
            "them, so cut it first."
        )
    if any(cfg.sampling == "dense" for cfg in cfgs):
        lines.append("A dense clip is a short window: what lies outside of it is not seen.")
    lines.append("Nothing was examined for differences between groups of people; do not decide about persons with it.")
    return "\n".join(f"- {line}" for line in lines)
