"""The contract of a model, written once: features, head, intermediates, checkpointing, parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.pretrained import VideoCfg

__all__ = ["CommonOptions", "FeatureExtractor", "FeatureInfo", "VideoModel", "check_rates"]


class CommonOptions(TypedDict, total=False):
    """Options that every network of the zoo takes.

    ``num_classes``: 0 is no head. ``num_frames``: the length of clip that the network is meant for; it takes any.
    ``drop_rate``: dropout before the classifier.
    """

    num_classes: int
    in_chans: int
    num_frames: int
    drop_rate: float


@dataclass(frozen=True)
class FeatureInfo:
    """One stage of a network: its channels, and how much shorter its map is than the input, in space and in time.

    A map has ``T / t_reduction`` frames, rounded up (S3D: its pooling drops the last of an odd number), or with
    ``adaptive`` at most so many, as the clip needs.
    """

    num_chs: int
    reduction: int
    t_reduction: int
    module: str
    adaptive: bool = False


class VideoModel(nn.Module):
    """Base of every network: ``(B, C, T, H, W)`` float in, logits ``(B, num_classes)`` out.

    A subclass builds its stages, lists them in ``feature_info`` (in the order of the data flow, each ``module`` being
    the last one of its stage), and defines ``_stages()`` and ``_pool()``; everything else is here. ``model(x) ==
    model.forward_head(model.forward_features(x))`` holds by construction.
    """

    num_classes: int
    num_features: int
    in_chans: int
    feature_info: Sequence[FeatureInfo]
    pretrained_cfg: VideoCfg
    model_args: dict[str, Any]
    """The options that the factory built this model with; they travel in ``config.json``."""

    head_name: ClassVar[str] = "fc"
    head_std: float = 0.01

    def __init__(self, *, num_classes: int, in_chans: int) -> None:
        super().__init__()
        if num_classes < 0:
            raise ConfigError(f"num_classes must be >= 0 (0: no head), got {num_classes}")
        if in_chans < 1:
            raise ConfigError(f"in_chans must be >= 1, got {in_chans}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.pretrained_cfg = VideoCfg(num_classes=num_classes, in_chans=in_chans)
        self.model_args = {}
        self.grad_checkpointing = False
        self.sampler: nn.Module | None = None
        self.sampler_after = ""

    # Defined by the family.

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        """Every stage by its name, in the order of the data flow; running them all gives ``forward_features``."""
        raise TypeError(f"{type(self).__name__} does not list its stages")

    def _pool(self, features: Tensor) -> Tensor:
        """``(B, num_features, T', H', W') -> (B, head_hidden_size)``, dropout included."""
        raise TypeError(f"{type(self).__name__} does not say how it pools")

    def _as_map(self, state: Any) -> Tensor:
        """What the stages hand on, as one map; families with several pathways merge them here."""
        return state

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier sees; differs from ``num_features`` where the head has a hidden layer."""
        return self.num_features

    # Forward.

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, before pooling: ``(B, C, T, H, W) -> (B, num_features, T', H', W')``.

        Raises:
            ModelInputError: not five dimensions, another number of channels, or integers.
        """
        self._check_input(x)
        for _, stage in self._walk():
            x = self._run(stage, x)
        return self._as_map(x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, num_features, T', H', W') -> (B, num_classes)``, or ``(B, head_hidden_size)`` with ``pre_logits``."""
        pooled = self._pool(features)
        return pooled if pre_logits else self.get_classifier()(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: Literal[False] = False,
    ) -> tuple[Tensor, list[Tensor]]: ...

    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: Literal[True],
    ) -> list[Tensor]: ...

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The last map and the maps of some stages.

        Args:
            indices: which of ``feature_info``; None is all, an int ``n`` the last n, negative numbers count from the
                end.
            stop_early: do not run past the last stage asked for; the first result is then that stage's map.
            intermediates_only: return the list alone.

        Raises:
            ConfigError: an index that does not exist.
        """
        self._check_input(x)
        wanted = self.take_indices(indices)
        names = {self.feature_info[i].module: i for i in wanted}
        found: dict[int, Tensor] = {}
        for name, stage in self._walk():
            x = self._run(stage, x)
            if name in names:
                found[names[name]] = self._as_map(x)
            if stop_early and len(found) == len(names):
                break
        maps = [found[i] for i in wanted]
        return maps if intermediates_only else (self._as_map(x), maps)

    def take_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """Stage numbers in ascending order, counted from 0, for what a user may give as ``out_indices``."""
        total = len(self.feature_info)
        if indices is None:
            return list(range(total))
        if isinstance(indices, int):
            if not 1 <= indices <= total:
                raise ConfigError(f"this model has {total} stages, it cannot give the last {indices}")
            return list(range(total - indices, total))
        for index in indices:
            if not -total <= index < total:
                raise ConfigError(
                    f"this model has the stages 0 to {total - 1} (or -{total} to -1), there is no {index}"
                )
        return sorted({index % total for index in indices})

    # Head.

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity`` when ``num_classes`` is 0."""
        return self.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a fresh one; 0 removes it, so that the model returns its pooled features.

        Device, dtype and training mode are kept.
        """
        if num_classes < 0:
            raise ConfigError(f"num_classes must be >= 0 (0: no head), got {num_classes}")
        like = next(self.parameters())
        head = self.make_head(num_classes).to(device=like.device, dtype=like.dtype).train(self.training)
        parent, _, name = self.head_name.rpartition(".")
        setattr(self.get_submodule(parent), name, head)
        self.num_classes = num_classes

    def make_head(self, num_classes: int) -> nn.Module:
        """A fresh classifier over ``num_features``: small normal weights, zero bias."""
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.head_hidden_size, num_classes)
        nn.init.normal_(head.weight, std=self.head_std)
        nn.init.zeros_(head.bias)
        return head

    # Sampling over time.

    def add_sampler(self, sampler: nn.Module, *, after: str, adaptive: bool = True) -> None:
        """Run ``sampler`` on the map of one stage before the next one: later maps have as many frames as it leaves.

        Its parameters learn at the head's rate: like the head they are new to a trained network.

        Args:
            after: name of a stage before the last one; its own map in ``feature_info`` is the one before sampling.
            adaptive: the number of frames that it leaves depends on the clip.

        Raises:
            ConfigError: no such stage, or the last.
        """
        order = [name for name, _ in self._stages()]
        last = self.feature_info[-1].module
        if after not in order[: order.index(last)]:
            raise ConfigError(
                f"a sampler needs a stage before {last} to stand after ({', '.join(order)}), not {after!r}"
            )
        self.sampler, self.sampler_after = sampler, after
        later = order[order.index(after) + 1 :]
        self.feature_info = tuple(
            replace(info, adaptive=adaptive and info.module in later) for info in self.feature_info
        )

    def _walk(self) -> Iterator[tuple[str, nn.Module]]:
        for name, stage in self._stages():
            yield name, stage
            if self.sampler is not None and name == self.sampler_after:
                yield "sampler", self.sampler

    # Training.

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory: blocks forget their activations and run again in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that put parameters into groups by depth, for layer-wise learning rates."""
        raise TypeError(f"{type(self).__name__} does not say how its layers are ordered")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay (one-dimensional ones are left out by the optimiser anyway)."""
        return set()

    def _run(self, stage: nn.Module, x: Any) -> Any:
        # Only chains of blocks are worth it, and only they promise not to change their input in place.
        chain = isinstance(stage, nn.Sequential)
        if not (chain and self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage.children():
            if torch.compiler.is_compiling():  # takes no context; its recomputation leaves buffers alone by itself
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = checkpoint(block, x, use_reentrant=False, context_fn=_recompute_without_statistics(block))
        return x

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 5:
            raise ModelInputError(
                f"{type(self).__name__} takes clips (B, C, T, H, W), got a tensor of shape {tuple(x.shape)}"
                + ("; add a batch axis with x.unsqueeze(0)" if x.ndim == 4 else "")
            )
        if x.shape[1] != self.in_chans:
            hint = "; the time axis comes third: x.transpose(1, 2)" if x.shape[2] == self.in_chans else ""
            raise ModelInputError(
                f"{type(self).__name__} was built for {self.in_chans} input channels, got {x.shape[1]} in a tensor of shape "
                f"{tuple(x.shape)}{hint}"
            )
        if not x.is_floating_point():
            raise ModelInputError(
                f"{type(self).__name__} takes normalised floats, got {x.dtype}: see vidzoo.data.transform.eval_transform"
            )


def check_rates(drop_rate: float, drop_path_rate: float = 0.0) -> None:
    """Refuse probabilities that drop nothing or everything by mistake.

    Raises:
        ConfigError: a rate outside [0, 1).
    """
    if not (0 <= drop_rate < 1 and 0 <= drop_path_rate < 1):
        raise ConfigError(f"drop_rate and drop_path_rate lie in [0, 1), got {drop_rate} and {drop_path_rate}")


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    # A block that runs a second time must not move its running mean and variance a second time.
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    saved = [(m.momentum, m.num_batches_tracked) for m in norms]
    try:
        for norm, (_, counter) in zip(norms, saved, strict=True):
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else counter.clone()
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = counter


def _recompute_without_statistics(module: nn.Module) -> Callable[[], tuple[Any, Any]]:
    return lambda: (nullcontext(), _frozen_statistics(module))


class FeatureExtractor(nn.Module):
    """A model cut after the last stage asked for: ``(B, C, T, H, W)`` -> a list of maps, one per ``out_indices``.

    ``feature_info`` describes just those maps.
    """

    pretrained_cfg: VideoCfg

    def __init__(self, model: VideoModel, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.indices = model.take_indices(out_indices)
        self.feature_info = [model.feature_info[i] for i in self.indices]
        self.pretrained_cfg = model.pretrained_cfg
        model.reset_classifier(0)
        last = self.feature_info[-1].module if self.feature_info else ""
        passed, used = False, set()
        for name, _ in list(model._walk()):
            if passed:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, nn.Identity())
            used.add(name.partition(".")[0])
            passed = passed or name == last
        for name, _ in list(model.named_children()):
            if name not in used:  # what the head has beside its classifier
                setattr(model, name, nn.Identity())
        self.model = model

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As for the whole model."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(x, self.indices, stop_early=True, intermediates_only=True)
