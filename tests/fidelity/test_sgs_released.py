"""SGS against the sampler that its authors released: the same weights give the same frames and the same gradients.

``sgs_released.json`` holds what their module gives (its ``about`` line tells how) for weights and a map that
``formula.py`` makes anew here. Where it differs from the paper, an option says so; here they are set to the release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo.layers.ragged import lengths_of, plain
from vidzoo.layers.sgs import SimilarityGuidedSampling

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "sgs_released.json").read_text())
CASES = RECORD["cases"]
KEYS = {"fc.0": "embedding.conv1", "fc.2": "embedding.conv2", "bn": "embedding.norm"}


def _ours(case: dict[str, Any], **options: Any) -> SimilarityGuidedSampling:
    sampler = SimilarityGuidedSampling(
        case["channels"],
        embed_dim=case["embed_dim"],
        hidden=case["channels"] // 2,
        activation=case["activation"],
        norm=True,
        bins=None if case["bins"] == -1 else case["bins"],
        kernel="linear" if case["kernel"] == "linear" else "kronecker",
        similarity="mean_distance",
        detach_range=False,
        margin=1e-7,
        threshold=0.0,
        **options,
    ).double()
    shapes = {}
    for key, value in sampler.state_dict().items():
        theirs = next(key.replace(ours, released) for released, ours in KEYS.items() if key.startswith(ours))
        shapes[theirs] = tuple(value.shape[:2])  # a linear layer there, a convolution of one frame here
    weights = formula_state_dict(shapes)
    state = sampler.state_dict()
    sampler.load_state_dict(
        {key: weights[theirs].reshape(state[key].shape) for key, theirs in zip(state, shapes, strict=True)}
    )
    return sampler.train(case["training"])


def _map(case: dict[str, Any]) -> Tensor:
    return 2 * formula_uniform("map", (case["clips"], case["channels"], case["frames"], 2, 3))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kernel']}, T={case['frames']}, B={case['bins']}")
def test_the_released_weights_give_the_released_frames_and_gradients(case: dict[str, Any]) -> None:
    sampler, x = _ours(case), _map(case).requires_grad_()
    result = sampler(x)
    expected = torch.tensor(case["output"], dtype=torch.float64).reshape(case["shape"])
    torch.testing.assert_close(plain(result), expected, rtol=1e-8, atol=1e-9)
    lengths = lengths_of(result)
    assert (lengths.tolist() if lengths is not None else [result.shape[2]] * len(result)) == case["lengths"]
    assert expected.std() > 0.1
    if not case["grads"]:
        return
    (plain(result) * formula_uniform("grad", tuple(result.shape))).sum().backward()
    found = {
        "fc.2.weight": sampler.embedding.conv2.weight.grad,
        "bn.weight": sampler.embedding.norm.weight.grad,
        "map": x.grad.sum(dim=(3, 4)),
    }
    for key, gradient in case["gradients"].items():
        torch.testing.assert_close(
            found[key].flatten(), torch.tensor(gradient, dtype=torch.float64), rtol=1e-7, atol=1e-8
        )


def test_only_the_released_margin_lets_the_largest_frame_open_a_bin_of_its_own() -> None:
    counted = [sum(_ours(case).assign(_map(case)).lengths.tolist()) for case in CASES]
    printed = []
    for case in CASES:
        sampler = _ours(case)
        sampler.margin = 0.0  # Eq. 6
        printed.append(sum(sampler.assign(_map(case)).lengths.tolist()))
    assert counted == [sum(case["lengths"]) for case in CASES]
    assert all(less <= more for less, more in zip(printed, counted, strict=True))
    assert sum(printed) < sum(counted)
