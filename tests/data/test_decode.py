"""Frames by exact number, from every kind of file."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.tiny_videos import numbered_frames, rotate_mp4
from vidzoo.data.decode import VideoFile, VideoSource, open_video
from vidzoo.data.frames import FrameFolder, natural_key
from vidzoo.data.source import VideoWindow
from vidzoo.errors import VideoDecodeError

Writer = Callable[..., Path]
PIXELS = 10_000_000
"""How much of a real file the comparison with plain decoding covers, to stay quick."""


def plain_decoding(path: Path, limit: int | None = None) -> list[Tensor]:
    """Every frame in order, the slow way: rotated uint8 (H, W, 3)."""
    import av

    frames: list[Tensor] = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.best("video")):
            try:
                shown = packet.decode()
            except av.FFmpegError:
                continue
            for frame in shown:
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                frames.append(torch.rot90(picture, frame.rotation // 90, (0, 1)))
                if len(frames) == limit:
                    return frames
    return frames


def requests(length: int, count: int = 10) -> list[list[int]]:
    rng = random.Random(length)
    return [[rng.randrange(length) for _ in range(rng.choice((1, 2, 5, 8)))] for _ in range(count)]


def check_exact(path: Path, limit: int | None = None) -> int:
    expected = plain_decoding(path, limit)
    with VideoFile(path) as video:
        assert len(video) >= len(expected)
        for numbers in requests(len(expected)):
            got = video.frames(numbers)
            assert torch.equal(got, torch.stack([expected[i] for i in numbers])), f"{path} {numbers}"
            assert tuple(got.shape[1:3]) == video.size
        assert all(a < b for a, b in zip(video.timestamps, video.timestamps[1:], strict=False))
    return len(expected)


@pytest.mark.parametrize("folder", ["odd", "clips/ucf101", "clips/hmdb51", "clips/kinetics", "clips/gif"])
def test_every_frame_asked_for_is_the_frame_of_plain_decoding(shared_data: Path, folder: str) -> None:
    unreadable = {"audio_only.mp3", "trunc_nomoov.mp4", "trunc_fast.mp4", "corrupted.mp4"}
    files = [path for path in sorted((shared_data / folder).iterdir()) if path.name not in unreadable]
    for path in files:
        with VideoFile(path) as video:
            height, width = video.size
        assert check_exact(path, PIXELS // (height * width)) > 0
    assert files


def test_a_real_video_of_several_key_frames_is_exact_to_its_end(shared_data: Path) -> None:
    assert check_exact(shared_data / "clips" / "kinetics" / "arm_wrestling.mp4") == 280


def test_clips_whose_headers_claim_too_many_frames_are_read_to_their_last_frame(shared_data: Path) -> None:
    files = sorted((shared_data / "ut_interaction").glob("*/*"))[::12]
    for path in files:
        expected = plain_decoding(path)
        with VideoFile(path) as video:
            assert len(video) - len(expected) in (0, 1)
            assert torch.equal(video.frames([len(video) - 1])[0], expected[-1])
    assert len(files) == 5


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.ts", "libx264"),
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.h264", "libx264"),
    ],
)
def test_frames_are_exact_in_every_container(write_video: Writer, name: str, codec: str) -> None:
    assert check_exact(write_video(name, count=60, codec=codec)) == 60


def test_an_open_group_of_pictures_is_exact(write_video: Writer) -> None:
    path = write_video("open.mp4", count=90, gop=15, options={"x264-params": "open-gop=1:bframes=3:scenecut=0"})
    assert check_exact(path) == 90


def test_a_stream_that_refreshes_bit_by_bit_is_exact(write_video: Writer) -> None:
    path = write_video(
        "refresh.mkv",
        count=90,
        moving=True,
        size=(96, 128),
        gop=25,
        options={"x264-params": "intra-refresh=1:keyint=25"},
    )
    expected = plain_decoding(path)
    for number in range(26, 90, 2):
        with open_video(path) as video:
            assert torch.equal(video.frames([number])[0], expected[number]), number


def test_repeats_and_any_order_are_served(write_video: Writer) -> None:
    with open_video(write_video("a.mp4")) as video:
        forward = video.frames([3, 20])
        assert torch.equal(video.frames([20, 3, 20]), forward[[1, 0, 1]])
        assert video.frames([]).shape == (0, 48, 64, 3)


def test_a_number_outside_the_video_is_refused(write_video: Writer) -> None:
    with open_video(write_video("a.mp4", count=5)) as video, pytest.raises(IndexError, match="frames 0 to 4, got 5"):
        video.frames([5])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_is_applied(write_video: Writer, degrees: int) -> None:
    path = write_video("phone.mp4", count=3)
    with open_video(path) as video:
        upright = video.frames([1])[0]
    rotate_mp4(path, degrees)
    with open_video(path) as video:
        # The matrix turns the picture clockwise for display.
        assert torch.equal(video.frames([1])[0], torch.rot90(upright, -degrees // 90, (0, 1)))
        assert video.size == ((48, 64) if degrees == 180 else (64, 48))


def test_real_rotated_files_show_the_same_scene_upright(shared_data: Path) -> None:
    with open_video(shared_data / "odd" / "video_0.mov") as video:
        assert video.size == (320, 568)
    with open_video(shared_data / "odd" / "video_90.mov") as video:
        assert video.size == (568, 320)


def test_timestamps_follow_a_variable_rate(write_video: Writer) -> None:
    stamps = [0, 1, 2, 10, 11, 30]
    with open_video(write_video("vfr.mp4", count=6, pts=stamps)) as video:
        assert video.timestamps == pytest.approx([t / 25 for t in stamps])
        assert video.fps == pytest.approx(5 / 30 * 25)


def test_a_constant_rate_is_the_nominal_one(write_video: Writer) -> None:
    with open_video(write_video("a.mkv", rate=30)) as video:
        assert video.fps == 30
        assert video.timestamps[10] == pytest.approx(1 / 3, abs=1e-3)


def test_the_first_frame_is_at_time_zero_wherever_the_stream_starts(write_video: Writer) -> None:
    with open_video(write_video("late.mp4", count=4, pts=[50, 51, 52, 53])) as video:
        assert video.timestamps[0] == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html><body>404 Not Found</body></html>" * 9, "cannot be opened"), (b"\x00" * 4096, "opened")],
)
def test_what_is_no_video_is_refused_by_name_and_cause(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=reason) as caught:
        open_video(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"nowhere\.mp4: there is no such file"):
        open_video(tmp_path / "nowhere.mp4")


def test_a_file_without_its_index_is_refused(write_video: Writer) -> None:
    path = write_video("a.mp4")
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: (cannot be opened|holds no video)"):
        open_video(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.rate = 8000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoDecodeError, match="no video stream"):
        open_video(path)


def cut_file(write_video: Writer) -> Path:
    path = write_video("cut.mp4", count=60, moov_first=True, options={"x264-params": "bframes=0", "crf": "1"})
    data = path.read_bytes()
    start = data.index(b"mdat")
    path.write_bytes(data[: start + (len(data) - start) // 2])
    return path


def test_a_cut_file_is_an_error(write_video: Writer) -> None:
    with pytest.raises(VideoDecodeError, match="cut"):
        open_video(cut_file(write_video))


def test_a_cut_file_is_shortened_when_damage_is_tolerated(write_video: Writer) -> None:
    path = cut_file(write_video)
    expected = plain_decoding(path)
    with open_video(path, tolerant=True) as video:
        assert 10 < len(video) == len(expected) < 60
        assert torch.equal(video.frames(range(len(video))), torch.stack(expected))


def rotten_file(write_video: Writer) -> Path:
    """A file one of whose packets in the middle is overwritten."""
    import av

    path = write_video("rot.mkv", count=40, gop=100, options={"x264-params": "bframes=0:scenecut=0", "crf": "1"})
    with av.open(str(path)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 20)
        damaged = bytes(packet)
    data = path.read_bytes()
    place = data.index(damaged)
    path.write_bytes(data[:place] + b"\xff" * len(damaged) + data[place + len(damaged) :])
    return path


def test_damage_in_the_middle_is_an_error(write_video: Writer) -> None:
    with open_video(rotten_file(write_video)) as video:
        assert video.frames([5]).shape[0] == 1
        with pytest.raises(VideoDecodeError, match=r"rot\.mkv: (a packet|frame)"):
            video.frames([5, 35])


def test_damage_that_a_request_does_not_touch_does_no_harm(write_video: Writer) -> None:
    with open_video(rotten_file(write_video)) as video:
        assert video.frames(range(20)).shape[0] == 20


def test_damage_in_the_middle_shows_the_last_good_frame_when_tolerated(write_video: Writer) -> None:
    with open_video(rotten_file(write_video), tolerant=True) as video:
        frames = video.frames(range(len(video)))
    assert len(frames) == 40
    assert torch.equal(frames[20], frames[19])
    assert frames[19].float().mean() > frames[5].float().mean()


def test_a_file_that_opens_but_yields_no_frame_is_an_error(write_video: Writer) -> None:
    import av

    path = write_video("none.mkv", count=6, options={"x264-params": "bframes=0"})
    data = path.read_bytes()
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                data = data.replace(bytes(packet), b"\x00" * packet.size)
    path.write_bytes(data)
    with pytest.raises(VideoDecodeError, match=r"none\.mkv"), open_video(path) as video:
        video.frames([0])


def test_a_real_damaged_file_is_an_error_and_readable_when_tolerated(shared_data: Path) -> None:
    path = shared_data / "odd" / "corrupted.mp4"
    with open_video(path) as video, pytest.raises(VideoDecodeError, match="packet"):
        video.frames(range(len(video)))
    with open_video(path, tolerant=True) as video:
        assert video.frames([0, len(video) - 1]).shape[0] == 2


def test_nothing_is_left_open_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video at all" * 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(VideoDecodeError):
            open_video(path)
    path.unlink()


def test_a_closed_video_can_be_read_again(write_video: Writer) -> None:
    video = open_video(write_video("a.mp4"))
    before = video.frames([7])
    video.close()
    video.close()
    assert torch.equal(video.frames([7]), before)
    video.close()


def test_a_window_counts_from_one_and_includes_its_end(write_video: Writer) -> None:
    path = write_video("a.mp4")
    with open_video(path) as whole, open_video(path, start=11, end=20) as part:
        assert isinstance(part, VideoWindow)
        assert len(part) == 10
        assert part.timestamps[0] == 0
        assert torch.equal(part.frames([0, 9]), whole.frames([10, 19]))
    with pytest.raises(VideoDecodeError, match="30 frames, so none from 40"):
        open_video(path, start=40, end=50)


def test_every_source_is_a_video_source(write_video: Writer, write_images: Writer) -> None:
    for path in (write_video("a.mp4"), write_images("walk", range(1, 4)), "synthetic:jack?seed=3&frames=5"):
        with open_video(path) as source:
            assert isinstance(source, VideoSource)
            frames = source.frames([len(source) - 1, 0])
            assert frames.dtype == torch.uint8
            assert tuple(frames.shape) == (2, *source.size, 3)


def test_decoded_brightness_grows_with_the_frame_number(write_video: Writer) -> None:
    with open_video(write_video("a.mp4", count=30, options={"crf": "1"})) as video:
        got = video.frames(range(30)).float().mean(dim=(1, 2, 3))
    assert torch.allclose(got, numbered_frames(30).float().mean(dim=(1, 2, 3)), atol=3)


def test_images_are_ordered_by_their_number_and_a_gap_takes_time(write_images: Writer) -> None:
    folder = write_images("walk", [2, 10, 1, 11])
    with FrameFolder(folder, fps=10) as video:
        assert video.frames(range(4))[:, 0, 0, 0].tolist() == [1, 2, 10, 11]
        assert video.timestamps == pytest.approx([0, 0.1, 0.9, 1.0])
        assert video.size == (20, 30)


def test_start_and_end_choose_images_by_number(write_images: Writer) -> None:
    folder = write_images("walk", range(1, 10))
    assert open_video(folder, start=3, end=5).frames(range(3))[:, 0, 0, 0].tolist() == [3, 4, 5]
    with pytest.raises(VideoDecodeError, match="no numbered image from 50 to 60"):
        open_video(folder, start=50, end=60)


def test_images_of_different_size_are_refused(write_images: Writer) -> None:
    folder = write_images("walk", [1, 2])
    write_images("walk", [3], size=(10, 10))
    with pytest.raises(VideoDecodeError, match=r"img_00003\.png: is 10x10"):
        open_video(folder).frames([0, 2])


def test_an_unreadable_image_is_named(write_images: Writer) -> None:
    folder = write_images("walk", [1, 2])
    (folder / "img_00002.png").write_bytes(b"not an image")
    with pytest.raises(VideoDecodeError, match=r"img_00002\.png: cannot be read"):
        open_video(folder).frames([1])


def test_names_sort_as_people_count() -> None:
    assert sorted(["img10", "img9", "a"], key=natural_key) == ["a", "img9", "img10"]
