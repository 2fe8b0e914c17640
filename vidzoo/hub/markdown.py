"""Pieces of a card: Markdown tables, and values that neither YAML nor a table can mistake for anything else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence

__all__ = ["quoted", "slug", "table", "text"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def text(value: object) -> str:
    """Text that stays text inside a Markdown table."""
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "&#124;")


def quoted(value: object) -> str:
    """A YAML scalar: a JSON string is one, apart from characters that YAML does not allow at all."""
    return json.dumps("".join(char for char in str(value) if char.isprintable()), ensure_ascii=False)


def slug(name: str) -> str:
    """A name as an identifier of the Hub; one that is a Hub id already stays as it is."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "unnamed"
