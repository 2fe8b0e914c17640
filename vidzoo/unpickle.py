"""Foreign pickles read as data: nothing that they name is imported, looked up or called.

A pickle is a program, and whatever it does it does through globals that it asks for by name. Here a name gives one of three
things. What tensors and arrays are made of gives a type of this file, which makes nothing else. A class of a known project,
whose objects lie beside the weights in training checkpoints, gives a placeholder that forgets what it is told. Every other
name is refused. The types cannot be changed from inside a pickle, and tensors stay out of its reach until it has ended.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["RefusedGlobal", "load_inert", "numbers"]

_PROJECTS = (
    *("addict", "detectron2", "easydict", "fvcore", "iopath", "mmaction", "mmcls", "mmcv", "mmdet", "mmengine"),
    *("mmpretrain", "numpy", "omegaconf", "sgs", "slowfast", "yacs"),
)
_BUILTINS = "bool bytearray complex dict float frozenset int list long object range set slice str tuple unicode"
# Of the standard library and torch: what values, options and dates are made of.
_PLAIN = {
    **dict.fromkeys(("builtins", "__builtin__"), _BUILTINS),
    **dict.fromkeys(("copyreg", "copy_reg"), "_reconstructor"),
    "argparse": "Namespace",
    "collections": "deque",
    "datetime": "date datetime timedelta",
    "pathlib": "PosixPath PurePosixPath PureWindowsPath WindowsPath",
    "types": "SimpleNamespace",
    "typing": "Any",
    "torch": "Size device bfloat16 bool float16 float32 float64 int16 int32 int64 int8 uint8",
}
_FLOATS = (torch.float16, torch.float32, torch.float64, torch.bfloat16)
_KINDS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_FLOATS)
_ARRAYS = dict(zip(("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"), _KINDS, strict=False))
_STORAGES = dict(
    zip(("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "Float", "Double", "BFloat16"), _KINDS, strict=True)
)


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle asks for something that this reader does not give; the message is its dotted name."""


def load_inert(file: Any, storage: Callable[..., Tensor] | None = None) -> Any:
    """The next pickle in a binary file, with tensors in the place of torch's tensors and numpy's arrays.

    Arrays of anything but numbers come as None, objects of known projects as placeholders.

    Args:
        storage: gives the numbers behind a tensor from ``(dtype, key, device, count, *view)``, what torch writes of it.

    Raises:
        RefusedGlobal: it asks for a global of another kind.
        Exception: of any kind, where the pickle is damaged.
    """
    content = _Unpickler(file, storage).load()
    root = {"": content}
    waiting, seen = [root], {id(root)}
    while waiting:
        found = waiting.pop()
        for key, value in list(found.items()):
            if isinstance(value, _Held):
                found[key] = value.value
            elif isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return root[""]


def numbers(raw: bytes, dtype: torch.dtype) -> Tensor:
    """Bytes as they lie in memory as a tensor of one axis."""
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C hands out registered extensions without asking
    def __init__(self, file: Any, storage: Callable[..., Tensor] | None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote the numbers of an array as a string
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GIVEN:
            return _GIVEN[module, name]
        if module.partition(".")[0] in _PROJECTS or name in _PLAIN.get(module, "").split():
            return _Placeholder  # whatever the name, "os.system" included: nothing is looked up
        raise RefusedGlobal(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        raise RefusedGlobal(f"extension {code} of copyreg")

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, *rest = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or self._storage is None:
            raise pickle.UnpicklingError("it refers to something that is no storage of tensors")
        return _Held(self._storage(dtype, *rest))


class _Held:
    """A tensor as long as the pickle can still get at it."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None: ...


class _Sealed(type):
    """The type of all types that are given: no attribute can be set on them."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it tries to change {cls.__name__}.{name}")


class _Placeholder(metaclass=_Sealed):
    """Any class of a known project and any object of it."""

    __slots__ = ()

    def __new__(cls, *args: object, **options: object) -> _Placeholder:
        return super().__new__(cls)

    def _forget(self, *args: object, **options: object) -> None: ...

    __init__ = __setstate__ = __setitem__ = append = extend = add = _forget


class _Dict(dict[Any, Any], metaclass=_Sealed):
    """``OrderedDict`` and its relatives; what a state dict carries besides its items is left behind."""

    __slots__ = ()

    def __init__(self, items: Any = ()) -> None:
        super().__init__(() if items is _Placeholder else items)  # a defaultdict is told a type

    def __setstate__(self, state: object) -> None: ...


class _DType(metaclass=_Sealed):
    """numpy's: a kind of numbers, and then the order of their bytes."""

    __slots__ = ("code",)

    def __init__(self, code: object, *flags: object) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = self.code if state[1] in "<|=" else ""  # another machine's are not read


class _Array(_Held, metaclass=_Sealed):
    """numpy's: an empty one, and then its shape, its numbers and how they lie."""

    __slots__ = ()

    def __init__(self, *empty: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns, raw = state
        if dtype.code in _ARRAYS:
            flat = numbers(raw.encode("latin1") if isinstance(raw, str) else raw, _ARRAYS[dtype.code])
            self.value = flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if columns else flat.reshape(shape)


def _sealed(function: Callable[..., Any]) -> type:
    """A type that gives what a function gives: a function could be changed."""
    return _Sealed(function.__name__, (), {"__slots__": (), "__new__": lambda cls, *args: function(*args)})


def _view(storage: _Held, offset: int, size: Any, stride: Any, *rest: object) -> _Held:
    if type(storage) is not _Held or storage.value is None:
        raise pickle.UnpicklingError("one of its tensors has no storage")
    return _Held(storage.value.as_strided(size, stride, offset))  # torch refuses what does not lie inside


def _attribute(owner: object, name: object) -> object:  # by which older protocols name methods
    if owner is not _Placeholder:
        raise RefusedGlobal("builtins.getattr")
    return owner


_GIVEN: dict[tuple[str, str], Any] = {
    **{(module, f"{name}Storage"): kind for module in ("torch", "torch.cuda") for name, kind in _STORAGES.items()},
    **{("collections", name): _Dict for name in ("Counter", "OrderedDict", "defaultdict")},
    **{("torch._utils", name): _sealed(_view) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(module, "getattr"): _sealed(_attribute) for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _sealed(lambda *text: b"") for module in ("builtins", "__builtin__")},  # none, in protocol 2
    ("_codecs", "encode"): _sealed(lambda text, encoding: str.encode(text, "latin1")),  # bytes, in protocol 2
    ("numpy", "dtype"): _DType,
    ("torch._utils", "_rebuild_parameter"): _sealed(lambda tensor, *rest: tensor),
}
