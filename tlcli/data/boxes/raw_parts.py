"""What annotation files say, before sizes and boxes are checked: one `RawPart` per split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlcli.data.boxes.box_table import Category
from tlcli.data.boxes.counted_notes import CountedNote, summed_notes
from tlcli.data.table import SPLITS, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

# The part whose categories count for all: what is trained on
_REFERENCE_ORDER = ("train", "unsplit", "val", "test")

RAW_IMAGE_TYPES = {
    "path": "str",
    "image_id": "int64",
    "width": "int64",
    "height": "int64",
}
"""Width and height as stated; 0 = not stated."""
RAW_BOX_TYPES = {
    "image": "int64",
    "category": "int64",
    "x": "float64",
    "y": "float64",
    "width": "float64",
    "height": "float64",
    "area": "float64",
    "is_crowd": "bool",
    "annotation_id": "int64",
    "written": "str",
}
"""`image` and `category` are rows of the part's own images and categories. Area NaN = not stated.
`written` holds the text of a box that is not four numbers (x to height are NaN), else ""."""


@dataclass(frozen=True, kw_only=True)
class RawPart:
    """The images and boxes of one split, as its files have them."""

    split: str
    source: str
    """The file or folder that says so, for messages."""
    images: pd.DataFrame
    boxes: pd.DataFrame
    categories: tuple[Category, ...]
    notes: tuple[str, ...] = ()
    counted_notes: tuple[CountedNote, ...] = ()
    """Of rows of the part's own images."""
    in_fractions: bool = False
    """Boxes are fractions of the image's width and height (YOLO), not pixels."""


class JoinedParts(NamedTuple):
    """All parts with one class index; `images` has the column split."""

    images: pd.DataFrame
    boxes: pd.DataFrame
    categories: tuple[Category, ...]
    notes: tuple[str, ...]
    counted_notes: tuple[CountedNote, ...]


def join_parts(parts: Sequence[RawPart]) -> JoinedParts:
    """Put parts below each other, their categories matched by name.

    Raises:
        DataError: two categories of a part share a name or an id, a part has a category that the
            train part lacks, or an image is twice in a part.
    """
    parts = sorted(parts, key=lambda part: SPLITS.index(part.split))
    for part in parts:
        _check_categories(part)
        _check_images(part)
    reference = min(parts, key=lambda part: _REFERENCE_ORDER.index(part.split))
    if not reference.categories:
        raise DataError(f"{reference.source} has no categories: no boxes to learn from.")
    categories = tuple(sorted(reference.categories, key=lambda category: category.id))
    notes = [note for part in parts for note in part.notes]
    images, boxes, first_row = [], [], 0
    counted_notes: list[CountedNote] = []
    for part in parts:
        notes += _match_notes(part, reference)
        index = {category.name: number for number, category in enumerate(categories)}
        new = np.array([index[category.name] for category in part.categories], dtype=np.int64)
        rows = part.boxes["image"] + first_row
        boxes.append(part.boxes.assign(image=rows, category=new[part.boxes["category"]]))
        images.append(part.images.assign(split=part.split))
        counted_notes += [replace(n, rows=n.rows + first_row) for n in part.counted_notes]
        first_row += len(part.images)
    return JoinedParts(
        images=pd.concat(images, ignore_index=True),
        boxes=pd.concat(boxes, ignore_index=True),
        categories=categories,
        notes=tuple(dict.fromkeys(notes)),
        counted_notes=summed_notes(counted_notes),
    )


def _check_categories(part: RawPart) -> None:
    for category in part.categories:
        if any("\ud800" <= letter <= "\udfff" for letter in category.name):
            raise DataError(f"{part.source} has the category {category.name!r}, which is no text.")
    for what, values in (
        ("name", [category.name for category in part.categories]),
        ("id", [category.id for category in part.categories]),
    ):
        seen = pd.Series(values, dtype=object)
        if seen.duplicated().any():
            value = seen[seen.duplicated()].iloc[0]
            raise DataError(
                f"{part.source} has two categories with the {what} '{value}'; each needs its own."
            )


def _check_images(part: RawPart) -> None:
    for column, what in (("path", "file"), ("image_id", "id")):
        twice = part.images[column][part.images[column].duplicated()]
        if len(twice):
            raise DataError(
                f"{part.source} has {counted(len(twice), 'image')} whose {what} another image has"
                " too:"
                f" {some_names(str(value) for value in twice)}; keep one row for each."
            )


def _match_notes(part: RawPart, reference: RawPart) -> list[str]:
    wanted = {category.name: category.id for category in reference.categories}
    unknown = [category.name for category in part.categories if category.name not in wanted]
    if unknown:
        raise DataError(
            f"{part.source} has the {part.split} categories {some_names(unknown)}, which"
            f" {reference.source} ({reference.split}) lacks; categories are matched by name."
        )
    moved = [item.name for item in part.categories if item.id != wanted[item.name]]
    if not moved:
        return []
    return [
        f"{counted(len(moved), 'category has another id', 'categories have other ids')} in"
        f" {part.split} than in {reference.split} ({some_names(moved)}); categories are matched by"
        f" name, and the ids of {reference.split} are used."
    ]
