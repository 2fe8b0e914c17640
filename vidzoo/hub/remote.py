"""The Hugging Face Hub: fetching a model folder, and pushing one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from vidzoo.checkpoint import sha256_of
from vidzoo.errors import HubError, WeightsError
from vidzoo.hub.explain import Place, explained, is_unreachable
from vidzoo.hub.folder import CONFIG, WEIGHTS, ModelFolder, read_config, save_pretrained, write_card
from vidzoo.hub.shards import INDEX, merge_shards, read_index
from vidzoo.hub.source import split_revision

__all__ = ["fetch", "fetch_file", "push"]

PROBE_SECONDS = 4.0


def fetch(
    repo: str,
    *,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> ModelFolder:
    """Download ``org/name`` or ``org/name@revision`` into the Hub's cache, or take it from there.

    ``config.json`` is asked for first and always, since it is what the Hub counts downloads by; the weights then come
    from the same commit. Where the Hub cannot be reached a model that is cached is used, and for one that is not the
    error comes after one request instead of the client's half minute of attempts (how long that one may take:
    HF_HUB_ETAG_TIMEOUT, else four seconds). A cached file that no longer has the sha256 of its config is downloaded
    once more.

    Args:
        weights: False leaves the weights where they are (``ModelFolder.weights`` is None).

    Raises:
        UnknownModelError: an id that cannot be meant.
        HubError: whatever stops the download, in one sentence, with what helps.
    """
    from huggingface_hub import constants

    repo_id, revision = split_revision(repo)
    offline = local_files_only or constants.HF_HUB_OFFLINE
    place = Place(repo_id, revision, str(cache_dir or constants.HF_HUB_CACHE))
    with explained(place):
        if not offline and not _is_cached(place):
            _probe(place, token)
        config = _download(CONFIG, place, token=token, local_files_only=local_files_only)
        architecture, model_args, cfg = read_config(config)
        cfg = cfg.replace(hf_hub_id=repo)
        if not weights:
            return ModelFolder(architecture, model_args, cfg, None)
        # The commit that the config came from: a push in between must not mix two models.
        at_commit = Place(repo_id, config.parent.name, place.cache_dir)
        file = _download_weights(at_commit, token=token, local_files_only=local_files_only)
        if file is not None and cfg.sha256 and not offline and sha256_of(file) != cfg.sha256.lower():
            file = _download(WEIGHTS, at_commit, token=token, force=True)
        return ModelFolder(architecture, model_args, cfg, file)


def fetch_file(
    repo: str,
    file: str,
    *,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> tuple[Path, str]:
    """One file of a repository that need not be a model folder of vidzoo, and the commit that it is from.

    The cache and an unreachable Hub are treated as in :func:`fetch`. A large file whose content is not what the Hub told
    is downloaded once more, and refused if that does not help.

    Raises:
        UnknownModelError, HubError: as :func:`fetch`.
    """
    from huggingface_hub import constants

    repo_id, revision = split_revision(repo)
    offline = local_files_only or constants.HF_HUB_OFFLINE
    place = Place(repo_id, revision, str(cache_dir or constants.HF_HUB_CACHE), file)
    with explained(place):
        if not offline and not _has(place, file):
            _probe(place, token)
        path = _download(file, place, token=token, local_files_only=local_files_only)
        if _is_altered(path) and not offline:
            path = _download(file, place, token=token, force=True)
        if _is_altered(path):
            raise HubError(
                f"{file} of {place.name} has not the sha256 that the Hub told for it: it was damaged "
                + ("in the cache, so load it once with network" if offline else "on its way, so try again")
                + f", or delete {path}"
            )
    return path, path.parent.name


def push(
    model: nn.Module,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    card: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Save ``model`` and upload it to the Hub; the repository, and the branch ``revision``, are made where missing.

    Returns the address of the repository, of the branch, or of the pull request.

    Args:
        repo_id: ``org/name``; a bare ``name`` is created under the owner of the token.
        card, metrics: as for :func:`save_pretrained`.

    Raises:
        HubError, WeightsError: as :func:`save_pretrained`, and whatever stops the upload.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="vidzoo", library_version=_version())
    if card is None:
        card = write_card(model, metrics=metrics, load_as=f"hf-hub:{repo_id}")
    with tempfile.TemporaryDirectory(prefix="vidzoo-push-") as temporary:
        folder = save_pretrained(model, Path(temporary) / "model", card=card, metrics=metrics)
        with explained(Place(repo_id, revision), uploading=True):
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None and not create_pr:
                api.create_branch(url.repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=url.repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
    if create_pr and commit.pr_url:
        return str(commit.pr_url)
    return f"{url}/tree/{revision}" if revision else str(url)


def _is_cached(place: Place) -> bool:
    return _has(place, CONFIG) and (_has(place, WEIGHTS) or _has(place, INDEX))


def _has(place: Place, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repo_id, file, cache_dir=place.cache_dir, revision=place.revision)
    return isinstance(found, str)


def _is_altered(path: Path) -> bool:
    """Whether a large file in the cache has lost its content: the cache names its blob by the sha256 the Hub gave."""
    name = path.readlink().name if path.is_symlink() else ""
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None and sha256_of(path) != name


def _probe(place: Place, token: str | None) -> None:
    """One request without the client's retries, which take 23 seconds when nobody listens, minutes when nobody answers.

    Only an unreachable Hub counts here: everything else is left to the download itself.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    patience: float = constants.HF_HUB_ETAG_TIMEOUT
    if patience == constants.DEFAULT_ETAG_TIMEOUT:
        patience = PROBE_SECONDS
    try:
        url = hf_hub_url(place.repo_id, place.file or CONFIG, revision=place.revision)
        get_hf_file_metadata(url, token=token, timeout=patience, library_name="vidzoo", library_version=_version())
    except Exception as error:
        if is_unreachable(error):
            raise


def _download(
    file: str, place: Place, *, token: str | None, local_files_only: bool = False, force: bool = False
) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            place.repo_id,
            file,
            revision=place.revision,
            cache_dir=place.cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force,
            library_name="vidzoo",
            library_version=_version(),
        )
    )


def _download_weights(place: Place, *, token: str | None, local_files_only: bool) -> Path | None:
    """``model.safetensors``, or its shards merged; None when the commit has neither."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for name in (WEIGHTS, INDEX):
        known = try_to_load_from_cache(place.repo_id, name, cache_dir=place.cache_dir, revision=place.revision)
        if known is _CACHED_NO_EXIST:
            continue
        try:
            file = _download(name, place, token=token, local_files_only=local_files_only)
        except RemoteEntryNotFoundError:
            continue
        if name == WEIGHTS:
            return file
        for shard in sorted(set(read_index(file).values())):
            try:
                _download(shard, place, token=token, local_files_only=local_files_only)
            except RemoteEntryNotFoundError as error:
                raise WeightsError(
                    f"{place.name} lacks the shard {shard} that its {INDEX} lists: ask its author to upload it"
                ) from error
        return merge_shards(file)
    return None


def _version() -> str:
    from vidzoo import __version__

    return __version__
