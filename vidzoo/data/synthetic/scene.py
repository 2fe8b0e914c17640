"""Where the figure acts: the view and its path, the background, the light and the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidzoo.data.synthetic.body import Capsules
from vidzoo.data.synthetic.motion import Motion

__all__ = ["MARGIN", "View", "background", "noise_bank", "project", "random_view"]

Array = NDArray[np.float64]
Image = NDArray[np.float32]

MARGIN = 4  # pixels of background beyond every edge: how far the camera may shake


@dataclass(frozen=True)
class View:
    """The projection in T frames (weak perspective): yaw 0 faces the camera, pi/2 faces the right edge."""

    yaw: Array  # (T,)
    pitch: float
    scale: Array  # (T,) pixels per stature
    foot_x: Array  # (T,) pixels
    foot_y: Array  # (T,) pixels
    shake: NDArray[np.int64]  # (T, 2) pixels, down and right


def _fold(x: Array, width: float) -> tuple[Array, Array]:
    """``x`` walked to and fro between 0 and ``width``, and the direction (+1 or -1) of every moment."""
    lap = np.floor(x / width)
    inside = x - lap * width
    there = lap.astype(np.int64) % 2 == 0
    return np.where(there, inside, width - inside), np.where(there, 1.0, -1.0)


def random_view(rng: np.random.Generator, pose: Motion, size: tuple[int, int]) -> View:
    """A camera and a path that keep the figure mostly in the frame; long walks turn round at the edges."""
    height, width = size
    count = pose.count
    tall = height * (rng.uniform(0.38, 0.56) if rng.random() < 0.8 else rng.uniform(0.5, 0.68))
    spread = 0.2 if rng.random() < 0.8 else 0.6
    pitch = abs(float(rng.normal(0.0, 0.06)))
    turned = float(np.clip(rng.normal(0.0, spread), -0.9, 0.9))
    direction = float(rng.choice([-1.0, 1.0]))
    scale = np.full(count, tall)
    foot_y = np.full(count, height * float(rng.uniform(0.74, 0.93)))
    foot_y = np.maximum(foot_y, tall * 1.12)
    if pose.nearer.any():
        growth = float(rng.uniform(1.6, 2.4))
        near = min(tall * float(rng.uniform(1.1, 1.5)), 0.85 * height)
        scale = near / (growth + (1 - growth) * pose.nearer)
        foot_y = height * float(rng.uniform(0.88, 0.97)) - (near - scale) * float(rng.uniform(0.2, 0.45))
    if pose.travel.any():
        reach = pose.travel * tall * np.cos(turned)
        edge = -tall * 0.03 if reach[-1] > 0.85 * width else -tall * 0.15
        lane = width + 2 * edge
        room = max(lane - float(reach[-1]), 0.0)
        x, heading = _fold(reach + rng.uniform(0.0, room), lane)
        foot_x = x - edge
        if direction < 0:
            foot_x, heading = width - foot_x, -heading
    else:
        foot_x = np.full(count, width * float(rng.uniform(0.26, 0.74)))
        heading = np.full(count, direction)
        if pose.nearer.any():
            foot_x = foot_x + (scale - scale[0]) * float(rng.uniform(-0.4, 0.4))
    yaw = np.full(count, turned) if pose.view == "front" else heading * (np.pi / 2 + turned)
    shake = np.zeros((count, 2), dtype=np.int64)
    if rng.random() < 0.2:
        rate = rng.uniform(0.05, 0.5, size=(2, 1))
        wander = np.sin(rate * np.arange(count) + rng.uniform(0, 6.28, size=(2, 1))) * rng.uniform(0.5, 2.0)
        shake = np.rint(wander).astype(np.int64).T
    return View(yaw, pitch, scale, foot_x + shake[:, 1], foot_y + shake[:, 0], shake)


def project(shapes: Capsules, view: View) -> tuple[Array, Array, Array]:
    """Both ends in pixels (T, P, 2) as (y, x), and how near each capsule is (T, P)."""
    sin, cos = np.sin(view.yaw)[:, None], np.cos(view.yaw)[:, None]

    def see(points: Array) -> tuple[Array, Array]:
        right = points[..., 0] * sin + points[..., 1] * cos
        near = points[..., 0] * cos - points[..., 1] * sin
        above = points[..., 2] * np.cos(view.pitch) - near * np.sin(view.pitch)
        closer = 1.0 + 0.12 * near  # a camera a good eight statures away
        y = view.foot_y[:, None] - view.scale[:, None] * above * closer
        x = view.foot_x[:, None] + view.scale[:, None] * right * closer
        return np.stack([y, x], axis=-1), near

    start, start_near = see(shapes.start)
    end, end_near = see(shapes.end)
    return start, end, 0.5 * (start_near + end_near)


def _resize(values: Array, size: tuple[int, int]) -> Array:
    """Bilinear enlargement of (h, w) or (h, w, C) to ``size``."""
    for axis, length in enumerate(size):
        place = np.linspace(0, values.shape[axis] - 1, length)
        low = np.minimum(place.astype(np.int64), max(values.shape[axis] - 2, 0))
        high = np.minimum(low + 1, values.shape[axis] - 1)
        part = (place - low).reshape((-1,) + (1,) * (values.ndim - 1 - axis))
        values = np.take(values, low, axis=axis) * (1 - part) + np.take(values, high, axis=axis) * part
    return values


def _cloud(rng: np.random.Generator, size: tuple[int, int], grain: tuple[float, float]) -> Array:
    """Smooth noise of about unit variance whose spots are ``grain`` pixels high and wide."""
    coarse = (max(int(size[0] / grain[0]) + 2, 2), max(int(size[1] / grain[1]) + 2, 2))
    return _resize(rng.normal(size=coarse), size) * 1.5


def background(rng: np.random.Generator, size: tuple[int, int], ground_y: float) -> Image:
    """A static picture (H + 2 MARGIN, W + 2 MARGIN, 3) in 0..255; half of them are plain walls above a street."""
    height, width = size[0] + 2 * MARGIN, size[1] + 2 * MARGIN
    shape = (height, width)
    kind = str(rng.choice(["wall", "gradient", "noise", "bars", "horizon"], p=[0.5, 0.12, 0.12, 0.12, 0.14]))
    tint = 1.0 + rng.normal(0.0, 0.05, size=3)
    level = float(rng.uniform(0.35, 0.85)) if kind != "wall" else float(rng.uniform(0.5, 0.8))
    if kind not in ("wall", "horizon"):
        tint = tint + rng.normal(0.0, 0.12, size=3)
    picture = np.full((height, width), level)
    rows = np.arange(height)[:, None]
    columns = np.arange(width)[None, :]
    picture = picture + rng.uniform(0.0, 0.05) * _cloud(rng, shape, (height / 3, width / 3))
    if kind == "wall":
        picture = picture + rng.uniform(0.005, 0.03) * _bricks(rng, shape)
        picture = picture + rng.uniform(0.005, 0.025) * _cloud(rng, shape, (9.0, 4.0))
    elif kind == "gradient":
        slope = rng.uniform(-0.35, 0.35, size=2)
        picture = picture + slope[0] * (rows / height - 0.5) + slope[1] * (columns / width - 0.5)
    elif kind == "noise":
        grain = float(rng.uniform(3, 14))
        picture = picture + rng.uniform(0.02, 0.1) * _cloud(rng, shape, (grain, grain))
    elif kind == "bars":
        along = columns if rng.random() < 0.7 else rows
        wave = np.sin(2 * np.pi * (along / rng.uniform(9, 50) + rng.random()))
        picture = picture + rng.uniform(0.03, 0.14) * np.clip(wave * rng.uniform(1, 6), -1, 1)
    coloured = picture[..., None] * tint
    floor = int(np.clip(ground_y + MARGIN - height * rng.uniform(-0.02, 0.08), 0, height - 1))
    if kind == "horizon":
        floor = int(height * rng.uniform(0.3, 0.65))
    if kind in ("wall", "horizon") or rng.random() < 0.6:
        shade = rng.uniform(0.25, 0.75) * (1.0 + rng.normal(0.0, 0.06, size=3))
        ground = 1.0 + rng.uniform(0.01, 0.08) * _cloud(rng, shape, (2.5, 16.0))
        coloured[floor:] = (ground[..., None] * shade)[floor:]
        curb = floor + int(rng.integers(2, 14))
        if rng.random() < 0.5:
            coloured[curb : curb + int(rng.integers(2, 5))] *= rng.uniform(0.6, 1.4)
    for _ in range(int(rng.integers(0, 3))):  # doors, windows, posts
        top, left = int(rng.integers(-20, max(floor - 20, 1))), int(rng.integers(-20, width))
        tall, wide = int(rng.integers(10, 60)), int(rng.integers(3, 24))
        if 0.3 * width < left + wide / 2 < 0.7 * width and rng.random() < 0.6:
            continue
        coloured[max(top, 0) : max(min(top + tall, floor), 0), max(left, 0) : max(left + wide, 0)] = rng.uniform(
            0.1, 0.8
        ) * (1 + rng.normal(0, 0.12, size=3))
    return _soften((np.clip(coloured, 0.02, 0.98) * 255.0).astype(np.float32))


def _bricks(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Stones of random brightness in staggered courses, upright or lying: (H, W)."""
    tall, wide = (int(rng.integers(8, 22)), int(rng.integers(4, 9)))
    if rng.random() < 0.4:
        tall, wide = wide, tall
    rows = np.arange(size[0])[:, None]
    columns = np.arange(size[1])[None, :]
    column = columns // wide
    row = (rows + (column * int(rng.integers(1, tall)))) // tall
    shade = rng.normal(size=(int(row.max()) + 1, int(column.max()) + 1))
    return shade[row, np.broadcast_to(column, row.shape)]


def _soften(picture: Image) -> Image:
    """A 3x3 binomial blur: no real background has edges of one pixel."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    padded = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / np.float32(16)


def noise_bank(rng: np.random.Generator, size: tuple[int, int], spare: int) -> Image:
    """Sensor noise and the traces of a codec, (H + spare, W + spare, 3): frames take crops at independent places."""
    height, width = size[0] + spare, size[1] + spare
    strength = float(rng.uniform(0.5, 4.0))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(strength)
    blocks = rng.standard_normal((height // 8 + 1, width // 8 + 1, 3), dtype=np.float32)
    blocks = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)[:height, :width]
    return grain + blocks * np.float32(rng.uniform(0.0, 1.2))
