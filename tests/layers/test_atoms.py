"""The projection of a dense kernel onto atoms: what it loses, and that it loses no more than it must."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.atoms import AtomFit, fit_atoms
from vidzoo.layers.unit import inflate

# Relative Frobenius error for a random 3x3x3 kernel of 64 x 64 channels, measured with an iteration written for the purpose.
RANDOM_KERNEL = [(9, 3, 0.0), (9, 1, 0.81), (6, 3, 0.57), (6, 2, 0.74), (3, 2, 0.88)]


def _kernel(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _rebuilt(fit: AtomFit) -> Tensor:
    return torch.einsum("oimn,mhw,nt->oithw", fit.alpha, fit.psi, fit.phi)


@pytest.mark.parametrize(("spatial", "temporal", "error"), RANDOM_KERNEL)
def test_a_random_kernel_loses_what_was_measured(spatial: int, temporal: int, error: float) -> None:
    kernel = _kernel(64, 64, 3, 3, 3)
    fit = fit_atoms(kernel, spatial, temporal)
    assert fit.error == pytest.approx(error, abs=0.006)
    assert fit.error == pytest.approx(float((_rebuilt(fit) - kernel).norm() / kernel.norm()), abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 6, 8])
def test_with_one_axis_whole_it_is_the_truncated_singular_value_decomposition(count: int) -> None:
    kernel = _kernel(6, 5, 3, 3, 3)
    space = torch.linalg.svdvals(kernel.movedim(2, -1).reshape(6, 5, 9, 3).transpose(2, 3).flatten(0, 2))
    expected = (space[count:].square().sum() / kernel.square().sum()).sqrt()
    assert fit_atoms(kernel, count, 3).error == pytest.approx(float(expected), rel=1e-9)
    if count < 3:
        time = torch.linalg.svdvals(kernel.movedim(2, -1).flatten(0, 3))
        expected = (time[count:].square().sum() / kernel.square().sum()).sqrt()
        assert fit_atoms(kernel, 9, count).error == pytest.approx(float(expected), rel=1e-9)


def test_atoms_are_orthonormal_and_the_error_cannot_be_lowered_by_turning_one_kind_alone() -> None:
    kernel = _kernel(8, 6, 3, 3, 3)
    fit = fit_atoms(kernel, 4, 2)
    psi = fit.psi.flatten(1)
    torch.testing.assert_close(psi @ psi.t(), torch.eye(4, dtype=psi.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(fit.phi @ fit.phi.t(), torch.eye(2, dtype=psi.dtype), rtol=0, atol=1e-12)
    filters = kernel.flatten(3)  # (O, I, t, k k)
    seen = torch.linalg.svdvals(torch.einsum("oits,nt->oins", filters, fit.phi).flatten(0, 2))[:4]
    assert fit.alpha.norm() == pytest.approx(float(seen.norm()), rel=1e-5)
    seen = torch.linalg.svdvals(torch.einsum("oits,ms->oimt", filters, psi).flatten(0, 2))[:2]
    assert fit.alpha.norm() == pytest.approx(float(seen.norm()), rel=1e-5)


@pytest.mark.parametrize(("t", "kh", "kw", "spatial", "temporal"), [(3, 3, 3, 6, 2), (5, 3, 3, 2, 3), (3, 1, 5, 4, 1)])
def test_a_kernel_that_is_made_of_atoms_is_found_again(t: int, kh: int, kw: int, spatial: int, temporal: int) -> None:
    kernel = torch.einsum(
        "oimn,mhw,nt->oithw", _kernel(7, 5, spatial, temporal), _kernel(spatial, kh, kw), _kernel(temporal, t)
    )
    fit = fit_atoms(kernel, spatial, temporal)
    assert fit.error < 1e-12
    torch.testing.assert_close(_rebuilt(fit), kernel, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["centre", "mean", "repeat"])
def test_an_inflated_kernel_needs_one_temporal_atom(mode: str) -> None:
    kernel = inflate(_kernel(64, 64, 3, 3), 3, mode=mode)
    assert fit_atoms(kernel, 9, 1).error < 1e-12
    assert fit_atoms(kernel, 6, 1).error == pytest.approx(fit_atoms(kernel, 6, 3).error, rel=1e-9)
    assert fit_atoms(kernel, 6, 1).error == pytest.approx(0.56, abs=0.01)


def test_there_are_never_more_atoms_than_taps() -> None:
    fit = fit_atoms(_kernel(4, 4, 1, 3, 3), 12, 2)
    assert (fit.psi.shape, fit.phi.shape, fit.alpha.shape) == ((9, 3, 3), (1, 1), (4, 4, 9, 1))
    assert fit.error < 1e-12


def test_a_kernel_of_zeros_is_no_division_by_zero() -> None:
    fit = fit_atoms(torch.zeros(4, 4, 3, 3, 3), 6, 2)
    assert fit.error == 0
    assert not fit.alpha.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kernel_that_is_not_finite_is_refused(value: float) -> None:
    kernel = torch.ones(4, 4, 3, 3, 3)
    kernel[1, 2, 0, 1, 1] = value
    with pytest.raises(WeightsError, match="NaN"):
        fit_atoms(kernel, 6, 2)


@pytest.mark.parametrize(("shape", "spatial", "temporal"), [((4, 4, 3, 3), 6, 2), ((4, 4, 3, 3, 3), 0, 2)])
def test_a_kernel_without_time_or_no_atoms_are_refused(shape: tuple[int, ...], spatial: int, temporal: int) -> None:
    with pytest.raises(ConfigError, match="atoms"):
        fit_atoms(torch.ones(shape), spatial, temporal)
