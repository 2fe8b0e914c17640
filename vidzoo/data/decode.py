"""One door to every kind of video: files, folders of numbered images, synthetic ones."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from vidzoo.data.source import DEFAULT_FPS, VideoSource, VideoWindow
from vidzoo.data.videofile import VIDEO_SUFFIXES, VideoFile
from vidzoo.errors import VideoDecodeError

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "VideoSource", "VideoWindow", "open_video"]


def open_video(
    path: str | PathLike[str],
    *,
    tolerant: bool = False,
    threads: int = 1,
    start: int | None = None,
    end: int | None = None,
    fps: float | None = None,
) -> VideoSource:
    """Open a video file, a folder of numbered images, or ``"synthetic:ACTION?seed=3&frames=48"``.

    Args:
        tolerant: see :class:`VideoFile`.
        threads: decoder threads for a file.
        start, end: first and last frame, counted from 1 and both included; for a folder, the numbers in its file names.
        fps: frame rate of a folder of images, which has none of its own (25 when not given).

    Raises:
        VideoDecodeError: it cannot be opened, or holds no frames.
    """
    spec = str(path)
    source: Any
    if spec.startswith("synthetic:"):
        from vidzoo.data.synthetic import parse

        source = parse(spec)
    elif Path(spec).is_dir():
        from vidzoo.data.frames import FrameFolder

        return FrameFolder(spec, start=start, end=end, fps=fps or DEFAULT_FPS)
    else:
        source = VideoFile(spec, tolerant=tolerant, threads=threads)
    if start is None and end is None:
        return source
    try:
        return VideoWindow(source, start=start or 1, end=end or len(source))
    except VideoDecodeError:
        source.close()
        raise
