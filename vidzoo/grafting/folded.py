"""A network that takes pictures, as a host: the frames of a clip pass through it side by side, as a batch.

``(B, C, T, H, W)`` is folded to ``(B T, C, H, W)``, the frames of one clip next to each other. Whatever the network is
made of sees four axes as it always did, and batch norm over the folded batch is the one over the clips. Only what is
grafted sees time: :class:`OverTime` unfolds, runs a layer of :mod:`vidzoo.layers`, and folds again. With the channels
last in memory both ways are views. The length of the clips never changes on the way.
"""

from __future__ import annotations

import threading
from typing import Literal

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.grafting.adaptive import replace_module
from vidzoo.grafting.hosts3d import Glue
from vidzoo.grafting.tail import Tail, split
from vidzoo.grafting.traced import is_map, turned
from vidzoo.models.base import FeatureInfo
from vidzoo.modes import evaluating

__all__ = ["ClipMean", "Fold", "FrameCount", "Host2D", "OverTime", "fold", "unfold"]

_WEIGHTED = (nn.Conv2d, nn.Linear)


class FrameCount(threading.local):
    """How many frames the clips have that are on their way through the network; its grafted places share one.

    Every thread has its own number: threads that share a model may run clips of different length.
    """

    def __init__(self, frames: int = 1) -> None:
        self.frames = frames

    def __reduce__(self) -> tuple[type[FrameCount], tuple[int]]:
        return FrameCount, (self.frames,)


def fold(x: Tensor) -> Tensor:
    """``(B, C, T, H, W) -> (B T, C, H, W)``; channels_last_3d becomes channels_last, without a copy."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, frames: int) -> Tensor:
    """``(B T, C, H, W) -> (B, C, T, H, W)``, a view.

    Raises:
        ModelInputError: the batch is no whole number of clips.
    """
    if x.shape[0] % frames:
        raise ModelInputError(
            f"a batch of {x.shape[0]} pictures is no whole number of clips of {frames} frames: a grafted place sees the frames "
            "of whole clips, as the model that it belongs to passes them on"
        )
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


class Fold(nn.Module):
    """Clips become pictures, and their number of frames is noted for what is grafted."""

    def __init__(self, count: FrameCount) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        self.count.frames = x.shape[2]
        return fold(x)


class OverTime(nn.Module):
    """A layer over clips in the place of one over pictures: ``(B T, C, H, W) -> (B T, C', H', W')``."""

    def __init__(self, layer: nn.Module, count: FrameCount) -> None:
        super().__init__()
        self.layer = layer
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return fold(self.layer(unfold(x, self.count.frames)))


class ClipMean(nn.Module):
    """Every frame gets the mean over its clip: ``(B T, ...)`` to the same shape."""

    def __init__(self, count: FrameCount) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.count.frames))
        return clips.mean(dim=1, keepdim=True).expand_as(clips).flatten(0, 1)


