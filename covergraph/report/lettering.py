"""How wide words are on paper, and what of a module path fits into a given width."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

LETTERS, SMALL = 8.0, 7.5
"""Size of the letters on nodes, and of those beside them, in points."""


@lru_cache(maxsize=4096)
def text_width(line: str, size: float) -> float:
    """Inches that a line takes in letters of `size` points."""
    width, _, _ = text_to_path.get_text_width_height_descent(line, FontProperties(size=size), "$" in line)
    return float(width) / 72


def fitting(path: str, width: float) -> str:
    """The end of a module path that fits into `width` inches, after an ellipsis if something is left out."""
    path = path.replace("$", "")
    parts, shown = path.split("."), path
    while text_width(shown, SMALL) > width and len(parts) > 1:
        parts = parts[1:]
        shown = "…" + ".".join(parts)
    while text_width(shown, SMALL) > width and len(shown) > 2:
        shown = "…" + shown[2:]
    return shown
