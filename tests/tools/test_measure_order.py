"""The probe of time order: a network that looks over time learns which of two reversed actions it sees, and only from order."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import vidzoo
from vidzoo.data.listing import scan
from vidzoo.data.synthetic import PAIRS
from vidzoo.evaluation import evaluate


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "measure_order.py"
    spec = importlib.util.spec_from_file_location("measure_order", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_c2d_answers_a_clip_and_its_reversal_alike() -> None:
    model = vidzoo.create_model("c2d_r18", num_classes=8).eval()
    clip = torch.randn(1, 3, 6, 32, 32)
    torch.testing.assert_close(model(clip.flip(2)), model(clip), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vidzoo.create_model("gst_r18", num_classes=8).eval()(clip.flip(2)), model(clip))


def test_gst_tells_an_action_from_its_reversal_until_the_frames_are_shuffled(tool: ModuleType, tmp_path: Path) -> None:
    config = tool.CONFIG.replace(epochs=8, num_frames=6, crop_size=(40, 50), short_side=40, workers=0)
    from vidzoo.train import finetune

    finetune("gst_r18", "synthetic:pairs?videos_per_class=40&frames=24&seed=0", tmp_path / "run", config)
    model = vidzoo.create_model(f"local-dir:{tmp_path / 'run'}")
    test = scan("synthetic:pairs?videos_per_class=20&frames=24&seed=1")
    found = {
        order: tool.within_pairs(evaluate(model, test, order=order)) for order in ("normal", "shuffled", "reversed")
    }
    assert len(PAIRS) == 4
    assert found["normal"] > 0.85
    assert 0.35 < found["shuffled"] < 0.65
    assert found["reversed"] < 0.15