class Host2D(nn.Module):
    """A network that takes ``(N, C, H, W)``, run on clips ``(B, C, T, H, W)``.

    ``feature_info``: one entry for each resolution, the modules by their names here. ``warnings``: sentences on what the
    network does otherwise than before. ``stages``: as in :class:`~vidzoo.grafting.hosts3d.Host3D`. What a network does between
    its modules while it trains and not otherwise, such as a dropout that is a function, is not seen.

    Args:
        network: changed in place.
        twin: the same network with other weights, to be run on ``example``: a structure that is seen in one network's
            numbers must not depend on what it has learnt.
        example: pictures, large enough that the last map has two positions each way.
        name: what to call the network in messages.

    Raises:
        ConfigError: the head cannot be followed.
    """

    def __init__(self, network: nn.Module, twin: nn.Module, example: Tensor, *, name: str = "this network") -> None:
        super().__init__()
        self.name = name
        self.count = FrameCount()
        self.consensus: Literal["logits", "features"] = "logits"
        self.warnings: list[str] = []
        self.tail: Tail = split(twin, example, name=name)
        self.num_features, self.head_hidden_size = self.tail.num_features, self.tail.hidden
        self.classifier_name = f"network.{self.tail.classifier}"
        if self.tail.left_out:
            self.warnings.append(
                f"{', '.join(self.tail.left_out)}: makes probabilities and is left out, the model gives logits"
            )
        if self.tail.idle:
            self.warnings.append(
                f"{', '.join(self.tail.idle)}: has no part in the answer and does not learn; DistributedDataParallel needs "
                "find_unused_parameters=True"
            )
        own = getattr(network, "drop_rate", 0.0)
        if isinstance(own, float) and own > 0:
            self.warnings.append(
                f"drop_rate={own:g} of the network: dropout that it calls as a function is left out, give drop_rate here"
            )
        # Maps of a network that keeps the channels last are turned when they are handed out.
        self._turned = any(step.name == "channels first" for step in self.tail.behind)
        self.pack = Fold(self.count)
        self.glue = nn.ModuleDict()
        self.network = network
        self._linear_classifier()
        self.stage_names = self._followed()
        self.feature_info = self._measured(example)
        self.train(network.training)

    # Running it.

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """Every stage by its name here, in the order of the data flow; running them all gives what is in the last map."""
        return [(name, self.get_submodule(name)) for name in self.stage_names]

    def features(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W) -> (B, num_features, T, H', W')``."""
        for _, stage in self.stages:
            x = stage(x)
        return self.as_map(x)

    def as_map(self, state: Tensor) -> Tensor:
        """What a stage hands on, as the map of the clips."""
        return unfold(state.movedim(-1, 1) if self._turned else state, self.count.frames)

    def hidden(self, features: Tensor) -> Tensor:
        """``(B, num_features, T, H', W') -> (B, T, head_hidden_size)``: what the classifier would see of each frame.

        With the consensus of features there is one frame, the mean.
        """
        if self.consensus == "features":
            features = features.mean(dim=2, keepdim=True)
        frames = self.tail.run_head(self.network, fold(features), pre_logits=True)
        return frames.unflatten(0, (-1, features.shape[2]))

    def head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, num_features, T, H', W') -> (B, classes)``, or ``(B, head_hidden_size)`` with ``pre_logits``.

        The classifier is linear: the mean of the frames' logits is the logits of the mean.
        """
        hidden = self.hidden(features).mean(dim=1)
        return hidden if pre_logits else self.classifier(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    # Changing it.

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` where ``name`` of the network was."""
        replace_module(self.network, name, module)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity``; here it is called :attr:`classifier_name`."""
        return self.get_submodule(self.classifier_name)

    def _linear_classifier(self) -> None:
        conv = self.classifier
        if not isinstance(conv, nn.Conv2d):
            return
        if conv.weight[0, 0].numel() != 1 or conv.groups != 1:
            raise ConfigError(f"the classifier of {self.name}, {self.tail.classifier}, is no 1x1 convolution")
        linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None).to(conv.weight)
        linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=conv.weight.requires_grad)
        if conv.bias is not None:
            linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=conv.bias.requires_grad)
        self.replace(self.tail.classifier, linear.train(conv.training))

    # Looking at it.

    def _followed(self) -> list[str]:
        if self.tail.front is None:
            raise ConfigError(
                f"the modules of {self.name} do not simply follow each other between its input and its last map "
                f"({self.tail.map_module}): wrap what belongs together into modules of one input and one output"
            )
        names = ["pack"]
        for step in (*self.tail.front, *self.tail.behind):
            if not step.glue:
                names.append(f"network.{step.name}")
            elif step not in self.tail.behind or step.name != "channels first":
                key = str(len(self.glue))
                self.glue[key] = Glue(step.name)
                names.append(f"glue.{key}")
        return names

    @torch.no_grad()
    def _measured(self, example: Tensor) -> tuple[FeatureInfo, ...]:
        """The last stage of each resolution that has blocks, or else the last; the last of all in any case."""
        found: dict[tuple[int, ...], FeatureInfo] = {}
        full: set[tuple[int, ...]] = set()
        last = False
        like = next(self.network.parameters())
        state = example.to(like).transpose(0, 1)[None]  # (1, C, T, H, W)
        with evaluating(self):
            for name, stage in self.stages:
                state = stage(state)
                if isinstance(stage, Glue) and stage.name.startswith("channels"):
                    last = stage.name == "channels last"
                else:
                    seen = turned(state, example.shape[-2:])
                    last = last if seen is None else seen
                # A map with the channels last counts only where the last one of all has them there too.
                if isinstance(stage, Fold) or last is not self._turned or not is_map(state):
                    continue
                size = self.as_map(state).shape
                holds = sum(isinstance(module, _WEIGHTED) for module in stage.modules()) > 1
                if size[3:] in full and not holds and name != self.stage_names[-1]:
                    continue
                full |= {tuple(size[3:])} if holds else set()
                reduction = round(example.shape[2] / size[3])
                found[size[3:]] = FeatureInfo(num_chs=size[1], reduction=reduction, t_reduction=1, module=name)
        return tuple(found.values())
