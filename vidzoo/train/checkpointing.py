"""The output folder of a run: what is in it, what may be replaced, and a training state that is never half written."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.files import whole_file

__all__ = ["COLUMNS", "RunFolder"]

COLUMNS = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "seconds")
"""Of ``results.csv``: losses in nats, accuracies in percent, the learning rate of the last update."""

_OURS = ("checkpoints", "results.csv", "config.json", "model.safetensors", "README.md")
# What may differ between a run and its continuation, because the result does not depend on it.
_FREE = ("resume", "overwrite", "workers", "cache", "cache_extra", "cache_gib", "processes", "save_every")


class RunFolder:
    """``OUT/checkpoints/{last.pt, best.safetensors}``, ``OUT/results.csv``, and at the end the model itself.

    Only the main process of a run may write; every process may read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.safetensors"

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder and prove that it can be written, before anything expensive happens.

        Raises:
            ConfigError: it cannot be written, or holds something and neither ``resume`` nor ``overwrite`` is set.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            content = sorted(file.name for file in self.path.iterdir())
            if content and not (resume or overwrite):
                what = "another run" if set(content) & set(_OURS) else f"other files ({', '.join(content[:3])})"
                raise ConfigError(
                    f"the output folder {self.path} holds {what}: choose another one, go on with --resume, "
                    "or replace it with --overwrite"
                )
            self.checkpoints.mkdir(exist_ok=True)
            probe = self.checkpoints / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"the output folder {self.path} cannot be written: {error.strerror or error}") from error

    def clear(self) -> None:
        """Remove what an earlier run left; other files stay.

        Raises:
            ConfigError: something cannot be removed.
        """
        try:
            for name in _OURS:
                target = self.path / name
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
            self.checkpoints.mkdir()
        except OSError as error:
            raise ConfigError(f"the output folder {self.path} cannot be cleared: {error.strerror or error}") from error

    def save_last(self, state: Mapping[str, Any]) -> None:
        """Everything that a continuation needs, in place of the one before."""
        _replace(self.last, lambda file: torch.save(dict(state), file))

    def load_last(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state to go on from, or None when the run was stopped before its first epoch was over.

        Raises:
            ConfigError: it belongs to a run with other settings; the message names them.
            WeightsError: the file cannot be read.
        """
        if not self.last.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
            before = state["settings"]
        except Exception as error:  # torch.load has no error class of its own
            raise WeightsError(f"{self.last} cannot be read: {error}; start again with --overwrite") from error
        names = sorted({*before, *settings} - {*_FREE})
        other = [name for name in names if before.get(name) != settings.get(name)]
        if other:
            told = ", ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in other[:4])
            raise ConfigError(f"the run in {self.path} cannot go on with other settings ({told}): give the same ones")
        return state

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """The weights that validated best so far."""
        from safetensors.torch import save

        content = save({key: value.detach().cpu().clone().contiguous() for key, value in weights.items()})
        _replace(self.best, lambda file: file.write(content))

    def load_best(self) -> dict[str, Tensor]:
        """What :meth:`save_best` wrote."""
        from vidzoo.checkpoint import read_state_dict

        return read_state_dict(self.best)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """``results.csv``: one row per epoch, empty where there was no validation."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if row[name] is None else _short(row[name]) for name in COLUMNS})
        _replace(self.path / "results.csv", lambda file: file.write(text.getvalue().encode()))


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with whole_file(path) as file:
            write(file)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}; free some space and --resume"
        ) from error
