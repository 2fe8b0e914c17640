"""C2D, C3D and P3D against the same networks written by hand from torch's functions, with equal weights.

GST's authors published no code for these baselines, so the reference here is the text of the papers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vidzoo

Weights = dict[str, Tensor]
Conv = Callable[[Weights, str, Tensor, int], Tensor]

COUNTS = {"r18": (2, 2, 2, 2), "r50": (3, 4, 6, 3)}


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1, 1)
    mean, var = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)


def _c2d(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    kernel = w[f"{name}.weight"][:, :, 0]
    return torch.stack([F.conv2d(frame, kernel, stride=stride, padding=1) for frame in x.unbind(2)], dim=2)


def _c3d(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    return F.conv3d(x, w[f"{name}.weight"], stride=(1, stride, stride), padding=1)


def _c3d_in_two_groups(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    halves = zip(x.chunk(2, dim=1), w[f"{name}.weight"].chunk(2, dim=0), strict=True)
    return torch.cat([F.conv3d(half, kernel, stride=(1, stride, stride), padding=1) for half, kernel in halves], dim=1)


def _p3d(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    x = F.conv3d(x, w[f"{name}.spatial.weight"], stride=(1, stride, stride), padding=(0, 1, 1))
    x = F.relu(_norm(w, f"{name}.norm.0", x))
    return F.conv3d(x, w[f"{name}.temporal.weight"], padding=(1, 0, 0))


UNITS: dict[str, Conv] = {"c2d": _c2d, "c3d": _c3d, "c3d_g2": _c3d_in_two_groups, "p3d": _p3d}


def _one(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv3d(x, w[f"{name}.weight"], stride=(1, stride, stride))


def _by_hand(w: Weights, x: Tensor, backbone: str, conv: Conv) -> Tensor:
    x = F.conv3d(x, w["conv1.weight"], stride=(1, 2, 2), padding=(0, 3, 3))
    x = F.max_pool3d(F.relu(_norm(w, "bn1", x)), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    for stage, count in enumerate(COUNTS[backbone], start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            if backbone == "r18":
                out = F.relu(_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x, stride)))
                out = _norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", out, 1))
            else:
                out = F.relu(_norm(w, f"{name}.bn1", _one(w, f"{name}.conv1", x)))
                out = F.relu(_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", out, stride)))
                out = _norm(w, f"{name}.bn3", _one(w, f"{name}.conv3", out))
            if f"{name}.downsample.0.weight" in w:
                x = _norm(w, f"{name}.downsample.1", _one(w, f"{name}.downsample.0", x, stride))
            x = F.relu(out + x)
    frames = x.mean(dim=(3, 4)).transpose(1, 2)  # (B, T, C)
    return F.linear(frames, w["fc.weight"], w["fc.bias"]).mean(dim=1)


@pytest.mark.parametrize("name", ["c2d_r18", "c3d_r18", "c3d_g2_r18", "p3d_r18", "c3d_r50", "p3d_r50"])
def test_a_network_equals_the_one_written_by_hand(name: str) -> None:
    family, _, backbone = name.rpartition("_")
    model = vidzoo.create_model(name, num_classes=5).double().eval()
    weights = model.state_dict()
    generator = torch.Generator().manual_seed(1)
    for key, value in weights.items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith(".weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point() and value.ndim == 1:
            value.uniform_(-0.2, 0.2, generator=generator)
    x = torch.randn(1, 3, 3, 40, 48, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        found, expected = model(x), _by_hand(weights, x, backbone, UNITS[family])
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()
