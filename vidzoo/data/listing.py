"""Which videos a data set has, and which of them are kept for validation."""

from __future__ import annotations

import os
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from urllib.parse import parse_qsl

from vidzoo.data.frames import IMAGE_SUFFIXES, natural_key
from vidzoo.data.videofile import VIDEO_SUFFIXES
from vidzoo.errors import DataError, nearest

__all__ = ["VideoItem", "VideoList", "scan", "split"]

# Folder names that say which part of a data set lies below them.
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WHOLE = re.compile(r"[+-]?\d+")
# A list whose first so many files are all missing was read from the wrong place.
_PROBE = 20


@dataclass(frozen=True)
class VideoItem:
    """One labelled video: a file, a folder of numbered images, or a synthetic spec."""

    path: str
    label: int
    start: int | None = None
    """First frame, counted from 1 (in a folder of images: the number in the file name)."""
    end: int | None = None
    """Last frame, included."""
    part: str | None = None
    """``train``, ``val`` or ``test``, where the data set itself says so."""

    @property
    def stem(self) -> str:
        """The name without folders and suffix, which ``val_match`` patterns are compared with."""
        if self.path.startswith("synthetic:"):
            return self.path.removeprefix("synthetic:")
        path = Path(self.path)
        return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


@dataclass(frozen=True)
class VideoList:
    """Labelled videos and the names that the labels index."""

    items: tuple[VideoItem, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def counts(self) -> tuple[int, ...]:
        """Videos per class."""
        counts = [0] * len(self.class_names)
        for item in self.items:
            counts[item.label] += 1
        return tuple(counts)

    def only(self, items: Iterable[VideoItem]) -> VideoList:
        """The same classes with other items."""
        return VideoList(tuple(items), self.class_names)


def scan(data: str | PathLike[str], *, class_names: Sequence[str] | None = None) -> VideoList:
    """Find the videos of a data set, whichever way it is written down.

    * a folder with one folder per class, each holding video files or folders of numbered images, at any depth;
    * the same below ``train/`` and ``val/`` (and ``test/``);
    * a text file of lines ``path label``, ``folder start end label`` or ``folder frames label``, paths relative to the
      file, label a number or a name, ``#`` starting a comment; names come from a ``classes.txt`` beside it, if any;
    * ``synthetic:actions`` or ``synthetic:pairs``, optionally ``?videos_per_class=100&seed=0&frames=48``.

    Args:
        class_names: fixes the classes and their order; a class that is not among them is an error.

    Raises:
        DataError: nothing there, no videos, or lines that cannot be read.
    """
    spec = str(data)
    names = tuple(class_names) if class_names is not None else None
    if names is not None and len(set(names)) != len(names):
        raise DataError(f"class names must differ, but some of these repeat: {', '.join(names)}")
    if spec.startswith("synthetic:"):
        return _scan_synthetic(spec, names)
    path = Path(spec)
    if path.is_dir():
        return _scan_folder(path, names)
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise DataError(f"{path} is one video, not a data set: give a folder of class folders or a list file")
        return _scan_file(path, names)
    raise DataError(f"{path}: there is no such folder or list file")


def split(
    videos: VideoList,
    *,
    val_match: str | Sequence[str] | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
) -> tuple[VideoList, VideoList]:
    """Divide a list into training and validation.

    Args:
        val_match: shell pattern or patterns; a video whose :attr:`VideoItem.stem` fits one is for validation.
        val_fraction: share of every class that is drawn for validation, at least one video of each class with two or
            more. Random clips of the same scene or person on both sides flatter a model: prefer ``val_match``.

    Returns:
        (training, validation). With neither option, the parts that the data set itself names (``test`` serves where
        there is no ``val``), or everything and nothing.

    Raises:
        DataError: both options, an impossible fraction, an empty validation part, or a class left without training.
    """
    if val_match is not None and val_fraction is not None:
        raise DataError("a split takes val_match or val_fraction, not both")
    if val_match is not None:
        patterns = (val_match,) if isinstance(val_match, str) else tuple(val_match)
        chosen = {i for i, item in enumerate(videos.items) if any(fnmatchcase(item.stem, p) for p in patterns)}
        if not chosen:
            shown = ", ".join(item.stem for item in videos.items[:3])
            raise DataError(f"no video fits {' or '.join(map(repr, patterns))}: they are named like {shown}")
    elif val_fraction is not None:
        chosen = _drawn(videos, val_fraction, seed)
    else:
        parts = {item.part for item in videos.items}
        kept = "val" if "val" in parts else "test"
        chosen = {i for i, item in enumerate(videos.items) if item.part == kept}
        dropped = {i for i, item in enumerate(videos.items) if item.part not in (None, "train", kept)}
        return _divided(videos, chosen, dropped)
    return _divided(videos, chosen, set())


def _divided(videos: VideoList, chosen: set[int], dropped: set[int]) -> tuple[VideoList, VideoList]:
    training = [item for i, item in enumerate(videos.items) if i not in chosen and i not in dropped]
    validation = [item for i, item in enumerate(videos.items) if i in chosen]
    bare = {item.label for item in validation} - {item.label for item in training}
    if bare:
        names = ", ".join(videos.class_names[label] for label in sorted(bare))
        raise DataError(f"these classes would have validation videos but none to train on: {names}")
    return videos.only(training), videos.only(validation)


def _drawn(videos: VideoList, fraction: float, seed: int) -> set[int]:
    if not 0 < fraction < 1:
        raise DataError(f"val_fraction must lie between 0 and 1, got {fraction}")
    by_class: dict[int, list[int]] = defaultdict(list)
    for i, item in enumerate(videos.items):
        by_class[item.label].append(i)
    chosen: set[int] = set()
    for label, members in sorted(by_class.items()):
        if len(members) > 1:
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            chosen.update(random.Random(f"{seed}/{label}").sample(members, count))
    if not chosen:
        raise DataError(
            f"every class of these {len(videos)} videos has one video only: nothing can be kept for validation"
        )
    single = [videos.class_names[label] for label, members in sorted(by_class.items()) if len(members) == 1]
    if single:
        warnings.warn(f"classes with a single video stay in training only: {', '.join(single)}", stacklevel=3)
    return chosen


def _scan_folder(root: Path, names: tuple[str, ...] | None) -> VideoList:
    subfolders = _subfolders(root)
    parts = [(folder, _PARTS[folder.name.lower()]) for folder in subfolders if folder.name.lower() in _PARTS]
    roots: list[tuple[Path, str | None]] = [(root, None)]
    if len(parts) > 1 and any(part == "train" for _, part in parts):
        roots = list(parts)
    found: list[tuple[str, Path, str | None]] = []
    empty: list[str] = []
    for base, part in roots:
        for folder in _subfolders(base):
            paths = _videos_below(folder)
            found += [(folder.name, path, part) for path in paths]
            if not paths:
                empty.append(folder.name)
    if not found:
        if any(file.suffix.lower() in VIDEO_SUFFIXES for file in root.iterdir()):
            raise DataError(
                f"{root}: its videos lie in no class folder: make one folder per class, or write a list file"
            )
        raise DataError(f"{root}: there is no video in its folders (one folder per class is expected)")
    if empty:
        warnings.warn(f"{root}: folders without videos are not classes: {', '.join(sorted(set(empty)))}", stacklevel=3)
    classes = names or tuple(sorted({name for name, _, _ in found}, key=natural_key))
    items = [VideoItem(str(path), _label_of(name, classes, str(root)), part=part) for name, path, part in found]
    return VideoList(tuple(items), classes)


def _subfolders(folder: Path) -> list[Path]:
    visible = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(visible, key=lambda entry: natural_key(entry.name))


def _videos_below(folder: Path) -> list[Path]:
    """Video files at any depth, and folders that hold two images or more."""
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural_key)
        visible = [f for f in files if not f.startswith(".")]
        suffixes = [os.path.splitext(f)[1].lower() for f in visible]
        found += [Path(where, f) for f, suffix in zip(visible, suffixes, strict=True) if suffix in VIDEO_SUFFIXES]
        if sum(suffix in IMAGE_SUFFIXES for suffix in suffixes) > 1:
            found.append(Path(where))
    return sorted(found, key=lambda path: natural_key(str(path)))


