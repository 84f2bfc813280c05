import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tlcli.data.table import ImageTable, make_table, some_names
from tlcli.errors import DataError

ROWS = [
    ("x/2.png", "10", "val", ""),
    ("x/1.png", "2", "train", "g"),
    ("x/3.png", "1", "train", ""),
    ("x/0.png", "10", "train", ""),
    ("x/4.png", "2", "val", "g"),
]


def table_of(
    rows: list[tuple[str, str, str, str]], root: Path = Path("/r"), **options
) -> ImageTable:
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    return make_table(items, spec="here", root=root, **options)


def test_make_table__one_class_index_for_all_splits_in_torchvision_order() -> None:
    table = table_of(ROWS)
    assert table.classes == ("1", "10", "2")  # by code point: timm would say 1, 2, 10
    assert table.targets("train").tolist() == [0, 1, 2]
    assert table.targets("val").tolist() == [1, 2]  # class 0 is absent and shifts nothing
    assert table.targets("val").dtype == np.int64


def test_make_table__order_of_rows_given_does_not_matter() -> None:
    table = table_of(ROWS)
    assert list(table.items["path"]) == ["x/3.png", "x/0.png", "x/1.png", "x/2.png", "x/4.png"]
    assert table.items.equals(table_of(ROWS[::-1]).items)
    assert table.items.index.tolist() == [0, 1, 2, 3, 4]


def test_make_table__given_class_order_is_kept() -> None:
    table = table_of(ROWS, classes=("2", "1", "10"))
    assert table.targets("val").tolist() == [2, 0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "No images in here"),
        (ROWS[:1], {}, "here has one class only, '10'"),
        (ROWS, {"classes": ("1", "2")}, "labels that are no class: '10'"),
        ([*ROWS, ("y", "1", "dev", "")], {}, "Unknown split 'dev'"),
        (
            [*ROWS, ("y", "new", "test", ""), ("z", "newer", "test", "")],
            {},
            "test part of here has images of 'new', 'newer', of which train has none",
        ),
    ],
)
def test_make_table__refuses(rows: list, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table_of(rows, **options)


def test_paths__relative_and_absolute() -> None:
    table = table_of([("a.png", "1", "val", ""), ("/else/b.png", "2", "val", "")])
    assert table.paths("val") == [Path("/r/a.png"), Path("/else/b.png")]


def test_part__absent_split_is_an_error() -> None:
    with pytest.raises(DataError, match="here has no 'test' part; it has 'train', 'val'"):
        table_of(ROWS).part("test")


def test_counts__absent_classes_count_zero() -> None:
    assert table_of(ROWS).counts() == {
        "train": {"1": 1, "10": 1, "2": 1},
        "val": {"1": 0, "10": 1, "2": 1},
    }


def test_remarks__notes_gaps_and_crossing_groups() -> None:
    assert table_of(ROWS, notes=("a note.",)).remarks == (
        "a note.",
        "val has no images of 1 of 3 classes: '1'.",
        "1 group lies in more than one split: 'g'.",
    )


def test_fingerprint__changes_with_every_part_of_a_row(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    for name in names:
        (tmp_path / name).write_bytes(b"123")
    rows = [("a.png", "1", "train", ""), ("b.png", "2", "train", "g")]
    base = table_of(rows, root=tmp_path).fingerprint
    lines = [json.dumps([*row, 3]) + "\n" for row in rows]
    assert base == hashlib.sha256("".join(lines).encode()).hexdigest()
    changed = [
        table_of([rows[0], ("b.png", "3", "train", "g")], root=tmp_path).fingerprint,
        table_of([rows[0], ("b.png", "2", "train", "h")], root=tmp_path).fingerprint,
        table_of([(p, c, "unsplit", g) for p, c, _, g in rows], root=tmp_path).fingerprint,
    ]
    (tmp_path / "b.png").write_bytes(b"1234")
    changed.append(table_of(rows, root=tmp_path).fingerprint)
    assert len({base, *changed}) == 5
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*b\.png: No such file"):
        _ = table_of(rows, root=tmp_path).fingerprint


def test_with_items__keeps_classes_and_checks_again() -> None:
    table = table_of(ROWS, notes=("first",))
    smaller = table.with_items(table.items[table.items["label"] != "10"], notes=["second"])
    assert smaller.classes == table.classes
    assert smaller.notes == ("first", "second")
    assert smaller.targets("val").tolist() == [2]
    with pytest.raises(DataError, match="val part of here has images of '10'"):
        table.with_items(table.items.iloc[[0, 2, 3, 4]])


def test_some_names__counts_the_rest() -> None:
    assert some_names("abcde") == "'a', 'b', 'c' and 2 more"
    assert some_names("abc") == "'a', 'b', 'c'"
