"""CTM: a block for time alone, between the blocks of a network that looks at single frames.

Paper: Liu et al., "CTM: Collaborative Temporal Modeling for Action Recognition", ICIP 2020. The block adds two paths to
its input (section 3.2), both narrowed from C1 to C2 channels and widened again by 1x1 convolutions: TCCM, whose
Temporal-Channel Convolution has a kernel of its own for each position of the map, Eq. 1:
O[t, c] at (h, w) = sum over i, j of K[i, j] at (h, w) x F[t + i, c + j], and a 3x1x1 convolution that all positions
share. The last batch norm of each path starts at zero, so a fresh block is the identity (section 4.2).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.ragged import lengths_of, plain, time_mask, with_lengths

__all__ = ["CTMBlock", "TemporalChannelConv"]


class TemporalChannelConv(nn.Module):
    """TCC: a small kernel over frames and channels, another one at each position; ``(B, C, T, H, W)`` to the same shape.

    The kernels lie in ``weight``, ``(kt * kc, H, W)``, one map of positions per tap. On a map of another size the table
    is interpolated for that call (bicubic, antialiased, as position embeddings are); :meth:`resize` does it for good,
    and loading weights of another size does it once. Channels at the border see zeros beyond it, so the order of the
    channels matters.

    Args:
        size: height and width of the maps that the table is made for.
        kernel_size: frames and channels that a kernel spans, both odd; 3 and 3 in the paper.

    Raises:
        ConfigError: a size that no map has, or an even kernel.
    """

    def __init__(self, size: tuple[int, int], *, kernel_size: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        if len(kernel_size) != 2 or any(not _is_count(k) or k % 2 == 0 for k in kernel_size):
            raise ConfigError(
                f"a temporal-channel kernel has two odd lengths (frames, channels) to keep both, got {kernel_size}"
            )
        self.kernel_size = (kernel_size[0], kernel_size[1])
        taps = kernel_size[0] * kernel_size[1]
        self.weight = nn.Parameter(torch.empty(taps, *_checked(size)))
        nn.init.normal_(self.weight, std=(2 / taps) ** 0.5)  # He et al. 2015: each output sees one kernel

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the table."""
        return self.weight.shape[1], self.weight.shape[2]

    @torch.no_grad()
    def resize(self, size: tuple[int, int]) -> None:
        """Replace the table by its interpolation to ``size``; build the optimiser afterwards, the parameter is a new one.

        Raises:
            ConfigError: a size that no map has.
        """
        if _checked(size) != self.size:
            self.weight = nn.Parameter(_interpolate(self.weight, size), requires_grad=self.weight.requires_grad)

    def adapt_weights(self, weights: MutableMapping[str, Tensor], prefix: str) -> list[str]:
        """Bring a table of another size under ``prefix`` to this one, in place; returns the keys that changed."""
        key = f"{prefix}weight"
        table = weights.get(key)
        if table is None or table.ndim != 3 or table.shape[0] != self.weight.shape[0] or not table.is_floating_point():
            return []
        if table.shape[1:] == self.weight.shape[1:] or table.numel() == 0:
            return []
        weights[key] = _interpolate(table.detach(), self.size)
        return [key]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        self.adapt_weights(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        lengths, mask, x = lengths_of(x), time_mask(x), plain(x)
        b, c, t, h, w = x.shape
        kernels = _interpolate(self.weight, (h, w)).flatten(1).t()  # (H W, kt kc)
        # Section 3.1: positions become the groups of a depthwise convolution over the plane of frames and channels. With
        # the channels last in memory its planes are cheap to cut out; nine shifted multiply-adds cost several times more
        # in both passes (14 x 14 maps, CPU).
        planes = x.permute(0, 3, 4, 2, 1).reshape(b, h * w, t, c)  # (B, H W, T, C)
        kernels = kernels.reshape(h * w, 1, *self.kernel_size)  # (H W, 1, kt, kc), as the paper has it
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        out = F.conv2d(planes, kernels, padding=padding, groups=h * w)  # Eq. 1
        last = x.is_contiguous(memory_format=torch.channels_last_3d)
        out = out.reshape(b, h, w, t, c).permute(0, 4, 3, 1, 2)  # (B, C, T, H, W)
        out = out.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
        return out if lengths is None or mask is None else with_lengths(out.masked_fill(~mask, 0), lengths)

    def extra_repr(self) -> str:
        return f"size={self.size}, kernel_size={self.kernel_size}"


class CTMBlock(nn.Module):
    """y = x + TCCM(x) + shared(x) on ``(B, channels, T, H, W)``, the shape kept; the identity when fresh.

    Each path is 1x1, its temporal convolution, 1x1, all without bias, a batch norm behind each and a ReLU behind the
    first two. The paper leaves the places of norms and ReLUs open and only says that each path ends with a batch norm.

    Args:
        channels: C1, channels of the map.
        size: height and width of the map; see :class:`TemporalChannelConv` for maps of another size.
        reduction: C1 / C2. The paper never gives C2; 8, because it calls the cost of the blocks very limited and 8 adds
            8 % of a ResNet-50's multiply-adds in three blocks where 4 adds 18 %.
        paths: ``both``, or one of them alone as in Table 1: ``tccm`` (path 1) or ``shared`` (path 2).
        kernel_size: frames and channels that a kernel of TCC spans; the shared path spans as many frames.

    Raises:
        ConfigError: C1 not a multiple of ``reduction``, or an option that does not exist.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        *,
        size: tuple[int, int],
        paths: Literal["both", "tccm", "shared"] = "both",
        kernel_size: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        if not (_is_count(channels) and _is_count(reduction)) or channels % reduction:
            raise ConfigError(
                f"a CTM block narrows its channels by a whole factor: {channels} channels cannot be divided by "
                f"reduction={reduction}"
            )
        if paths not in ("both", "tccm", "shared"):
            raise ConfigError(f"paths must be 'both', 'tccm' or 'shared', got {paths!r}")
        width = channels // reduction
        tcc = TemporalChannelConv(size, kernel_size=kernel_size)
        length = tcc.kernel_size[0]
        temporal = nn.Conv3d(width, width, (length, 1, 1), padding=(length // 2, 0, 0), bias=False)
        self.tccm = None if paths == "shared" else _path(channels, width, tcc)  # Fig. 3
        self.shared = None if paths == "tccm" else _path(channels, width, temporal)  # Fig. 4

    def resize(self, size: tuple[int, int]) -> None:
        """Make the kernels of the TCCM path fit maps of another size for good, see :class:`TemporalChannelConv`."""
        for module in self.modules():
            if isinstance(module, TemporalChannelConv):
                module.resize(size)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.tccm is None else x + self.tccm(x)
        return y if self.shared is None else y + self.shared(x)  # (B, channels, T, H, W)


def _path(channels: int, width: int, temporal: nn.Module) -> nn.Sequential:
    path = nn.Sequential()
    path.add_module("conv1", nn.Conv3d(channels, width, 1, bias=False))
    path.add_module("bn1", nn.BatchNorm3d(width))
    path.add_module("relu1", nn.ReLU(inplace=True))
    path.add_module("conv2", temporal)
    path.add_module("bn2", nn.BatchNorm3d(width))
    path.add_module("relu2", nn.ReLU(inplace=True))
    path.add_module("conv3", nn.Conv3d(width, channels, 1, bias=False))
    last = nn.BatchNorm3d(channels)
    nn.init.zeros_(last.weight)  # section 4.2
    path.add_module("bn3", last)
    for module in path:
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return path


def _interpolate(table: Tensor, size: tuple[int, int]) -> Tensor:
    """``(taps, H, W) -> (taps, *size)``; the same tensor when the size is its own."""
    if tuple(table.shape[1:]) == tuple(size):
        return table
    wide = table if table.dtype == torch.float64 else table.float()
    return F.interpolate(wide[None], size=size, mode="bicubic", antialias=True)[0].to(table.dtype)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(_is_count(side) for side in size):
        raise ConfigError(f"a map has a height and a width, two whole numbers >= 1, got {size!r}")
    return size[0], size[1]
