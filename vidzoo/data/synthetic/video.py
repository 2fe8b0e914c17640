"""Synthetic videos as video sources, their names, and lists of them."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from vidzoo.data.synthetic.body import capsules, random_body
from vidzoo.data.synthetic.motion import ACTIONS, PAIR_ACTIONS, base_action, is_reversed, motion
from vidzoo.data.synthetic.render import Sprites, paint
from vidzoo.data.synthetic.scene import MARGIN, background, noise_bank, project, random_view
from vidzoo.errors import DataError, nearest
from vidzoo.files import whole_file

__all__ = ["KINDS", "SyntheticItem", "SyntheticVideo", "parse", "render", "video_list", "write_videos"]

KINDS: dict[str, tuple[str, ...]] = {"actions": ACTIONS, "pairs": PAIR_ACTIONS}
_PREFIX = "synthetic:"
_SPARE = 64  # pixels by which the noise bank is larger than a frame


class SyntheticItem(NamedTuple):
    """One row of a list: the spec that ``parse`` reads, and the label."""

    path: str
    label: int


class SyntheticVideo:
    """A rendered video of one person doing ``action``; a ``VideoSource``.

    Everything (body, clothes, view, path, background, light, noise) follows from ``(action, seed, num_frames, size,
    fps)``. The second action of a pair is *defined* as the first one of the same seed with its frames, noise included,
    in reverse order: someone who goes away does so walking backwards. A set of frames without its order therefore says
    nothing about which of the two it is.

    ``frames(indices)``: uint8 (N, H, W, 3) RGB; renders only what is asked for.

    Raises:
        DataError: an unknown action, a negative seed, no frames, a frame below 32 pixels, or an index out of range.
    """

    def __init__(
        self,
        action: str,
        *,
        seed: int,
        num_frames: int = 48,
        size: tuple[int, int] = (144, 180),
        fps: float = 25.0,
    ) -> None:
        if action not in (*ACTIONS, *PAIR_ACTIONS):
            known = nearest(action, (*ACTIONS, *PAIR_ACTIONS))
            raise DataError(f"there is no synthetic action {action!r}: {known}")
        if seed < 0 or num_frames < 1 or min(size) < 32 or not (math.isfinite(fps) and fps > 0):
            raise DataError(
                f"synthetic:{action} cannot have seed={seed}, num_frames={num_frames}, size={tuple(size)}, fps={fps}: "
                "give a seed of 0 or more, at least 1 frame, at least 32x32 pixels and a positive fps"
            )
        self.action = action
        self.seed = seed
        self.fps = float(fps)
        self.size = (int(size[0]), int(size[1]))
        shape = f"height={self.size[0]}&width={self.size[1]}&fps={self.fps!r}"
        self.name = f"{_PREFIX}{action}?seed={seed}&frames={num_frames}&{shape}"
        self.timestamps = [index / self.fps for index in range(num_frames)]
        self._backwards = is_reversed(action)
        self._prepare(num_frames)

    def _prepare(self, num_frames: int) -> None:
        key = zlib.crc32(base_action(self.action).encode())
        move, look, place, sense = (
            np.random.default_rng(child) for child in np.random.SeedSequence([key, self.seed]).spawn(4)
        )
        pose = motion(base_action(self.action), move, np.arange(num_frames) / self.fps)
        body = random_body(look)
        view = random_view(place, pose, self.size)
        shapes = capsules(body, pose)
        contrast, cast = place.uniform(0.6, 1.0), 1.0 + place.normal(0.0, 0.04, size=3)
        self._background = _grade(background(place, self.size, float(view.foot_y.max())), contrast, cast)
        self._shake = view.shake
        self._bank = noise_bank(sense, self.size, _SPARE)
        self._crops = sense.integers(0, _SPARE // 8 + 1, size=(num_frames, 2)) * 8
        self._flicker = (1.0 + sense.normal(0.0, sense.uniform(0.0, 0.012), size=num_frames)).astype(np.float32)
        start, end, near = project(shapes, view)
        parts = start.shape[1]
        scale = view.scale[:, None]
        # A limb on the far side gets less light: that is what keeps the two legs of a walker apart.
        depth = np.clip(1.0 + 0.9 * near, 0.75, 1.12)[..., None]
        colour = shapes.colour * place.uniform(0.75, 1.05) * depth * 255.0
        colour = _grade(colour, contrast, cast)
        under = np.stack([view.foot_y + 1.0, view.foot_x + 0.5 * (start[:, :6, 1].mean(1) - view.foot_x)], axis=-1)
        wide = 0.13 * view.scale
        shadow_start = under - np.stack([np.zeros(num_frames), wide], axis=-1)
        shadow_end = under + np.stack([np.zeros(num_frames), wide], axis=-1)
        ones = np.ones((num_frames, 1))
        edge = place.uniform(1.0, 2.2)
        dark = place.uniform(0.0, 0.5) / (1.0 + 6.0 * pose.lift)
        self._sprites = Sprites(
            start=_f32(shadow_start[:, None], start),
            end=_f32(shadow_end[:, None], end),
            start_radius=_f32(0.02 * scale, shapes.start_radius * scale),
            end_radius=_f32(0.02 * scale, shapes.end_radius * scale),
            colour=_f32(np.full((num_frames, 1, 3), 25.0), colour),
            opacity=_f32(dark[:, None], np.ones((num_frames, parts))),
            soft=_f32(0.07 * scale, np.full((num_frames, parts), edge)),
            order=np.concatenate([0 * ones, 1 + np.argsort(near, axis=1, kind="stable")], axis=1).astype(np.int64),
            light=(float(place.uniform(-0.22, 0.0)), float(place.uniform(-0.2, 0.2))),
        )

    def __len__(self) -> int:
        return len(self.timestamps)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """The frames at ``indices`` (each in 0..len-1), in that order: uint8 (N, H, W, 3)."""
        total = len(self)
        wanted = np.asarray(list(indices), dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= total):
            raise DataError(f"{self.name} has frames 0..{total - 1}, not {sorted(set(wanted.tolist()))[:8]}")
        if not wanted.size:
            return torch.empty((0, *self.size, 3), dtype=torch.uint8)
        if self._backwards:
            wanted = total - 1 - wanted
        height, width = self.size
        canvas = np.empty((len(wanted), height, width, 3), dtype=np.float32)
        for n, frame in enumerate(wanted):
            down, right = MARGIN - self._shake[frame]
            canvas[n] = self._background[down : down + height, right : right + width]
        paint(canvas, self._sprites.take(wanted))
        for n, frame in enumerate(wanted):
            top, left = self._crops[frame]
            canvas[n] *= self._flicker[frame]
            canvas[n] += self._bank[top : top + height, left : left + width]
        np.clip(canvas, 0, 255, out=canvas)
        return torch.from_numpy(canvas.astype(np.uint8))

    def close(self) -> None:
        """Nothing to release: a synthetic video holds no file."""

    def __enter__(self) -> SyntheticVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _grade(colour: np.ndarray, contrast: float, cast: np.ndarray) -> np.ndarray:
    """The camera's tone curve: colours in 0..255 (..., 3) drawn towards grey, then tinted."""
    return (cast * (120.0 + contrast * (colour - 120.0))).astype(np.float32)


