"""The model card: ``README.md`` of a model folder, written from what the cfg says and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidzoo.hub.citations import bibtex
from vidzoo.hub.markdown import quoted, slug, table, text
from vidzoo.pretrained import VideoCfg

if TYPE_CHECKING:
    from vidzoo.profiling import Profile

__all__ = ["INITIALISATION", "MACS", "citation", "input_rows", "model_card", "timm_id"]

INITIALISATION = "This is an initialisation, not an action classifier"
MACS = (
    "GMAC: billions of multiply-adds of convolutions, linear layers and matrix products; norms, activation functions, "
    "pooling and additions are free."
)

# Those SPDX identifiers that the Hub knows as values of `license`.
_LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "isc",
        "zlib",
        "unlicense",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "agpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "mpl-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "artistic-2.0",
        "afl-3.0",
        "bsl-1.0",
        "ecl-2.0",
        "epl-2.0",
        "ms-pl",
        "osl-3.0",
        "odc-by",
        "odbl",
        "pddl",
    ]
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
    costs: Profile | None = None,
) -> str:
    """Markdown with the YAML front matter that the Hub reads.

    Args:
        model_name: the title; left out, ``cfg.name``.
        metrics: figures measured on these very weights, in percent; only these go into the ``model-index``. Those
            that ``cfg.metrics`` has besides are listed as reported.
        model_args: the options that the architecture was built with.
        load_as: what ``create_model`` takes to load it.
        base_model: Hub id of the model that this one was fine-tuned from; left out, a donor of timm is named.
        costs: what one clip costs (:func:`vidzoo.profile`); left out, the card says nothing about it.
    """
    name, measured = model_name or cfg.name, dict(metrics or {})
    reported = {key: value for key, value in cfg.metrics.items() if key not in measured}
    sections = [
        _front_matter(cfg, name, measured, base_model or timm_id(cfg)),
        f"# {text(name)}",
        _what(cfg, base_model),
        "## Input\n\n" + table(("", ""), input_rows(cfg)),
        "## Classes\n\n" + _classes(cfg),
        *(["## Size and cost\n\n" + _costs(costs)] if costs else []),
        "## Figures\n\n" + _figures(cfg, measured, reported),
        "## Use\n\n" + _use(cfg, load_as, model_args or {}),
        "## Limits\n\n" + _limits(cfg),
        "## Origin and licence\n\n" + _origin(cfg),
        *(["## Citation\n\n" + citation(cfg.paper)] if cfg.paper else []),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(cfg: VideoCfg, name: str, measured: Mapping[str, float], base_model: str) -> str:
    lines = ["---", "library_name: vidzoo", "pipeline_tag: video-classification", *_license(cfg)]
    lines += ["tags:", "- vidzoo", "- action-recognition", "- video"]
    if cfg.architecture:
        lines.append(f"- {quoted(cfg.architecture)}")
    if cfg.dataset:
        lines += ["datasets:", f"- {quoted(slug(cfg.dataset))}"]
    if base_model:
        lines.append(f"base_model: {quoted(base_model.partition('@')[0])}")
    if measured:
        data = cfg.dataset or "unnamed"
        lines += [
            "model-index:",
            f"- name: {quoted(name)}",
            "  results:",
            "  - task:",
            "      type: video-classification",
            "    dataset:",
            f"      type: {quoted(slug(data))}",
            f"      name: {quoted(data)}",
            "    metrics:",
        ]
        for key, value in measured.items():
            kind, title = _METRICS.get(key, (slug(key), key))
            lines += [f"    - type: {quoted(kind)}", f"      name: {quoted(title)}", f"      value: {float(value)!r}"]
    return "\n".join([*lines, "---"])


def _license(cfg: VideoCfg) -> list[str]:
    if not cfg.license:
        return ["license: unknown"]
    if cfg.license.lower() in _LICENSES:
        return [f"license: {cfg.license.lower()}"]
    link = [f"license_link: {quoted(cfg.origin_url)}"] if cfg.origin_url else []
    return ["license: other", f"license_name: {quoted(slug(cfg.license))}", *link]


def _what(cfg: VideoCfg, base_model: str) -> str:
    task = (
        "gives features of short videos"
        if not cfg.num_classes
        else f"tells {cfg.num_classes} classes of short videos apart"
        if cfg.is_classifier
        else "is a start for fine-tuning"
    )
    learnt = "trained" if cfg.is_classifier else "with weights trained"
    trained = f", {learnt} on {text(cfg.dataset)}" if cfg.dataset else ""
    donor = _made_from(cfg, "donor")
    made = f", made from `{text(donor)}`" if donor else ""
    tuned = (
        f", fine-tuned from [{base_model}](https://huggingface.co/{base_model.partition('@')[0]})" if base_model else ""
    )
    first = f"A `{cfg.architecture}` of vidzoo that {task}{trained}{made}{tuned}."
    warning = (
        ""
        if cfg.is_classifier
        else f"**{INITIALISATION}**: it has not learnt to name actions. Fine-tune it on videos first; "
        "`vidzoo predict` refuses to name classes from it."
    )
    return "\n\n".join(part for part in (first, warning, text(cfg.description)) if part)


def input_rows(cfg: VideoCfg) -> list[tuple[str, str]]:
    """How a clip is fed to the weights of ``cfg``: what, and in words."""
    rate = "its own frame rate" if cfg.fps is None else f"{cfg.fps:g} frames per second"
    if cfg.sampling == "segments":
        taken = f"{cfg.num_frames} frames, one from each of {cfg.num_frames} equal parts of the video"
    else:
        taken = f"{cfg.num_frames} frames, every {_ordinal(cfg.temporal_stride)} one at {rate}"
    height, width = cfg.eval_crop_size
    less = "; the mean frame of the clip is subtracted" if cfg.subtract_clip_mean else ""
    return [
        ("clip", taken),
        ("frame", f"shorter side to {cfg.short_side} ({cfg.interpolation}), crop of {height} x {width}"),
        ("views", f"{cfg.num_clips} x {cfg.num_crops} (clips x crops), softmax scores averaged"),
        ("channels", str(cfg.in_chans)),
        ("mean", ", ".join(f"{value:g}" for value in cfg.mean) + f" of RGB in [0, 1]{less}"),
        ("standard deviation", ", ".join(f"{value:g}" for value in cfg.std)),
        ("tensor", f"`({cfg.num_clips * cfg.num_crops}, {cfg.in_chans}, {cfg.num_frames}, {height}, {width})`, float"),
    ]


def _classes(cfg: VideoCfg) -> str:
    if not cfg.num_classes:
        return "None: the model has no head and returns its pooled features."
    if not cfg.is_classifier:
        left = f", left from {text(cfg.dataset)}," if cfg.dataset and cfg.class_names else ""  # else the head is new
        return f"None yet: its {cfg.num_classes} outputs{left} do not name actions."
    if not cfg.class_names:
        return f"{cfg.num_classes}, without names."
    names = ", ".join(text(name) for name in cfg.class_names)
    if len(cfg.class_names) <= 30:
        return names + "."
    return f"<details><summary>{cfg.num_classes} classes</summary>\n\n{names}.\n\n</details>"


def _figures(cfg: VideoCfg, measured: Mapping[str, float], reported: Mapping[str, float]) -> str:
    rows = [(text(_title(key)), f"{float(value):g}", "measured") for key, value in measured.items()]
    origin = f"reported by {text(cfg.source)}" if cfg.source else "reported"
    origin += ", not measured by vidzoo" if cfg.donor else ""
    rows += [(text(_title(key)), f"{float(value):g}", origin) for key, value in reported.items()]
    return table(("figure", "value", "from"), rows) if rows else "None have been measured."


def _use(cfg: VideoCfg, load_as: str, model_args: Mapping[str, Any]) -> str:
    height, width = cfg.eval_crop_size
    shape = f"(1, {cfg.in_chans}, {cfg.num_frames}, {height}, {width})"
    out = f"(1, {cfg.num_classes}) logits" if cfg.num_classes else "(1, model.head_hidden_size)"
    # A name of the zoo gives fresh weights unless it is told otherwise; a folder or a repository is its weights.
    given = quoted(load_as) if ":" in load_as else f"{quoted(load_as)}, pretrained=True"
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
    if cfg.is_classifier:
        where = f"those of {text(cfg.dataset)}" if cfg.dataset else "those that it was trained on"
        lines.append(f"Its figures hold for videos like {where}; on others it has to be measured first.")
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
    license = text(cfg.license) or "not stated: ask whoever made them before you pass them on"
    rows = [
        ("weights from", text(cfg.source)),
        ("address", text(cfg.origin_url)),
        ("donor", text(_made_from(cfg, "donor"))),
        ("revision of the donor", text(_made_from(cfg, "donor_revision"))),
        ("sha256 of the donor", text(_made_from(cfg, "donor_sha256"))),
        ("conversion", text(_made_from(cfg, "conversion"))),
        ("seed of what the donor lacks", text(_made_from(cfg, "seed"))),
        ("vidzoo that converted it", text(_made_from(cfg, "vidzoo_version"))),
        ("paper", text(cfg.paper)),
        ("data", text(cfg.dataset)),
        ("licence of the weights", license),
    ]
    return table(("", ""), [row for row in rows if row[1]])


def _made_from(cfg: VideoCfg, key: str) -> str:
    """What is known of the donor: what was found when it was converted, else what the cfg expects."""
    expected = {"donor": cfg.donor, "donor_sha256": cfg.donor_sha256, "conversion": cfg.donor_layout}
    return str(cfg.provenance.get(key) or expected.get(key, ""))


def timm_id(cfg: VideoCfg) -> str:
    """The Hub id of the timm model whose weights these were made from; empty for any other donor."""
    library, _, name = _made_from(cfg, "donor").partition(":")
    return f"timm/{name}" if library == "timm" else ""


def citation(paper: str) -> str:
    """BibTeX of the papers named in ``paper``; the text itself where none is known."""
    entries = bibtex(paper)
    return f"```bibtex\n{entries}\n```" if entries else f"{text(paper)}."


def _costs(costs: Profile) -> str:
    rows = [
        ("parameters", f"{costs.params / 1e6:.2f} M"),
        ("one clip (channels x frames x height x width)", " x ".join(map(str, costs.input_size))),
        ("GMAC", f"{costs.macs / 1e9:.2f}{', of a clip of noise: it depends on the clip' if costs.measured else ''}"),
    ]
    return table(("", ""), rows) + f"\n\n{MACS}"


def _title(key: str) -> str:
    return _METRICS.get(key, ("", key))[1]


def _ordinal(n: int) -> str:
    return "single" if n == 1 else "second" if n == 2 else "third" if n == 3 else f"{n}th"
