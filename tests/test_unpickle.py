"""Foreign pickles are read as data: what is known is read right, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import contextlib
import copyreg
import datetime
import io
import pathlib
import pickle
import random
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from malice import (
    ATTACKS,
    attacks,
    called,
    containers,
    legacy,
    named,
    named_on_stack,
    shown_to_work,
    text,
    zipped,
)
from vidzoo.checkpoint import read_state_dict
from vidzoo.errors import WeightsError
from vidzoo.unpickle import RefusedGlobal, load_inert

PROTOCOLS = (2, 3, 4)
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor(3)}


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items()
    )


def _read(pickled: bytes) -> Any:
    return load_inert(io.BytesIO(pickled))


# What is read.


@pytest.fixture
def project() -> Iterator[types.ModuleType]:
    """A module of mmengine while a file is written: classes, and an object that holds a method of its class."""
    module = types.ModuleType("mmengine.logging")

    class History:
        def __init__(self) -> None:
            self.values = np.arange(3.0)
            self.methods = {"smallest": History.smallest}  # by protocol a dotted name, or getattr

        def smallest(self) -> float:
            return float(self.values.min())

    class Config(dict[str, Any]):
        pass

    class Items(list[Any]):
        pass

    for kind in (History, Config, Items):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    History.smallest.__module__, History.smallest.__qualname__ = module.__name__, "History.smallest"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
        patch.setitem(sys.modules, module.__name__, module)
        yield module


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_training_programs_leave_beside_the_weights_does_not_hinder(
    tmp_path: Path, project: types.ModuleType, protocol: int, zipped: bool
) -> None:
    layers = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3))
    state_dict = layers.state_dict()
    state_dict["half"], state_dict["brain"] = torch.rand(2).half(), torch.rand(3).bfloat16()
    state_dict["part"] = state_dict["0.weight"][1:].squeeze().t()  # a view of another tensor, its axes exchanged
    state_dict["empty"] = torch.empty(0, 2)
    content = {
        "state_dict": state_dict,
        "meta": {"cfg": project.Config(model={"a": 1}), "items": project.Items([1]), "history": project.History()},
        "args": argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("/x"), more=types.SimpleNamespace(a=1)),
        "numpy": [np.float64(0.5), np.arange(3), np.array(["a", None], dtype=object), np.dtype("f4")],
        "plain": [
            Counter("aab"),
            defaultdict(list, {"x": [1]}),
            deque([1]),
            {1, 2},
            frozenset("a"),
            b"bytes",
            3j,
            slice(1),
        ],
        "when": datetime.datetime(2021, 1, 1),
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1]), nn.Parameter(torch.ones(2))],
        "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], momentum=0.9).state_dict(),
    }
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    for name in ("mmengine", "mmengine.logging"):
        del sys.modules[name]
    assert _same(read_state_dict(tmp_path / "x.pth"), dict(state_dict))
    assert "mmengine" not in sys.modules


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"])
def test_numpy_arrays_come_as_tensors_of_their_kind(dtype: str, protocol: int) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"rows": array, "columns": np.asfortranarray(array), "none": array[:0], "one": array[1, 2, 3:].reshape(())}
    for name, found in _read(pickle.dumps(arrays, protocol)).items():
        expected = torch.from_numpy(arrays[name].copy())
        assert torch.equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_the_strings_of_python_2_are_numbers() -> None:
    # What cPickle of Python 2 makes of {"conv1_w": numpy.array([1.5, -2.0], "f4")} in protocol 2.
    pickled = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\xc0?\x00\x00\x00\xc0tbs."
    )
    assert _read(pickled)["conv1_w"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_blobs_of_caffe2_are_read_from_a_plain_pickle(tmp_path: Path, protocol: int) -> None:
    blobs = {key: np.asarray(value) for key, value in WEIGHTS.items()}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "A: 1"}, protocol))
    assert _same(read_state_dict(tmp_path / "x.pkl"), WEIGHTS)


def test_arrays_of_objects_or_of_another_byte_order_are_left_out() -> None:
    arrays = {"big": np.arange(3, dtype=">f4"), "objects": np.array([None]), "text": np.array(["a"])}
    assert set(_read(pickle.dumps(arrays, 2)).values()) == {None}


def test_a_dict_that_holds_itself_is_read() -> None:
    content: dict[str, Any] = {"a": np.ones(2)}
    content["self"] = content
    found = _read(pickle.dumps(content, 2))
    assert found["self"] is found
    assert found["a"].tolist() == [1, 1]


# What is refused.


@attacks
@containers
def test_an_attack_is_refused_and_not_run(
    tmp_path: Path, attack: Callable[[str], bytes], container: Callable[[bytes], bytes]
) -> None:
    made = tmp_path / "made"
    pickled = shown_to_work(attack, made)
    (tmp_path / "x.pth").write_bytes(container(pickled))
    with pytest.raises(
        WeightsError, match=r"cannot be read safely: it asks for [\w.]+, and loading that could execute code"
    ):
        read_state_dict(tmp_path / "x.pth")
    assert not made.exists()


@containers
def test_the_refusal_names_what_was_asked_for(tmp_path: Path, container: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x.pth").write_bytes(container(called(named("os", "system"), text("true")) + b"."))
    with pytest.raises(
        WeightsError, match=r"x\.pth cannot be read safely: it asks for os\.system, .* re-save its state_dict"
    ):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["os.mkdir", "mkdir", "__builtins__.open"])
def test_a_name_inside_a_known_project_is_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import os

    module = types.ModuleType("mmengine.foo")
    module.os, module.mkdir, module.__builtins__ = os, os.mkdir, types.SimpleNamespace(open=os.mkdir)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.foo", module)
    made = tmp_path / "made"
    pickled = shown_to_work(lambda path: b"\x80\x04" + called(named_on_stack("mmengine.foo", name), text(path)), made)
    placeholder = _read(pickled)
    assert not made.exists()
    assert type(placeholder).__module__ == "vidzoo.unpickle"
    assert not callable(placeholder)


def test_a_placeholder_takes_everything_and_keeps_nothing() -> None:
    thing = named("mmengine", "Thing")
    told = thing + b")\x81}" + text("__setstate__") + thing + b"sb" + text("state") + b"bK\x01K\x02s(K\x01K\x02eK\x03a"
    placeholder = _read(b"\x80\x02" + told + b".")
    assert not hasattr(placeholder, "__dict__")
    assert type(placeholder).__slots__ == ()


def test_a_registered_extension_is_refused_even_where_it_is_known(tmp_path: Path) -> None:
    copyreg.add_extension("os", "mkdir", 240)
    try:
        made = tmp_path / "made"
        pickled = shown_to_work(lambda path: called(b"\x82\xf0", text(path)), made)  # Python now remembers it
        with pytest.raises(RefusedGlobal, match="extension 240"):
            _read(pickled)
        assert not made.exists()
    finally:
        copyreg.remove_extension("os", "mkdir", 240)


GIVEN = (
    *(("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")),
    *(("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"), ("_codecs", "encode"), ("builtins", "getattr")),
    *(("torch", "FloatStorage"), ("mmengine", "Thing"), ("builtins", "dict")),
)


@pytest.mark.parametrize(("module", "name"), GIVEN, ids=".".join)
@pytest.mark.parametrize("attribute", ["__new__", "__init__", "__setstate__", "__call__", "__class__", "new"])
def test_what_is_given_cannot_be_changed(module: str, name: str, attribute: str) -> None:
    given = _read(named(module, name) + b".")
    before = {key: getattr(given, key, None) for key in dir(given)}
    state = b"}" + text(attribute) + named("mmengine", "Thing") + b"s"
    for told in (state, b"N" + state + b"\x86", state + state + b"\x86"):
        with contextlib.suppress(pickle.UnpicklingError, TypeError, AttributeError):  # placeholders forget
            _read(named(module, name) + told + b"b.")
    assert {key: getattr(given, key, None) for key in dir(given)} == before


def test_no_name_of_a_module_gives_the_thing_itself() -> None:
    import importlib
    import os
    import subprocess

    modules = [
        "builtins",
        "collections",
        "copyreg",
        "functools",
        "operator",
        "types",
        "torch",
        "torch.hub",
        "torch.jit",
    ]
    modules += [
        "torch._utils",
        "torch.serialization",
        "torch.storage",
        "numpy",
        "datetime",
        "pathlib",
        "argparse",
        "_codecs",
    ]
    loaded = {name: importlib.import_module(name) for name in modules}
    asked = refused = 0
    for module, content in {**loaded, "os": os, "subprocess": subprocess, "sys": sys}.items():
        for name, value in vars(content).items():
            asked += 1
            try:
                given = _read(b"\x80\x04" + named_on_stack(module, name) + b".")
            except RefusedGlobal:
                refused += 1
                continue
            assert given is not value
            assert given.__module__ == "vidzoo.unpickle" or isinstance(given, torch.dtype)
    assert refused > 0.5 * asked > 1000


def test_storages_are_asked_for_by_name_and_give_a_kind_of_numbers() -> None:
    for name in ("FloatStorage", "LongStorage", "BFloat16Storage"):
        assert isinstance(_read(named("torch", name) + b"."), torch.dtype)


def test_reading_an_attack_touches_nothing(tmp_path: Path) -> None:
    events: list[str] = []
    armed = False
    sys.addaudithook(lambda event, _: events.append(event) if armed else None)
    programs = [attack(str(tmp_path / "made")) + b"." for attack in ATTACKS.values()]
    for program in programs:
        armed = True
        with contextlib.suppress(RefusedGlobal):
            _read(program)
        armed = False
    assert events == []
    armed = True
    pickle.loads(programs[0])
    armed = False
    assert {"pickle.find_class", "os.system"} <= set(events)


# Damage.


class _Pickler(pickle.Pickler):
    """Writes a storage as torch does."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", *value.told) if isinstance(value, _Storage) else None


