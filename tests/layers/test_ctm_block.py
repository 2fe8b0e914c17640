"""CTM: the identity when fresh, a kernel of its own for every position, and tables that follow the size of the map."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.ctm import CTMBlock, TemporalChannelConv
from vidzoo.layers.ragged import honour_lengths, lengths_of, plain, with_lengths
from vidzoo.loading import load_weights

SIZE = (4, 5)
all_paths = pytest.mark.parametrize("paths", ["both", "tccm", "shared"])


def _block(**options: Any) -> CTMBlock:
    return CTMBlock(16, size=SIZE, **{"reduction": 2, **options})


def _lively(block: CTMBlock) -> CTMBlock:
    """Every batch norm with statistics and scales of its own, so that both paths count."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm3d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.uniform_(value, -0.2, 0.2)
    return block


def _equation_1(x: Tensor, table: Tensor, kt: int, kc: int) -> Tensor:
    """O[t, c] at (h, w) = sum over i, j of K[i, j] at (h, w) x F[t + i, c + j], term by term, zeros beyond the border."""
    _, channels, frames, _, _ = x.shape
    out = torch.zeros_like(x)
    for i, j in product(range(-(kt // 2), kt // 2 + 1), range(-(kc // 2), kc // 2 + 1)):
        kernel = table[(i + kt // 2) * kc + j + kc // 2]  # (H, W)
        for t, c in product(range(frames), range(channels)):
            if 0 <= t + i < frames and 0 <= c + j < channels:
                out[:, c, t] += kernel * x[:, c + j, t + i]
    return out


@pytest.mark.parametrize("kernel_size", [(3, 3), (3, 5), (5, 1), (1, 3)])
@pytest.mark.parametrize("frames", [1, 2, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@torch.no_grad()
def test_the_temporal_channel_convolution_is_equation_1(
    kernel_size: tuple[int, int], frames: int, layout: torch.memory_format
) -> None:
    tcc = TemporalChannelConv(SIZE, kernel_size=kernel_size).double()
    x = torch.randn(2, 7, frames, *SIZE, dtype=torch.float64).contiguous(memory_format=layout)
    found = tcc(x)
    expected = _equation_1(x, tcc.weight, *kernel_size)
    assert (found - expected).abs().max() <= 2e-15 * expected.abs().max()
    assert found.is_contiguous(memory_format=layout)


@torch.no_grad()
def test_every_position_has_its_own_kernel_and_sees_nothing_but_itself() -> None:
    tcc, x = TemporalChannelConv(SIZE), torch.randn(1, 1, 6, 1, 1).expand(1, 8, 6, *SIZE)
    assert tcc(x).flatten(3).std(dim=3).min() > 0  # the same content everywhere gives something else at each position
    other = x.clone()
    other[..., 1, 2] += 1
    moved = (tcc(x) != tcc(other))[0].flatten(0, 1).any(dim=0)
    assert moved.nonzero().tolist() == [[1, 2]]


@torch.no_grad()
def test_the_order_of_the_channels_matters() -> None:
    tcc, x = TemporalChannelConv(SIZE), torch.randn(1, 8, 4, *SIZE)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert (tcc(x[:, order]) - tcc(x)[:, order]).abs().max() > 0.1


@all_paths
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [SIZE, (3, 8), (1, 1)])
def test_a_fresh_block_is_exactly_the_identity_at_any_size(paths: Any, training: bool, size: tuple[int, int]) -> None:
    block, x = _block(paths=paths).train(training), torch.randn(2, 16, 3, *size)
    assert torch.equal(block(x), x)
    assert not torch.equal(_lively(block)(x), x)


def test_the_first_gradient_reaches_nothing_but_the_last_norms() -> None:
    block = _block()
    (block(torch.randn(2, 16, 4, *SIZE)) * torch.randn(2, 16, 4, *SIZE)).sum().backward()
    reached = {name for name, value in block.named_parameters() if value.grad is not None and value.grad.any()}
    assert reached == {f"{path}.bn3.{part}" for path in ("tccm", "shared") for part in ("weight", "bias")}
    later = _lively(_block())
    (later(torch.randn(2, 16, 4, *SIZE)) * torch.randn(2, 16, 4, *SIZE)).sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in later.parameters())


@torch.no_grad()
def test_the_paths_add_up_and_each_can_stand_alone() -> None:
    both, x = _lively(_block()).eval(), torch.randn(1, 16, 4, *SIZE)
    changes = {}
    for paths in ("tccm", "shared"):
        alone = _block(paths=paths).eval()
        alone.load_state_dict({key: value for key, value in both.state_dict().items() if key.startswith(paths)})
        changes[paths] = alone(x) - x
        assert changes[paths].abs().max() > 0.1
    torch.testing.assert_close(both(x) - x, changes["tccm"] + changes["shared"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_shared_path_treats_all_positions_alike() -> None:
    block, x = _lively(_block(paths="shared")).eval(), torch.randn(1, 16, 4, *SIZE)
    turned = x.flip(3, 4)
    torch.testing.assert_close(block(turned), block(x).flip(3, 4), rtol=1e-5, atol=1e-5)
    both = _lively(_block()).eval()
    assert (both(turned) - both(x).flip(3, 4)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("reduction", "params"), [(2, 2_893_540), (4, 1_253_092), (8, 580_324), (16, 280_804)], ids=str
)
def test_parameters_of_a_block_in_res4_of_resnet_50(reduction: int, params: int) -> None:
    c1, c2, positions = 1024, 1024 // reduction, 14 * 14
    with torch.device("meta"):
        block = CTMBlock(c1, size=(14, 14), reduction=reduction)
    found = sum(value.numel() for value in block.parameters())
    assert found == params == 2 * (2 * c1 * c2 + 4 * c2 + 2 * c1) + 9 * positions + 3 * c2 * c2


def test_resizing_to_the_same_size_changes_nothing() -> None:
    block = _block()
    before = {name: (value, value.clone()) for name, value in block.named_parameters()}
    block.resize(SIZE)
    for name, value in block.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])


@pytest.mark.parametrize("size", [(2, 2), (7, 3), (9, 11), (1, 1)])
def test_a_constant_table_stays_constant(size: tuple[int, int]) -> None:
    tcc = TemporalChannelConv(SIZE)
    nn.init.constant_(tcc.weight, 0.37)
    tcc.resize(size)
    assert tcc.size == size
    assert isinstance(tcc.weight, nn.Parameter)
    torch.testing.assert_close(tcc.weight, torch.full((9, *size), 0.37), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (7, 3), (9, 11)])
@torch.no_grad()
def test_tables_are_resized_as_timm_resizes_position_embeddings(size: tuple[int, int]) -> None:
    from timm.layers import resample_abs_pos_embed_nhwc

    tcc = TemporalChannelConv(SIZE)
    expected = resample_abs_pos_embed_nhwc(tcc.weight.permute(1, 2, 0)[None], list(size))[0].permute(2, 0, 1)
    tcc.resize(size)
    torch.testing.assert_close(tcc.weight, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (7, 3)])
@torch.no_grad()
def test_a_map_of_another_size_gets_what_a_resized_block_gives(size: tuple[int, int]) -> None:
    block, x = _lively(_block()).eval(), torch.randn(1, 16, 3, *size)
    found = block(x)
    block.resize(size)
    assert torch.equal(block(x), found)


@pytest.mark.parametrize("size", [SIZE, (3, 7)])
def test_gradients_are_right_for_input_and_table_at_any_size(size: tuple[int, int]) -> None:
    tcc = TemporalChannelConv(SIZE).double()
    x = torch.randn(1, 4, 3, *size, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, table: Tensor) -> Tensor:
        return torch.func.functional_call(tcc, {"weight": table}, (x,))

    assert torch.autograd.gradcheck(run, (x, tcc.weight), fast_mode=True)


@pytest.mark.parametrize("size", [SIZE, (2, 2), (7, 3)])
def test_weights_of_another_size_are_resized_as_they_are_loaded(size: tuple[int, int]) -> None:
    source = _lively(_block())
    given = {key: value.clone() for key, value in source.state_dict().items()}
    kept = {key: value.clone() for key, value in given.items()}
    plain_load, strict = (CTMBlock(16, size=size, reduction=2) for _ in range(2))
    plain_load.load_state_dict(given)
    report = load_weights(strict, given, source="x")
    source.resize(size)
    for key, value in source.state_dict().items():
        assert torch.equal(plain_load.state_dict()[key], value)
        assert torch.equal(strict.state_dict()[key], value)
    assert report.adapted == (() if size == SIZE else ("tccm.conv2.weight",))
    assert all(torch.equal(value, kept[key]) for key, value in given.items())


def test_weights_of_another_size_fill_a_block_on_the_meta_device_in_its_own_precision() -> None:
    half = _lively(_block()).half()
    with torch.device("meta"):
        block = CTMBlock(16, size=(8, 8), reduction=2)
    load_weights(block, half.state_dict(), source="x", assign=True)
    assert {value.dtype for value in block.parameters()} == {torch.float32}
    assert block.eval()(torch.randn(1, 16, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("shape", [(15, *SIZE), (9, 20), (9, 1, 4, 5), (9, 0, 5)], ids=str)
def test_a_table_that_is_none_of_this_block_is_refused(shape: tuple[int, ...]) -> None:
    block = _block()
    given = {**block.state_dict(), "tccm.conv2.weight": torch.zeros(shape)}
    with pytest.raises(WeightsError, match=r"tccm\.conv2\.weight"):
        load_weights(block, given, source="x")
    with pytest.raises(RuntimeError, match=r"tccm\.conv2\.weight"):
        block.load_state_dict(given)


@torch.no_grad()
def test_memory_format_is_kept_and_half_precision_stays_close() -> None:
    block, x = _lively(_block()).eval(), torch.randn(2, 16, 4, 3, 6)
    expected = block(x)
    assert expected.is_contiguous()
    last = copy.deepcopy(block).to(memory_format=torch.channels_last_3d)
    found = last(x.contiguous(memory_format=torch.channels_last_3d))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    half = block.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_a_shorter_clip_is_answered_in_a_batch_as_alone() -> None:
    block = honour_lengths(_lively(_block())).eval()
    x, lengths = torch.randn(2, 16, 5, *SIZE), torch.tensor([5, 3])
    x[1, :, 3:] = 0
    together = block(with_lengths(x, lengths))
    found = lengths_of(together)
    assert found is not None
    assert found.tolist() == [5, 3]
    torch.testing.assert_close(plain(together)[:1], block(x[:1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain(together)[1:, :, :3], block(x[1:, :, :3]), rtol=1e-5, atol=1e-5)
    assert plain(together)[1, :, 3:].count_nonzero() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 0},
        {"reduction": 0},
        {"reduction": 3},
        {"reduction": 32},
        {"reduction": 2.0},
        {"size": (4, 0)},
        {"size": 4},
        {"size": (4, 4, 4)},
        {"size": (4.0, 4.0)},
        {"paths": "none"},
        {"kernel_size": (2, 3)},
        {"kernel_size": (3, 0)},
        {"kernel_size": (3,)},
    ],
    ids=str,
)
def test_an_option_that_no_block_has_is_refused(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"channels": 16, "size": SIZE, "reduction": 2, **wrong}
    with pytest.raises(ConfigError):
        CTMBlock(given.pop("channels"), **given)


@pytest.mark.parametrize("size", [(0, 4), (4,), 4])
def test_a_table_is_not_resized_to_a_map_that_does_not_exist(size: Any) -> None:
    with pytest.raises(ConfigError, match="height and a width"):
        _block().resize(size)
