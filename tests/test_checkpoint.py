"""Reading checkpoint files: layouts that exist in the wild, and files that are not what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidzoo.checkpoint import read_state_dict, sha256_of
from vidzoo.errors import WeightsError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor(3)}


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def _same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], WEIGHTS[k]) for k in WEIGHTS)


@pytest.mark.parametrize(
    "container", [None, "state_dict", "model_state", "model", "state_dict_ema", "model_ema", "model_state_dict"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "module.base_model."])
def test_containers_and_wrapper_prefixes_are_removed(tmp_path: Path, container: str | None, prefix: str) -> None:
    content: dict[str, object] = {prefix + key: value for key, value in WEIGHTS.items()}
    torch.save({container: content, "epoch": 3} if container else content, tmp_path / "x.pth")
    assert _same(read_state_dict(tmp_path / "x.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model."])
def test_a_prefix_that_one_key_lacks_stays(tmp_path: Path, prefix: str) -> None:
    content = {f"{prefix}a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(content, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth").keys() == content.keys()


def test_averaged_weights_are_preferred_to_the_last_ones(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": WEIGHTS}, tmp_path / "x.pth")
    assert _same(read_state_dict(tmp_path / "x.pth"))


def test_safetensors_are_read_and_their_hash_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(WEIGHTS, path)
    assert _same(read_state_dict(path, sha256=sha256_of(path)))
    with pytest.raises(WeightsError, match="not the file that was published"):
        read_state_dict(path, sha256="0" * 64)


def test_one_flipped_bit_is_caught_by_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(WEIGHTS, path)
    good = sha256_of(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="sha256"):
        read_state_dict(path, sha256=good)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": WEIGHTS, "args": _Evil()}
    torch.save(content, "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir, and loading that could execute code"):
        read_state_dict("x.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
        (b"\x00\x01random bytes that are nothing at all", "cannot be read"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, suffix: str, content: bytes, reason: str
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"x{suffix}"
    big = {"w": torch.randn(100, 100)}
    if suffix == ".pth":
        torch.save(big, path)
    else:
        save_file(big, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=str(path)):
        read_state_dict(path)


def test_a_torch_file_under_a_safetensors_name_is_recognised(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="pickled torch file"):
        read_state_dict(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"no tensors|not a state dict"):
        read_state_dict(tmp_path / "x.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint at .*nothing\.pth"):
        read_state_dict(tmp_path / "nothing.pth")
