from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcli.data.folds import fold_table
from tlcli.data.table import COLUMNS, ImageTable, make_table
from tlcli.errors import ConfigError, DataError


def table_of(rows: list[tuple[str, str, str]], *, split: str = "unsplit") -> ImageTable:
    """Make a table of (path, label, group)."""
    items = pd.DataFrame(rows, columns=["path", "label", "group"]).assign(split=split)
    return make_table(items[list(COLUMNS)], spec="data", root=Path("/nowhere"))


def rows_of(sizes: list[int], *, num_groups: int = 0) -> list[tuple[str, str, str]]:
    rows = [(f"c{c}/{i}.png", f"c{c}") for c, size in enumerate(sizes) for i in range(size)]
    return [
        (path, label, f"g{i % num_groups}" if num_groups else "")
        for i, (path, label) in enumerate(rows)
    ]


def folded(table: ImageTable, folds: int, *, seed: int = 0, test: float = 0) -> list[ImageTable]:
    return [
        fold_table(table, fold=fold, folds=folds, test_fraction=test, seed=seed)
        for fold in range(1, folds + 1)
    ]


def val_of(table: ImageTable) -> set[str]:
    return set(table.part("val")["path"])


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    folds=st.integers(2, 7),
    seed=st.integers(0, 5),
)
def test_fold_table__every_image_is_val_once(sizes: list[int], folds: int, seed: int) -> None:
    table = table_of(rows_of(sizes))
    movable = {f"c{c}/{i}.png" for c, size in enumerate(sizes) if size > 1 for i in range(size)}
    if len(movable) < folds:
        with pytest.raises(ConfigError, match=f"{folds} folds need {folds} images of classes"):
            folded(table, folds, seed=seed)
        return

    tables = folded(table, folds, seed=seed)

    counted = [path for one in tables for path in val_of(one)]
    assert sorted(counted) == sorted(movable)
    assert {len(val_of(one)) for one in tables} <= {
        len(movable) // folds,
        -(-len(movable) // folds),
    }
    for one in tables:
        assert len(one.items) == sum(sizes)
        counts = one.counts()
        for c, size in enumerate(sizes):
            held = counts["val"][f"c{c}"]
            assert held in ({size // folds, -(-size // folds)} if size > 1 else {0})
            assert counts["train"][f"c{c}"] == size - held > 0


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(6, 30), min_size=2, max_size=4),
    num_groups=st.integers(6, 12),
    folds=st.integers(2, 3),
    seed=st.integers(0, 5),
)
def test_fold_table__groups_stay_together(
    sizes: list[int], num_groups: int, folds: int, seed: int
) -> None:
    table = table_of(rows_of(sizes, num_groups=num_groups))

    tables = folded(table, folds, seed=seed)

    counted = [path for one in tables for path in val_of(one)]
    assert sorted(counted) == sorted(table.items["path"])
    for one in tables:
        groups = one.items.groupby("group")["split"].nunique()
        assert groups.max() == 1
        assert set(one.part("train")["label"]) == set(table.classes)


def test_fold_table__class_in_one_group_stays_in_train() -> None:
    rows = [*rows_of([12, 12], num_groups=6), ("x.png", "rare", "g9"), ("y.png", "rare", "g9")]
    rows.append(("z.png", "c0", "g9"))

    tables = folded(table_of(rows), 3)

    counted = [path for one in tables for path in val_of(one)]
    assert sorted(counted) == sorted(path for path, _, group in rows if group != "g9")
    assert tables[0].notes == (
        "3 images stay in train in every fold, as all there is of a class would leave it: 'rare'.",
    )


def test_fold_table__seed_decides() -> None:
    table = table_of(rows_of([20, 15]))
    first, again, other = (folded(table, 5, seed=seed) for seed in (0, 0, 1))

    assert [val_of(one) for one in first] == [val_of(one) for one in again]
    assert [val_of(one) for one in first] != [val_of(one) for one in other]


def test_fold_table__test_part_is_drawn_once_or_stays() -> None:
    rows = rows_of([20, 20])
    drawn = folded(table_of(rows), 4, test=0.2)
    assert {tuple(one.part("test")["path"]) for one in drawn} == {
        tuple(drawn[0].part("test")["path"])
    }
    assert len(drawn[0].part("test")) == 8
    assert len(set().union(*map(val_of, drawn))) == 32

    given_test = table_of(rows, split="train").items
    given_test.loc[::5, "split"] = "test"
    tables = folded(make_table(given_test, spec="data", root=Path("/nowhere")), 4)
    kept = set(given_test[given_test["split"] == "test"]["path"])
    assert all(set(one.part("test")["path"]) == kept for one in tables)


@pytest.mark.parametrize(
    ("split", "folds", "message"),
    [
        ("val", 2, "has a val part already; --fold makes its own"),
        ("test", 2, "no train part for --fold"),
        ("train", 9, "9 folds need 9 images of classes with two or more, there are 8"),
    ],
)
def test_fold_table__refuses(split: str, folds: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fold_table(
            table_of(rows_of([4, 4]), split=split), fold=1, folds=folds, test_fraction=0, seed=0
        )


def test_fold_table__too_few_groups() -> None:
    table = table_of(rows_of([8, 8], num_groups=4))
    with pytest.raises(ConfigError, match=r"5 folds need 5 groups.*there are 4 groups"):
        fold_table(table, fold=1, folds=5, test_fraction=0, seed=0)


def test_fold_table__groups_that_cannot_be_dealt() -> None:
    # every fold of one group takes one of two groups of some class; with two folds of
    # three groups one fold holds both groups of a class whichever way they are dealt
    rows = [(f"{a}{b}-{g}.png", f"{a}{b}", g) for a, b in ("pq", "qr", "pr") for g in (a, b)]
    with pytest.raises(DataError, match="however whole groups are dealt to 2 folds"):
        fold_table(table_of(rows), fold=1, folds=2, test_fraction=0, seed=0)


def test_fold_table__single_images_are_told() -> None:
    table = fold_table(table_of(rows_of([5, 1, 1])), fold=2, folds=5, test_fraction=0, seed=0)
    (note,) = table.notes
    assert note.startswith("2 images stay in train in every fold, as all there is of a class")
    assert note.endswith(": 'c1', 'c2'.")
    assert np.array_equal(sorted(table.part("train")["label"]), ["c0"] * 4 + ["c1", "c2"])
