"""Put weights of the zoo on the Hugging Face Hub, each set in a repository of its own.

python tools/publish.py 'gst_*' --organisation my-org                # what would go where: nothing is sent or downloaded
python tools/publish.py 'gst_*' --organisation my-org --out folders  # the same, and the folders themselves to look at
python tools/publish.py 'gst_*' --organisation my-org --push

A repository holds weights, config.json and a card, and is a model for everybody:
``vidzoo.create_model("hf-hub:my-org/gst_r18.weizmann")``. The token is that of `hf auth login`, or HF_TOKEN. What the Hub
has already is not sent again, so a run that was interrupted is simply started again.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import vidzoo
from vidzoo.blank import blank
from vidzoo.checkpoint import sha256_of
from vidzoo.cli.common import table
from vidzoo.errors import ConfigError, UnknownModelError, VidzooError, nearest
from vidzoo.hub.explain import Place, explained
from vidzoo.hub.folder import CONFIG, WEIGHTS, write_card
from vidzoo.pretrained import VideoCfg

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
FILES = ("README.md", CONFIG, WEIGHTS)

# SPDX identifiers of licences under which changed copies may be passed on.
_FREE_LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "zlib",
        "unlicense",
        "cc0-1.0",
        "mpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
    ]
)


@dataclass(frozen=True)
class Plan:
    """What is to become of one set of weights."""

    name: str
    repo_id: str
    licence: str
    size: int
    """Of the weights, in bytes."""
    refused: str
    """Why it stays here; empty if it goes."""
    lacks: str
    """What its card will have to leave open."""


def plan(patterns: Sequence[str], organisation: str, accepted: Sequence[str]) -> list[Plan]:
    """Where every set of weights that fits one of ``patterns`` would go; those without weights are in it too.

    Raises:
        UnknownModelError: a pattern that fits no name.
        ConfigError: an organisation that the Hub would not accept.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        found = vidzoo.list_models(pattern, include_tags=True)
        if not found:
            known = {*vidzoo.list_models(), *vidzoo.list_pretrained()}
            raise UnknownModelError(f"no model fits {pattern!r}: {nearest(pattern, known)}")
        names.update(dict.fromkeys(name for name in found if _is_set_of_weights(name)))
    return [_planned(name, organisation, accepted) for name in names]


def repository(name: str, organisation: str) -> str:
    """The Hub's id for ``arch.tag``.

    Raises:
        ConfigError: the Hub takes no such id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo_id = f"{organisation}/{re.sub(r'[^A-Za-z0-9_.-]|-{2,}|[.]{2,}', '-', name)}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"the Hub takes no repository {repo_id!r}: check --organisation") from error
    return repo_id


def is_free(licence: str) -> bool:
    """Whether a licence is known to allow that changed copies are passed on; any other text counts as one that does not."""
    return licence.lower().strip() in _FREE_LICENCES


def publish(item: Plan, out: Path | None, *, push: bool, private: bool = False, revision: str | None = None) -> str:
    """Build the folder of one set of weights, send it if asked to, and say in a word what has become of it.

    Raises:
        VidzooError: the weights cannot be had, the folder cannot be written, or the Hub does not take it.
    """
    model = vidzoo.create_model(item.name, pretrained=True)
    model.pretrained_cfg = model.pretrained_cfg.replace(hf_hub_id="")  # a copy of those weights, not made from them
    card = _card(model, item)
    with ExitStack() as stack:
        if out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidzoo-publish-")))
        folder = vidzoo.save_pretrained(model, out / item.name, card=card)
        if not push:
            return f"saved in {folder}"
        if is_published(folder, item.repo_id, revision):
            return "is there already"
    message = f"{item.name} of vidzoo {vidzoo.__version__}"
    url = vidzoo.push(model, item.repo_id, private=private, revision=revision, card=card, commit_message=message)
    return f"pushed to {url}"


def is_published(folder: Path, repo_id: str, revision: str | None = None) -> bool:
    """Whether card, config and weights in the repository have the hashes of those in ``folder``.

    Raises:
        HubError: the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    with explained(Place(repo_id, revision), uploading=True):
        try:
            files = {file.path: file for file in HfApi().list_repo_tree(repo_id, revision=revision)}
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return False
    for file in (folder / name for name in FILES):
        there = files.get(file.name)
        if not isinstance(there, RepoFile):
            return False
        if (there.lfs.sha256 if there.lfs else there.blob_id) != (sha256_of(file) if there.lfs else _git_hash(file)):
            return False
    return True


