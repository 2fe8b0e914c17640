from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidzoo.data.synthetic import ACTIONS, PAIRS, SyntheticVideo, parse, render, video_list, write_videos
from vidzoo.data.synthetic.body import capsules, random_body
from vidzoo.data.synthetic.motion import motion
from vidzoo.data.synthetic.scene import project, random_view
from vidzoo.errors import DataError

ALL = [*ACTIONS, *(name for pair in PAIRS for name in pair)]
IN_PLACE = ["bend", "jack", "pjump", "wave1", "wave2"]
MOVING = ["jump", "run", "side", "skip", "walk"]


def joints(action: str, seed: int, num_frames: int = 48) -> np.ndarray:
    """The ends of all capsules in pixels (T, 2P, 2), as (y, x), of a 144x180 video."""
    rng = np.random.default_rng(seed)
    pose = motion(action, rng, np.arange(num_frames) / 25)
    view = random_view(rng, pose, (144, 180))
    start, end, _ = project(capsules(random_body(rng), pose), view)
    return np.concatenate([start, end], axis=1)


@pytest.mark.parametrize("action", ALL)
def test_a_video_is_the_same_every_time(action: str) -> None:
    first = render(action, seed=5, num_frames=6, size=(64, 80))
    assert first.shape == (6, 64, 80, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, render(action, seed=5, num_frames=6, size=(64, 80)))


def test_other_seeds_and_other_actions_give_other_videos() -> None:
    videos = [render(action, seed=0, num_frames=3) for action in ACTIONS]
    videos += [render("jack", seed=1, num_frames=3)]
    for i, video in enumerate(videos):
        assert all((video.float() - other.float()).abs().mean() > 3 for other in videos[:i])


def test_every_frame_differs_from_the_one_before() -> None:
    video = render("walk", seed=2, num_frames=12)
    assert all(not torch.equal(video[t], video[t + 1]) for t in range(11))


@pytest.mark.parametrize("action", ["run", "wave1", "go_away", "pick_up", "stand_up"])
def test_asking_for_some_frames_gives_exactly_those_of_the_whole_video(action: str) -> None:
    for seed in range(4):
        video = SyntheticVideo(action, seed=seed, num_frames=20)
        whole = video.frames(range(20))
        for wanted in ([7], [19, 0, 3, 3], list(range(1, 20, 2))):
            assert torch.equal(video.frames(wanted), whole[wanted])
    assert video.frames([]).shape == (0, 144, 180, 3)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_second_of_a_pair_is_the_first_played_backwards_to_the_bit(first: str, second: str) -> None:
    for seed in range(3):
        there, back = (render(name, seed=seed, num_frames=15, size=(96, 120)) for name in (first, second))
        assert torch.equal(back, there.flip(0))
        assert not torch.equal(back, there)


@pytest.mark.parametrize("first", [first for first, _ in PAIRS])
def test_a_pair_starts_in_one_state_and_ends_in_the_other(first: str) -> None:
    for seed in range(5):
        points = joints(first, seed)
        middle = points - points[:, :1]  # against the heel of the left foot
        assert np.abs(middle[0] - middle[-1]).max() > 8  # pixels


def test_noise_does_not_tell_the_direction_of_time() -> None:
    forward, backward = [], []
    for seed in range(12):
        video = render("raise_arms", seed=seed, num_frames=24, size=(64, 80)).float()
        steps = (video[1:] - video[:-1])[:, :12].mean(dim=(1, 2, 3))  # the strip above the head: nothing but noise
        forward.append(float((steps > 0).float().mean()))
        backward.append(float((steps < 0).float().mean()))
    assert abs(np.mean(forward) - np.mean(backward)) < 0.15


@pytest.mark.parametrize("action", [*ACTIONS, *(first for first, _ in PAIRS)])
def test_the_figure_stays_mostly_in_the_frame(action: str) -> None:
    inside = []
    for seed in range(20):
        points = joints(action, seed)
        inside.append(((points >= 0) & (points < np.array([144, 180]))).all(axis=-1).mean())
    assert np.mean(inside) > 0.93
    assert min(inside) > 0.6


def test_a_long_walk_turns_round_and_never_leaves() -> None:
    for seed in range(10):
        middle = joints("run", seed, num_frames=400).mean(axis=1)[:, 1]
        assert middle.min() > -15
        assert middle.max() < 195


