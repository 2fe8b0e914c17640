"""The values that a plan may hold: checked when an operation is made, and as JSON has them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from vidzoo.errors import ConfigError, nearest

__all__ = [
    "choice",
    "fields_of",
    "kernel_size",
    "matches",
    "odd_length",
    "options_of",
    "plain",
    "sequence",
    "share",
    "side_lengths",
    "whole",
]


def fields_of(kind: str, values: object, known: Sequence[str], *, needed: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of an operation as they stand in a file.

    Raises:
        ConfigError: not an object, a field that does not exist, or one of ``needed`` is missing.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind} is written as an object of its fields, got {values!r}")
    for key in values:
        if key not in known:
            raise ConfigError(f"{kind} has no field {key!r}: {nearest(str(key), known)}")
    for key in needed:
        if key not in values:
            raise ConfigError(f"{kind} needs its field {key!r}, got {dict(values)!r}")
    return dict(values)


def plain(value: Any) -> Any:
    """Plain JSON types.

    Raises:
        ConfigError: there is none for this.
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"a plan with the option {value!r} cannot be written to a file: JSON has no {type(value).__name__}"
    )


def sequence(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """One value of a type, or several, as a tuple.

    Raises:
        ConfigError: others, or none at all.
    """
    items = (value,) if isinstance(value, kind) else value
    wrong = (bool,) if kind is int else ()  # True is an int to Python
    if not isinstance(items, (tuple, list)) or not all(
        isinstance(item, kind) and not isinstance(item, wrong) for item in items
    ):
        raise ConfigError(f"{name} holds values of type {kind.__name__}, got {value!r}")
    if not items:
        raise ConfigError(f"{name} is empty, which means nothing at all: leave it out")
    return tuple(items)


def kernel_size(value: Any) -> int | tuple[int, int]:
    """The side of a square kernel, or its height and width.

    Raises:
        ConfigError: neither.
    """
    if _is_whole(value):
        return int(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_whole(side) for side in value):
        return value[0], value[1]
    raise ConfigError(f"Where.kernels holds sizes such as 3 or (3, 5), got {value!r}")


def options_of(name: str, value: Any) -> dict[str, Any]:
    """Options by their names, as they come back from a file.

    Raises:
        ConfigError: not a mapping from strings.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is a mapping from names to values, got {value!r}")
    return {key: _settled(item) for key, item in value.items()}


def odd_length(name: str, value: object) -> None:
    """Refuse what is no length of a kernel with a middle frame."""
    if not _is_whole(value, least=1) or value % 2 == 0:  # type: ignore[operator]
        raise ConfigError(f"{name} must be odd, so that a kernel has a middle frame, got {value!r}")


def whole(name: str, value: object, *, least: int | None = None) -> None:
    """Refuse what is no whole number, or a smaller one."""
    if not _is_whole(value, least=least):
        raise ConfigError(f"{name} is a whole number{'' if least is None else f' >= {least}'}, got {value!r}")


def share(name: str, value: object) -> None:
    """Refuse what is no number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigError(f"{name} lies in [0, 1), got {value!r}")


def side_lengths(name: str, value: Any) -> tuple[int, int]:
    """Height and width of a picture.

    Raises:
        ConfigError: not two whole numbers of 1 or more.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(_is_whole(side, least=1) for side in value):
        raise ConfigError(f"{name} is one side or (height, width), whole numbers >= 1, got {value!r}")
    return value[0], value[1]


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is not one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the fnmatch patterns is that of ``name``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_whole(value: object, *, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _settled(value: Any) -> Any:
    """As it comes back from a file: JSON has lists for tuples, and no infinity (options that take one take its name)."""
    if isinstance(value, (tuple, list)):
        return tuple(_settled(item) for item in value)
    return "inf" if value == float("inf") else value
