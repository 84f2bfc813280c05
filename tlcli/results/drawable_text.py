"""Text for pictures, in the one font that comes with matplotlib."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont


def legible(text: str) -> str:
    """Put a question mark for each character that the font lacks."""
    return "".join(letter if ord(letter) in _letters() else "?" for letter in text)


def lacking(texts: Iterable[str]) -> str:
    """Return the letters of texts that the font lacks, each once, in their order."""
    letters = dict.fromkeys(letter for text in texts for letter in text)
    if all(letter.isascii() and letter.isprintable() for letter in letters):
        return ""  # without reading the font
    return "".join(letter for letter in letters if ord(letter) not in _letters())


def shortened(text: str, *, limit: int) -> str:
    """Cut the middle out of a text of more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half]}…{text[-half:]}"


@cache
def picture_font(size: int, path: str | None = None) -> ImageFont.FreeTypeFont:
    """Load the font for drawing with Pillow, or that of another file, `size` pixels high."""
    return ImageFont.truetype(path or _font_path(), size)


def _font_path() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(_font_path())).get_charmap())