def test_some_actions_cross_the_picture_and_the_others_stay_in_place() -> None:
    spans = {action: np.mean([np.ptp(joints(action, s).mean(axis=1)[:, 1]) for s in range(12)]) for action in ACTIONS}
    assert max(spans[action] for action in IN_PLACE) < 20
    assert min(spans[action] for action in MOVING) > 50


def test_the_feet_touch_the_ground_and_the_jumpers_leave_it() -> None:
    for action in ACTIONS:
        rng = np.random.default_rng(1)
        pose = motion(action, rng, np.arange(100) / 25)
        shapes = capsules(random_body(rng), pose)
        feet = np.concatenate([shapes.start[:, [0, 3], 2], shapes.end[:, [0, 3], 2]], axis=1).min(axis=1)
        assert feet.min() == pytest.approx(0.018, abs=0.003)  # the radius of a sole
        assert (np.ptp(feet) > 0.015) == (action in {"jump", "pjump", "skip", "run", "side", "jack"})


def test_a_video_answers_as_a_video_source_does() -> None:
    with SyntheticVideo("jack", seed=1, num_frames=10, size=(48, 64), fps=12.5) as video:
        assert len(video) == 10
        assert video.size == (48, 64)
        assert video.fps == 12.5
        assert video.timestamps == pytest.approx([i * 0.08 for i in range(10)])
        assert "jack" in video.name


def test_a_spec_names_the_video_it_describes() -> None:
    video = parse("synthetic:jack?seed=3&frames=9&height=48&width=64&fps=10")
    assert (video.action, video.seed, len(video), video.size, video.fps) == ("jack", 3, 9, (48, 64), 10.0)
    assert torch.equal(video.frames([4]), render("jack", seed=3, num_frames=9, size=(48, 64), fps=10.0)[4:5])
    assert len(parse("synthetic:walk")) == 48
    again = parse(video.name)
    assert torch.equal(again.frames([4]), video.frames([4]))


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("synthetic:jakc", "jack"),
        ("synthetic:jack?sede=3", "seed"),
        ("synthetic:jack?seed=x", "whole number"),
        ("synthetic:jack?fps=x", "number"),
        ("synthetic:jack?frames=0", "at least 1 frame"),
        ("synthetic:jack?fps=nan", "positive fps"),
        ("synthetic:jack?seed=-1", "seed of 0 or more"),
        ("film:jack", "synthetic:jack"),
    ],
)
def test_a_wrong_spec_says_what_would_be_right(spec: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        parse(spec)


@pytest.mark.parametrize("indices", [[-1], [0, 48]])
def test_a_frame_that_does_not_exist_is_refused(indices: list[int]) -> None:
    with pytest.raises(DataError, match=r"0\.\.47"):
        SyntheticVideo("walk", seed=0).frames(indices)


def test_a_list_holds_every_class_equally_and_shares_no_video_with_another_seed() -> None:
    items, names = video_list("actions", videos_per_class=3, seed=0)
    others, _ = video_list("actions", videos_per_class=3, seed=1)
    assert names == sorted(ACTIONS)
    assert np.bincount([label for _, label in items]).tolist() == [3] * 10
    assert not {path for path, _ in items} & {path for path, _ in others}
    for path, label in items:
        assert parse(path).action == names[label]


def test_both_classes_of_a_pair_are_listed_with_the_same_scenes() -> None:
    items, names = video_list("pairs", videos_per_class=4, seed=2)
    seeds = {name: [parse(path).seed for path, label in items if names[label] == name] for name in names}
    assert all(seeds[first] == seeds[second] for first, second in PAIRS)


@pytest.mark.parametrize("options", [{"kind": "action"}, {"kind": "pairs", "videos_per_class": 0}])
def test_a_list_that_cannot_be_made_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match="synthetic"):
        video_list(**options)  # type: ignore[arg-type]


def test_written_videos_decode_to_the_same_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    paths = write_videos(tmp_path, "pairs", 1, 4)
    assert [path.parent.name for path in paths] == [name for pair in PAIRS for name in pair]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for path in paths[:2]:
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        wanted = render(path.parent.name, seed=int(path.stem))
        assert len(decoded) == 48
        assert np.abs(np.stack(decoded).astype(float) - wanted.numpy()).mean() < 8
