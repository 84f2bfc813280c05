import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from tlcli.data.boxes.box_table import Category
from tlcli.data.boxes.counted_notes import CountedNote, counted_note
from tlcli.data.boxes.raw_parts import RAW_BOX_TYPES, RAW_IMAGE_TYPES, RawPart, join_parts
from tlcli.errors import DataError


def part(split: str, *categories: tuple[int, str], images: Any = ((1, "a"),)) -> RawPart:
    """Make a part with one box per category, all in its first image."""
    rows = [
        (0, row, 1.0, 2.0, 3.0, 4.0, math.nan, False, row + 1, "") for row in range(len(categories))
    ]
    pairs = [(f"{split}/{name}", number, 40, 30) for number, name in images]
    return RawPart(
        split=split,
        source=f"{split}.json",
        images=pd.DataFrame(pairs, columns=list(RAW_IMAGE_TYPES)),
        boxes=pd.DataFrame(rows, columns=list(RAW_BOX_TYPES)),
        categories=tuple(Category(id=number, name=name) for number, name in categories),
    )


def test_join_parts__categories_are_matched_by_name() -> None:
    val = part("val", (1, "cat"), (2, "dog"), (3, "emu"))
    joined = join_parts([val, part("train", (90, "emu"), (3, "cat"), (7, "dog"))])
    assert [(item.id, item.name) for item in joined.categories] == [
        (3, "cat"),
        (7, "dog"),
        (90, "emu"),
    ]
    assert joined.images["split"].tolist() == ["train", "val"]
    assert joined.boxes[["image", "category"]].to_numpy().tolist() == [
        [0, 2],
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [1, 2],
    ]
    assert joined.notes == (
        "3 categories have other ids in val than in train ('cat', 'dog', 'emu'); categories are"
        " matched by name, and the ids of train are used.",
    )


def test_join_parts__ids_0_and_1_and_fewer_classes_in_val() -> None:
    joined = join_parts([part("train", (0, "a"), (1, "b")), part("val", (1, "b"))])
    assert [item.id for item in joined.categories] == [0, 1]
    assert joined.boxes["category"].tolist() == [0, 1, 1]
    assert joined.notes == ()


def test_join_parts__category_that_train_lacks() -> None:
    with pytest.raises(DataError, match=r"val.json has the val categories 'yak', which train.json"):
        join_parts([part("train", (1, "cat")), part("val", (1, "cat"), (2, "yak"))])


def test_join_parts__without_train_the_next_part_counts() -> None:
    joined = join_parts([part("test", (4, "b")), part("val", (9, "b"), (2, "a"))])
    assert [item.id for item in joined.categories] == [2, 9]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (((1, "cat"), (2, "cat")), "two categories with the name 'cat'"),
        (((1, "cat"), (1, "dog")), "two categories with the id '1'"),
        (((1, "\ud800"),), "which is no text"),
        ((), "train.json has no categories"),
    ],
)
def test_join_parts__unusable_categories(categories: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        join_parts([part("train", *categories)])


def test_join_parts__images_given_twice() -> None:
    with pytest.raises(DataError, match=r"1 image whose file another image has too: 'train/a'"):
        join_parts([part("train", (1, "cat"), images=((1, "a"), (2, "a")))])
    with pytest.raises(DataError, match=r"1 image whose id another image has too: '1'"):
        join_parts([part("train", (1, "cat"), images=((1, "a"), (1, "b")))])


def test_join_parts__counted_notes_are_summed_over_the_parts() -> None:
    images = ((1, "a"), (2, "b"))

    def noted(split: str, rows: list[int], *others: CountedNote) -> RawPart:
        note = counted_note("1 is odd: {names}", "{number} are odd: {names}", rows)
        raw = part(split, (1, "cat"), images=images)
        return replace(raw, counted_notes=(*others, note))

    other = counted_note("1 is late: {names}", "{number} are late: {names}", [0])
    none = counted_note("1 is new", "{number} are new", [])
    joined = join_parts([noted("val", [1, 1], other), noted("train", [0], none)])
    paths = joined.images["path"].to_numpy(dtype=object)
    assert [note.text(paths) for note in joined.counted_notes] == [
        "3 are odd: 'train/a', 'val/b'",
        "1 is late: 'val/a'",
    ]


def test_join_parts__one_category_with_another_id() -> None:
    joined = join_parts([part("train", (1, "cat")), part("val", (2, "cat"))])
    assert joined.notes == (
        "1 category has another id in val than in train ('cat'); categories are matched by name,"
        " and the ids of train are used.",
    )