def _is_set_of_weights(name: str) -> bool:
    """An untagged name beside tagged ones only says how a fresh network is fed."""
    arch, tag = vidzoo.split_model_name_tag(name)
    return bool(tag) or not vidzoo.is_model_pretrained(arch)


def _planned(name: str, organisation: str, accepted: Sequence[str]) -> Plan:
    cfg = vidzoo.get_pretrained_cfg(name)
    with blank():
        state = vidzoo.create_model(name, pretrained=False).state_dict()
    size = sum(value.numel() * value.element_size() for value in state.values())
    return Plan(
        name=name,
        repo_id=repository(name, organisation),
        licence=cfg.license,
        size=size,
        refused=_refused(cfg, name, accepted),
        lacks=", ".join(_lacks(cfg)),
    )


def _lacks(cfg: VideoCfg) -> list[str]:
    wanted: dict[str, object] = {"data set": cfg.dataset, "source": cfg.source, "licence": cfg.license}
    if cfg.is_classifier and cfg.num_classes:
        wanted["class names"] = cfg.class_names
    return [what for what, found in wanted.items() if not found]


def _refused(cfg: VideoCfg, name: str, accepted: Sequence[str]) -> str:
    if not cfg.has_weights:
        return "there are no weights"
    if is_free(cfg.license) or any(fnmatch.fnmatchcase(name, pattern) for pattern in accepted):
        return ""
    return f"its licence does not say that it may be passed on; if it may: --accept-licence {name}"


def _card(model: nn.Module, item: Plan) -> str:
    """The card that this repository keeps of the weights, else the one that every model folder gets."""
    load_as = f"hf-hub:{item.repo_id}"
    kept = CARDS / f"{item.name}.md"
    if not kept.is_file():
        return write_card(model, load_as=load_as)
    return kept.read_text(encoding="utf-8").replace(f'"{item.name}", pretrained=True', f'"{load_as}"')


def _git_hash(file: Path) -> str:
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _check_token(repo_id: str) -> None:
    """Ask the Hub who is there before anything is built: without an answer nothing can be pushed."""
    from huggingface_hub import HfApi

    with explained(Place(repo_id), uploading=True):
        HfApi().whoami()


def _print_plan(items: Sequence[Plan]) -> None:
    rows = [("repository", "size", "licence", "")]
    for item in items:
        what = f"stays here: {item.refused}" if item.refused else f"goes without {item.lacks}" if item.lacks else "goes"
        rows.append((item.repo_id, f"{item.size / 2**20:.1f} MiB", item.licence or "not stated", what))
    print(table(rows, indent=0))


def _run(args: argparse.Namespace) -> int:
    items = plan(args.names, args.organisation, args.accept_licence)
    _print_plan(items)
    going = [item for item in items if not item.refused]
    failed = len(items) - len(going)
    if not (args.push or args.out):
        print(f"\nnothing was sent: {len(going)} of {len(items)} would go with --push")
        return int(failed > 0)
    if args.push and going:
        _check_token(going[0].repo_id)
    print()
    for item in going:
        try:
            done = publish(item, args.out, push=args.push, private=args.private, revision=args.revision)
            print(f"{item.repo_id}: {done}", flush=True)
        except VidzooError as error:
            failed += 1
            _complain(f"{item.repo_id}: {error}")
    return int(failed > 0)


def _complain(sentence: str) -> None:
    print(f"publish: {' '.join(sentence.split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("names", nargs="+", metavar="NAME", help="arch.tag, an arch for all its weights, or a pattern")
    parser.add_argument("--organisation", required=True, metavar="ORG", help="who the repositories belong to")
    parser.add_argument("--push", action="store_true", help="send them; without it, nothing leaves this machine")
    parser.add_argument("--private", action="store_true", help="repositories that are made now are private")
    parser.add_argument("--revision", metavar="R", help="the branch to push to, main if left out")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the folders here, each under the name of its weights"
    )
    parser.add_argument(
        "--accept-licence",
        action="append",
        default=[],
        metavar="NAME",
        help="these weights (arch.tag or a pattern) may be passed on although their licence does not say so; repeatable",
    )
    try:
        return _run(parser.parse_args(argv))
    except VidzooError as error:
        _complain(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
