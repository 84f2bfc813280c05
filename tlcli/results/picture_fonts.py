"""Fonts of this machine for class names in figures, whatever script they are written in.

matplotlib takes each letter from the first font of a list that has it. DejaVu Sans, which comes
with it, has Latin, Greek, Cyrillic, Arabic and more, but no Chinese, Japanese or Korean; a system
often has a font that does.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
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
    return [OWN_FONT, *(entry.name for entry in _search(lacking(texts))[0])]


def runs_of(text: str) -> list[tuple[str, str | None]]:
    """Cut a text into parts, each with the file of the font that it can be drawn with.

    None is the usual font, also where no font has the letters.
    """
    entries = _search(lacking([text]))[0]
    missing = frozenset(lacking([text]))

    def file_of(letter: str) -> str | None:
        """Return the first font that has it, as matplotlib does."""
        if letter not in missing:
            return None
        return next((entry.fname for entry in entries if _has(entry.fname, letter)), None)

    files = {letter: file_of(letter) for letter in dict.fromkeys(text)}
    return [("".join(part), file) for file, part in groupby(text, key=files.__getitem__)]


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
        _label_to_draw(name, number=number, missing=missing)
        for number, name in enumerate(names, start=1)
    ]


def class_label_to_draw(name: str, *, number: int) -> str:
    """Return what figures call one class, see `class_labels_to_draw`."""
    return _label_to_draw(name, number=number, missing=frozenset(undrawable([name])))


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


def _label_to_draw(name: str, *, number: int, missing: frozenset[str]) -> str:
    return name if missing.isdisjoint(name) else f"{number}: {_with_codes(name, missing)}"


def _with_codes(name: str, missing: frozenset[str]) -> str:
    return "".join(_code(letter) if letter in missing else letter for letter in name)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


@cache
def _search(letters: str) -> tuple[tuple[FontEntry, ...], str]:
    """Return a font of each family that has some of the letters, and the letters that none has."""
    families: dict[str, FontEntry] = {}
    left = dict.fromkeys(letters)
    for entry in fontManager.ttflist if letters else ():
        found = _letters_in(entry, left)
        if found and entry.name not in families:
            families[entry.name] = entry
            left = {letter: None for letter in left if letter not in found}
    return tuple(families.values()), "".join(left)


@cache
def _has(path: str, letter: str) -> bool:
    """Say whether the font of a file has a letter."""
    return bool(FT2Font(path).get_char_index(ord(letter)))


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
