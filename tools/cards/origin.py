"""Whose weights each name can start with, on what terms, and the part of a card that the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from vidzoo.hub.card import INITIALISATION, timm_id
from vidzoo.hub.markdown import quoted, slug, table, text
from vidzoo.pretrained import VideoCfg

__all__ = ["front_matter", "origin_section"]


def front_matter(family: str, cfgs: Sequence[VideoCfg]) -> str:
    """YAML for a family: the code has one licence, each set of weights its own. No result, so no ``model-index``."""
    lines = ["---", "library_name: vidzoo", "pipeline_tag: video-classification", "license: apache-2.0"]
    lines += ["tags:", *(f"- {tag}" for tag in ("vidzoo", "action-recognition", "video", quoted(family)))]
    weights = [cfg for cfg in cfgs if cfg.has_weights]
    for key, values in (
        ("datasets", {slug(cfg.dataset) for cfg in weights if cfg.dataset}),
        ("base_model", {hub for cfg in weights if (hub := timm_id(cfg) or cfg.hf_hub_id.partition("@")[0])}),
    ):
        if values:
            lines += [f"{key}:", *(f"- {quoted(value)}" for value in sorted(values))]
    return "\n".join([*lines, "---"])


def origin_section(cfgs: Mapping[str, Sequence[VideoCfg]]) -> str:
    """Every tag of every name, what it is and what its source says of it."""
    known = [cfg for tags in cfgs.values() for cfg in tags if cfg.has_weights]
    without = [name for name, tags in cfgs.items() if not any(cfg.has_weights for cfg in tags)]
    parts = ["The code is under Apache-2.0; weights have the licence of whoever trained them."]
    if known:
        head = ("weights", "made from", "conversion", "what they are", "data", "licence", "figures of the source")
        parts.append(table(head, [_row(cfg) for cfg in known]))
        parts += _told(known)
    if any(not cfg.is_classifier for cfg in known):
        parts.append(
            f"*Initialisation* in the table means: **{INITIALISATION}**. It has not learnt to name actions; fine-tune it "
            "first. `vidzoo predict` refuses to name classes from it."
        )
    if any(cfg.donor and cfg.metrics for cfg in known):
        parts.append("Figures are those that the source reports, under its own protocol. They were not run here.")
    if any(cfg.donor for cfg in known):
        parts.append(
            "Donors are other people's files. They are downloaded and converted when they are first asked for; the tests of "
            "this project download none. What the tests prove is the conversion, with random numbers in the donor's "
            "layout."
        )
    if without:
        names = ", ".join(f"`{name}`" for name in without)
        parts.append(f"Without weights, so random at first: {names}.")
    return "\n\n".join(parts)


def _row(cfg: VideoCfg) -> tuple[str, ...]:
    figures = "; ".join(f"{text(key)}: {float(value):g}" for key, value in cfg.metrics.items())
    if cfg.file:
        figures += f" ([measured by this project]({cfg.name}.md))"
    elif figures:
        figures += f" ({text(cfg.source)}), not run here"
    return (
        f"`{cfg.name}`",
        _address(cfg),
        f"`{cfg.donor_layout}`" if cfg.donor_layout else "none" if not cfg.donor else "detected",
        _kind(cfg),
        text(cfg.dataset) or "not stated",
        text(cfg.license) or "not stated",
        figures or "none",
    )


def _address(cfg: VideoCfg) -> str:
    if cfg.file:
        return "a file of this package"
    if cfg.hf_hub_id:
        return f"[{cfg.hf_hub_id}](https://huggingface.co/{cfg.hf_hub_id.partition('@')[0]})"
    hub = timm_id(cfg)
    if hub:
        return f"[{text(cfg.donor)}](https://huggingface.co/{hub})"
    checked = f", sha256 {cfg.donor_sha256[:8]}..." if cfg.donor_sha256 else ""
    parts = urlsplit(cfg.donor)
    file = parts.path.rpartition("/")[2]
    name = file if "." in file else f"a file at {parts.netloc}"
    return f"[{text(name)}]({cfg.donor}){checked}"


def _kind(cfg: VideoCfg) -> str:
    if not cfg.is_classifier:
        return "initialisation"
    return f"trained classifier of {cfg.num_classes} classes" + (", converted exactly" if cfg.donor else "")


def _told(cfgs: Sequence[VideoCfg]) -> list[str]:
    """What is said of some weights, once for all of which it is said."""
    alike: dict[str, list[str]] = {}
    for cfg in cfgs:
        if cfg.description:
            alike.setdefault(cfg.description, []).append(f"`{cfg.name}`")
    lines = [f"- {', '.join(names)}: {text(words)}" for words, names in alike.items()]
    return ["\n".join(lines)] if lines else []
