import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from tlcli.results import picture_fonts
from tlcli.results.figures import draw_confusion_matrix
from tlcli.results.gallery import GalleryBox, GalleryPicture, draw_gallery
from tlcli.results.picture_fonts import (
    OWN_FONT,
    class_labels_to_draw,
    font_remark,
    fonts_for,
    runs_of,
    undrawable,
)

HAN = "\ue7a1\ue7a2"
"""Private letters, of which no font of any machine knows."""
RARE = "\ue7b9"
AddFont = Callable[..., None]
Bars = tuple[tuple[int, int], ...]


@pytest.fixture
def add_font(tmp_path: Path) -> Iterator[AddFont]:
    """Lets matplotlib know a font whose letters are black squares, or their two edges alone."""
    before = list(fontManager.ttflist)

    def add(name: str, letters: str, *, style: str = "Regular", bars: Bars = ((50, 950),)) -> None:
        builder = FontBuilder(1000, isTTF=True)
        glyphs = [".notdef", *(f"g{ord(letter):x}" for letter in letters)]
        pen = TTGlyphPen(None)
        for left, right in bars:
            pen.moveTo((left, 0))
            for corner in ((left, 800), (right, 800), (right, 0)):
                pen.lineTo(corner)
            pen.closePath()
        square = pen.glyph()
        builder.setupGlyphOrder(glyphs)
        builder.setupCharacterMap({ord(letter): f"g{ord(letter):x}" for letter in letters})
        builder.setupGlyf(dict.fromkeys(glyphs, square))
        builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 50)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": name, "styleName": style})
        builder.setupOS2(usWeightClass=700 if style == "Bold" else 400)
        builder.setupPost()
        path = tmp_path / f"{name}-{style}.ttf"
        builder.save(path)
        fontManager.addfont(path)
        picture_fonts._search.cache_clear()

    yield add
    fontManager.ttflist[:] = before
    picture_fonts._search.cache_clear()


def ink_of(path: Path, labels: list[str]) -> float:
    """Draw a matrix with raw warnings as errors; return how dark it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion_matrix(path, counts=np.eye(2, dtype=int), labels=labels, title="test")
    with Image.open(path) as image:
        return float((255 - np.asarray(image.convert("L"), dtype=float)).sum())


def test_class_labels_to_draw__names_of_the_own_font_stay() -> None:
    names = ["cat", "Großer Bär", "кошка", "γάτα", "$x_{", ""]
    assert class_labels_to_draw(names) == names
    assert fonts_for(names) == [OWN_FONT]
    assert font_remark(names) is None


def test_class_labels_to_draw__numbers_and_codes() -> None:
    names = ["cat", f"big {HAN}", "a\nb", RARE]
    assert class_labels_to_draw(names) == [
        "cat",
        r"2: big \ue7a1\ue7a2",
        r"3: a\nb",
        r"4: \ue7b9",
    ]
    assert undrawable(names) == f"{HAN}\n{RARE}"
    remark = font_remark(names)
    assert remark is not None
    assert remark.startswith(r"No font on this machine has \ue7a1 \ue7a2 \n \ue7b9: figures show")


def test_font_remark__few_letters_are_named() -> None:
    remark = font_remark([chr(0xE700 + i) for i in range(9)])
    assert remark is not None
    assert r" \ue707 …: figures" in remark


def test_fonts_for__fonts_of_the_machine_that_have_the_letters(add_font: AddFont) -> None:
    add_font("Square One", HAN[0])
    add_font("Bold Square", HAN[1], style="Bold")
    assert undrawable([HAN]) == HAN[1]
    add_font("Square Two", HAN + RARE)
    assert fonts_for(["cat", HAN]) == [OWN_FONT, "Square One", "Square Two"]
    assert class_labels_to_draw([HAN, "cat"]) == [HAN, "cat"]
    assert font_remark([HAN, RARE]) is None


def test_fonts_for__font_that_is_gone(add_font: AddFont, tmp_path: Path) -> None:
    add_font("Square", RARE)
    (tmp_path / "Square-Regular.ttf").write_bytes(b"no font any more")
    assert fonts_for([RARE]) == [OWN_FONT]


def test_draw_confusion_matrix__letters_without_a_font(tmp_path: Path) -> None:
    assert ink_of(tmp_path / "m.png", ["cat", HAN + "\t"]) > 0


def test_draw_confusion_matrix__letters_of_another_font(tmp_path: Path, add_font: AddFont) -> None:
    add_font("Square", HAN)
    add_font("Edges", RARE, bars=((50, 60), (940, 950)))
    squares = ink_of(tmp_path / "squares.png", ["cat", HAN])
    edges = ink_of(tmp_path / "edges.png", ["cat", RARE * 2])
    inside = 0.88 * 0.8 * (9 * 150 / 72) ** 2 * 255  # of one letter of 9 points at 150 dpi
    assert squares - edges == pytest.approx(4 * inside, rel=0.1)  # two letters on two axes


def gallery_of(path: Path, name: str) -> np.ndarray:
    """Draw one box of that class, in green, and its label."""
    box = GalleryBox(box=(100, 50, 200, 100), class_index=1, name=name)
    image = Image.new("RGB", (420, 200), (60, 60, 60))
    picture = GalleryPicture(image=image, caption="a.jpg", truths=(box,), detections=())
    draw_gallery(path, pictures=[picture], title="val")
    with Image.open(path) as drawn:
        return np.asarray(drawn.convert("RGB"))


def green_of(sheet: np.ndarray) -> float:
    return float((sheet == (0, 255, 90)).all(axis=2).sum())


def test_runs_of__the_first_font_that_has_a_letter(add_font: AddFont, tmp_path: Path) -> None:
    add_font("Square One", HAN[0])
    add_font("Square Two", HAN)
    one, two = (str(tmp_path / f"Square {name}-Regular.ttf") for name in ("One", "Two"))

    assert runs_of(f"a {HAN[1]}{HAN[0]}{HAN[0]}b{RARE}") == [
        ("a ", None),
        (HAN[1], two),
        (HAN[0] * 2, one),
        (f"b{RARE}", None),
    ]
    assert runs_of("") == []


def test_draw_gallery__letters_of_another_font(tmp_path: Path, add_font: AddFont) -> None:
    frame = green_of(gallery_of(tmp_path / "blank.png", " "))
    add_font("Square", HAN)
    squares = green_of(gallery_of(tmp_path / "squares.png", f" {HAN}"))

    assert squares - frame == pytest.approx(2 * 0.9 * 0.8 * 12**2, rel=0.2)  # at 12 pixels


def test_draw_gallery__letters_without_a_font(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        gallery_of(tmp_path / "letters.png", f"a {HAN}"),
        gallery_of(tmp_path / "codes.png", r"2: a \ue7a1\ue7a2"),
    )
