"""Similarity Guided Sampling: a clip goes on with as many frames as it has different ones.

Paper: Fayyaz et al., "3D CNNs with Adaptive Temporal Feature Resolutions", CVPR 2021. A small network f_s embeds each
frame (section 4.1), frames whose embeddings are alike fall into the same of B bins (section 4.2, in
:mod:`vidzoo.layers.bins`), each bin becomes one frame, O_b = sum over t of I_t Psi(Delta_t, beta_b) (Eq. 4), and empty
bins are dropped, so that B' <= B frames are left (section 4.3). Blocks of frames: appendix A.

Two edges of the equations. The frame with the largest Delta lies on the far edge of the last bin, where both kernels are
0: no bin has it, unless ``centre_largest`` moves the bins. In a static clip every frame is the largest: Eq. 6 leaves no
bin at all, and of a nearly static one a bin that is nearly empty. There ``static`` makes up for what is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.layers.bins import Kernel, Similarity, bin_weights, coordinates
from vidzoo.layers.ragged import lengths_of, with_lengths

__all__ = ["Assignment", "SimilarityGuidedSampling"]

_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "none": nn.Identity}
_ANGLE_BINS: dict[str, tuple[int, ...]] = {"angular": (4, 8), "spherical": (2, 4, 4)}  # section 5.2.1
_CHOICES = {
    "similarity": ("norm", "mean_distance", "angular", "spherical"),
    "kernel": ("linear", "kronecker"),
    "order": ("magnitude", "time"),
    "static": ("keep", "literal"),
    "activation": tuple(_ACTIVATIONS),
}


@dataclass(frozen=True)
class Assignment:
    """Which frames of each clip go into which bins, at least in float32.

    ``delta``: ``(B, K, T)``, what the frames are compared by. ``weights``: ``(B, bins, T)``, of every frame in every bin,
    those of all blocks one behind the other. ``active``: ``(B, bins)`` bool, the bins that are kept. ``order``:
    ``(B, bins)``, the numbers of the bins as they leave, active ones first. ``lengths``: ``(B,)``, how many are kept.
    """

    delta: Tensor
    weights: Tensor
    active: Tensor
    order: Tensor
    lengths: Tensor

    def kept(self) -> Tensor:
        """``(B, B', T)``: the weights of the bins that are kept, in their order, zero behind a clip's last bin."""
        frames = self.weights.shape[2]
        longest = int(self.lengths.max())
        weights = self.weights.gather(1, self.order[:, :longest, None].expand(-1, -1, frames))
        real = torch.arange(longest, device=weights.device) < self.lengths[:, None]  # (B, B')
        return weights * real[:, :, None]


class SimilarityGuidedSampling(nn.Module):
    """``(B, C, T, H, W) -> (B, C, B', H, W)``: similar frames become one; B' is the largest number that a clip needs.

    Clips of different length are told apart by :func:`vidzoo.layers.ragged.with_lengths`. Embedding and weights are
    computed in float32 under autocast too; the map keeps its dtype. ``bins`` may be set anew at any time.

    Args:
        channels: C.
        embed_dim: L; None is 8, the best of Table 3, and for angles as many as ``bins`` asks for.
        hidden: width between the two layers of f_s; None is C, as in section 4.1 (the released code has C // 2).
        activation: "relu", "silu" or "none" between them. The paper names none; without one they are a single layer.
        norm: batch norm on the embeddings. The paper does not mention it; on, as in the released code, because an
            untrained network embeds all frames of a clip at nearly the same length, which leaves it a bin or two.
        bins: B; None is the number of frames that come in (section 4.2), in each block for itself. For angles one
            number per coordinate; None is (4, 8) or (2, 4, 4), as in section 5.2.1.
        kernel: "linear" (Eq. 6: a weighted sum) or "kronecker" (Eq. 5: the mean of the frames in a bin).
        similarity: "norm" (Eq. 1), "mean_distance" (the released code), "angular" or "spherical" (appendix D); see
            :func:`vidzoo.layers.bins.coordinates`.
        order: "magnitude": the order of the bins, as in Eq. 3, by which later layers see similar frames side by side;
            "time": by the weighted mean time of the frames in a bin.
        block: sample so many frames at a time (appendix A: 8 and 2 for SlowFast); a last block may be shorter.
        detach_range: gamma and beta are constants to the backward pass, which is the gradient that Eq. 8 prints; False
            is the full derivative, as in the released code.
        straight_through: the Kronecker kernel has slope 1 / gamma inside a bin in the backward pass, as in the
            released code. The paper leaves this open; by its own derivative, 0, f_s would never learn.
        centre_largest: 2B - 1 half bins instead of the 2B of Eq. 2: the largest frame lies at the centre of the last bin
            and is kept in full.
        margin: bins reach so much further than gamma, in units of gamma. 1e-7 with ``threshold=0`` is the released code:
            the largest frame enters with weight 1.2e-7, and its bin counts.
        threshold: a bin is active when its weights add up to more. The paper asks for more than 0; this default takes
            32 frames in 32 bins for equal when their Delta differ in the last place of float32, by 4 units at most.
        static: what a clip or block whose frames are all in the last bin becomes. "keep": that bin, its weights brought up
            to those of one frame by the mean of all frames, so that a still clip goes on as its frame however little it
            flickers. "literal": the equations alone; a clip of which nothing is left has one frame, the last bin.

    Raises:
        ConfigError: an option outside the values above.
        ModelInputError: a map of other channels, without frames, or of clips that differ in length already.
    """

    def __init__(
        self,
        channels: int,
        *,
        embed_dim: int | None = None,
        hidden: int | None = None,
        activation: Literal["relu", "silu", "none"] = "relu",
        norm: bool = True,
        bins: int | tuple[int, ...] | None = None,
        kernel: Kernel = "linear",
        similarity: Similarity = "norm",
        order: Literal["magnitude", "time"] = "magnitude",
        block: int | None = None,
        detach_range: bool = True,
        straight_through: bool = True,
        centre_largest: bool = False,
        margin: float = 0.0,
        threshold: float = 1e-3,
        static: Literal["keep", "literal"] = "keep",
    ) -> None:
        super().__init__()
        given = {
            "similarity": similarity,
            "kernel": kernel,
            "order": order,
            "static": static,
            "activation": activation,
        }
        for option, value in given.items():
            if value not in _CHOICES[option]:
                raise ConfigError(f"SGS knows {option}={' or '.join(map(repr, _CHOICES[option]))}, got {value!r}")
        hidden = channels if hidden is None else hidden
        if min(channels, hidden) < 1 or (block is not None and block < 1):
            raise ConfigError(
                f"SGS needs at least one channel and one frame a block, got {channels=}, {hidden=}, {block=}"
            )
        if not 0 <= margin < 1 or not 0 <= threshold < 1:
            raise ConfigError(
                f"SGS needs a margin and a threshold in [0, 1), fractions of a frame, got {margin=}, {threshold=}"
            )
        self.channels = channels
        self.similarity = similarity
        self.kernel = kernel
        self.order = order
        self.block = block
        self.detach_range = detach_range
        self.straight_through = straight_through
        self.centre_largest = centre_largest
        self.margin = margin
        self.threshold = threshold
        self.static = static
        self.last_relu = False  # True where it does the last ReLU of the stage in front, as in the released code
        self._bins = _bins_of(similarity, bins)
        if isinstance(self._bins, int | None):
            self.embed_dim = 8 if embed_dim is None else embed_dim
            fits = self.embed_dim >= 1
        else:
            coordinates_of = len(self._bins) + (similarity == "angular")  # the length has no bins of its own there
            self.embed_dim = coordinates_of if embed_dim is None else embed_dim
            fits = self.embed_dim == coordinates_of >= 2
        if not fits:
            raise ConfigError(
                f"SGS by similarity={similarity!r} with bins={self._bins} cannot have embed_dim={self.embed_dim}: a length "
                "needs at least 1; angles are one fewer than the dimensions, which are at least 2"
            )
        self.embedding = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv1d(channels, hidden, 1),
                act=_ACTIVATIONS[activation](),
                conv2=nn.Conv1d(hidden, self.embed_dim, 1),
                norm=nn.BatchNorm1d(self.embed_dim) if norm else nn.Identity(),
            )
        )

    @property
    def bins(self) -> int | tuple[int, ...] | None:
        """Number of bins, one for each coordinate where there are several; None: as many as frames.

        A number set here is not saved with a network: there the option ``bins`` is what counts.
        """
        return self._bins

    @bins.setter
    def bins(self, bins: int | tuple[int, ...] | None) -> None:
        counts = _bins_of(self.similarity, bins)
        if isinstance(counts, tuple) and isinstance(self._bins, tuple) and len(counts) != len(self._bins):
            raise ConfigError(f"this SGS was built for bins over {len(self._bins)} coordinates, got bins={bins!r}")
        self._bins = counts

    def forward(self, x: Tensor) -> Tensor:
        assignment = self.assign(x)
        out = _weighted_sums(x, assignment.kept().to(x.dtype))  # (B, C, B', H, W)
        return with_lengths(torch.relu(out) if self.last_relu else out, assignment.lengths)

    def assign(self, x: Tensor) -> Assignment:
        """The bins of ``(B, C, T, H, W)``, without the frames that they make."""
        self._check(x)
        with _no_autocast(x.device):
            parts = [self._sample(z) for z in self._blocks(self._embed(x))]
            delta = torch.cat([part[0] for part in parts], dim=2)
            weights = _block_diagonal([part[1] for part in parts])  # (B, bins of all blocks, T)
            total = weights.sum(dim=2)
            active = total > self.threshold
            lost = ~active.any(dim=1)  # only with static="literal"
            active[:, -1] |= lost
            lengths = active.sum(dim=1)
            key = torch.arange(total.shape[1], device=x.device, dtype=total.dtype).expand_as(total)
            if self.order == "time":
                time = torch.arange(weights.shape[2], device=x.device, dtype=weights.dtype)
                key = (weights.detach() * time).sum(dim=2) / total.detach().clamp(min=torch.finfo(total.dtype).tiny)
            order = key.masked_fill(~active, float("inf")).argsort(dim=1, stable=True)
        return Assignment(delta, weights, active, order, lengths)

    def extra_repr(self) -> str:
        names = ("channels", "embed_dim", "bins", "kernel", "similarity", "order", "block", "static")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _check(self, x: Tensor) -> None:
        if lengths_of(x) is not None:
            raise ModelInputError("SGS samples clips of one length, these differ already: sample once in a network")
        if x.ndim != 5 or x.shape[1] != self.channels or min(x.shape[0], x.shape[2]) < 1:
            raise ModelInputError(
                f"this SGS takes (B, {self.channels}, T, H, W) with at least one clip and one frame, got {tuple(x.shape)}"
            )

    def _embed(self, x: Tensor) -> Tensor:
        dtype = next(self.embedding.parameters()).dtype
        # Time in front of the channels: with these innermost in memory the mean is far faster in this order.
        frames = x.transpose(1, 2).mean(dim=(3, 4), dtype=_at_least_float32(x.dtype)).transpose(1, 2)  # (B, C, T)
        z = self.embedding(frames.to(dtype))  # (B, L, T)   section 4.1
        return z.to(_at_least_float32(z.dtype))

    def _blocks(self, z: Tensor) -> list[Tensor]:
        """``(B, L, T)`` as ``(B, blocks, L, frames of a block)``, a shorter last block by itself."""
        size = min(self.block or z.shape[2], z.shape[2])
        whole = z.shape[2] // size * size
        blocks = [z[:, :, :whole].unflatten(2, (-1, size)).transpose(1, 2)]
        return blocks if whole == z.shape[2] else [*blocks, z[:, None, :, whole:]]

    def _sample(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Delta and weights of ``(B, blocks, L, t)``: ``(B, K, blocks t)`` and ``(B, blocks, bins, t)``."""
        clips, blocks, _, frames = z.shape
        delta = coordinates(z.flatten(0, 1), self.similarity)  # (B blocks, K, t)
        bins = self.bins if isinstance(self.bins, tuple) else (self.bins or frames,)
        weights = bin_weights(
            delta,
            bins,
            self.kernel,
            detach_range=self.detach_range,
            straight_through=self.straight_through,
            centre_largest=self.centre_largest,
            margin=self.margin,
        )  # (B blocks, bins, t)
        if self.static == "keep":
            mean = F.pad(weights.new_full((1, frames), 1 / frames), (0, 0, prod(bins) - 1, 0))  # in the last bin
            total = weights.detach().sum(dim=2)  # (B blocks, bins)
            still = (total[:, :-1] <= self.threshold).all(dim=1)
            missing = (1 - total.sum(dim=1)).clamp(min=0) * still
            weights = weights + missing[:, None, None] * mean
        delta = delta.unflatten(0, (clips, blocks)).transpose(1, 2).flatten(2)
        return delta, weights.unflatten(0, (clips, blocks))


def _bins_of(similarity: str, bins: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    """The option ``bins`` with the paper's numbers filled in."""
    if similarity not in _ANGLE_BINS:
        if bins is None or (isinstance(bins, int) and bins >= 1):
            return bins
        raise ConfigError(f"SGS by similarity={similarity!r} needs one number of bins of at least 1, got bins={bins!r}")
    if bins is None:
        return _ANGLE_BINS[similarity]
    if isinstance(bins, int) or min(bins, default=0) < 1:
        raise ConfigError(
            f"SGS by similarity={similarity!r} needs one number of bins per coordinate, such as {_ANGLE_BINS[similarity]}, "
            f"got bins={bins!r}"
        )
    return tuple(bins)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _no_autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _block_diagonal(parts: list[Tensor]) -> Tensor:
    """Weights ``(B, blocks, bins, t)`` of successive blocks as one ``(B, all bins, T)``: no bin sees another block."""
    sizes = [part.shape[1] * part.shape[3] for part in parts]
    rows = []
    for i, part in enumerate(parts):
        own = torch.eye(part.shape[1], device=part.device, dtype=part.dtype)[None, :, None, :, None]
        spread = (part[:, :, :, None] * own).flatten(3).flatten(1, 2)  # (B, blocks bins, blocks t)
        rows.append(F.pad(spread, (sum(sizes[:i]), sum(sizes[i + 1 :]))))
    return torch.cat(rows, dim=1)


def _weighted_sums(x: Tensor, weights: Tensor) -> Tensor:
    """Eq. 4: ``(B, C, T, H, W)`` and ``(B, B', T)`` give ``(B, C, B', H, W)``, in the memory format of ``x``."""
    clips, channels, frames, height, width = x.shape
    with _no_autocast(x.device):
        if x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous():
            # One product per clip over the map as it lies in memory.
            flat = x.permute(0, 2, 3, 4, 1).reshape(clips, frames, height * width * channels)
            out = torch.bmm(weights, flat).reshape(clips, -1, height, width, channels)
            return out.permute(0, 4, 1, 2, 3)
        return torch.matmul(weights[:, None], x.flatten(3)).unflatten(3, (height, width))
