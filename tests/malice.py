"""Pickles that do harm: each makes a file or a folder when Python itself reads it, and is first shown to do so."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def named_on_stack(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def raw(value: bytes) -> bytes:
    return b"B" + len(value).to_bytes(4, "little") + value


def code(path: str) -> bytes:
    return text(f"open({path!r}, 'w').close()")


MKDIR = named("os", "mkdir")
GETATTR = named("builtins", "getattr")
THE_OS = called(named("importlib", "import_module"), text("os"))
NAMESPACE = named("argparse", "Namespace") + b")\x81"
# By name: the program, without its end, that makes ``path``.
ATTACKS: dict[str, Callable[[str], bytes]] = {
    "system": lambda path: called(named("os", "system"), text(f"touch {path}")),
    "posix": lambda path: called(named("posix", "mkdir"), text(path)),
    "exec": lambda path: called(named("builtins", "exec"), code(path)),
    "eval": lambda path: called(named("builtins", "eval"), code(path)),
    "eval of Python 2": lambda path: called(named("__builtin__", "eval"), code(path)),
    "open": lambda path: called(named("io", "open"), text(path), text("w")),
    "compiled": lambda path: called(
        named("builtins", "exec"), called(named("builtins", "compile"), code(path), text("x"), text("exec"))
    ),
    "subprocess": lambda path: called(named("subprocess", "getoutput"), text(f"touch {path}")),
    "getattr of a module": lambda path: called(called(GETATTR, THE_OS, text("mkdir")), text(path)),
    "getattr twice": lambda path: called(
        called(GETATTR, called(GETATTR, named("shutil", "sys"), text("modules")), text("get"))
        + b"0"
        + called(GETATTR, THE_OS, text("mkdir")),
        text(path),
    ),
    "getattr of what is given": lambda path: called(
        called(GETATTR, called(GETATTR, named("collections", "OrderedDict"), text("__class__")), text("mro"))
        + b"0"
        + MKDIR,
        text(path),
    ),
    "partial": lambda path: called(called(named("functools", "partial"), MKDIR, text(path))),
    "attrgetter": lambda path: called(
        called(called(named("operator", "attrgetter"), text("mkdir")), THE_OS), text(path)
    ),
    "methodcaller": lambda path: called(called(named("operator", "methodcaller"), text("mkdir"), text(path)), THE_OS),
    "mapped": lambda path: called(
        named("builtins", "list"), called(named("builtins", "map"), MKDIR, text(path) + b"\x85")
    ),
    "timed": lambda path: called(named("timeit", "timeit"), code(path), text("pass"), named("time", "time"), b"K\x01"),
    "pickle in a pickle": lambda path: called(named("pickle", "loads"), raw(called(MKDIR, text(path)) + b".")),
    "torch's storages": lambda path: called(
        named("torch.storage", "_load_from_bytes"), raw(called(MKDIR, text(path)) + b".")
    ),
    "stack global": lambda path: called(b"\x80\x04" + named_on_stack("os", "mkdir"), text(path)),
    "dotted name": lambda path: called(b"\x80\x04" + named_on_stack("shutil", "os.mkdir"), text(path)),
    "old instance": lambda path: b"(" + text(path) + b"ios\nmkdir\n",
    "old object": lambda path: b"(" + MKDIR + text(path) + b"o",
    "memo": lambda path: MKDIR + b"q\x050}q\x000h\x05" + text(path) + b"\x85R",
    "state that is a call": lambda path: NAMESPACE + b"}" + text("__setstate__") + MKDIR + b"sb" + text(path) + b"b",
    "factory of a default": lambda path: (
        called(named("collections", "defaultdict"), called(named("functools", "partial"), MKDIR, text(path)))
        + b"0"
        + called(MKDIR, text(path))
    ),
}
attacks = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def shown_to_work(attack: Callable[[str], bytes], path: Path) -> bytes:
    pickled = attack(str(path)) + b"."
    with contextlib.suppress(RuntimeError):  # what was called may have given torch no tensor
        pickle.loads(pickled)
    assert path.exists()
    path.rmdir() if path.is_dir() else path.unlink()
    return pickled


def zipped(pickled: bytes, **storages: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        files = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}
        for name, content in {**files, **{f"data/{key}": numbers for key, numbers in storages.items()}}.items():
            archive.writestr(f"x/{name}", content)
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


CONTAINERS = {"plain": bytes, "zip": zipped, "legacy": legacy}
containers = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
