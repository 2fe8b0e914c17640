"""Where a model name points: into the zoo, to a folder, to the Hugging Face Hub, or inside the package."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Literal

from vidzoo.errors import UnknownModelError, WeightsError, nearest

__all__ = ["Source", "embedded", "parse_source", "split_revision"]

Source = Literal["", "hf-hub", "local-dir"]


def parse_source(model_name: str) -> tuple[Source, str]:
    """Where a name points: ``("", name)`` in the zoo, ``("hf-hub", "org/name[@revision]")`` or ``("local-dir", path)``.

    ``hf_hub:`` is the same as ``hf-hub:``. What follows ``local-dir:`` is taken as it is, drive letters included.

    Raises:
        UnknownModelError: a prefix that does not exist, a path or a Hub id without its prefix, or an empty one.
    """
    prefix, colon, rest = model_name.partition(":")
    local, remote = f"local-dir:{model_name}", f"hf-hub:{model_name}"
    if colon and prefix == "local-dir":
        if not rest.strip():
            raise UnknownModelError("local-dir: needs the path of a model folder, as in local-dir:runs/my_model")
        return "local-dir", rest
    if colon and prefix in ("hf-hub", "hf_hub"):
        split_revision(rest)
        return "hf-hub", rest
    looks_like_drive = len(prefix) == 1 and rest[:1] in ("/", "\\")
    if colon and not looks_like_drive:
        guess = "nothing stands before the colon" if not prefix else nearest(prefix, ("hf-hub", "local-dir"))
        raise UnknownModelError(
            f"{model_name!r} has an unknown source before its colon ({guess}): "
            "write hf-hub:org/name for the Hub, local-dir:path for a folder, or the plain name of a model"
        )
    if "/" in model_name or "\\" in model_name:
        raise UnknownModelError(
            f"{model_name!r} is not the name of a model: for a folder write {local}, for the Hub write "
            + (remote if _is_repo_id(model_name) else "hf-hub:org/name")
        )
    if not model_name.strip():
        raise UnknownModelError("the model name is empty: see vidzoo.list_models(), or write hf-hub:org/name")
    return "", model_name


def embedded(file: str) -> Path:
    """Path of weights that come with the package.

    Raises:
        WeightsError: this installation does not have them.
    """
    found = importlib.resources.files("vidzoo") / "weights" / file
    if Path(file).name != file or not found.is_file():
        raise WeightsError(
            f"the embedded weights {file!r} are not in this installation of vidzoo: install it again, or a newer one"
        )
    with importlib.resources.as_file(found) as path:
        return Path(path)


def split_revision(repo: str) -> tuple[str, str | None]:
    repo_id, at, revision = repo.partition("@")
    if not repo_id.strip():
        raise UnknownModelError(
            "hf-hub: needs the id of a repository: write hf-hub:org/name or hf-hub:org/name@revision"
        )
    if "@" in revision or (at and not revision.strip()):
        raise UnknownModelError(f"{repo!r} is not a Hub id with one revision: write org/name or org/name@revision")
    return repo_id, revision or None


def _is_repo_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[^@\s]+)?", name) is not None and not name.startswith((".", "~"))