def _f32(first: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The shadow's value in front of those of the body: (N, 1 + P, ...) float32."""
    return np.concatenate([first, rest], axis=1).astype(np.float32)


def render(
    action: str, *, seed: int, num_frames: int = 48, size: tuple[int, int] = (144, 180), fps: float = 25.0
) -> Tensor:
    """The whole video of ``SyntheticVideo``: uint8 (T, H, W, 3)."""
    return SyntheticVideo(action, seed=seed, num_frames=num_frames, size=size, fps=fps).frames(range(num_frames))


def parse(spec: str) -> SyntheticVideo:
    """The video named ``synthetic:ACTION?seed=3&frames=48&height=144&width=180&fps=25`` (all parameters optional).

    Raises:
        DataError: another prefix, an unknown action or parameter, or a value that is not a number.
    """
    if not spec.startswith(_PREFIX):
        raise DataError(f"{spec!r} is not a synthetic video: a spec reads like synthetic:jack?seed=3&frames=48")
    action, _, query = spec[len(_PREFIX) :].partition("?")
    whole = {"seed": 0, "frames": 48, "height": 144, "width": 180}
    fps = 25.0
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in whole and key != "fps":
            raise DataError(f"{spec!r} has an unknown parameter {key!r}: {nearest(key, (*whole, 'fps'))}")
        try:
            if key == "fps":
                fps = float(text)
            else:
                whole[key] = int(text)
        except ValueError:
            kind = "a number" if key == "fps" else "a whole number"
            raise DataError(f"{spec!r} gives {key}={text!r}, which is not {kind}: write for example {key}=25") from None
    size = (whole["height"], whole["width"])
    return SyntheticVideo(action, seed=whole["seed"], num_frames=whole["frames"], size=size, fps=fps)


def video_list(
    kind: str, *, videos_per_class: int = 100, seed: int = 0, num_frames: int = 48
) -> tuple[list[SyntheticItem], list[str]]:
    """Specs with labels, and the class names that the labels index, for kind ``"actions"`` or ``"pairs"``.

    The two classes of a pair get the same seeds, hence the same scenes: whoever remembers a scene learns nothing about
    its label. Lists of different ``seed`` share no video.

    Raises:
        DataError: an unknown kind, or fewer than one video per class.
    """
    if kind not in KINDS:
        raise DataError(f"there is no synthetic data set {kind!r}: {nearest(kind, KINDS)}")
    if videos_per_class < 1 or seed < 0:
        raise DataError(f"synthetic:{kind} cannot have videos_per_class={videos_per_class}, seed={seed}")
    names = list(KINDS[kind])
    first = seed * 1_000_000
    items = [
        SyntheticItem(f"{_PREFIX}{name}?seed={first + number}&frames={num_frames}", label)
        for label, name in enumerate(names)
        for number in range(videos_per_class)
    ]
    return items, names


def write_videos(folder: str | os.PathLike[str], kind: str, videos_per_class: int, seed: int) -> list[Path]:
    """Writes ``folder/CLASS/NNNN.mp4`` for every video of ``video_list`` and returns the paths.

    Raises:
        DataError: as ``video_list``.
    """
    items, names = video_list(kind, videos_per_class=videos_per_class, seed=seed)
    written: list[Path] = []
    for item in items:
        video = parse(item.path)
        target = Path(folder) / names[item.label] / f"{video.seed:08d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        _encode(video, target)
        written.append(target)
    return written


def _encode(video: SyntheticVideo, target: Path) -> None:
    import av

    with whole_file(target) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=round(video.fps))
        stream.height, stream.width = video.size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_500_000
        for picture in video.frames(range(len(video))).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
