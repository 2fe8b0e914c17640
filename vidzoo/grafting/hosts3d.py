"""A network that takes clips, as a host: its modules are exchanged in place and see five axes, nothing is folded.

The network is followed once (:mod:`vidzoo.grafting.tail`); its stages are the modules between the input and the last map.
A network of two pathways, such as pytorchvideo's SlowFast, gets both clips made from one, the slow one as
:class:`vidzoo.models.slowfast.SlowFrames` picks it, and its maps are merged into one as there. Pools over a window of one
size become means over the map, a classifier that is a 1x1 convolution of one position becomes the linear layer that it
is, and what makes probabilities of logits is left out. A network of this zoo says all that itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, ModelInputError, nearest
from vidzoo.grafting.adaptive import Shortened, honour_clips, open_pools, replace_module, takes
from vidzoo.grafting.tail import Tail, split
from vidzoo.grafting.traced import GLUE, Call, State, is_map, record, same, turned, twin_of
from vidzoo.layers.ragged import honour_lengths
from vidzoo.models.atfr import make_sampler
from vidzoo.models.base import FeatureInfo, VideoModel
from vidzoo.models.slowfast import SlowFrames
from vidzoo.modes import evaluating

__all__ = ["Glue", "Host3D", "Pathways", "Sampled"]

_QUARTER = 4  # res2 of the paper's hosts has a quarter of the picture's height and width
_ROUNDING = 1e-4


class Glue(nn.Module):
    """What stands between two modules without being one, by its name in :data:`vidzoo.grafting.traced.GLUE`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return GLUE[self.name](x)

    def extra_repr(self) -> str:
        return self.name


class Pathways(nn.Module):
    """``(B, C, T, H, W)`` -> the clips of the slow and the fast pathway, as the list that their network takes."""

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.frames = SlowFrames(alpha)

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.frames(x))


