"""What is kept of a donor is whole, made once however many ask for it, and made anew when it is no longer what it was."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Unpack

import pytest
import torch
from torch import Tensor

import vidzoo
from donors.donated import URL, kept, load, refused
from hub import tiny
from hub.loopback import LoopbackHub
from vidzoo import registry
from vidzoo.donors import cache_folder
from vidzoo.donors.store import Stored
from vidzoo.errors import HubError
from vidzoo.models.base import CommonOptions

pytestmark = pytest.mark.usefixtures("donated")


def test_options_that_change_no_weight_share_one_file(web: LoopbackHub, published: Path) -> None:
    load(num_classes=7)
    load(in_chans=1)
    load(num_frames=5)
    vidzoo.create_model("hub_tiny.other", pretrained=True, features_only=True)
    assert len(web.log) == 1
    assert len([name for name in kept() if name.endswith(".safetensors")]) == 1


def test_infinity_by_its_name_and_by_its_value_is_one_file(
    web: LoopbackHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def networks(*, eta: float | Literal["inf"] = 1.0, **options: Unpack[CommonOptions]) -> tiny.Tiny:
        return tiny.hub_tiny(num_classes=options.get("num_classes", 4), in_chans=options.get("in_chans", 3))

    monkeypatch.setattr(networks, "__name__", "hub_infinite")
    cfg = tiny.CFG.replace(donor=URL, donor_layout="vidzoo", is_classifier=False)
    vidzoo.register_model(cfgs={"start": cfg})(networks)
    for eta in ("inf", float("inf")):
        vidzoo.create_model("hub_infinite.start", pretrained=True, eta=eta)
    assert len([name for name in kept() if name.endswith(".safetensors")]) == 1


def test_what_a_version_with_other_networks_has_kept_is_not_taken(
    web: LoopbackHub, published: Path, theirs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    # The same name, options and donor, but the network has one tensor more than in the version that filled the cache.
    forward = tiny.Tiny.__init__

    def grown(self: tiny.Tiny, **options: Any) -> None:
        forward(self, **options)
        self.register_buffer("more", torch.zeros(1))

    monkeypatch.setattr(tiny.Tiny, "__init__", grown)
    torch.save({**theirs, "more": torch.ones(1)}, published)
    for file in (cache_folder() / "downloads").iterdir():
        file.unlink()
    assert load().more == 1


def test_a_cache_of_ones_own(web: LoopbackHub, published: Path, tmp_path: Path) -> None:
    load(cache_dir=tmp_path / "own")
    assert list((tmp_path / "own" / "vidzoo" / "converted").glob("hub_tiny.other-*.safetensors"))
    assert kept() == []


@pytest.mark.parametrize("place", ["converted", "downloads"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "no note", "note of nonsense", "gone"])
def test_a_damaged_cache_is_made_anew(
    web: LoopbackHub, published: Path, theirs: dict[str, Tensor], place: str, damage: str
) -> None:
    load()
    file = next(path for path in (cache_folder() / place).iterdir() if path.suffix in (".safetensors", ".pth"))
    if place == "downloads":
        for other in (cache_folder() / "converted").iterdir():
            other.unlink()
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-5] ^= 0xFF
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-9])
    elif damage == "gone":
        file.unlink()
    else:
        Stored(file).note.write_text("{" if damage == "note of nonsense" else "[]")
    again = load().state_dict()
    assert all(torch.equal(again[key], value) for key, value in theirs.items())
    assert len(web.log) == (1 if place == "converted" else 2)


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EROFS, "cannot be kept in"), (errno.EACCES, "cannot be kept in"), (errno.ENOSPC, "is full")],
)
@pytest.mark.parametrize("step", ["locking", "downloading", "converting"])
def test_a_read_only_or_full_disk(
    web: LoopbackHub, published: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, step: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    target = {
        "locking": "vidzoo.donors.store.Path.mkdir",
        "downloading": "vidzoo.donors.web._Progress.restart",
        "converting": "safetensors.torch.save_file",
    }[step]
    monkeypatch.setattr(target, refuse)
    with pytest.raises(HubError, match=said) as caught:
        load()
    assert "VIDZOO_HOME" in str(caught.value)
    monkeypatch.undo()
    assert [name for name in kept() if "partial" in name] == []


def test_a_file_system_without_locks(web: LoopbackHub, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    text = refused(HubError)
    assert "does not appear to support flock" in text
    assert "VIDZOO_HOME" in text


def test_a_cache_that_cannot_be_written_is_still_read(
    web: LoopbackHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "read-only file system")

    monkeypatch.setattr("vidzoo.donors.store.Path.mkdir", refuse)
    load()


def _in_a_process(url: str, home: str, result: Any) -> None:
    os.environ.update(VIDZOO_MIRROR=url, VIDZOO_HOME=home)
    cfg = tiny.CFG.replace(donor=URL, donor_layout="vidzoo")
    vidzoo.register_model(cfgs={"other": cfg})(tiny.hub_tiny)
    result.put(float(load().conv1.weight.sum()))


def test_two_processes_at_once_download_once(web: LoopbackHub, published: Path, theirs: dict[str, Tensor]) -> None:
    web.fault("GET /_web", stall=0.5)
    context = multiprocessing.get_context("fork")
    registry._entries.pop("hub_tiny")
    result = context.Queue()
    given = (web.mirror, str(cache_folder()), result)
    processes = [context.Process(target=_in_a_process, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [result.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sums == [pytest.approx(float(theirs["conv1.weight"].sum()))] * 2
    assert len(web.log) == 1


def test_threads_at_once_download_once(web: LoopbackHub, published: Path, theirs: dict[str, Tensor]) -> None:
    web.fault("GET /_web", stall=0.2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load().state_dict(), range(4)))
    assert len(web.log) == 1
    assert all(torch.equal(one[key], value) for one in found for key, value in theirs.items())


@pytest.mark.parametrize("kind", ["link", "relative", "deleted"])
def test_a_cache_that_is_a_link_or_relative_or_gone_in_between(
    web: LoopbackHub,
    published: Path,
    theirs: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
    elif kind == "relative":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("VIDZOO_HOME", "beside")
    load()
    if kind == "deleted":
        shutil.rmtree(cache_folder())
    assert all(torch.equal(load().state_dict()[key], value) for key, value in theirs.items())
    assert len(web.log) == (2 if kind == "deleted" else 1)
    where = {"link": "elsewhere", "relative": "beside", "deleted": "home"}[kind]
    assert list((tmp_path / where / "converted").glob("*.safetensors"))


def test_options_of_any_length_make_a_name_that_a_disk_can_hold(web: LoopbackHub, published: Path) -> None:
    load(order=tuple(range(2000)))
    assert all(len(Path(name).name) < 100 for name in kept())


def test_a_process_that_is_killed_does_not_stand_in_the_way(web: LoopbackHub, published: Path) -> None:
    web.fault("GET /_web", stall=30.0, times=1)
    context = multiprocessing.get_context("fork")
    entry = registry._entries.pop("hub_tiny")
    process = context.Process(target=_in_a_process, args=(web.mirror, str(cache_folder()), context.Queue()))
    process.start()
    partial: list[Path] = []
    while not partial:
        process.join(timeout=0.05)
        assert process.exitcode is None
        partial = list(cache_folder().rglob("*.partial"))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    registry._entries["hub_tiny"] = entry
    load()
    assert [name for name in kept() if "partial" in name] == []
