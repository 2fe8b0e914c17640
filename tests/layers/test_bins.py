"""Similarity bins against the printed equations and against what probability says of their number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vidzoo.layers.bins import bin_weights, coordinates, spherical_coordinates
from vidzoo.layers.sgs import SimilarityGuidedSampling


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_spherical_coordinates_lead_back_to_the_vector(dimensions: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(50, dimensions, 4).double()
    radius, *angles = spherical_coordinates(z).unbind(dim=1)
    back, remaining = [], radius
    for angle in angles:
        back.append(remaining * angle.cos())
        remaining = remaining * angle.sin()
    torch.testing.assert_close(torch.stack([*back, remaining], dim=1), z)
    assert all((angle >= 0).all() and (angle <= math.pi).all() for angle in angles[:-1])
    assert (angles[-1] >= 0).all()
    assert (angles[-1] > math.pi).any()


def test_the_gradient_with_the_range_held_is_the_one_that_the_paper_prints() -> None:
    torch.manual_seed(0)
    bins, frames = 6, 10
    maps = torch.randn(frames).double().requires_grad_()
    delta = torch.rand(frames).double().requires_grad_()
    out = bin_weights(delta[None, None], (bins,), "linear")[0] @ maps  # (bins,), maps of one pixel
    gamma = delta.max().item() / (2 * bins)
    for b in range(1, bins + 1):
        beta = (2 * b - 1) * gamma
        by_map, by_delta = torch.autograd.grad(out[b - 1], (maps, delta), retain_graph=True)
        eq7, eq8 = [], []
        for t in range(frames):
            value = delta[t].item()
            eq7.append(max(0.0, 1 - abs(value - beta) / gamma))
            if abs(beta - value) >= gamma * (1 - 1e-12):
                eq8.append(0.0)
            else:
                eq8.append(maps[t].item() / gamma * (1 if value <= beta else -1))
        torch.testing.assert_close(by_map, torch.tensor(eq7).double())
        torch.testing.assert_close(by_delta, torch.tensor(eq8).double())


def test_the_kronecker_kernel_teaches_the_embedding_only_straight_through() -> None:
    torch.manual_seed(0)
    delta = torch.rand(1, 1, 8).double().requires_grad_()
    literal = bin_weights(delta, (4,), "kronecker", straight_through=False)
    assert not literal.requires_grad
    weights = bin_weights(delta, (4,), "kronecker")
    assert torch.equal(weights.detach(), literal)
    slopes = torch.autograd.grad(weights.sum(), delta)[0][0, 0]
    gamma, count = delta.max() / 8, (literal > 0).sum(dim=2)[0]
    expected = (literal[0] > 0).double() / gamma / count.clamp(min=1)[:, None]
    torch.testing.assert_close(slopes, expected.sum(dim=0).detach())


def _occupied(frames: int, bins: int) -> tuple[float, float]:
    """Expected bins that i.i.d. 8-dimensional Gaussian embeddings occupy, without and with the largest frame's own.

    Given the largest of T lengths m, the others are independent with the distribution F(x) / F(m); F is that of chi
    with 8 degrees of freedom. Integrated over m, whose density is that of F(m)^T.
    """
    edges = torch.linspace(1e-3, 9, 20001).double()
    cdf = torch.special.gammainc(torch.tensor(4.0).double(), edges.square() / 2)
    largest = (edges[1:] + edges[:-1]) / 2
    chance = cdf.pow(frames).diff()
    inner = torch.special.gammainc(
        torch.tensor(4.0).double(), (largest[:, None] * torch.arange(bins + 1) / bins).square() / 2
    )
    share = inner.diff(dim=1) / inner[:, -1:]  # of each bin
    empty = (1 - share).pow(frames - 1)
    strict = (chance * (1 - empty).sum(dim=1)).sum().item()
    return strict, strict + (chance * empty[:, -1]).sum().item()


@pytest.mark.parametrize(
    ("frames", "bins", "with_largest"), [(13, 13, 6.71), (16, 16, 8.23), (32, 32, 16.05), (64, 32, 19.78)]
)
def test_random_embeddings_need_as_many_bins_as_probability_says(frames: int, bins: int, with_largest: float) -> None:
    clips = 4000
    z = torch.randn(clips, 8, frames, generator=torch.Generator().manual_seed(frames)).double()
    strict, counted = _occupied(frames, bins)
    assert abs(counted - with_largest) < 0.04  # the mean of a simulation that counted the largest frame's bin
    for margin, threshold, expected in ((0.0, 1e-3, strict), (1e-7, 0.0, counted)):
        weights = bin_weights(coordinates(z, "norm"), (bins,), "linear", margin=margin)
        found = (weights.sum(dim=2) > threshold).sum(dim=1).double()
        assert abs(found.mean() - expected) < 4 * found.std() / clips**0.5 + 0.01


@pytest.mark.parametrize(("noise", "total"), [(1e-3, 0.904), (1e-4, 0.0904)])
def test_a_nearly_static_clip_needs_one_bin_by_length_and_eight_by_distance_to_its_mean(
    noise: float, total: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    still = nn.functional.normalize(torch.randn(2000, 8, 1, generator=generator), dim=1)
    z = still + noise * torch.randn(2000, 8, 16, generator=generator)
    by_length = bin_weights(coordinates(z, "norm"), (16,), "linear").sum(dim=2)
    assert ((by_length > 0).sum(dim=1) == 1).all()
    # 2 B / |z| times the mean distance of 16 normal numbers to their largest, whose expectation is 1.766.
    assert by_length.sum(dim=1).mean().item() == pytest.approx(total, rel=0.03)
    by_distance = bin_weights(coordinates(z, "mean_distance"), (16,), "linear").sum(dim=2)
    assert 7 < (by_distance > 1e-3).sum(dim=1).float().mean().item() < 8.2


def test_a_frame_enters_one_bin_at_most() -> None:
    torch.manual_seed(0)
    delta = torch.rand(500, 1, 16)
    shares = (bin_weights(delta, (16,), "linear") > 0).sum(dim=1)  # (500, 16)
    assert shares.max() == 1
    largest = delta[:, 0].argmax(dim=1, keepdim=True)
    assert (shares.gather(1, largest) == 0).all()  # exactly, in float32


def test_lengths_that_differ_by_rounding_stay_below_the_default_threshold() -> None:
    torch.manual_seed(0)
    delta = torch.rand(500, 1, 1).expand(-1, -1, 32).clone()
    units = torch.randint(0, 5, delta.shape)
    units[:, :, 0] = 0
    for step in range(1, 5):  # 0 to 4 units in the last place
        delta = torch.where(units >= step, delta.nextafter(torch.zeros(())), delta)
    total = bin_weights(delta, (32,), "linear").sum(dim=2)
    assert (total.sum(dim=1) > 0).all()
    assert total.max() < SimilarityGuidedSampling(4).threshold
