"""The one door of conversion: somebody else's state dict in, one that loads strictly into a network of this zoo out."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vidzoo.blank import blank
from vidzoo.convert.layouts import LAYOUTS, Layout, has_fast_pathway
from vidzoo.convert.layouts import detect as detect_layout
from vidzoo.convert.wrappers import unwrap
from vidzoo.errors import ConfigError, WeightsError, nearest

__all__ = ["Conversion", "convert", "detect", "to_vidzoo"]

_COUNTER = "num_batches_tracked"

# Networks are drawn from torch's one generator: a second thread would change what the first one draws.
_drawing = threading.Lock()

_Signature = dict[str, tuple[bool, tuple[int, ...]]]


@dataclass(frozen=True)
class Conversion:
    """What became of a state dict.

    ``weights``: complete and strictly fitting, single precision, on the CPU. ``fresh``: parameters that were not in it and
    are drawn from the seed. ``approximated``: see :class:`vidzoo.models.start.StartReport`. ``exact``: the network gives
    what the trained one gives, class scores included.
    """

    layout: str
    weights: dict[str, Tensor]
    exact: bool
    fresh: tuple[str, ...] = ()
    approximated: tuple[tuple[str, float], ...] = ()


def detect(state_dict: Mapping[str, Any]) -> str:
    """The name of the layout of a state dict or checkpoint, as :func:`vidzoo.convert.layouts.detect`, wrappers removed.

    Raises:
        WeightsError: there are no tensors, or no layout has their keys.
    """
    return detect_layout(unwrap(state_dict))


def to_vidzoo(
    state_dict: Mapping[str, Any], name: str, source: str | None = None, *, seed: int = 0, **options: Any
) -> dict[str, Tensor]:
    """The weights of :func:`convert`: they load strictly into ``create_model(name, **options)``.

    Raises:
        as :func:`convert`.
    """
    return convert(state_dict, name, source, seed=seed, **options).weights


def convert(
    state_dict: Mapping[str, Any], name: str, source: str | None = None, *, seed: int = 0, **options: Any
) -> Conversion:
    """A state dict or a whole checkpoint of any known project as weights of the network ``name``.

    Where the topology is the same, tensors are renamed and nothing else; they may share memory with what was given. Where
    it is a relative's, the network is built from the seed and started with :func:`vidzoo.models.start.start_from`. The
    state of torch's random generator is left alone.

    Args:
        state_dict: what ``torch.load`` gave; containers (``state_dict``, ``model_state``, ..) and prefixes (``module.``,
            ``_orig_mod.``, ``model.``, ``base_model.``) are removed.
        name: a name of the zoo; its tag, if any, is passed over.
        source: a name in :data:`LAYOUTS`; left out, the keys tell.
        seed: of what the weights do not have.
        options: those of ``create_model``; ``num_classes`` is that of the weights' own classifier if it is left out.

    Raises:
        WeightsError: the layout is not known or could be two, or these are not the weights of such a network or of a relative.
        ConfigError: a layout or an option that does not exist.
        UnknownModelError: a name that does not exist.
    """
    from vidzoo.models.start import start_from
    from vidzoo.registry import model_entrypoint, split_model_name_tag

    arch = split_model_name_tag(name)[0]
    model_entrypoint(name)  # a name that does not exist is refused before any work
    tensors = unwrap(state_dict)
    layout = _layout(tensors, arch, source)
    what = f"{len(tensors)} tensors in the layout {layout.name!r}"
    try:
        given = _plain(layout.convert(tensors, arch))
    except WeightsError as error:
        raise WeightsError(f"these weights ({what}) cannot be read for {arch}: {error}") from error
    except (IndexError, RuntimeError, ValueError) as error:  # what tensors do that have not the axes of their names
        first = str(error).partition("\n")[0]
        raise WeightsError(
            f"these weights ({what}) cannot be read for {arch}: their tensors have not the shapes of that layout ({first})"
        ) from error
    rows = given.get("fc.weight")
    if layout.name == "backbone":  # whose classifier, the last matrix, is called as its library likes
        rows = next((value for value in reversed(given.values()) if value.ndim == 2), None)
    if rows is not None and options.get("num_classes") is None:
        options["num_classes"] = rows.shape[0]

    with _drawing, torch.device("cpu"), torch.random.fork_rng(devices=[]):
        target = _shapes(arch, options)
        for key in target:  # files of old versions of torch have no counters
            if key.endswith(_COUNTER) and key.replace(_COUNTER, "running_mean") in given:
                given.setdefault(key, torch.zeros((), dtype=torch.long))
        if _signature(given) == _signature(target):
            return Conversion(layout.name, {key: given[key] for key in target}, exact=True)
        torch.default_generator.manual_seed(seed)  # of the CPU alone
        model = _build(arch, options)
        try:
            report = start_from(model, given, partial=layout.partial)
        except WeightsError as error:
            others = _owners(given, layout, arch)
            hint = f"; they are those of {' or '.join(others)}" if others else f"; {layout.hint}" if layout.hint else ""
            raise WeightsError(f"these weights ({what}) do not make a {arch}: {error}{hint}") from error
    return Conversion(
        layout.name,
        _plain(model.state_dict()),
        exact=not (report.fresh or report.approximated or _is_adapted(given, model)),
        fresh=report.fresh,
        approximated=report.approximated,
    )


def _layout(tensors: Mapping[str, Tensor], arch: str, source: str | None) -> Layout:
    if source is not None:
        if source not in LAYOUTS:
            raise ConfigError(f"there is no layout {source!r} of state dicts: {nearest(source, LAYOUTS)}")
        return LAYOUTS[source]
    # The names of a backbone are its library's, which may be those of a network of ours.
    if any(fnmatchcase(arch, family) for family in LAYOUTS["backbone"].families):
        return LAYOUTS["vidzoo" if any(key.startswith("host.") for key in tensors) else "backbone"]
    # ATFR's own network shares its stem and res2 with SlowFast's fast pathway.
    if arch.startswith("resnet3d_") and has_fast_pathway(tensors):
        return LAYOUTS["fast-pathway"]
    found = detect_layout(tensors)
    if found == "ig65m":
        raise WeightsError(
            "these are the keys of ig65m-pytorch's R(2+1)D-34 and of this zoo's r2plus1d_34 alike, whose norms differ: say "
            "which they are with source='ig65m' or source='vidzoo'"
        )
    return LAYOUTS[found]


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Single precision and whole numbers on the CPU.

    Raises:
        WeightsError: NaN or infinite values, or none at all.
    """
    plain: dict[str, Tensor] = {}
    if any(value.is_meta for value in weights.values()):
        raise WeightsError("they are on the meta device and have no values: load the file without it")
    for key, value in weights.items():
        value = value.detach().to("cpu")
        if key.endswith(_COUNTER):
            value = value.to(torch.long)
        elif value.is_floating_point():
            value = value.float().contiguous()
        plain[key] = value
    broken = [key for key, value in plain.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise WeightsError(f"they have NaN or infinite values in {', '.join(broken[:10])}")
    return plain


def _is_adapted(given: Mapping[str, Tensor], model: Any) -> bool:
    """Whether the weights have seen another kind of input: pictures, or other channels."""
    stems = [f"{name}.weight" for name in model.pretrained_cfg.first_conv]
    flat = any(value.ndim == 4 for value in given.values())
    return flat or any(key in given and given[key].shape[1] != model.in_chans for key in stems)


def _build(arch: str, options: Mapping[str, Any]) -> Any:
    from vidzoo.factory import create_model

    return create_model(arch, pretrained=False, **options)


def _shapes(arch: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    with blank():
        return dict(_build(arch, options).state_dict())


def _signature(weights: Mapping[str, Tensor], *, over_time: bool = False) -> _Signature:
    """Names, kinds and shapes; with ``over_time`` 2D kernels as those of one frame."""
    return {
        key: (
            value.is_floating_point(),
            (*value.shape[:2], 1, *value.shape[2:]) if over_time and value.ndim == 4 else tuple(value.shape),
        )
        for key, value in weights.items()
    }


def _body(weights: Mapping[str, Tensor]) -> _Signature:
    """The signature without the classifier and the counters of batches."""
    kept = {key: value for key, value in weights.items() if not key.endswith(_COUNTER) and not key.startswith("fc.")}
    return _signature(kept, over_time=True)


@cache
def _body_of(entrypoint: Callable[..., Any]) -> _Signature:
    with blank():
        return _body(entrypoint().state_dict())


def _owners(given: Mapping[str, Tensor], layout: Layout, arch: str) -> list[str]:
    """Up to three networks of the layout's families that these weights fit to the last tensor, the classifier apart."""
    from vidzoo.registry import get_pretrained_cfg, list_models, model_entrypoint

    def has_stem_of(name: str) -> bool:
        stem = get_pretrained_cfg(name).first_conv[0]
        return any(key.startswith(f"{stem}.") for key in given)

    names = [] if layout.partial else list_models(layout.families, exclude_filters=_other_depths(given))
    wanted = _body(given)
    found = (
        name for name in names if name != arch and has_stem_of(name) and _body_of(model_entrypoint(name)) == wanted
    )
    return list(itertools.islice(found, 3))


def _other_depths(given: Mapping[str, Tensor]) -> list[str]:
    """Patterns of the ResNets that have another number of blocks in their third stage: they need not be built to know."""
    blocks = {found[0] for key in given if (found := re.search(r"layer3\.\d+", key))}
    own = {2: ("18",), 6: ("34", "50"), 23: ("101",)}.get(len(blocks), ())
    return [f"*{depth}*" for depth in ("18", "34", "50", "101") if depth not in own]
