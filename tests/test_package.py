"""What a bare ``import vidzoo`` costs and promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import vidzoo

HEAVY = ("timm", "torchvision", "pytorchvideo", "accelerate", "matplotlib", "av", "PIL", "huggingface_hub")


def _child(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_vidzoo_loads_none_of_the_heavy_packages() -> None:
    loaded = _child(f"import sys, vidzoo; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


def test_building_and_running_a_model_loads_none_of_the_heavy_packages() -> None:
    code = (
        "import sys, torch, vidzoo; vidzoo.create_model('gst_r18', num_classes=2)(torch.zeros(1, 3, 2, 32, 32)); "
        f"vidzoo.list_models(); print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert _child(code) == "[]"


def test_the_data_room_can_be_imported_without_a_decoder() -> None:
    assert _child(f"import sys, vidzoo.data; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_every_public_name_exists() -> None:
    assert [name for name in vidzoo.__all__ if not hasattr(vidzoo, name)] == []


def test_no_public_function_hides_a_module_of_the_same_name() -> None:
    rooms = {path.stem for path in Path(vidzoo.__file__).parent.iterdir() if path.stem != "__init__"}
    hidden = [name for name in rooms & set(vidzoo.__all__) if callable(getattr(vidzoo, name))]
    assert hidden == []


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(vidzoo.__file__).parent / "py.typed").is_file()


def test_the_version_is_one_that_installers_understand() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", vidzoo.__version__)
