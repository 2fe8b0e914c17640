"""Weights in several files: ``model-00001-of-00003.safetensors`` and so on, with an index that says what lies where."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vidzoo.checkpoint import read_state_dict
from vidzoo.errors import HubError, WeightsError
from vidzoo.saving import save_tensors

__all__ = ["INDEX", "is_shard", "merge_shards", "read_index", "write_shards"]

INDEX = "model.safetensors.index.json"


def is_shard(name: str) -> bool:
    """Whether a file name is one of a numbered series."""
    return re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name) is not None


def read_index(file: Path) -> dict[str, str]:
    """The ``weight_map`` of an index: the shard that each tensor lies in.

    Raises:
        WeightsError: not an index, or a shard that is not a plain file name (an index may not point out of its folder).
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        places = dict(content["weight_map"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{file} is not an index of shards with a weight_map: {error}") from error
    for shard in places.values():
        is_plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not is_plain or not shard.endswith(".safetensors"):
            raise WeightsError(f"{file} names the shard {shard!r}, which is not the plain name of a safetensors file")
    if not places:
        raise WeightsError(f"{file} lists no tensors")
    return places


def merge_shards(index: Path) -> Path:
    """One safetensors file with the tensors of all shards, in a temporary folder that goes when the process ends.

    Raises:
        WeightsError: a shard is missing or damaged, or does not hold what the index says.
    """
    places = read_index(index)
    shards = sorted(set(places.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise WeightsError(
            f"{index.parent} lacks {len(absent)} of {len(shards)} shards: {', '.join(absent[:5])}; "
            "download or copy them again"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        content = read_state_dict(index.parent / shard)
        wanted = {name for name, place in places.items() if place == shard}
        if wanted != content.keys():
            odd = sorted(wanted ^ content.keys())
            raise WeightsError(f"{index.parent / shard} does not hold what the index says: {', '.join(odd[:5])}")
        tensors.update(content)
    try:
        folder = Path(tempfile.mkdtemp(prefix="vidzoo-merged-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    except OSError as error:
        raise HubError(f"the shards of {index.parent} cannot be merged in {tempfile.gettempdir()}: {error}") from error
    return folder / "model.safetensors"


def write_shards(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    max_shard_size: int | str | None,
) -> list[str]:
    """Write ``tensors`` as the one file ``name``, or as shards with an index when larger than ``max_shard_size``.

    Returns the names of the files with tensors.

    Raises:
        HubError: a size that cannot be read.
        OSError: a file cannot be written.
    """
    if max_shard_size is None:
        save_tensors(tensors, folder / name, metadata)
        return [name]
    from huggingface_hub import split_torch_state_dict_into_shards

    try:
        plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    except ValueError as error:
        raise HubError(f"max_shard_size={max_shard_size!r} is not a size: give bytes, or a text like '2GB'") from error
    for file, names in plan.filename_to_tensors.items():
        save_tensors({key: tensors[key] for key in names}, folder / file, metadata)
    if plan.is_sharded:
        index = {"metadata": {"total_size": plan.metadata["total_size"]}, "weight_map": dict(plan.tensor_to_filename)}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return list(plan.filename_to_tensors)
