"""Weights made from somebody else's checkpoint: downloaded, checked, converted and kept when they are first asked for."""

from vidzoo.donors.pipeline import obtain, prepare
from vidzoo.donors.store import cache_folder

__all__ = ["cache_folder", "obtain", "prepare"]
