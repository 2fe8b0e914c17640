"""Names: which models exist, which weights they have, and which options their entrypoints take."""

from __future__ import annotations

import collections.abc
import fnmatch
import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vidzoo.errors import ConfigError, UnknownModelError, UnknownOptionError, UnknownTagError, nearest
from vidzoo.pretrained import VideoCfg

__all__ = [
    "check_options",
    "get_arch_pretrained_cfgs",
    "get_pretrained_cfg",
    "is_model",
    "is_model_pretrained",
    "list_models",
    "list_modules",
    "list_pretrained",
    "model_entrypoint",
    "model_options",
    "register_deprecation",
    "register_model",
    "split_model_name_tag",
]

Entrypoint = Callable[..., Any]
EntrypointT = TypeVar("EntrypointT", bound=Entrypoint)
Filter = str | Iterable[str]


@dataclass(frozen=True)
class _Entry:
    entrypoint: Entrypoint
    module: str
    cfgs: Mapping[str, VideoCfg]  # tag -> cfg; the first is the default


_entries: dict[str, _Entry] = {}
_deprecated: dict[str, str | None] = {}


def register_model(*, cfgs: Mapping[str, VideoCfg] | None = None) -> Callable[[EntrypointT], EntrypointT]:
    """Decorator: the function's name becomes a model name, ``cfgs`` (tag -> VideoCfg) its sets of weights.

    The first cfg tells how an untrained model is fed; ``pretrained=True`` takes the first one that has weights. Every
    cfg gets the architecture's name and its own tag written in.

    Raises:
        ConfigError: the name is taken or has a dot or a path separator, or the entrypoint takes positional arguments
            or has annotations that cannot be resolved.
    """

    def register(entrypoint: EntrypointT) -> EntrypointT:
        name = entrypoint.__name__
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ConfigError(f"a model name is made of letters, digits and underscores, got {name!r}")
        if name in _entries or name in _deprecated:
            owner = _entries[name].module if name in _entries else "a deprecation"
            raise ConfigError(f"the model name {name!r} is already taken by {owner}: choose another one")
        for parameter in inspect.signature(entrypoint).parameters.values():
            if parameter.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                raise ConfigError(f"entrypoint {name!r} must take keyword-only options, {parameter.name!r} is not one")
        try:
            _options_of(entrypoint)
        except NameError as error:
            raise ConfigError(
                f"the annotations of entrypoint {name!r} cannot be resolved at run time: {error}"
            ) from error
        known = dict(cfgs) if cfgs else {"": VideoCfg()}
        _entries[name] = _Entry(
            entrypoint=entrypoint,
            module=entrypoint.__module__,
            cfgs={tag: cfg.replace(architecture=name, tag=tag) for tag, cfg in known.items()},
        )
        return entrypoint

    return register


def register_deprecation(old: str, new: str | None) -> None:
    """Keep an old name working with a warning (``new`` is ``arch`` or ``arch.tag``), or retire it (``new`` is None).

    Raises:
        ConfigError: ``old`` is the name of a model that exists.
        UnknownModelError: ``new`` does not exist.
    """
    if old in _entries or old in _deprecated:
        raise ConfigError(f"{old!r} is registered already and cannot be deprecated as well")
    if new is not None:
        _lookup(new)
    _deprecated[old] = new


def split_model_name_tag(model_name: str, no_tag: str = "") -> tuple[str, str]:
    """``"gst_r18.weizmann"`` -> ``("gst_r18", "weizmann")``, split at the first dot: only a tag may have dots."""
    arch, dot, tag = model_name.partition(".")
    return arch, tag if dot else no_tag


def resolve_deprecated(model_name: str) -> str:
    """The current name for a deprecated one (with a warning); every other name comes back as it is.

    Raises:
        UnknownModelError: the name was retired without a replacement.
    """
    arch, tag = split_model_name_tag(model_name)
    if arch not in _deprecated:
        return model_name
    new = _deprecated[arch]
    if new is None:
        raise UnknownModelError(f"the model {arch!r} was removed and has no replacement")
    current = f"{split_model_name_tag(new)[0]}.{tag}" if tag else new
    warnings.warn(f"the model name {arch!r} is deprecated, use {current!r}", FutureWarning, stacklevel=3)
    return current


def _lookup(model_name: str) -> tuple[_Entry, str]:
    arch, tag = split_model_name_tag(model_name)
    if arch not in _entries:
        raise UnknownModelError(f"there is no model {arch!r}: {nearest(arch, _entries)}")
    entry = _entries[arch]
    if tag and tag not in entry.cfgs:
        tags = [known for known in entry.cfgs if known]
        raise UnknownTagError(f"the model {arch!r} has no weights tagged {tag!r}: {nearest(tag, tags)}")
    return entry, tag


def is_model(model_name: str) -> bool:
    """Whether ``arch`` or ``arch.tag`` is registered (an unknown tag makes it False)."""
    try:
        _lookup(model_name)
    except (UnknownModelError, UnknownTagError):
        return False
    return True