class Sampled(nn.Module):
    """A module and the sampler behind it."""

    def __init__(self, module: nn.Module, sampler: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.sampler = sampler

    def forward(self, x: Tensor) -> Tensor:
        return self.sampler(self.module(x))


class Host3D(nn.Module):
    """A network that takes ``(B, in_chans, T, H, W)``, or a list of such clips for two pathways.

    ``feature_info``: one entry for each resolution, the modules by their names here. ``warnings``: sentences on what the
    network does otherwise than before. ``stage_names``: see :attr:`stages`.

    Args:
        network: changed in place.
        example: what it takes, one clip; large enough that the last map has two positions along each axis.
        name: what to call it in messages.

    Raises:
        ConfigError: the modules do not follow each other, or the head cannot be followed.
    """

    def __init__(self, network: nn.Module, example: State, *, name: str = "this network") -> None:
        super().__init__()
        self.name = name
        self.sampled = False
        self._shapes = [x.shape for x in example] if isinstance(example, list) else [example.shape]
        self.warnings: list[str] = []
        self.tail: Tail | None = None
        self.pack: nn.Module = nn.Identity()
        self.glue = nn.ModuleDict()
        self.network = network
        self.stage_names = self._of_the_zoo(network) if isinstance(network, VideoModel) else self._followed(example)
        self.feature_info = self._measured()
        self.train(network.training)

    # Running it.

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """Every stage by its name here, in the order of the data flow; running them all gives what is in the last map."""
        return [(name, self.get_submodule(name)) for name in self.stage_names]

    def features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, T, H, W) -> (B, num_features, T', H', W')``."""
        state: Any = x
        for _, stage in self.stages:
            state = stage(state)
        return self.as_map(state)

    def as_map(self, state: Any) -> Tensor:
        """What a stage hands on, as one map."""
        return self.tail.as_map(self.network, state) if self.tail is not None and self.tail.pathways else state

    def head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, num_features, T', H', W') -> (B, classes)``, or ``(B, head_hidden_size)`` with ``pre_logits``."""
        if self.tail is None:
            network: Any = self.network
            return network.forward_head(features, pre_logits)
        return self.tail.run_head(self.network, features, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    # Changing it.

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` where ``name`` of the network was."""
        replace_module(self.network, name, honour_lengths(module) if self.sampled else module)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity``; here it is called :attr:`classifier_name`."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh classifier; 0 removes it."""
        head: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.network.parameters())
            head = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        replace_module(self, self.classifier_name, head.train(self.training))
        if isinstance(self.network, VideoModel):
            self.network.num_classes = num_classes

    def sample(self, after: int | str | None = None, options: Mapping[str, Any] | None = None) -> list[str]:
        """Put a sampler behind a stage; from there on a clip has as many frames as it has different ones (ATFR).

        In a network of two pathways each has one, in front of what leads from one to the other.

        Args:
            after: number in ``feature_info``, or a module's name; None is the last stage whose maps have a quarter of the
                input's height and width or more, which is res2 of the paper's hosts (section 5.1).
            options: of :func:`vidzoo.models.atfr.make_sampler`; with two pathways ``slow_bins`` and the like are for one.

        Returns:
            The names of the modules behind which a sampler stands now.

        Raises:
            ConfigError: no such stage, the last one, a network that samples already, an option that does not exist, or
                modules behind it that mix frames in a way that clips of different length do not allow.
        """
        if self.sampled:
            raise ConfigError(f"{self.name} has a sampler already: a network samples once")
        name = self._stage(after)
        at = self._stage_of(name)
        given = dict(options or {})
        samplers = {}
        for pathway, part in self._to_sample(name):
            own = {key.removeprefix(pathway): value for key, value in given.items() if key.startswith(pathway)}
            both = {key: value for key, value in given.items() if not pathway or not key.startswith(("slow_", "fast_"))}
            try:
                samplers[part.name] = make_sampler(_channels(part), **{**both, **own})
            except TypeError as error:
                where = part.name.removeprefix("network.")
                raise ConfigError(f"the sampler behind {where} does not take these options: {error}") from error
        honour_clips(self, self._clip())
        self._check_lengths(list(samplers), f"no sampler can stand behind {name} of {self.name}")
        like = next(self.network.parameters())
        for part_name, sampler in samplers.items():
            sampler = sampler.to(like).train(self.training)
            replace_module(self, part_name, Sampled(self.get_submodule(part_name), sampler))
        self.sampled = True
        self.feature_info = tuple(
            replace(info, adaptive=self.stage_names.index(info.module) >= at) for info in self.feature_info
        )
        return [part_name.removeprefix("network.") for part_name in samplers]

    def check(self) -> None:
        """What was grafted behind a sampler keeps the clips of a batch apart.

        Raises:
            ConfigError: it does not.
        """
        if self.sampled:
            parts = [path for path, module in self.named_modules() if isinstance(module, Sampled)]
            self._check_lengths(parts, f"behind the sampler of {self.name} nothing of that kind can stand")

    def _stage(self, after: int | str | None) -> str:
        infos = self.feature_info[:-1]
        if isinstance(after, str):
            if after not in dict(self.network.named_modules()):
                known = [info.module.removeprefix("network.") for info in infos]
                raise ConfigError(
                    f"{self.name} has no module {after!r} for a sampler to stand behind: {nearest(after, known)}"
                )
            return after
        if after is None:
            after = max((i for i, info in enumerate(infos) if info.reduction <= _QUARTER), default=0)
        if isinstance(after, bool) or not 0 <= after < len(infos):
            raise ConfigError(
                f"{self.name} has {len(infos) + 1} stages: a sampler stands behind one of 0 to {len(infos) - 1}, not {after}"
            )
        return infos[after].module.removeprefix("network.")

    def _stage_of(self, name: str) -> int:
        last = self.stage_names.index(self.feature_info[-1].module)
        for index, stage in enumerate(self.stage_names):
            if index < last and f"network.{name}.".startswith(f"{stage}."):
                return index
        raise ConfigError(
            f"a sampler stands between the input and the last map ({self.stage_names[last].removeprefix('network.')}) of "
            f"{self.name}, {name} does not"
        )

    def _to_sample(self, name: str) -> list[tuple[str, Call]]:
        """The calls whose maps are sampled, one of each pathway, with the prefix that options for one pathway have."""
        call = next(
            (call for call in record(self._twin(), self._clip().float()) if call.name == f"network.{name}"), None
        )
        if call is None or not is_map(call.gave):
            raise ConfigError(f"{name} of {self.name} does not put out a map that could be sampled")
        if not isinstance(call.gave, list):
            return [("", call)]
        given = call.given if isinstance(call.given, list) else []
        found = [next((part for part in call if same(part.given, x) and is_map(part.gave)), None) for x in given]
        pairs = [(prefix, part) for prefix, part in zip(("slow_", "fast_"), found, strict=False) if part is not None]
        if len(pairs) != len(call.gave):
            raise ConfigError(f"the pathways of {name} in {self.name} cannot be told apart: no sampler can stand there")
        return pairs

    @torch.no_grad()
    def _check_lengths(self, parts: list[str], why: str) -> None:
        """A clip that is cut short behind ``parts`` is answered beside a longer one as it is alone."""
        clip = self._clip().float()
        other = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1)).to(clip)
        twin = self._twin()
        try:
            for frames in (1, 3):
                for part in parts:
                    module = twin.get_submodule(part)
                    module = module.module if isinstance(module, Sampled) else module
                    replace_module(twin, part, Sampled(module, Shortened(frames)))
                alone, beside = twin(clip), twin(torch.cat([other, clip]))[1:]
                # By their norms: rounding adds up in a deep network, and single numbers may be near zero.
                if not bool((beside - alone).norm() <= _ROUNDING * alone.norm()):
                    raise ConfigError(f"{why}: what follows answers a clip otherwise beside a longer one")
        except (ModelInputError, RuntimeError) as error:
            raise ConfigError(f"{why}: {error}") from error

    def _twin(self) -> nn.Module:
        return twin_of(self).float().eval()

    # Looking at it.

    def _clip(self) -> Tensor:
        like = next(self.network.parameters())
        return torch.randn(self._shapes[-1], generator=torch.Generator().manual_seed(0)).to(like)

    def _of_the_zoo(self, network: VideoModel) -> list[str]:
        if type(network)._run is not VideoModel._run:
            raise ConfigError(
                f"{self.name} runs its stages in its own way: nothing is grafted onto a {type(network).__name__} of the zoo, "
                "which has names of its own for its variants"
            )
        if network.sampler is not None:
            raise ConfigError(f"{self.name} has a sampler already: graft onto the network without it")
        self.num_features, self.head_hidden_size = network.num_features, network.head_hidden_size
        self.classifier_name = f"network.{network.head_name}"
        return [f"network.{name}" for name, _ in network._stages()]

    def _followed(self, example: State) -> list[str]:
        like = next(self.network.parameters())
        example = [x.to(like) for x in example] if isinstance(example, list) else example.to(like)
        refused = takes(self.network, example)
        if refused is not None:
            raise ConfigError(
                f"{self.name} does not take its example ({refused}): give example=..., as the network takes it"
            )
        self.warnings += open_pools(self.network, example)
        full: State = [x.float() for x in example] if isinstance(example, list) else example.float()
        self.tail = tail = split(twin_of(self.network).float(), full, name=self.name)
        if tail.front is None:
            raise ConfigError(
                f"the modules of {self.name} do not simply follow each other between its input and its last map "
                f"({tail.map_module}): wrap what belongs together into modules of one input and one output"
            )
        if tail.left_out:
            self.warnings.append(
                f"{', '.join(tail.left_out)}: makes probabilities and is left out, the model gives logits"
            )
        if tail.idle:
            self.warnings.append(
                f"{', '.join(tail.idle)}: has no part in the answer and does not learn; DistributedDataParallel needs "
                "find_unused_parameters=True"
            )
        self.num_features, self.head_hidden_size = tail.num_features, tail.hidden
        self.classifier_name = f"network.{tail.classifier}"
        self._linear_classifier()
        names = []
        if isinstance(example, list):
            self.pack = _pathways(example, self.name)
            names.append("pack")
        for step in (*tail.front, *tail.behind):
            if step.glue:
                key = str(len(self.glue))
                self.glue[key] = Glue(step.name)
            names.append(f"glue.{key}" if step.glue else f"network.{step.name}")
        return names

    def _linear_classifier(self) -> None:
        conv = self.classifier
        if not isinstance(conv, (nn.Conv2d, nn.Conv3d)):
            return
        if conv.weight[0, 0].numel() != 1 or conv.groups != 1:
            raise ConfigError(f"the classifier of {self.name}, {self.classifier_name}, is no 1x1 convolution")
        linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None).to(conv.weight)
        linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=conv.weight.requires_grad)
        if conv.bias is not None:
            linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=conv.bias.requires_grad)
        replace_module(self, self.classifier_name, linear.train(conv.training))

    @torch.no_grad()
    def _measured(self) -> tuple[FeatureInfo, ...]:
        """The last stage of each resolution; maps with the channels last only where they are turned."""
        infos: dict[tuple[int, ...], FeatureInfo] = {}
        last = False
        state: Any = self._clip()
        _, _, frames, height, width = state.shape
        with evaluating(self):
            for name, stage in self.stages:
                state = stage(state)
                if isinstance(stage, Glue) and stage.name.startswith("channels"):
                    last = stage.name == "channels last"
                elif isinstance(state, Tensor) and (found := turned(state, (height, width))) is not None:
                    last = found
                if isinstance(stage, Pathways) or last or not is_map(state):
                    continue
                size = self.as_map(state).shape
                infos[size[3:]] = FeatureInfo(
                    num_chs=size[1], reduction=round(height / size[3]), t_reduction=round(frames / size[2]), module=name
                )
        return tuple(infos.values())


def _pathways(example: list[Tensor], name: str) -> Pathways:
    slow, fast = (x.shape[2] for x in example)
    if fast % slow:
        raise ConfigError(
            f"the fast pathway of {name} needs a whole number of frames for one of the slow, got {fast} and {slow}"
        )
    return Pathways(fast // slow)


def _channels(call: Call) -> int:
    if not isinstance(call.gave, Tensor):
        raise ConfigError(
            f"{call.name.removeprefix('network.')} puts out more than one tensor: no sampler can stand behind it"
        )
    return call.gave.shape[1]
