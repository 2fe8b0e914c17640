"""A model folder on disk, ``config.json`` beside ``model.safetensors``: read, and written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidzoo.blank import blank
from vidzoo.checkpoint import sha256_of
from vidzoo.errors import ConfigError, HubError, UnknownModelError, VidzooError, WeightsError, nearest
from vidzoo.hub.card import model_card
from vidzoo.hub.shards import INDEX, is_shard, merge_shards, write_shards
from vidzoo.pretrained import CONFIG_VERSION, VideoCfg
from vidzoo.registry import (
    get_pretrained_cfg,
    is_model,
    list_models,
    model_entrypoint,
    resolve_deprecated,
    split_model_name_tag,
)

__all__ = ["CONFIG", "WEIGHTS", "ModelFolder", "read_config", "read_folder", "save_pretrained", "write_card"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was found: what ``config.json`` says, and where the weights lie (None: there are none)."""

    architecture: str
    model_args: dict[str, Any]
    cfg: VideoCfg
    weights: Path | None


def read_folder(path: str | Path) -> ModelFolder:
    """Read ``config.json`` and find the weights: ``model.safetensors``, else indexed shards, else the only other file.

    Shards are merged into one file that lives as long as the process. A config without ``pretrained_cfg`` takes the
    input specification of its architecture, so that a hand-written ``{"architecture": "..."}`` works.

    Raises:
        HubError: no folder, no config.json, or one that cannot be meant; the message names the file.
        WeightsError: shards are missing or damaged, or several files could be the weights.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise HubError(
            f"the model folder {folder} {kind}: local-dir: takes a folder with {CONFIG} and {WEIGHTS}, "
            "as save_pretrained writes it (for weights alone use checkpoint_path)"
        )
    architecture, model_args, cfg = read_config(folder / CONFIG)
    return ModelFolder(architecture, model_args, cfg, _find_weights(folder))


def read_config(file: Path) -> tuple[str, dict[str, Any], VideoCfg]:
    """Architecture, model options and cfg from one ``config.json``; lists in the options become tuples.

    Raises:
        HubError: as :func:`read_folder`.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HubError(
            f"there is no {CONFIG} in {file.parent}: it is no model folder, or saving it was interrupted; save it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise HubError(f"{file} is not valid JSON: {error}; save or download the model again") from error
    except OSError as error:
        raise HubError(f"{file} cannot be read: {error.strerror or error}") from error
    if not isinstance(config, dict):
        raise HubError(f"{file} holds a JSON {type(config).__name__}, it should be an object with an architecture")

    architecture = _architecture(config.get("architecture"), file)
    model_args = config.get("model_args", {})
    if not isinstance(model_args, dict):
        raise HubError(f"{file}: model_args must be an object of options, got {model_args!r}")
    given = config.get("pretrained_cfg", {})
    if not isinstance(given, dict):
        raise HubError(f"{file}: pretrained_cfg must be an object, got {given!r}")
    given = dict(given)
    for key in ("num_classes", "class_names"):
        if config.get(key) is None:
            continue
        if key in given and given[key] != config[key]:
            raise HubError(f"{file} contradicts itself: {key} is {config[key]!r}, in its pretrained_cfg {given[key]!r}")
        given[key] = config[key]
    try:
        cfg = VideoCfg.from_dict({**_specification(architecture), **given})
    except ConfigError as error:
        raise HubError(f"{file}: {error}") from error
    cfg = cfg.replace(architecture=architecture, file="", hf_hub_id="", donor="", donor_layout="", donor_sha256="")
    return architecture, {key: _tuples(value) for key, value in model_args.items()}, cfg


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    card: str | None = None,
    metrics: Mapping[str, float] | None = None,
    max_shard_size: int | str | None = None,
) -> Path:
    """Write ``model`` as a folder that ``create_model("local-dir:...")`` rebuilds exactly; the model is not changed.

    Everything is written and checked in a temporary folder first. A folder that is new then appears whole; in one that
    exists, single files are replaced, weights first and ``config.json`` last, and the sha256 in it makes a folder that
    was cut off in between refuse to load. Other files are left alone, except weights of an earlier save.

    Args:
        card: the text of ``README.md``; left out, :func:`vidzoo.hub.card.model_card` writes it.
        metrics: figures measured on this model in percent (``{"top1": 71.3}``), for the card and ``pretrained_cfg``.
        max_shard_size: split weights larger than this, in bytes or as ``"2GB"``; left out, there is one file.

    Raises:
        HubError: a model that no name and options rebuild, a folder that cannot be written, a full disk.
        WeightsError: weights that are not finite, or on the meta device.
    """
    folder = Path(folder).expanduser()
    bare = _bare(model)
    architecture, model_args, cfg = describe(bare, metrics=metrics)
    num_features = int(getattr(bare, "num_features", 0))
    if card is None:
        card = write_card(bare, metrics=metrics)
    tensors = _tensors(bare)
    _check_rebuilds(architecture, model_args, tensors)

    if folder.exists() and not folder.is_dir():
        raise HubError(f"the model cannot be saved to {folder}: there is a file of that name; choose another folder")
    is_new = not folder.exists()
    temporary = (folder.parent if is_new else folder) / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, tensors, architecture, model_args, cfg, num_features, card, max_shard_size)
        if is_new:
            os.rename(temporary, folder)
        else:
            _move_in(temporary, folder)
    except OSError as error:
        raise HubError(f"the model cannot be saved to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def describe(model: nn.Module, *, metrics: Mapping[str, float] | None = None) -> tuple[str, dict[str, Any], VideoCfg]:
    """Architecture, options and cfg of a model as it is now: its present classes, no address of older weights.

    Raises:
        HubError: the model was not built by ``create_model``.
    """
    cfg, args = getattr(model, "pretrained_cfg", None), getattr(model, "model_args", None)
    if not isinstance(cfg, VideoCfg) or not isinstance(args, Mapping) or not is_model(cfg.architecture):
        raise HubError(
            f"this {type(model).__name__} does not know the name and options that would rebuild it: "
            "save the model that create_model returned (not a features_only one, nor a part of it)"
        )
    model_args = dict(args)
    num_classes = getattr(model, "num_classes", cfg.num_classes)
    if num_classes != cfg.num_classes:
        cfg = cfg.replace(num_classes=num_classes, class_names=())
    if "num_classes" in model_args:
        model_args["num_classes"] = num_classes
    measured = {key: float(value) for key, value in (metrics or {}).items()}
    odd = [key for key, value in measured.items() if not math.isfinite(value)]
    if odd:
        raise HubError(f"the figure {odd[0]!r} is {measured[odd[0]]}: give finite numbers in metrics, or leave it out")
    cfg = cfg.replace(file="", hf_hub_id="", sha256="", metrics={**cfg.metrics, **measured})
    return cfg.architecture, model_args, cfg


def write_card(
    model: nn.Module, *, metrics: Mapping[str, float] | None = None, load_as: str = "local-dir:FOLDER"
) -> str:
    """The card of a model as it is now; a model that came from the Hub is named as the one it was made from.

    Raises:
        HubError: as :func:`describe`.
    """
    from vidzoo.profiling import profile  # which knows the factory, which knows this room

    model = _bare(model)
    _, model_args, cfg = describe(model, metrics=metrics)
    base: VideoCfg = model.pretrained_cfg  # type: ignore[assignment]
    return model_card(
        cfg,
        metrics=metrics,
        model_args=model_args,
        load_as=load_as,
        base_model=base.hf_hub_id,
        costs=profile(model),
    )


def _write_files(
    folder: Path,
    tensors: Mapping[str, Tensor],
    architecture: str,
    model_args: Mapping[str, Any],
    cfg: VideoCfg,
    num_features: int,
    card: str,
    max_shard_size: int | str | None,
) -> None:
    from vidzoo import __version__

    metadata = {"format": "pt", "vidzoo_version": __version__}
    files = write_shards(folder, WEIGHTS, tensors, metadata, max_shard_size)
    if files == [WEIGHTS]:
        cfg = cfg.replace(sha256=sha256_of(folder / WEIGHTS))
    config = {
        "vidzoo_version": __version__,
        "config_version": CONFIG_VERSION,
        "architecture": architecture,
        "model_args": dict(model_args),
        "num_classes": cfg.num_classes,
        "num_features": num_features,
        "class_names": list(cfg.class_names),
        "pretrained_cfg": cfg.to_dict(),
    }
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise HubError(f"{architecture} has an option or cfg value that JSON cannot hold: {error}") from error
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    for name in files:  # safetensors writes files that only their owner may read
        shutil.copymode(folder / CONFIG, folder / name)


def _move_in(source: Path, folder: Path) -> None:
    written = [file.name for file in source.iterdir()]
    names = sorted(written, key=lambda name: (name == CONFIG, name == CARD, name == INDEX))
    for name in names:
        if (folder / name).is_dir():
            raise HubError(f"the model cannot be saved to {folder}: {name} is a folder there; move it away")
    older = [file for file in folder.iterdir() if file.name in (WEIGHTS, INDEX) or is_shard(file.name)]
    stale = [file for file in older if file.name not in names]
    for name in names:
        if name == CONFIG:
            for file in stale:
                file.unlink()
        os.replace(source / name, folder / name)


def _find_weights(folder: Path) -> Path | None:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if (folder / INDEX).is_file():
        return merge_shards(folder / INDEX)
    for patterns in (("*.safetensors",), ("pytorch_model.bin",), ("*.pth", "*.pt", "*.bin", "*.ckpt")):
        found = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            shards = is_shard(found[0].name)
            why = f"they are shards whose {INDEX} is missing" if shards else f"none is called {WEIGHTS}"
            raise WeightsError(
                f"{folder} has {len(found)} files of weights ({', '.join(file.name for file in found[:4])}) and {why}: "
                + ("download or copy it too" if shards else f"name the right one {WEIGHTS}")
            )
    return None


def _architecture(name: object, file: Path) -> str:
    if not isinstance(name, str) or not name:
        raise HubError(f'{file} does not say which architecture it is for: add a line like "architecture": "gst_r18"')
    try:
        architecture = split_model_name_tag(resolve_deprecated(name))[0]
    except UnknownModelError as error:
        raise HubError(f"{file}: {error}") from error
    if not is_model(architecture):
        raise HubError(
            f"{file} is for the architecture {name!r}, which this vidzoo does not have: {nearest(name, list_models())} "
            "(a newer vidzoo, or the package that registers it, may)"
        )
    return architecture


def _specification(architecture: str) -> dict[str, Any]:
    """What a config that says little takes from its architecture: how a clip is fed, never what weights have learnt."""
    cfg = get_pretrained_cfg(architecture).to_dict()
    learnt = ("tag", "class_names", "dataset", "sha256", "source", "license", "origin_url", "description", "metrics")
    places = ("file", "hf_hub_id", "donor", "donor_layout", "donor_sha256", "provenance")
    return {key: value for key, value in cfg.items() if key not in (*learnt, "is_classifier", *places)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _bare(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    children = dict(model.named_children())
    if len(children) == 1 and children.keys() <= {"module", "_orig_mod"} and "model_args" not in vars(model):
        return _bare(next(iter(children.values())))
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {}
    for name, value in model.state_dict().items():
        if value.is_meta:
            raise WeightsError(f"{name} is on the meta device and has no values to save: load the weights first")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{name} has NaN or infinite values: training diverged, save an earlier checkpoint")
        # A clone of its own: a safetensors file refuses tensors that share memory, and ones that are not contiguous.
        tensors[name] = value.detach().to(device="cpu", copy=True).contiguous()
    return tensors


def _check_rebuilds(architecture: str, model_args: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    try:
        with blank():
            rebuilt = model_entrypoint(architecture)(**model_args)
    except (VidzooError, TypeError) as error:
        raise HubError(f"{architecture} cannot be built again from its options {dict(model_args)}: {error}") from error
    expected = {name: tuple(value.shape) for name, value in rebuilt.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    odd = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if odd:
        raise HubError(
            f"this model is no longer what {architecture} with its options builds ({len(odd)} tensors differ, first "
            f"{odd[0]}), so a folder of it could not be loaded: save it before surgery or fusing, or register an "
            "entrypoint that builds it"
        )