def is_model_pretrained(model_name: str) -> bool:
    """Whether weights can be loaded for ``arch`` (any tag) or for exactly ``arch.tag``."""
    if not is_model(model_name):
        return False
    arch, tag = split_model_name_tag(model_name)
    cfgs = _entries[arch].cfgs
    return cfgs[tag].has_weights if tag else any(cfg.has_weights for cfg in cfgs.values())


def model_entrypoint(model_name: str) -> Entrypoint:
    """The function that builds a model.

    Raises:
        UnknownModelError, UnknownTagError: with the nearest names that exist.
    """
    return _lookup(model_name)[0].entrypoint


def get_arch_pretrained_cfgs(model_name: str) -> dict[str, VideoCfg]:
    """All cfgs of an architecture by their tag, in the order of registration; an untagged one has the key ``""``."""
    return dict(_lookup(split_model_name_tag(model_name)[0])[0].cfgs)


def get_pretrained_cfg(model_name: str, *, with_weights: bool = False) -> VideoCfg:
    """The cfg of ``arch.tag``; for ``arch`` the default one, or with ``with_weights`` the first that has weights.

    Raises:
        UnknownModelError, UnknownTagError: with the nearest names that exist.
    """
    entry, tag = _lookup(model_name)
    if tag:
        return entry.cfgs[tag]
    if with_weights:
        for cfg in entry.cfgs.values():
            if cfg.has_weights:
                return cfg
    return next(iter(entry.cfgs.values()))


def list_models(
    filter: Filter = "",
    *,
    module: str = "",
    pretrained: bool = False,
    exclude_filters: Filter = "",
    include_tags: bool | None = None,
) -> list[str]:
    """Names that match, in natural order (``r50`` before ``r101``); deprecated names are never listed.

    Args:
        filter: fnmatch pattern or several of them (any may match); one without a dot matches every tag too.
        module: the module that registered the model, in full (``vidzoo.models.gst``) or its last part (``gst``).
        pretrained: only what has weights.
        exclude_filters: patterns to leave out, applied last.
        include_tags: ``arch.tag`` instead of ``arch``; by default the value of ``pretrained``.
    """
    tagged = pretrained if include_tags is None else include_tags
    wanted, unwanted = _patterns(filter), _patterns(exclude_filters)
    names: set[str] = set()
    for arch, entry in _entries.items():
        if module and module not in (entry.module, entry.module.rpartition(".")[2]):
            continue
        for cfg in entry.cfgs.values():
            if pretrained and not cfg.has_weights:
                continue
            if wanted and not _matches(arch, cfg.tag, wanted):
                continue
            if unwanted and _matches(arch, cfg.tag, unwanted):
                continue
            names.add(cfg.name if tagged else arch)
    return sorted(names, key=_natural)


def list_pretrained(filter: Filter = "", *, exclude_filters: Filter = "") -> list[str]:
    """``arch.tag`` of everything that has weights."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """Full names of the modules that registered models."""
    return sorted({entry.module for entry in _entries.values()})


def model_options(model_name: str) -> dict[str, Any]:
    """The keyword options of a model's entrypoint and their types, in the order of its signature."""
    return _options_of(model_entrypoint(model_name))


def _options_of(entrypoint: Entrypoint) -> dict[str, Any]:
    hints = typing.get_type_hints(entrypoint)
    options: dict[str, Any] = {}
    for parameter in inspect.signature(entrypoint).parameters.values():
        hint = hints.get(parameter.name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # **options: Unpack[SomeTypedDict]
            for unpacked in typing.get_args(hint) or (hint,):
                if typing.is_typeddict(unpacked):
                    options.update(typing.get_type_hints(unpacked))
        else:
            options[parameter.name] = hint
    return options


def check_options(model_name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the entrypoint does not take.

    Raises:
        UnknownOptionError: naming the option and the nearest ones that exist.
    """
    known = model_options(model_name)
    arch = split_model_name_tag(model_name)[0]
    for option, value in options.items():
        if option not in known:
            raise UnknownOptionError(f"the model {arch!r} has no option {option!r}: {nearest(option, known)}")
        if not _fits(value, known[option]):
            raise ConfigError(f"the option {option} of {arch!r} takes {type_name(known[option])}, got {value!r}")


def type_name(hint: Any) -> str:
    """A type hint in the words in which a user would write the value."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(type_name(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else re.sub(r"(\w+\.)+", "", str(hint))


def _fits(value: object, hint: Any) -> bool:
    """Whether a value can be meant by a type hint; a list may stand for a tuple, as it does in a config.json."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is tuple and inside[-1] is not Ellipsis:
        return isinstance(value, (tuple, list)) and len(value) == len(inside) and all(map(_fits, value, inside))
    if origin in (tuple, collections.abc.Sequence):
        return isinstance(value, (tuple, list)) and all(_fits(one, inside[0]) for one in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _patterns(filters: Filter) -> list[str]:
    given = [filters] if isinstance(filters, str) else list(filters)
    return [pattern for pattern in given if pattern]


def _matches(arch: str, tag: str, patterns: list[str]) -> bool:
    full = f"{arch}.{tag}" if tag else arch
    return any(fnmatch.fnmatchcase(full if "." in pattern else arch, pattern) for pattern in patterns)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name.lower())]
