"""Similarity Guided Sampling against its equations, its edges, and the figures that follow from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.layers.bins import coordinates
from vidzoo.layers.ragged import honour_lengths, lengths_of, mean_over_clip, plain, with_lengths
from vidzoo.layers.sgs import SimilarityGuidedSampling
from vidzoo.profiling import profile

VARIANTS: list[dict[str, Any]] = [
    {},
    {"kernel": "kronecker"},
    {"similarity": "mean_distance"},
    {"similarity": "angular"},
    {"similarity": "spherical"},
    {"similarity": "spherical", "kernel": "kronecker", "bins": (3, 2)},
    {"order": "time"},
    {"block": 4},
    {"block": 5, "order": "time", "bins": 3},
    {"centre_largest": True},
    {"static": "literal"},
]


def _transparent(dimensions: int, **options: Any) -> SimilarityGuidedSampling:
    """A sampler whose embedding of a frame is the frame's own spatial mean."""
    sampler = SimilarityGuidedSampling(
        dimensions, embed_dim=dimensions, activation="none", norm=False, **options
    ).double()
    for layer in (sampler.embedding.conv1, sampler.embedding.conv2):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    return sampler


def _frames_of_length(lengths: list[float]) -> Tensor:
    """One clip ``(1, 2, T, 1, 1)`` whose frame t has an embedding of ``lengths[t]``."""
    turn = torch.linspace(0, 1.5, len(lengths)).double()
    return (torch.stack([turn.cos(), turn.sin()]) * torch.tensor(lengths).double())[None, :, :, None, None]


def _printed_equations(frames: Tensor, deltas: list[list[float]], bins: list[int], kernel: str) -> list[Tensor]:
    """Eqs. 2 to 6 and 9 for one clip ``(C, T, H, W)``, one number at a time; the bins that are not empty."""
    gammas = [max(delta) / (2 * count) for delta, count in zip(deltas, bins, strict=True)]
    kept = []
    for number in range(math.prod(bins)):
        weights = []
        for t in range(frames.shape[1]):
            product, rest = 1.0, number
            for delta, gamma, count in reversed(list(zip(deltas, gammas, bins, strict=True))):
                b = rest % count + 1
                rest //= count
                away = abs(delta[t] - (2 * b - 1) * gamma) / gamma
                product *= max(0.0, 1 - away) if kernel == "linear" else float(math.floor(away) == 0)
            # The largest value lies on an edge; to which side of it these divisions round is chance.
            weights.append(product if all(delta[t] < max(delta) for delta in deltas) else 0.0)
        if sum(weights) > 1e-3:
            total = sum(frames[:, t] * weight for t, weight in enumerate(weights))
            kept.append(total if kernel == "linear" else total / sum(weights))
    return kept


@pytest.mark.parametrize("kernel", ["linear", "kronecker"])
@pytest.mark.parametrize("bins", [None, 3, 20])
def test_frames_and_their_number_are_those_of_the_printed_equations(kernel: Any, bins: int | None) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(6, kernel=kernel, bins=bins).double().train()
    x = torch.randn(4, 6, 9, 3, 2).double()
    z = sampler.embedding(x.mean(dim=(3, 4)))  # (B, L, T)
    result = sampler(x)
    lengths = [result.shape[2]] * 4 if lengths_of(result) is None else lengths_of(result).tolist()
    for clip, embedded, out, length in zip(x, z, plain(result), lengths, strict=True):
        delta = [math.hypot(*frame.tolist()) for frame in embedded.T]
        expected = torch.stack(_printed_equations(clip, [delta], [bins or 9], kernel), dim=1)
        torch.testing.assert_close(out[:, :length], expected)
        assert (out[:, length:] == 0).all()


