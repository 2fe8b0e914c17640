"""Lists of labelled videos, how they are split, and how broken ones are accounted for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vidzoo.data.cache import FrameCache
from vidzoo.data.datasets import IGNORED, VideoDataset, loader
from vidzoo.data.decode import open_video
from vidzoo.data.listing import VideoItem, VideoList, scan, split
from vidzoo.data.transform import Augment
from vidzoo.errors import ConfigError, DataError
from vidzoo.pretrained import VideoCfg

Writer = Callable[..., Path]
CFG = VideoCfg(num_frames=3, short_side=24, crop_size=(20, 20), num_classes=2)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(root: Path, text: str, *, name: str = "list.txt") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.fixture
def small(write_video: Writer, tmp_path: Path) -> Path:
    """Two classes of three videos each."""
    for label in ("walk", "run"):
        for number in range(3):
            write_video(f"set/{label}/p{number}_{label}.mp4", count=8 + number, size=(32, 48))
    return tmp_path / "set"


# Finding videos.


def test_class_folders_are_sorted_as_people_count(tmp_path: Path) -> None:
    videos = scan(touch(tmp_path, "class10/b.mp4", "class9/a.avi", "class9/deep/er/c.MKV", "class9/notes.txt"))
    assert videos.class_names == ("class9", "class10")
    assert videos.counts == (2, 1)
    assert {item.stem for item in videos.items} == {"a", "b", "c"}


def test_train_and_val_folders_are_the_split(tmp_path: Path) -> None:
    videos = scan(touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "test/b/4.mp4"))
    training, validation = split(videos)
    assert [item.stem for item in training.items] == ["1", "2"]
    assert [item.stem for item in validation.items] == ["3"]
    assert videos.class_names == ("a", "b")


def test_folders_of_images_are_videos(write_images: Writer, tmp_path: Path) -> None:
    write_images("set/jump/0001", range(1, 4))
    write_images("set/run/0001", range(1, 6))
    videos = scan(tmp_path / "set")
    assert [Path(item.path).name for item in videos.items] == ["0001", "0001"]
    assert len(open_video(videos.items[1].path)) == 5


def test_a_list_takes_paths_with_spaces_numbers_and_comments(tmp_path: Path) -> None:
    touch(tmp_path, "my clips/a 1.mp4", "b.mp4")
    videos = scan(listed(tmp_path, "# header\nmy clips/a 1.mp4 1\n\nb.mp4\t0\n"))
    assert [(item.stem, item.label) for item in videos.items] == [("a 1", 1), ("b", 0)]
    assert videos.items[0].path == str(tmp_path / "my clips" / "a 1.mp4")


def test_a_list_of_names_sorts_them_and_one_of_numbers_reads_classes_txt(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert scan(listed(tmp_path, "a.mp4 run\nb.mp4 jump\n")).class_names == ("jump", "run")
    listed(tmp_path, "hop\nskip\n", name="classes.txt")
    videos = scan(listed(tmp_path, "a.mp4 1\nb.mp4 0\n"))
    assert videos.class_names == ("hop", "skip")
    assert videos.items[0].label == 1


def test_a_list_with_commas_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert [item.label for item in scan(listed(tmp_path, "a.mp4,1\nb.mp4,0\n")).items] == [1, 0]


def test_a_list_of_frames_has_start_and_end(write_images: Writer, tmp_path: Path) -> None:
    write_images("jump/0001", range(1, 18))
    write_images("run/0001", range(1, 16))
    videos = scan(listed(tmp_path, "jump/0001 2 9 0\nrun/0001 15 1\n"))
    assert videos.class_names == ("jump", "run")
    assert (videos.items[0].start, videos.items[0].end, videos.items[1].start) == (2, 9, None)


def test_the_real_list_of_frames_is_read(shared_data: Path) -> None:
    videos = scan(shared_data / "frames" / "annotations.txt")
    assert videos.class_names == ("jumping", "running")
    lengths = [len(open_video(item.path, start=item.start, end=item.end)) for item in videos.items]
    assert lengths == [17, 18, 15, 15]


def test_synthetic_sets_need_no_files() -> None:
    videos = scan("synthetic:actions?videos_per_class=2&seed=1")
    assert set(videos.counts) == {2}
    assert len(open_video(videos.items[0].path)) == 48
    assert len(scan("synthetic:pairs?videos_per_class=1").class_names) >= 4


def test_given_class_names_fix_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4")
    assert scan(tmp_path, class_names=["walk", "jump", "run"]).items[0].label == 2
    with pytest.raises(DataError, match="did you mean 'runn'"):
        scan(tmp_path, class_names=["runn", "walk"])


def test_places_without_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no video in its folders"):
        scan(tmp_path)
    with pytest.raises(DataError, match="no class folder"):
        scan(touch(tmp_path, "loose.mp4"))
    with pytest.raises(DataError, match="is one video"):
        scan(tmp_path / "loose.mp4")
    with pytest.raises(DataError, match="lists no videos"):
        scan(listed(tmp_path, "# nothing\n"))
    with pytest.raises(DataError, match=r"line 2: expected 'path label'"):
        scan(listed(tmp_path, "loose.mp4 0\nlonely\n"))
    with pytest.raises(DataError, match="relative to the list file"):
        scan(listed(tmp_path, "elsewhere/a.mp4 0\n"))
    with pytest.raises(DataError, match=r"label 7 is outside the 2 classes"):
        scan(listed(tmp_path, "loose.mp4 7\n"), class_names=["a", "b"])


def test_a_folder_without_videos_is_no_class_and_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "annotations/x.csv")
    with pytest.warns(UserWarning, match="annotations"):
        assert scan(tmp_path).class_names == ("run",)


# Splitting.


def many(*counts: int) -> VideoList:
    items = tuple(VideoItem(f"s{n}_c{label}.mp4", label) for label, count in enumerate(counts) for n in range(count))
    return VideoList(items, tuple(f"c{label}" for label in range(len(counts))))


def test_a_pattern_leaves_a_subject_out() -> None:
    training, validation = split(many(4, 4), val_match=["s1_*", "s2_*"])
    assert {item.stem for item in validation.items} == {"s1_c0", "s1_c1", "s2_c0", "s2_c1"}
    assert len(training) == 4


def test_a_fraction_is_drawn_from_every_class_and_by_seed() -> None:
    videos = many(10, 20, 2)
    training, validation = split(videos, val_fraction=0.2, seed=1)
    assert validation.counts == (2, 4, 1)
    assert training.counts == (8, 16, 1)
    assert split(videos, val_fraction=0.2, seed=1)[1] == validation
    assert split(videos, val_fraction=0.2, seed=2)[1] != validation


def test_a_class_of_one_video_stays_in_training_and_is_named() -> None:
    with pytest.warns(UserWarning, match="c1"):
        training, validation = split(many(4, 1), val_fraction=0.25)
    assert (training.counts, validation.counts) == ((3, 1), (1, 0))


def test_splits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="one video only"):
        split(many(1, 1), val_fraction=0.5)
    with pytest.raises(DataError, match="none to train on: c1"):
        split(many(2, 1), val_match="s0_c1")
    with pytest.raises(DataError, match="no video fits 'moshe"):
        split(many(2, 2), val_match="moshe_*")
    with pytest.raises(DataError, match="between 0 and 1"):
        split(many(2, 2), val_fraction=1.0)
    with pytest.raises(DataError, match="not both"):
        split(many(2, 2), val_fraction=0.5, val_match="*")


def test_without_options_everything_is_training() -> None:
    training, validation = split(many(2, 2))
    assert (len(training), len(validation)) == (4, 0)


# Samples.


def test_samples_have_the_shapes_that_models_take(small: Path) -> None:
    videos = scan(small)
    sample = VideoDataset(videos, CFG, training=True)[4]
    assert (sample["clip"].shape, sample["clip"].dtype) == ((3, 3, 20, 20), torch.float32)
    assert (sample["label"], sample["index"]) == (1, 4)
    views = VideoDataset(videos, CFG, training=False, num_clips=2, num_crops=3)[0]
    assert views["clip"].shape == (6, 3, 3, 20, 20)


def test_the_crops_of_the_first_clip_come_first(small: Path) -> None:
    videos = scan(small)
    both = VideoDataset(videos, CFG, training=False, num_clips=2, num_crops=3)[0]["clip"]
    one_crop = VideoDataset(videos, CFG, training=False, num_clips=2, num_crops=1)[0]["clip"]
    assert torch.equal(both[1], one_crop[0])
    assert torch.equal(both[4], one_crop[1])


def test_start_and_end_of_an_item_are_respected(write_video: Writer) -> None:
    path = str(write_video("a.mp4", count=30))
    late = VideoDataset(VideoList((VideoItem(path, 0, 25, 30),), ("a",)), CFG, training=False)[0]["clip"]
    early = VideoDataset(VideoList((VideoItem(path, 0, 1, 6),), ("a",)), CFG, training=False)[0]["clip"]
    assert late.mean() > early.mean() + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_is_the_same_with_any_number_of_workers(small: Path, workers: int) -> None:
    def run(count: int, epoch: int) -> torch.Tensor:
        dataset = VideoDataset(scan(small), CFG, training=True, augment=Augment(erase=0.5, hue=0.2), seed=3)
        dataset.set_epoch(epoch)
        batches = list(loader(dataset, batch_size=2, workers=count, shuffle=True, seed=3))
        return torch.cat([batch["clip"] for batch in batches])

    assert torch.equal(run(workers, 1), run(0, 1))
    assert not torch.equal(run(workers, 1), run(0, 2))


def test_the_epoch_reaches_workers_that_stay_alive(small: Path) -> None:
    dataset = VideoDataset(scan(small), CFG, training=True)
    batches = loader(dataset, batch_size=6, workers=1)
    first = next(iter(batches))["clip"]
    dataset.set_epoch(1)
    assert not torch.equal(next(iter(batches))["clip"], first)
    dataset.set_epoch(0)
    assert torch.equal(next(iter(batches))["clip"], first)


def test_shuffling_visits_every_video_once(small: Path) -> None:
    dataset = VideoDataset(scan(small), CFG, training=True)
    order = [i for batch in loader(dataset, batch_size=4, shuffle=True) for i in batch["index"].tolist()]
    assert sorted(order) == list(range(6)) != order


def test_a_mirrored_clip_takes_its_mirrored_label(small: Path) -> None:
    for hflip, label in ((1.0, 1), (0.0, 0)):
        augment = Augment(hflip=hflip)
        dataset = VideoDataset(scan(small), CFG, training=True, augment=augment, flip_labels={0: 1, 1: 0})
        assert dataset[0]["label"] == label


# Broken videos.


def break_file(small: Path, name: str) -> str:
    path = small / name
    path.write_bytes(b"<html>404</html>" * 20)
    return str(path)


def test_a_broken_video_is_named_once_and_replaced_by_its_class(small: Path) -> None:
    path = break_file(small, "run/p1_run.mp4")
    dataset = VideoDataset(scan(small), CFG, training=True)
    with pytest.warns(UserWarning, match=r"p1_run\.mp4"):
        sample = dataset[1]
    assert (sample["label"], sample["index"]) == (0, 1)
    assert sample["clip"].abs().sum() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset[1]
    assert list(dataset.broken) == [path]
    assert "cannot be opened" in dataset.broken[path]


def test_a_class_of_broken_videos_is_replaced_by_others(small: Path) -> None:
    for number in range(3):
        break_file(small, f"run/p{number}_run.mp4")
    dataset = VideoDataset(scan(small), CFG, training=True)
    with pytest.warns(UserWarning, match="broken"):
        assert dataset[0]["label"] == 1
    assert len(dataset.broken) == 3


def test_in_an_evaluation_a_broken_video_is_ignored_not_replaced(small: Path) -> None:
    break_file(small, "run/p0_run.mp4")
    dataset = VideoDataset(scan(small), CFG, training=False, num_crops=3)
    with pytest.warns(UserWarning, match="p0_run"):
        sample = dataset[0]
    assert sample["label"] == IGNORED
    assert sample["clip"].shape == dataset[1]["clip"].shape
    assert sample["clip"].count_nonzero() == 0


def test_a_broken_video_is_fatal_when_asked(small: Path) -> None:
    break_file(small, "run/p0_run.mp4")
    with pytest.raises(DataError, match=r"p0_run\.mp4"):
        VideoDataset(scan(small), CFG, training=True, on_error="raise")[0]


@pytest.mark.parametrize("training", [True, False])
def test_when_every_video_is_broken_the_run_ends(small: Path, training: bool) -> None:
    for path in small.glob("*/*"):
        break_file(small, f"{path.parent.name}/{path.name}")
    dataset = VideoDataset(scan(small), CFG, training=training)
    with pytest.raises(DataError, match="all 6 videos"), pytest.warns(UserWarning, match="broken"):
        _ = [dataset[index] for index in range(6)]


def test_what_a_worker_finds_broken_is_known_outside(small: Path) -> None:
    path = break_file(small, "walk/p2_walk.mp4")
    dataset = VideoDataset(scan(small), CFG, training=True)
    for _ in loader(dataset, batch_size=3, workers=2):
        pass
    assert list(dataset.broken) == [path]
    assert "cannot be opened" in dataset.broken[path]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(DataError, match="no videos"):
        VideoDataset(VideoList((), ("a",)), CFG, training=True)
    with pytest.raises(ConfigError, match="on_error"):
        VideoDataset(many(1), CFG, training=True, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_clips"):
        VideoDataset(many(1), CFG, training=False, num_clips=0)


# The cache.


def test_a_cached_run_equals_one_that_decodes(small: Path) -> None:
    videos = scan(small)
    plain = VideoDataset(videos, CFG, training=True)
    cached = VideoDataset(videos, CFG, training=True, cache="ram")
    first = [cached[i]["clip"] for i in range(6)]
    for path in small.glob("*/*"):
        path.unlink()
    assert cached.cache is not None
    assert cached.cache.used == sum(32 * 48 * 3 * count for count in (8, 9, 10, 8, 9, 10))
    assert all(torch.equal(cached[i]["clip"], clip) for i, clip in enumerate(first))
    with pytest.raises(DataError), pytest.warns(UserWarning, match="no such file"):
        plain[0]


def test_workers_share_the_cache_of_the_main_process(small: Path) -> None:
    dataset = VideoDataset(scan(small), CFG, training=True, cache="ram")
    expected = torch.stack([VideoDataset(scan(small), CFG, training=True)[i]["clip"] for i in range(6)])
    batches = loader(dataset, batch_size=6, workers=2)
    for path in small.glob("*/*"):
        path.unlink()
    assert torch.equal(next(iter(batches))["clip"], expected)


def test_the_cache_keeps_its_budget_and_says_so(small: Path) -> None:
    dataset = VideoDataset(scan(small), CFG, training=True, cache="ram", cache_bytes=100_000)
    with pytest.warns(UserWarning, match="full"):
        dataset.preload()
    assert dataset.cache is not None
    assert 0 < dataset.cache.used <= 100_000
    assert len(dataset.cache) < 6
    assert dataset[5]["label"] == 1


def test_cached_frames_can_be_smaller(small: Path) -> None:
    cache = FrameCache(budget=1 << 20, short_side=16)
    with open_video(small / "run" / "p0_run.mp4") as source:
        held = cache.keep(0, source)
        assert held.size == (16, 24)
        assert held.timestamps == source.timestamps
        assert held.frames([7, 0]).shape == (2, 16, 24, 3)