def _scan_file(file: Path, names: tuple[str, ...] | None) -> VideoList:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: is not a text file of 'path label' lines ({error.reason} at byte {error.start})"
        ) from error
    rows = [(n, *_parsed(line, file, n)) for n, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"]
    if not rows:
        raise DataError(f"{file}: lists no videos; write one 'path label' per line")
    missing = [path for _, path, _, _, _ in rows[:_PROBE] if not os.path.exists(path)]
    if len(missing) == len(rows[:_PROBE]):
        raise DataError(
            f"{file}: none of its first videos exist, such as {missing[0]}: paths are relative to the list file"
        )
    if names is None and (beside := file.with_name("classes.txt")).is_file() and beside != file:
        names = tuple(line.strip() for line in beside.read_text(encoding="utf-8").splitlines() if line.strip())
    labels = [label for _, _, label, _, _ in rows]
    numeric = all(_WHOLE.fullmatch(label) for label in labels)
    if numeric:
        classes = names or _derived_names(file, [(path, int(label)) for _, path, label, _, _ in rows])
    else:
        classes = names or tuple(sorted(set(labels), key=natural_key))
    items = []
    for number, path, label, start, end in rows:
        where = f"{file}, line {number}"
        index = int(label) if numeric else _label_of(label, classes, where)
        if not 0 <= index < len(classes):
            raise DataError(f"{where}: label {index} is outside the {len(classes)} classes 0 to {len(classes) - 1}")
        items.append(VideoItem(path, index, start, end))
    return VideoList(tuple(items), classes)


def _parsed(line: str, file: Path, number: int) -> tuple[str, str, int | None, int | None]:
    """(path, label, start, end) of one line."""
    fields = line.strip().rsplit(None, 1)
    if len(fields) < 2:
        fields = line.strip().rsplit(",", 1)
    if len(fields) < 2 or not fields[0].strip():
        raise DataError(f"{file}, line {number}: expected 'path label', got {line.strip()!r}")
    path, label = fields[0].strip().rstrip(",").strip("\"'"), fields[1].strip()
    absolute = str(file.parent / path)
    words = path.split()
    # A path may end in a number itself: what exists decides.
    if len(words) < 2 or not _WHOLE.fullmatch(words[-1]) or os.path.exists(absolute):
        return absolute, label, None, None
    if len(words) > 2 and _WHOLE.fullmatch(words[-2]):
        return str(file.parent / path.rsplit(None, 2)[0]), label, int(words[-2]), int(words[-1])
    folder = str(file.parent / path.rsplit(None, 1)[0])
    # "folder frames label": the number counts the frames, which the folder itself knows better.
    return (folder, label, None, None) if os.path.isdir(folder) else (absolute, label, None, None)


def _derived_names(file: Path, rows: list[tuple[str, int]]) -> tuple[str, ...]:
    """Class folders where every label has one of its own, otherwise the numbers."""
    highest = max(label for _, label in rows)
    if min(label for _, label in rows) < 0:
        raise DataError(f"{file}: labels must not be negative")
    folders: dict[int, set[str]] = defaultdict(set)
    for path, label in rows:
        folders[label].add(Path(path).parent.name)
    single = {label: next(iter(names)) for label, names in folders.items() if len(names) == 1}
    if len(single) == highest + 1 and len(set(single.values())) == highest + 1:
        return tuple(single[label] for label in range(highest + 1))
    return tuple(str(label) for label in range(highest + 1))


def _label_of(name: str, classes: tuple[str, ...], where: str) -> int:
    if name not in classes:
        raise DataError(f"{where}: there is no class {name!r}: {nearest(name, classes)}")
    return classes.index(name)


def _scan_synthetic(spec: str, names: tuple[str, ...] | None) -> VideoList:
    from vidzoo.data.synthetic import video_list

    kind, _, query = spec.removeprefix("synthetic:").partition("?")
    values = {"videos_per_class": 100, "seed": 0, "frames": 48}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in values:
            raise DataError(f"{spec!r} has an unknown parameter {key!r}: {nearest(key, values)}")
        if not text.isdecimal():
            raise DataError(f"{spec!r} gives {key}={text!r}, which is not a whole number")
        values[key] = int(text)
    rows, own = video_list(
        kind, videos_per_class=values["videos_per_class"], seed=values["seed"], num_frames=values["frames"]
    )
    classes = names or tuple(own)
    return VideoList(tuple(VideoItem(row.path, _label_of(own[row.label], classes, spec)) for row in rows), classes)
