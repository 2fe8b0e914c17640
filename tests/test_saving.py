"""Equal weights are equal files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vidzoo.checkpoint import sha256_of
from vidzoo.saving import save_tensors

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3)}
NOTES = {"format": "pt", "origin": 'Ünique "quoted"', "vidzoo_version": "1", "x": "y"}


def test_the_same_tensors_and_notes_give_the_same_bytes(tmp_path: Path) -> None:
    hashes = set()
    for number in range(12):  # the library's own order of two notes differs from one file to the next
        save_tensors(TENSORS, tmp_path / f"{number}", NOTES)
        hashes.add(sha256_of(tmp_path / f"{number}"))
    assert len(hashes) == 1


def test_tensors_and_notes_come_back(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "file", NOTES)
    found = load_file(tmp_path / "file")
    assert all(torch.equal(found[key], value) for key, value in TENSORS.items())
    with safe_open(tmp_path / "file", "pt") as file:
        assert file.metadata() == NOTES


def test_a_folder_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        save_tensors(TENSORS, tmp_path / "nowhere" / "file", NOTES)
