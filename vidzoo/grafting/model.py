"""A grafted network as a model of the zoo: the whole contract, whatever library its backbone is from."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidzoo.errors import ConfigError
from vidzoo.grafting.folded import Host2D
from vidzoo.grafting.places import Host, Places
from vidzoo.grafting.plan import Operation
from vidzoo.grafting.traced import GLUE
from vidzoo.models.base import VideoModel, _recompute_without_statistics
from vidzoo.pretrained import VideoCfg

if TYPE_CHECKING:
    from vidzoo.grafting.report import GraftReport

__all__ = ["GraftedModel", "Origin"]

_LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
_CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)


@dataclass(frozen=True)
class Origin:
    """What a grafted model is made of again: the source of its backbone, "" if none is known, and what was done to it.

    ``example``: shape of what the backbone is looked at with, or of one for each pathway; None is the usual small one.
    """

    source: str
    plan: tuple[Operation, ...]
    num_frames: int
    drop_rate: float | None = None
    example: Sequence[Any] | None = None


class GraftedModel(VideoModel):
    """A backbone with the papers' modules in it: ``(B, in_chans, T, H, W)`` float, logits ``(B, num_classes)``.

    Parameters of the backbone are called as there, below ``host.network``; the classifier is ``fc``. ``graft_report``: what
    was changed, None of a model that was rebuilt.

    Args:
        host: the backbone, grafted.
        places: what it consists of now.
        in_chans: channels of the clips.
        num_frames: the length of clip that the model is meant for; see :class:`Host` for those that it takes.
        num_classes: None keeps the backbone's classifier.
        drop_rate: dropout in front of the classifier, in the place of what the head has.
    """

    graft_report: GraftReport | None = None
    origin: Origin | None = None

    def __init__(
        self,
        host: Host,
        places: Places,
        *,
        in_chans: int,
        num_frames: int,
        num_classes: int | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        classifier = host.classifier
        own = classifier.out_features if isinstance(classifier, nn.Linear) else 0
        self._stem: tuple[str, ...] = ()
        super().__init__(num_classes=own, in_chans=in_chans)
        self.num_frames = num_frames
        self.num_features = host.num_features
        self._hidden = host.head_hidden_size
        self._rows = {
            f"host.{stage}": tuple(f"host.{name}" for name in row)
            for stage, row in places.rows.items()
            if stage != "pack"
        }
        self._stem = tuple(f"host.network.{place.path}" for place in places if place.stem)
        self._groups = _groups(self._rows, host, self._stem)
        self._copies_input = _changes_input(host, places)
        self.host: Any = host
        self.feature_info = tuple(replace(info, module=f"host.{info.module}") for info in host.feature_info)
        self.dropout = nn.Dropout(drop_rate)
        self.fc = classifier
        host.replace(host.classifier_name.removeprefix("network."), nn.Identity())
        if drop_rate:
            _without_dropout(host)
        self.train(classifier.training)
        if num_classes is not None and num_classes != own:
            self.reset_classifier(num_classes)

    @property
    def pretrained_cfg(self) -> VideoCfg:
        """What the weights are, and how to feed them; its ``first_conv`` is always that of this backbone."""
        return self._cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: VideoCfg) -> None:
        self._cfg = cfg.replace(first_conv=self._stem) if self._stem else cfg

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier sees."""
        return self._hidden

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of every module; with a memory format for channels last, pictures' layers take theirs and clips' layers theirs."""
        last = kwargs.get("memory_format") in _CHANNELS_LAST
        if last:
            kwargs.pop("memory_format")
        super().to(*args, **kwargs)
        if last:
            formats = dict(zip((4, 5), _CHANNELS_LAST, strict=True))
            self._apply(lambda x: x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x)
        return self

    # Running it.

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for name, stage in self.host.stages:
            row = self._rows.get(f"host.{name}", ()) if self._checkpoints() else ()
            for small in row[:-1]:
                yield small, self.get_submodule(small)
            yield f"host.{name}", self.get_submodule(row[-1]) if row else stage

    def _as_map(self, state: Any) -> Tensor:
        return self.host.as_map(state)

    def _pool(self, features: Tensor) -> Tensor:
        if isinstance(self.host, Host2D):
            return self.dropout(self.host.hidden(features)).mean(dim=1)  # (B, head_hidden_size)
        return self.dropout(self.host.head(features, pre_logits=True))

    def _checkpoints(self) -> bool:
        return self.grad_checkpointing and self.training and torch.is_grad_enabled()

    def _run(self, stage: nn.Module, x: Any) -> Any:
        if not self._checkpoints() or not any(True for _ in stage.children()):
            return stage(x)
        again = _Again(stage, self.host, copies=self._copies_input)
        if torch.compiler.is_compiling():  # takes no context; its recomputation leaves buffers alone by itself
            return checkpoint(again, x, use_reentrant=False)
        return checkpoint(again, x, use_reentrant=False, context_fn=_recompute_without_statistics(stage))

    def add_sampler(self, sampler: nn.Module, *, after: str, adaptive: bool = True) -> None:
        """A grafted model gets its sampler from the plan.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a grafted model gets its sampler from its plan: give InsertSGS(after=...) to vidzoo.graft")

    # Training.

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """``stem``, then one group per stage (``coarse``) or per block; the head comes last by itself."""
        groups: list[tuple[str, tuple[int]]] = []
        for name, fine, stage in self._groups[1:]:
            groups.append((rf"^{re.escape(name)}\.", (stage if coarse else fine,)))
        stem = "|".join(re.escape(name) for name in self._groups[0][0].split("|"))
        return {"stem": rf"^(?:{stem})\.", "blocks": groups}

    def no_weight_decay(self) -> set[str]:
        """What the backbone's own method of that name says."""
        network = self.host.network
        own = network.no_weight_decay() if callable(getattr(network, "no_weight_decay", None)) else ()
        return {f"host.network.{name}" for name in own} & {name for name, _ in self.named_parameters()}


