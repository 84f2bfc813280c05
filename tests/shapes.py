"""Pictures with any number of coloured shapes in them, and tables that say which."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("blue bar", "green square", "red disc")
_CHANCES = (0.3, 0.4, 0.5)
_COLOURS = ((70, 70, 250), (40, 220, 40), (230, 40, 40))


def shape_sets(number: int, *, seed: int = 0) -> list[list[str]]:
    """Draw which shapes each of some pictures has; some have none."""
    drawn = np.random.default_rng(seed).random((number, len(SHAPES))) < _CHANCES
    return [[name for name, has in zip(SHAPES, row, strict=True) if has] for row in drawn]


def draw_shapes(root: Path, sets: Sequence[Sequence[str]], *, size: int = 48) -> list[str]:
    """Write `img/000.png` and so on below a folder; return the relative paths."""
    (root / "img").mkdir(parents=True, exist_ok=True)
    paths = []
    for number, names in enumerate(sets):
        rng = np.random.default_rng(number)
        ground = tuple(int(value) for value in rng.integers(0, 60, 3))
        picture = Image.new("RGB", (size, size), ground)
        pen = ImageDraw.Draw(picture)
        for name in names:
            x, y = (int(value) for value in rng.integers(2, size - 20, 2))
            colour = _COLOURS[SHAPES.index(name)]
            if name == "red disc":
                pen.ellipse((x, y, x + 17, y + 17), fill=colour)
            else:
                pen.rectangle((x, y, x + 17, y + (6 if name == "blue bar" else 17)), fill=colour)
        paths.append(f"img/{number:03d}.png")
        picture.save(root / paths[-1])
    return paths


def write_labels(path: Path, paths: Sequence[str], sets: Sequence[Sequence[str]]) -> Path:
    """Write a table with a column of labels separated by |."""
    return _write(
        path, ["path", "label"], [[p, "|".join(s)] for p, s in zip(paths, sets, strict=True)]
    )


def write_flags(path: Path, paths: Sequence[str], sets: Sequence[Sequence[str]]) -> Path:
    """Write a table with a column of 0 and 1 per shape."""
    rows = [[p, *(int(name in s) for name in SHAPES)] for p, s in zip(paths, sets, strict=True)]
    return _write(path, ["path", *SHAPES], rows)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def make_shape_table(root: Path, number: int, *, seed: int = 0, size: int = 48) -> Path:
    """Write pictures and `table.csv` beside them; return the table."""
    sets = shape_sets(number, seed=seed)
    return write_labels(root / "table.csv", draw_shapes(root, sets, size=size), sets)
