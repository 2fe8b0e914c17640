"""From a cfg that names a donor to a safetensors file that fits: obtained, converted, verified, kept with its provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidzoo.blank import blank
from vidzoo.checkpoint import read_state_dict, sha256_of
from vidzoo.donors.store import Stored, cache_folder
from vidzoo.donors.web import download
from vidzoo.errors import HubError, WeightsError
from vidzoo.hub.remote import fetch_file
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import model_entrypoint
from vidzoo.saving import save_tensors

__all__ = ["Obtained", "obtain", "prepare"]

SEED = 0
"""Of what a donor has no weights for."""
CONVERSION = 1
"""Raised whenever a conversion changes what it gives: what the cache holds is then made anew."""

# Options that change no weight: one file serves all their values.
_FREE = ("num_classes", "in_chans", "num_frames", "drop_rate", "drop_path_rate")


@dataclass(frozen=True)
class Obtained:
    """A donor's file as its publisher gives it."""

    path: Path
    sha256: str
    revision: str = ""
    stored: Stored | None = None
    """Its place in our own cache; None for what the Hub's client keeps."""


def prepare(
    cfg: VideoCfg,
    options: Mapping[str, Any],
    *,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> tuple[Path, dict[str, str]]:
    """The file with the weights of ``cfg`` for a network with these options, and how it came about.

    The first call downloads the donor, converts it, verifies that the result fits strictly, and keeps it; later calls read
    the cache, without network. What the donor has no weights for is drawn from a fixed seed. Weights have the classes and
    input channels of ``cfg``: adapting them is left to the loader.

    Raises:
        HubError: the donor cannot be had, or the cache cannot be written.
        WeightsError: the donor is damaged, or is not what its cfg says.
    """
    known = {**options, "num_classes": cfg.num_classes, "in_chans": cfg.in_chans}
    known = {key: value for key, value in known.items() if key in options}
    folder = cache_folder(cache_dir)
    ready = Stored(folder / "converted" / f"{cfg.name}-{_digest(cfg, known)}.safetensors")
    note = ready.read()
    if note is None:
        with ready.locked():
            note = ready.read()  # somebody else may have made it meanwhile
            if note is None:
                donor = obtain(cfg, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
                weights = _converted(cfg, known, donor)
                note = _provenance(cfg, known, donor)
                ready.write(lambda path: save_tensors(weights, path, {"format": "pt", **note}), note)
    return ready.path, {key: str(note[key]) for key in _PROVENANCE if key in note}


def obtain(
    cfg: VideoCfg, *, cache_dir: str | Path | None = None, token: str | None = None, local_files_only: bool = False
) -> Obtained:
    """The donor's own file, from the cache or from its publisher.

    Raises:
        HubError: as :func:`prepare`.
    """
    if cfg.donor.startswith("timm:"):
        repo = _timm_repo(cfg.donor.removeprefix("timm:"))
        path, revision = fetch_file(
            repo, "model.safetensors", cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return Obtained(path, sha256_of(path), revision)
    name = f"{hashlib.sha256(cfg.donor.encode()).hexdigest()[:12]}-{_base_name(cfg.donor)}"
    stored = Stored(cache_folder(cache_dir) / "downloads" / name)
    note = stored.read()
    if note is None:
        if local_files_only or _is_offline():
            raise HubError(
                f"the donor of {cfg.name} is not in the cache {stored.path.parent} and the network is switched off "
                f"(HF_HUB_OFFLINE or local_files_only): load it once with network, or download {cfg.donor} elsewhere and run "
                f"`python tools/convert_checkpoint.py FILE --to {cfg.architecture}`"
            )
        with stored.locked():
            note = stored.read()
            if note is None:
                stored.write(lambda path: _fetch(cfg, path), {"url": cfg.donor})
                note = {"sha256": sha256_of(stored.path)}
    return Obtained(stored.path, str(note["sha256"]), stored=stored)


def _fetch(cfg: VideoCfg, path: Path) -> None:
    download(cfg.donor, path, sha256=cfg.donor_sha256)


def _converted(cfg: VideoCfg, options: Mapping[str, Any], donor: Obtained) -> dict[str, Tensor]:
    from vidzoo.convert import LAYOUTS, convert

    try:
        state_dict = read_state_dict(donor.path)
        found = convert(state_dict, cfg.architecture, cfg.donor_layout or None, seed=SEED, **options)
        _check_claims(cfg, found.exact, [] if LAYOUTS[found.layout].partial else found.fresh)
        load_weights(_blank(cfg, options), found.weights, source=cfg.donor, assign=True)
    except WeightsError as error:
        if donor.stored is not None:
            donor.stored.remove()  # a damaged download must not be met again
        raise WeightsError(f"{cfg.donor} cannot be made into {cfg.name}: {error}") from error
    return {key: value.contiguous() for key, value in found.weights.items()}


def _blank(cfg: VideoCfg, options: Mapping[str, Any]) -> VideoModel:
    with blank():
        model: VideoModel = model_entrypoint(cfg.architecture)(**options)
    return model


def _check_claims(cfg: VideoCfg, exact: bool, fresh: Sequence[str]) -> None:
    """What a cfg promises of its weights: that a classifier is the trained one, that the head has the classes it names."""
    heads = [key for key in fresh if key.startswith(tuple(f"{name}." for name in cfg.classifier))]
    if heads:
        raise WeightsError(f"its classifier has not the {cfg.num_classes} classes that {cfg.name} names")
    if cfg.is_classifier and not exact:
        raise WeightsError(f"it is not the network that {cfg.name} says it is, and would answer otherwise")


_PROVENANCE = (
    "donor",
    "donor_revision",
    "donor_sha256",
    "conversion",
    "seed",
    "vidzoo_version",
    "torch_version",
)


def _provenance(cfg: VideoCfg, options: Mapping[str, Any], donor: Obtained) -> dict[str, str]:
    from vidzoo import __version__

    return {
        "architecture": cfg.architecture,
        "tag": cfg.tag,
        "options": json.dumps(options, sort_keys=True, default=str),
        "donor": cfg.donor,
        "donor_revision": donor.revision,
        "donor_sha256": donor.sha256,
        "conversion": cfg.donor_layout or "detected",
        "seed": str(SEED),
        "vidzoo_version": __version__,
        "torch_version": str(torch.__version__),
    }


def _digest(cfg: VideoCfg, options: Mapping[str, Any]) -> str:
    """Of everything that decides what the file holds; the shapes tell networks of other versions of this code apart."""
    shaping = {key: "inf" if value == float("inf") else value for key, value in options.items() if key not in _FREE}
    shapes = {key: list(value.shape) for key, value in _blank(cfg, options).state_dict().items()}
    what = [CONVERSION, SEED, cfg.donor, cfg.donor_layout, shaping, shapes]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _timm_repo(name: str) -> str:
    """Where timm itself would take the weights of ``name`` from."""
    import timm

    try:
        repo = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    except RuntimeError:  # it knows the network, not these weights
        repo = None
    if not repo:
        raise HubError(f"timm {timm.__version__} has no weights {name!r} on the Hub: install a newer timm")
    return str(repo)


def _base_name(url: str) -> str:
    from urllib.parse import urlsplit

    return Path(urlsplit(url).path).name or "file"


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