class _Again:
    """A stage that can be run once more later, with the number of frames that it has now."""

    def __init__(self, stage: nn.Module, host: nn.Module, *, copies: bool) -> None:
        self.stage, self.copies = stage, copies
        self.count = host.count if isinstance(host, Host2D) else None
        self.frames = 0 if self.count is None else self.count.frames

    def __call__(self, x: Any) -> Any:
        if self.count is not None:
            self.count.frames = self.frames
        if self.copies:
            x = x.clone() if isinstance(x, Tensor) else type(x)(part.clone() for part in x)
        return self.stage(x)


def _groups(rows: Mapping[str, Sequence[str]], host: Host, stem: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Names of modules in the order of the data flow, with the number of their block and of their stage; the stem's first.

    The stem, whose names stand in one string with bars between them, ends before the second module that has layers with
    weights; further ones begin a block each, and norms belong to the block before them.
    """
    ends = [f"host.{info.module}" for info in host.feature_info]
    first: list[str] = []
    found: list[tuple[str, int, int]] = []
    left = set(stem)
    fine = stage = 0
    for name, row in rows.items():
        for small in row:
            module = host.get_submodule(small.removeprefix("host."))
            if not any(True for _ in module.parameters()):
                continue
            layered = any(isinstance(part, _LAYERS) for part in module.modules()) or _has_units(module)
            if not left and layered:
                fine += 1
            if fine == 0:
                first.append(small)
                left = {one for one in left if not f"{one}.".startswith(f"{small}.")}
            else:
                found.append((small, fine, stage))
        stage += name in ends[:-1]
    return (("|".join(first), 0, 0), *found)


def _has_units(module: nn.Module) -> bool:
    from vidzoo.grafting.folded import OverTime

    return any(isinstance(part, OverTime) for part in module.modules())


@torch.no_grad()
def _changes_input(host: Host, places: Places) -> bool:
    """Whether a step of the network works in place on what it gets, so that it cannot be run again from there."""
    twin: Any = copy.deepcopy(host)
    given: dict[nn.Module, list[Tensor]] = {}
    changed: list[bool] = []

    def parts(state: Any) -> list[Tensor]:
        return list(state) if isinstance(state, (list, tuple)) else [state]

    def enter(module: nn.Module, args: Any) -> None:
        given[module] = [part.clone() for part in parts(args[0])]

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        changed.extend(not torch.equal(old, new) for old, new in zip(given[module], parts(args[0]), strict=True))

    for name in {small for row in places.rows.values() for small in row}:
        module = twin.get_submodule(name)
        if any(True for _ in module.children()):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    twin.eval()(places.clip)
    return any(changed)


def _without_dropout(host: Host) -> None:
    tail = getattr(host, "tail", None)
    for step in tail.head if tail is not None else ():
        if step.glue or step.name in GLUE:
            continue
        for module in host.network.get_submodule(step.name).modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
