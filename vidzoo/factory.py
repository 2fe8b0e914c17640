"""``create_model``: the one door through which models are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from vidzoo import hub
from vidzoo.checkpoint import read_state_dict
from vidzoo.donors import prepare
from vidzoo.errors import ConfigError, WeightsError
from vidzoo.loading import load_weights
from vidzoo.models.base import FeatureExtractor, VideoModel
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import (
    check_options,
    get_pretrained_cfg,
    list_pretrained,
    model_entrypoint,
    model_options,
    resolve_deprecated,
    split_model_name_tag,
)

__all__ = ["create_model"]


@overload
def create_model(
    model_name: str,
    pretrained: bool | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    num_frames: int | None = None,
    features_only: Literal[False] = False,
    out_indices: int | Sequence[int] | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options: Any,
) -> VideoModel: ...


@overload
def create_model(
    model_name: str,
    pretrained: bool | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    num_frames: int | None = None,
    features_only: Literal[True],
    out_indices: int | Sequence[int] | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options: Any,
) -> FeatureExtractor: ...


def create_model(
    model_name: str,
    pretrained: bool | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    num_frames: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options: Any,
) -> VideoModel | FeatureExtractor:
    """Build a model by its name, with or without weights.

    Args:
        model_name: ``arch`` or ``arch.tag`` of the zoo, ``hf-hub:org/name[@revision]``, or ``local-dir:path``.
        pretrained: load the weights. Left out, that is True for ``hf-hub:`` and ``local-dir:`` and False for a zoo
            name.
        num_classes: another number of classes gets a fresh head, 0 gets none (pooled features come out). Left out, it
            is that of the weights' cfg.
        in_chans: another number of input channels adapts the first convolution of the weights.
        num_frames: frames per clip, for topologies that depend on it; always recorded in ``model.pretrained_cfg``.
        features_only: return a network that gives the maps of the stages in ``out_indices`` (all of them if left out).
        checkpoint_path: the user's own weights, a safetensors or torch file in this model's keys, instead of
            published ones. They are loaded strictly; when ``num_classes`` is left out it is read from the file.
        cache_dir, token, local_files_only: for ``hf-hub:`` sources, as in ``huggingface_hub``, and for donors: weights of
            the zoo that are made from another project's checkpoint when they are first asked for.
        pretrained_cfg_overlay: fields of the :class:`~vidzoo.pretrained.VideoCfg` to change.
        options: the architecture's own options, see :func:`vidzoo.model_options`; those that are None are left out.

    Raises:
        UnknownModelError, UnknownTagError, UnknownOptionError: with the nearest names that exist.
        ConfigError: a value that this architecture cannot have.
        WeightsError: there are no weights, or they do not fit exactly; nothing is ever loaded in part.
        HubError: a Hub repository, a donor or a local folder that cannot be read.
    """
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices needs features_only=True")
    source, identifier = hub.parse_source(model_name)
    weights: Path | None = None
    if source:
        pretrained = checkpoint_path is None if pretrained is None else pretrained
        folder = (
            hub.read_folder(identifier)
            if source == "local-dir"
            else hub.fetch(
                identifier, cache_dir=cache_dir, token=token, local_files_only=local_files_only, weights=pretrained
            )
        )
        arch, cfg, weights = folder.architecture, folder.cfg, folder.weights
        options = {**folder.model_args, **options}
    else:
        name = resolve_deprecated(model_name)
        arch, _ = split_model_name_tag(name)
        pretrained = bool(pretrained)
        cfg = get_pretrained_cfg(name, with_weights=pretrained)
    if pretrained_cfg_overlay:
        cfg = cfg.replace(**pretrained_cfg_overlay)
    if pretrained and checkpoint_path is not None:
        raise ConfigError("give either pretrained=True or checkpoint_path, not both: they are two sources of weights")

    options = {key: value for key, value in options.items() if value is not None}
    given = {"num_classes": num_classes, "in_chans": in_chans, "num_frames": num_frames}
    known = model_options(arch)
    for key in ("num_classes", "in_chans", "num_frames"):
        options.pop(key, None)
        if key in known:
            value = given[key]
            options[key] = getattr(cfg, key) if value is None else value
    if "img_size" in known:
        options.setdefault("img_size", cfg.crop_size)
    check_options(arch, options)

    state_dict: dict[str, Tensor] | None = None
    where = ""
    if checkpoint_path is not None:
        where, state_dict = str(checkpoint_path), read_state_dict(checkpoint_path)
        cfg = cfg.replace(**_classes_of(state_dict, cfg))
        options["num_classes"] = cfg.num_classes if num_classes is None else num_classes
    elif pretrained:
        if not source:
            weights, cfg = _published(cfg, model_name, options, cache_dir, token, local_files_only)
        if weights is None:
            raise WeightsError(f"{model_name} has a config but no weights: use pretrained=False for a fresh network")
        where, state_dict = str(weights), read_state_dict(weights, sha256=cfg.sha256)

    model = _build(arch, options, state_dict, cfg, where)
    # JSON has no infinity; the entrypoints that take one (eta) also take its name.
    model.model_args = {key: "inf" if value == float("inf") else value for key, value in options.items()}
    model.pretrained_cfg = _describe(cfg, arch, options)
    return FeatureExtractor(model, out_indices) if features_only else model


def _build(
    arch: str, options: dict[str, Any], state_dict: dict[str, Tensor] | None, cfg: VideoCfg, where: str
) -> VideoModel:
    entrypoint = model_entrypoint(arch)
    if state_dict is None:
        return entrypoint(**options)
    # Random initialisation costs more than loading; on the meta device it costs nothing and the weights take its place.
    with torch.device("meta"):
        model: VideoModel = entrypoint(**options)
    if _has_computed_buffers(model):
        model = entrypoint(**options)
    on_meta = next(model.parameters()).is_meta
    drop_head = options.get("num_classes", cfg.num_classes) != cfg.num_classes
    load_weights(
        model,
        state_dict,
        source=where,
        first_conv=cfg.first_conv,
        classifier=cfg.classifier,
        adapt_stem=options.get("in_chans", cfg.in_chans) != cfg.in_chans,
        drop_head=drop_head,
        assign=on_meta,
    )
    if drop_head and on_meta:
        model.reset_classifier(model.num_classes)
    return model


def _has_computed_buffers(model: nn.Module) -> bool:
    """Buffers that no checkpoint holds would stay on the meta device."""
    stored = model.state_dict().keys()
    return any(name not in stored for name, _ in model.named_buffers())


def _published(
    cfg: VideoCfg,
    model_name: str,
    options: Mapping[str, Any],
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
) -> tuple[Path | None, VideoCfg]:
    if cfg.file:
        return hub.embedded(cfg.file), cfg
    if cfg.hf_hub_id:
        folder = hub.fetch(cfg.hf_hub_id, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        return folder.weights, cfg.replace(sha256=cfg.sha256 or folder.cfg.sha256)
    if cfg.donor:
        file, provenance = prepare(cfg, options, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        return file, cfg.replace(provenance=provenance)
    arch = split_model_name_tag(model_name)[0]
    family = arch.split("_")[0]
    others = list_pretrained(f"{family}*") or list_pretrained()
    offer = f"{', '.join(others[:5])} have" if others else "nothing here has"
    raise WeightsError(
        f"there are no published weights for {model_name}: use pretrained=False or checkpoint_path; {offer} some"
    )


def _classes_of(state_dict: Mapping[str, Tensor], cfg: VideoCfg) -> dict[str, Any]:
    """What a user's own checkpoint says about its head: its number of classes."""
    for name in cfg.classifier:
        head = state_dict.get(f"{name}.weight")
        if head is not None and head.shape[0] != cfg.num_classes:
            return {"num_classes": head.shape[0], "class_names": ()}
    return {}


def _describe(cfg: VideoCfg, arch: str, options: Mapping[str, Any]) -> VideoCfg:
    """The cfg of the model as built: its own sizes, and no class names that its head does not have."""
    changes: dict[str, Any] = {"architecture": arch}
    for key in ("num_classes", "in_chans", "num_frames"):
        if key in options:
            changes[key] = options[key]
    if changes.get("num_classes", cfg.num_classes) != cfg.num_classes:
        changes["class_names"] = ()
    if "img_size" in options:
        changes.update(_crop_of(cfg, options["img_size"]))
    return cfg.replace(**changes)


def _crop_of(cfg: VideoCfg, img_size: int | Sequence[int]) -> dict[str, Any]:
    """The crop of a network that was built for another size of picture, cut from frames that shrink or grow with it."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if (height, width) == cfg.crop_size:
        return {}
    short_side = round(cfg.short_side * min(height, width) / min(cfg.crop_size))
    return {"crop_size": (height, width), "test_crop_size": None, "short_side": short_side}
