"""Fonts of this machine for class names in figures, whatever script they are written in.

matplotlib takes each letter from the first font of a list that has it. DejaVu Sans, which comes
with it, has Latin, Greek, Cyrillic, Arabic and more, but no Chinese, Japanese or Korean; a system
often has a font that does.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font

from tlcli.results.drawable_text import lacking

OWN_FONT = "DejaVu Sans"

_REGULAR = (400, "normal", "regular", "book")
_SHOWN = 8
_PLACEHOLDERS = "Last Resort"
"""Has a picture of a box for every letter."""


def fonts_for(texts: Iterable[str]) -> list[str]:
    """Return the fonts that texts can be drawn with, the usual one first."""
    return [OWN_FONT, *_search(lacking(texts))[0]]


def undrawable(texts: Iterable[str]) -> str:
    """Return the letters of texts that no font of this machine has, in their order."""
    return _search(lacking(texts))[1]


def class_labels_to_draw(names: Sequence[str]) -> list[str]:
    r"""Return what figures call classes: their names, where this machine has fonts for them.

    Else the number of the class, from 1, and the code of each letter that cannot be drawn:
    `2: \u732b`.
    """
    missing = frozenset(undrawable(names))
    return [
        name if missing.isdisjoint(name) else f"{number}: {_with_codes(name, missing)}"
        for number, name in enumerate(names, start=1)
    ]


def font_remark(names: Sequence[str]) -> str | None:
    """Say which letters of class names no font has, None if all can be drawn."""
    missing = undrawable(names)
    if not missing:
        return None
    letters = [letter if letter.isprintable() else _code(letter) for letter in missing]
    shown = " ".join(letters[:_SHOWN]) + (" …" if len(letters) > _SHOWN else "")
    return (
        f"No font on this machine has {shown}: figures show the numbers and letter codes of such "
        "classes; all other files have their names."
    )


def _with_codes(name: str, missing: frozenset[str]) -> str:
    return "".join(_code(letter) if letter in missing else letter for letter in name)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


@cache
def _search(letters: str) -> tuple[tuple[str, ...], str]:
    """Return families that have some of the letters, and the letters that none has."""
    families: list[str] = []
    left = dict.fromkeys(letters)
    for entry in fontManager.ttflist if letters else ():
        found = _letters_in(entry, left)
        if found and entry.name not in families:
            families.append(entry.name)
            left = {letter: None for letter in left if letter not in found}
    return tuple(families), "".join(left)


def _letters_in(entry: FontEntry, letters: Iterable[str]) -> set[str]:
    """Return which letters an upright regular font has; none if its letters are bitmaps."""
    is_plain = entry.style == "normal" and entry.weight in _REGULAR
    if not is_plain or entry.name.startswith(_PLACEHOLDERS) or not Path(entry.fname).is_file():
        return set()
    try:
        font = FT2Font(entry.fname)
    except (OSError, RuntimeError):  # removed or damaged since matplotlib listed it
        return set()
    if not font.scalable:
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}
