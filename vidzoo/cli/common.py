"""What the subcommands share: argument types, tables, files written whole."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidzoo.errors import ConfigError
from vidzoo.files import whole_file

__all__ = ["check_writable", "count", "count_or_zero", "print_json", "table", "write_json"]


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def count_or_zero(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return 0 if text.strip() == "0" else count(text)


def check_writable(path: str | None) -> None:
    """Refuse a place that cannot be written before the work is done, not after it.

    Raises:
        ConfigError: the folder is missing or closed, or the path is a folder.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file")
    if not target.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: the folder {target.parent} is closed to you")


def print_json(content: Any) -> None:
    """Indented JSON on stdout."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def write_json(path: str, content: Any) -> None:
    """Indented JSON in a file that is either complete or not there."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def table(rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Columns of text under each other."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(" " * indent + line for line in lines)
