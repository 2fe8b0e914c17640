"""The exceptions that vidzoo raises for what a user can mend: each message says what, where, why and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "DistributedError",
    "HubError",
    "MissingExtraError",
    "ModelInputError",
    "UnknownModelError",
    "UnknownOptionError",
    "UnknownTagError",
    "VideoDecodeError",
    "VidzooError",
    "WeightsError",
    "nearest",
]


class VidzooError(Exception):
    """Base of every error that vidzoo raises on purpose; the command line prints it in one sentence and exits with 1."""


class UnknownModelError(VidzooError, ValueError):
    """A model name that is not registered, or a source prefix that does not exist."""


class UnknownTagError(VidzooError, ValueError):
    """A weights tag that the architecture does not have."""


class UnknownOptionError(VidzooError, TypeError):
    """A keyword that the model's entrypoint does not take."""


class ConfigError(VidzooError, ValueError):
    """A value that a configuration or an argument cannot have."""


class ModelInputError(VidzooError, ValueError):
    """A tensor whose shape or dtype the model cannot take."""


class WeightsError(VidzooError, RuntimeError):
    """A checkpoint that is missing, damaged, foreign, or does not fit the model exactly."""


class HubError(VidzooError, RuntimeError):
    """A Hub or local-folder source that cannot be read or written."""


class VideoDecodeError(VidzooError, ValueError):
    """A video that cannot be opened, or does not give the frames that were asked for."""


class DataError(VidzooError, ValueError):
    """A data set that is empty, inconsistent, or written in no known layout."""


class DistributedError(VidzooError, RuntimeError):
    """A run that did not get the processes that it was asked to use."""


class MissingExtraError(VidzooError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: install it with  pip install 'vidzoo[{extra}]'")
        self.package = package
        self.extra = extra


def nearest(word: str, choices: Iterable[str], *, n: int = 3) -> str:
    """A clause naming the valid choices closest to ``word``, or all of them when none is close and they are few."""
    known = sorted(set(choices))
    close = difflib.get_close_matches(word, known, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not known:
        return "there are none"
    shown = ", ".join(repr(name) for name in known[:12])
    return f"valid: {shown}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")
