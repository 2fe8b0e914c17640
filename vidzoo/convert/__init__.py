"""Pure functions between state dicts, one file per foreign project, and the one door that finds the right one."""

from vidzoo.convert.door import Conversion, convert, detect, to_vidzoo
from vidzoo.convert.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Conversion", "Layout", "convert", "detect", "to_vidzoo"]
