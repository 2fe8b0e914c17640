"""The model card: ``README.md`` of a model folder, written from what the cfg says and what was measured."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vidzoo.pretrained import VideoCfg

__all__ = ["model_card"]

# Those SPDX identifiers that the Hub knows as values of `license`.
_LICENSES = frozenset(
    (
        *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "unlicense"),
        *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
        *("gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "eupl-1.1", "eupl-1.2"),
        *("artistic-2.0", "afl-3.0", "bsl-1.0", "ecl-2.0", "epl-2.0", "ms-pl", "osl-3.0", "odc-by", "odbl", "pddl"),
    )
)
_METRICS = {"top1": ("accuracy", "top-1 accuracy"), "top5": ("accuracy", "top-5 accuracy")}


def model_card(
    cfg: VideoCfg,
    model_name: str = "",
    metrics: Mapping[str, float] | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    load_as: str = "local-dir:FOLDER",
    base_model: str = "",
) -> str:
    """Markdown with the YAML front matter that the Hub reads.

    Args:
        model_name: the title; left out, ``cfg.name``.
        metrics: figures measured on these very weights, in percent; only these go into the ``model-index``. Those
            that ``cfg.metrics`` has besides are listed as reported.
        model_args: the options that the architecture was built with.
        load_as: what ``create_model`` takes to load it.
        base_model: Hub id of the model that this one was fine-tuned from.
    """
    name, measured = model_name or cfg.name, dict(metrics or {})
    reported = {key: value for key, value in cfg.metrics.items() if key not in measured}
    sections = [
        _front_matter(cfg, name, measured, base_model),
        f"# {_text(name)}",
        _what(cfg, base_model),
        "## Input\n\n" + _input(cfg),
        "## Classes\n\n" + _classes(cfg),
        "## Figures\n\n" + _figures(cfg, measured, reported),
        "## Use\n\n" + _use(cfg, load_as, model_args or {}),
        "## Limits\n\n" + _limits(cfg),
        "## Origin and licence\n\n" + _origin(cfg),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(cfg: VideoCfg, name: str, measured: Mapping[str, float], base_model: str) -> str:
    lines = ["---", "library_name: vidzoo", "pipeline_tag: video-classification", *_license(cfg)]
    lines += ["tags:", "- vidzoo", "- action-recognition", "- video"]
    if cfg.architecture:
        lines.append(f"- {_quoted(cfg.architecture)}")
    if cfg.dataset:
        lines += ["datasets:", f"- {_quoted(_slug(cfg.dataset))}"]
    if base_model:
        lines.append(f"base_model: {_quoted(base_model.partition('@')[0])}")
    if measured:
        data = cfg.dataset or "unnamed"
        lines += [
            "model-index:",
            f"- name: {_quoted(name)}",
            "  results:",
            "  - task:",
            "      type: video-classification",
            "    dataset:",
            f"      type: {_quoted(_slug(data))}",
            f"      name: {_quoted(data)}",
            "    metrics:",
        ]
        for key, value in measured.items():
            kind, title = _METRICS.get(key, (_slug(key), key))
            lines += [f"    - type: {_quoted(kind)}", f"      name: {_quoted(title)}", f"      value: {float(value)!r}"]
    return "\n".join([*lines, "---"])


def _license(cfg: VideoCfg) -> list[str]:
    if not cfg.license:
        return ["license: unknown"]
    if cfg.license.lower() in _LICENSES:
        return [f"license: {cfg.license.lower()}"]
    link = [f"license_link: {_quoted(cfg.origin_url)}"] if cfg.origin_url else []
    return ["license: other", f"license_name: {_quoted(_slug(cfg.license))}", *link]


def _what(cfg: VideoCfg, base_model: str) -> str:
    task = (
        f"tells {cfg.num_classes} classes of short videos apart"
        if cfg.is_classifier and cfg.num_classes
        else "gives features of short videos"
        if not cfg.num_classes
        else "is an initialisation for fine-tuning, its head has not learnt to name actions"
    )
    trained = f", trained on {_text(cfg.dataset)}" if cfg.dataset else ""
    tuned = (
        f", fine-tuned from [{base_model}](https://huggingface.co/{base_model.partition('@')[0]})" if base_model else ""
    )
    first = f"A `{cfg.architecture}` of vidzoo that {task}{trained}{tuned}."
    return "\n\n".join(part for part in (first, _text(cfg.description)) if part)


def _input(cfg: VideoCfg) -> str:
    rate = "its own frame rate" if cfg.fps is None else f"{cfg.fps:g} frames per second"
    if cfg.sampling == "segments":
        taken = f"{cfg.num_frames} frames, one from each of {cfg.num_frames} equal parts of the video"
    else:
        taken = f"{cfg.num_frames} frames, every {_ordinal(cfg.temporal_stride)} one at {rate}"
    height, width = cfg.eval_crop_size
    less = "; the mean frame of the clip is subtracted" if cfg.subtract_clip_mean else ""
    rows = [
        ("clip", taken),
        ("frame", f"shorter side to {cfg.short_side} ({cfg.interpolation}), crop of {height} x {width}"),
        ("views", f"{cfg.num_clips} x {cfg.num_crops} (clips x crops), softmax scores averaged"),
        ("channels", str(cfg.in_chans)),
        ("mean", ", ".join(f"{value:g}" for value in cfg.mean) + f" of RGB in [0, 1]{less}"),
        ("standard deviation", ", ".join(f"{value:g}" for value in cfg.std)),
        ("tensor", f"`({cfg.num_clips * cfg.num_crops}, {cfg.in_chans}, {cfg.num_frames}, {height}, {width})`, float"),
    ]
    return _table(("", ""), rows)


def _classes(cfg: VideoCfg) -> str:
    if not cfg.num_classes:
        return "None: the model has no head and returns its pooled features."
    if not cfg.class_names:
        return f"{cfg.num_classes}, without names."
    names = ", ".join(_text(name) for name in cfg.class_names)
    if len(cfg.class_names) <= 30:
        return names + "."
    return f"<details><summary>{cfg.num_classes} classes</summary>\n\n{names}.\n\n</details>"


def _figures(cfg: VideoCfg, measured: Mapping[str, float], reported: Mapping[str, float]) -> str:
    rows = [(_text(_title(key)), f"{float(value):g}", "measured") for key, value in measured.items()]
    origin = f"reported by {_text(cfg.source)}" if cfg.source else "reported"
    rows += [(_text(_title(key)), f"{float(value):g}", origin) for key, value in reported.items()]
    return _table(("figure", "value", "from"), rows) if rows else "None have been measured."


def _use(cfg: VideoCfg, load_as: str, model_args: Mapping[str, Any]) -> str:
    height, width = cfg.eval_crop_size
    shape = f"(1, {cfg.in_chans}, {cfg.num_frames}, {height}, {width})"
    out = f"(1, {cfg.num_classes}) logits" if cfg.num_classes else "(1, num_features)"
    # A name of the zoo gives fresh weights unless it is told otherwise; a folder or a repository is its weights.
    given = _quoted(load_as) if ":" in load_as else f"{_quoted(load_as)}, pretrained=True"
    code = (
        "```python\n"
        "import torch\n"
        "import vidzoo\n\n"
        f"model = vidzoo.create_model({given}).eval()\n"
        f"clip = torch.zeros{shape}  # normalised as model.pretrained_cfg says\n"
        "with torch.inference_mode():\n"
        f"    output = model(clip)  # {out}\n"
        "```"
    )
    tune = f"For classes of your own: `vidzoo.create_model({given}, num_classes=5)` keeps all but the head."
    options = ", ".join(f"{key}={value!r}" for key, value in model_args.items())
    built = f"The network is `{cfg.architecture}({options})`." if options else ""
    return "\n\n".join(part for part in (code, tune, built) if part)


def _limits(cfg: VideoCfg) -> str:
    lines = []
    if cfg.is_classifier and cfg.num_classes:
        lines.append(
            "It gives one answer for a whole clip and always one of its classes, also for a video that shows none."
        )
    else:
        lines.append("It must be trained on a task before its output means anything.")
    where = f"videos like those of {_text(cfg.dataset)}" if cfg.dataset else "videos like those that it was trained on"
    lines.append(f"Its figures hold for {where}; on others it has to be measured first.")
    if cfg.sampling == "segments":
        lines.append(
            "Frames are spread over the whole video: in a long one a short action falls between them, so cut it first."
        )
    else:
        seconds = f" ({cfg.num_frames * cfg.temporal_stride / cfg.fps:.1f} seconds)" if cfg.fps else ""
        lines.append(
            f"A clip covers {cfg.num_frames * cfg.temporal_stride} frames{seconds}: what lies outside is not seen."
        )
    lines.append(
        "It has not been examined for differences between groups of people; do not decide about persons with it."
    )
    return "\n".join(f"- {line}" for line in lines)


def _origin(cfg: VideoCfg) -> str:
    rows = [
        ("weights from", _text(cfg.source)),
        ("address", _text(cfg.origin_url)),
        ("paper", _text(cfg.paper)),
        ("data", _text(cfg.dataset)),
        ("licence of the weights", _text(cfg.license) or "not stated: ask whoever made them before you pass them on"),
    ]
    return _table(("", ""), [row for row in rows if row[1]])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _title(key: str) -> str:
    return _METRICS.get(key, ("", key))[1]


def _ordinal(n: int) -> str:
    return "single" if n == 1 else "second" if n == 2 else "third" if n == 3 else f"{n}th"


def _slug(text: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):  # a Hub id already
        return text
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-") or "unnamed"


def _quoted(text: str) -> str:
    """A YAML scalar: a JSON string is one, apart from characters that YAML does not allow at all."""
    return json.dumps("".join(char for char in text if char.isprintable()), ensure_ascii=False)


def _text(text: str) -> str:
    """Text that stays text inside a Markdown table."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "&#124;")