@pytest.mark.parametrize(
    ("similarity", "bins"), [("angular", (4, 8)), ("spherical", (2, 4, 4)), ("spherical", (3, 5)), ("angular", (6,))]
)
@pytest.mark.parametrize("kernel", ["linear", "kronecker"])
def test_angles_are_binned_by_the_product_of_one_kernel_per_coordinate(
    kernel: Any, similarity: Any, bins: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(6, kernel=kernel, similarity=similarity, bins=bins).double().train()
    assert sampler.embed_dim == len(bins) + (similarity == "angular")
    x = torch.randn(3, 6, 24, 2, 2).double()
    z = sampler.embedding(x.mean(dim=(3, 4)))
    deltas = coordinates(z, similarity)
    result = sampler(x)
    lengths = [result.shape[2]] * 3 if lengths_of(result) is None else lengths_of(result).tolist()
    for clip, delta, out, length in zip(x, deltas.tolist(), plain(result), lengths, strict=True):
        expected = torch.stack(_printed_equations(clip, delta, list(bins), kernel), dim=1)
        torch.testing.assert_close(out[:, :length], expected)
    assert min(lengths) > 2


@pytest.mark.parametrize(
    "options", [{}, {"similarity": "mean_distance"}, {"similarity": "spherical", "bins": (2, 3, 2)}]
)
def test_the_gradient_without_it_is_the_derivative_of_the_output(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(4, detach_range=False, activation="silu", **options).double().train()
    x = torch.randn(2, 4, 6, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: plain(sampler(x)), (x,), atol=1e-6)
    held = SimilarityGuidedSampling(4, activation="silu", **options).double().train()
    held.load_state_dict(sampler.state_dict())
    full, printed = (torch.autograd.grad(plain(module(x)).square().sum(), x)[0] for module in (sampler, held))
    assert (full - printed).abs().max() > 1e-3


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_map_and_embedding_are_reached_by_the_gradient(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(6, **options)
    x = torch.randn(3, 6, 12, 4, 4, requires_grad=True)
    plain(sampler(x)).square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in sampler.parameters())]
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


# Edges.


def test_the_largest_frame_is_kept_only_where_an_option_says_so() -> None:
    x = _frames_of_length([8.0, 2.6, 2.9, 5.1])
    printed = _transparent(2, bins=4).assign(x).weights[0]
    assert printed[:, 0].sum() == 0
    centred = _transparent(2, bins=4, centre_largest=True).assign(x).weights[0]
    torch.testing.assert_close(centred[:, 0], torch.tensor([0.0, 0, 0, 1]).double())
    released = _transparent(2, bins=4, margin=1e-7, threshold=0.0).assign(x)
    assert released.weights[0, -1, 0].item() == pytest.approx(1e-7)
    assert released.active[0].tolist() == [False, True, True, True]
    mean = _transparent(2, bins=4, kernel="kronecker", margin=1e-7).assign(x).weights[0]
    torch.testing.assert_close(mean[-1], torch.tensor([1.0, 0, 0, 0]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["norm", "mean_distance", "spherical"])
@pytest.mark.parametrize("frames", [1, 2, 16, 32])
def test_a_static_clip_keeps_one_bin_with_its_content(frames: int, similarity: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    frame = torch.randn(1, 6, 1, 4, 4)
    sampler = SimilarityGuidedSampling(6, similarity=similarity).eval()
    result = sampler(frame.expand(-1, -1, frames, -1, -1).to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result, frame.to(dtype))


def test_a_clip_whose_embeddings_are_zero_is_static_and_has_a_finite_gradient() -> None:
    x = torch.randn(2, 4, 5, 3, 3, requires_grad=True)
    for similarity in ("norm", "mean_distance", "angular", "spherical"):
        sampler = SimilarityGuidedSampling(4, similarity=similarity, norm=False, detach_range=False)
        nn.init.zeros_(sampler.embedding.conv2.weight)
        nn.init.zeros_(sampler.embedding.conv2.bias)
        result = sampler(x)
        torch.testing.assert_close(result, x.mean(dim=2, keepdim=True))
        result.square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in sampler.parameters())


def test_a_static_clip_taken_literally_is_one_frame_without_content() -> None:
    static = torch.ones(1, 2, 6, 3, 3).double()
    moving = _frames_of_length([0.5, 1.6, 2.7, 3.4, 5.2, 6.0]).expand(-1, -1, -1, 3, 3)
    sampler = _transparent(2, static="literal")
    assert torch.equal(sampler(static), torch.zeros(1, 2, 1, 3, 3).double())
    both = sampler(torch.cat([static, moving]))
    assert lengths_of(both).tolist() == [1, 5]
    assert torch.equal(plain(both)[1:], plain(sampler(moving)))
    still_and_moving = torch.cat([static, moving], dim=2)  # a block that is lost leaves the others as they are
    assert torch.equal(_transparent(2, static="literal", block=6)(still_and_moving), sampler(moving))
    kept = _transparent(2, block=6)(still_and_moving)
    torch.testing.assert_close(kept, torch.cat([static[:, :, :1], sampler(moving)], dim=2))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_any_number_of_frames_and_bins_gives_a_map(options: dict[str, Any], frames: int, count: int) -> None:
    torch.manual_seed(0)
    if options.get("similarity") not in ("angular", "spherical"):
        options = {**options, "bins": count}
    result = SimilarityGuidedSampling(5, **options)(torch.randn(2, 5, frames, 3, 4))
    assert result.shape[:2] + result.shape[3:] == (2, 5, 3, 4)
    assert 1 <= result.shape[2] <= frames
    assert plain(result).isfinite().all()


def test_the_number_of_bins_may_change_after_training() -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(5, bins=32).eval()
    x = torch.randn(2, 5, 32, 3, 3)
    most = [sampler.assign(x).lengths.max().item()]
    for count in (16, 8, 4):  # Table A.4
        sampler.bins = count
        most.append(sampler.assign(x).lengths.max().item())
        assert most[-1] <= count
    assert most == sorted(most, reverse=True)
    assert most[-1] < most[0]


# Order and blocks.


def test_bins_leave_in_the_order_of_length_or_of_time() -> None:
    # Frames 2 and 4 share the second of four bins, frame 1 is in the fourth, frame 3 in the first; frame 0 has none.
    x = _frames_of_length([8.0, 6.5, 2.5, 1.0, 3.0])
    by_length = _transparent(2, bins=4).assign(x)
    assert by_length.lengths.tolist() == [3]
    shown = [row.nonzero().flatten().tolist() for row in by_length.kept()[0]]
    assert shown == [[3], [2, 4], [1]]
    by_time = _transparent(2, bins=4, order="time").assign(x)
    shown = [row.nonzero().flatten().tolist() for row in by_time.kept()[0]]
    assert shown == [[1], [3], [2, 4]]  # at 1, 3 and (0.5 * 2 + 1 * 4) / 1.5
    assert torch.equal(by_time.weights, by_length.weights)


@pytest.mark.parametrize(("frames", "block"), [(12, 4), (13, 4), (5, 8), (6, 1)])
@pytest.mark.parametrize("options", [{}, {"bins": 3}, {"order": "time"}, {"similarity": "mean_distance"}], ids=str)
def test_blocks_are_sampled_each_by_itself_and_follow_one_another(
    options: dict[str, Any], frames: int, block: int
) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(4, block=block, **options).double().eval()
    alone = SimilarityGuidedSampling(4, **options).double().eval()
    alone.load_state_dict(sampler.state_dict())
    x = torch.randn(1, 4, frames, 3, 3).double()
    expected = torch.cat([alone(part) for part in x.split(block, dim=2)], dim=2)
    torch.testing.assert_close(sampler(x), expected)
    assignment = sampler.assign(x)
    torch.testing.assert_close(
        assignment.delta, torch.cat([alone.assign(p).delta for p in x.split(block, dim=2)], dim=2)
    )


# Batches.


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_clip_is_sampled_alone_as_in_a_batch(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(inplace=True),
        SimilarityGuidedSampling(8, **options),
        nn.Conv3d(8, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(8, 5, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
        nn.BatchNorm3d(5),
    )
    net = honour_lengths(net).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    net.eval()
    x = torch.randn(5, 3, 12, 6, 6).double()
    x[1] *= torch.linspace(0, 3, 12)[:, None, None]
    x[2] = x[2, :, :1]  # still but for the padding of the first convolution
    with torch.no_grad():
        sampled = net[:4](x)
        together = mean_over_clip(net(x))
        alone = torch.cat([mean_over_clip(net(clip[None])) for clip in x])
    torch.testing.assert_close(together, alone)
    if not options:
        assert len(set(lengths_of(sampled).tolist())) > 1


def test_bins_below_the_threshold_leave_nothing_behind_the_end_of_a_clip() -> None:
    faint = _frames_of_length([8.0, 2.01, 5.0, 6.02])  # weights 0, 0.01, 1 and 0.02 in the bins 2, 3 and 4
    full = _frames_of_length([8.0, 3.0, 5.0, 7.0])
    both = torch.cat([faint, full])
    result = _transparent(2, bins=4, threshold=0.1)(both)
    assert lengths_of(result).tolist() == [1, 3]
    torch.testing.assert_close(plain(result)[0, :, 0], faint[0, :, 2])
    assert (plain(result)[0, :, 1:] == 0).all()
    assert _transparent(2, bins=4).assign(both).lengths.tolist() == [3, 3]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_either_memory_format_gives_the_same_frames_in_its_own_format(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(6, **options).double().eval()
    x = torch.randn(3, 6, 12, 5, 4).double()
    first, last = plain(sampler(x)), plain(sampler(x.contiguous(memory_format=torch.channels_last_3d)))
    torch.testing.assert_close(first, last)
    assert first.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    cut = torch.cat([x, x], dim=4)[..., :4]  # neither of them
    torch.testing.assert_close(plain(sampler(cut)), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_single_precision_whatever_the_map_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(6).eval()
    x = torch.randn(3, 6, 12, 4, 4).to(dtype)
    expected = sampler.assign(x.float())
    found = sampler.assign(x)
    assert found.weights.dtype == torch.float32
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sampler.assign(x).weights, found.weights)
        assert sampler(x).dtype == dtype
        assert sampler(x.float()).dtype == torch.float32
    result, reference = sampler(x), sampler(x.float())
    assert result.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * plain(reference).abs().max().item()
    torch.testing.assert_close(plain(result).float(), plain(reference), rtol=0, atol=tolerance)
    halved = SimilarityGuidedSampling(6).to(dtype)
    assert halved(x).dtype == dtype
    assert halved.assign(x).weights.dtype == torch.float32


# Cost.


def test_a_profile_is_measured_and_counts_embedding_and_products() -> None:
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampling(3, hidden=7, embed_dim=5).eval()
    clip = torch.rand(1, 3, 10, 6, 4) * torch.rand(1, 1, 10, 1, 1)
    cost = profile(sampler, clip=clip)
    assert cost.measured
    kept = int(sampler.assign(clip).lengths.max())
    assert cost.macs == 10 * (3 * 7 + 7 * 5) + kept * 10 * 3 * 6 * 4
    assert cost.params == 3 * 7 + 7 + 7 * 5 + 5 + 2 * 5


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"similarity": "cosine"}, "similarity"),
        ({"kernel": "gauss"}, "kernel"),
        ({"order": "random"}, "order"),
        ({"static": "drop"}, "static"),
        ({"activation": "tanh"}, "activation"),
        ({"bins": 0}, "bins"),
        ({"bins": (4, 8)}, "bins"),
        ({"similarity": "angular", "bins": 4}, "bins"),
        ({"similarity": "angular", "bins": (4, 0)}, "bins"),
        ({"similarity": "angular", "bins": ()}, "bins"),
        ({"similarity": "angular", "embed_dim": 8}, "embed_dim"),
        ({"similarity": "spherical", "bins": (4,)}, "embed_dim"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"hidden": 0}, "hidden"),
        ({"block": 0}, "block"),
        ({"margin": -1.0}, "margin"),
        ({"threshold": 2.0}, "threshold"),
    ],
    ids=str,
)
def test_an_option_outside_its_values_is_refused_by_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        SimilarityGuidedSampling(4, **options)