class _Storage:
    def __init__(self, *told: Any) -> None:
        self.told = told


class _Tensor:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (*self.arguments, False, OrderedDict())


def _pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump({"beside": argparse.Namespace(), **content})
    return buffer.getvalue()


def test_a_tensor_as_torch_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(zipped(_pickled({"a": _Tensor(_Storage(4), 1, (3,), (1,))}), **{"0": bytes(16)}))
    assert _same(read_state_dict(tmp_path / "x.pth"), {"a": torch.zeros(3)})


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(2, (3,), (1,)), (0, (2,), (9,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,))],
)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(
    tmp_path: Path, offset: int, size: Any, stride: Any
) -> None:
    pickled = _pickled({"a": _Tensor(_Storage(4), offset, size, stride)})
    (tmp_path / "x.pth").write_bytes(zipped(pickled, **{"0": bytes(16)}))
    with pytest.raises(WeightsError, match="damaged or cut"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("told", [(1 << 40,), (1 << 40, None), (-1, None), (4, ("view", 2, 1 << 40))])
def test_a_storage_larger_than_its_file_is_refused(tmp_path: Path, told: Any) -> None:
    (tmp_path / "x.pth").write_bytes(legacy(_pickled({"a": _Tensor(_Storage(*told), 0, (1,), (1,))})))
    with pytest.raises(WeightsError, match="damaged or cut"):
        read_state_dict(tmp_path / "x.pth")


def test_a_tensor_on_something_that_is_no_storage_is_refused() -> None:
    for storage in (b"N", called(named("mmengine", "Thing")), named("torch", "FloatStorage")):
        with pytest.raises(pickle.UnpicklingError, match="no storage"):
            _read(called(named("torch._utils", "_rebuild_tensor"), storage, b"K\x00", b")", b")") + b".")
    for pid in (b"(", b"(" + text("module")):
        with pytest.raises(pickle.UnpicklingError, match="no storage"):
            _read(pid + text("module") + named("torch", "FloatStorage") + text("x") + b"tQ.")


def test_whatever_is_damaged_ends_in_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    whole = pickle.dumps({"blobs": {"a": np.ones((2, 3), "f4")}, "n": argparse.Namespace(a=OrderedDict(b=1))}, 2)
    chance = random.Random(0)
    refused = 0
    for _ in range(400):
        broken = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken[: chance.choice((len(broken), chance.randrange(1, len(broken))))])
        try:
            read_state_dict(path)
        except WeightsError:
            refused += 1
    assert refused > 100


def test_a_torchscript_program_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(zipped(b"N."))
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/constants.pkl", b"N.")
    with pytest.raises(WeightsError, match="TorchScript program"):
        read_state_dict(tmp_path / "x.pt")