def test_bins_that_do_not_fit_the_sampler_are_refused_later_too() -> None:
    sampler = SimilarityGuidedSampling(4, similarity="spherical")
    with pytest.raises(ConfigError, match="3 coordinates"):
        sampler.bins = (4, 8)
    assert sampler.bins == (2, 4, 4)


def test_a_map_that_cannot_be_sampled_is_refused() -> None:
    sampler = SimilarityGuidedSampling(4)
    for wrong in (torch.randn(2, 3, 5, 2, 2), torch.randn(2, 4, 5, 2), torch.randn(2, 4, 0, 2, 2)):
        with pytest.raises(ModelInputError, match="takes"):
            sampler(wrong)
    ragged = with_lengths(torch.zeros(2, 4, 5, 2, 2), torch.tensor([5, 3]))
    with pytest.raises(ModelInputError, match="once"):
        sampler(ragged)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-5, 1e-4, 1e-3])
def test_a_clip_that_hardly_flickers_goes_on_as_its_frame(noise: float) -> None:
    sampler = SimilarityGuidedSampling(6, norm=False).eval()
    picture = torch.rand(1, 6, 1, 5, 5) + 1.0
    clip = picture + noise * torch.randn(1, 6, 12, 5, 5)
    out = sampler(clip)
    assert out.shape[2] == 1
    torch.testing.assert_close(out, picture, rtol=0.01, atol=0.01)


def test_no_clip_at_all_is_refused() -> None:
    with pytest.raises(ModelInputError, match="at least one clip"):
        SimilarityGuidedSampling(6)(torch.zeros(0, 6, 4, 5, 5))
