"""Splits, folds and limits of images with any number of classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcli.data.folds import fold_table
from tlcli.data.label_sets import join_labels
from tlcli.data.splits import limit_table, split_table
from tlcli.data.stratified_parts import KEPT, stratified_folds, stratified_parts, units_of
from tlcli.data.table import ImageTable, make_table
from tlcli.errors import ConfigError, DataError


def table_of(labels: np.ndarray, *, groups: list[str] | None = None) -> ImageTable:
    """Make a table of (N, C) labels; images are called by their row."""
    classes = [f"c{number}" for number in range(labels.shape[1])]
    names = np.array(classes, dtype=object)
    items = pd.DataFrame(
        {
            "path": [f"{row:05d}" for row in range(len(labels))],
            "label": join_labels([names[row] for row in labels], classes=classes),
            "split": "unsplit",
            "group": groups or "",
        }
    )
    return make_table(items, spec="s", root=Path("/r"), classes=classes, is_multi_label=True)


def random_labels(number: int, *, chances: tuple[float, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((number, len(chances))) < chances


LABELS = st.integers(2, 60).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=n, max_size=n)
)


@settings(max_examples=60, deadline=None)
@given(rows=LABELS, val=st.floats(0.01, 0.5), test=st.floats(0, 0.4), seed=st.integers(0, 2**70))
def test_split_table__every_image_once_train_with_every_class(
    rows: list[list[bool]], val: float, test: float, seed: int
) -> None:
    labels = np.array(rows)
    table = table_of(labels)

    done = split_table(table, val_fraction=val, test_fraction=test, seed=seed)

    assert sorted(done.items["path"]) == sorted(table.items["path"])
    counts = done.counts()["train"]
    assert all(counts[f"c{c}"] >= 1 for c in range(4) if labels[:, c].any())
    sizes, number = done.sizes(), len(labels)
    wanted = min(max(1, round(number * val)), number - 1)
    at_test = min(max(1, round(number * test)), number - wanted - 1) if test > 0 else 0
    # with a handful of images an image of every class may be more than train's share
    if number - wanted - at_test >= 4:
        assert sizes.get("val", 0) == wanted
        assert sizes.get("test", 0) == at_test


def test_split_table__every_class_in_its_share() -> None:
    """Rare classes too, which a split by chance would often leave out."""
    chances = (0.5, 0.2, 0.05, 0.02, 0.01)
    labels = random_labels(600, chances=chances, seed=1)
    for seed in range(5):
        done = split_table(table_of(labels), val_fraction=0.2, test_fraction=0.1, seed=seed)
        counts = done.counts()
        assert done.sizes() == {"train": 420, "val": 120, "test": 60}
        for c in range(5):
            number = labels[:, c].sum()
            for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
                assert abs(counts[split][f"c{c}"] - number * share) <= 2


def test_split_table__labels_per_image_do_not_move_from_one_part_to_another() -> None:
    """Pairs are not looked at, but images without any class are spread by size alone."""
    labels = random_labels(900, chances=(0.3, 0.3), seed=2)
    done = split_table(table_of(labels), val_fraction=1 / 3, test_fraction=0, seed=0)
    bare = (done.items["label"] == "").groupby(done.items["split"]).mean()
    assert abs(bare["train"] - bare["val"]) < 0.02


def test_split_table__seed_decides() -> None:
    table = table_of(random_labels(80, chances=(0.5, 0.1), seed=3))
    first, again, other = (
        split_table(table, val_fraction=0.2, test_fraction=0, seed=seed).items for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_split_table__nothing_is_held_out() -> None:
    table = table_of(random_labels(20, chances=(0.5, 0.1), seed=3))
    done = split_table(table, val_fraction=0, test_fraction=0, seed=0)
    assert done.sizes() == {"train": 20}


def test_split_table__few_images_of_a_class() -> None:
    """One image stays in train, of two one is val, of three one is test."""
    labels = np.zeros((40, 4), dtype=bool)
    labels[:1, 0] = labels[1:3, 1] = labels[3:6, 2] = labels[6:, 3] = True
    for seed in range(10):
        done = split_table(table_of(labels), val_fraction=0.2, test_fraction=0.2, seed=seed)
        counts = done.counts()
        assert {s: counts[s]["c0"] for s in counts} == {"train": 1, "val": 0, "test": 0}
        assert {s: counts[s]["c1"] for s in counts} == {"train": 1, "val": 1, "test": 0}
        assert {s: counts[s]["c2"] for s in counts} == {"train": 1, "val": 1, "test": 1}
        assert "1 class has a single image, which stays in train: 'c0'." in done.remarks


def test_split_table__groups_stay_together() -> None:
    labels = random_labels(200, chances=(0.5, 0.2, 0.05), seed=4)
    groups = [f"g{row // 4}" for row in range(200)]
    groups[-8:] = [""] * 8
    for seed in range(5):
        done = split_table(
            table_of(labels, groups=groups), val_fraction=0.25, test_fraction=0, seed=seed
        )
        items = done.items[done.items["group"] != ""]
        assert (items.groupby("group")["split"].nunique() == 1).all()
        assert 46 <= done.sizes()["val"] <= 56
        counts = done.counts()
        for name in done.classes:
            share = counts["val"][name] / (counts["val"][name] + counts["train"][name])
            assert 0.15 <= share <= 0.35


def test_split_table__two_large_groups_are_one_each() -> None:
    labels = np.ones((100, 1), dtype=bool)
    table = table_of(labels, groups=["a"] * 60 + ["b"] * 40)
    done = split_table(table, val_fraction=0.2, test_fraction=0, seed=0)
    assert done.sizes() == {"train": 60, "val": 40}
    assert "val has 40.0% of the images instead of 20.0%" in " ".join(done.remarks)
    alone = table_of(labels, groups=["a"] * 100)
    with pytest.raises(DataError, match="There are too few groups to split"):
        split_table(alone, val_fraction=0.2, test_fraction=0, seed=0)


@settings(max_examples=40, deadline=None)
@given(rows=LABELS, folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_fold_table__every_image_is_val_once_or_stays(
    rows: list[list[bool]], folds: int, seed: int
) -> None:
    table = table_of(np.array(rows))
    try:
        parts = [
            fold_table(table, fold=i + 1, folds=folds, test_fraction=0, seed=seed)
            for i in range(folds)
        ]
    except ConfigError as error:
        assert f"--fold: {folds} folds need {folds} images beside those" in str(error)  # noqa: PT017
        return
    held_out = [set(part.items["path"][part.items["split"] == "val"]) for part in parts]
    kept = set(table.items["path"]) - set().union(*held_out)
    assert sum(len(paths) for paths in held_out) == len(set().union(*held_out))
    sizes = [len(paths) for paths in held_out]
    assert max(sizes) - min(sizes) <= 1 + len(kept)
    for part in parts:
        counts = part.counts()["train"]
        assert all(
            counts[name] >= 1 for c, name in enumerate(part.classes) if any(r[c] for r in rows)
        )
        assert bool(kept) == any("in train in every fold" in note for note in part.notes)


@pytest.mark.parametrize(("seed", "number", "folds"), [(1, 52, 3), (3, 57, 4), (2, 46, 5)])
def test_stratified_folds__sizes_differ_by_one(seed: int, number: int, folds: int) -> None:
    """Where the folds do not divide the images, those with too many left one short of two."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((5, 4)) < 0.5)[rng.integers(5, size=number)]

    numbers = stratified_folds(units_of(labels), folds=folds, generator=np.random.default_rng(seed))

    sizes = np.bincount(numbers, minlength=folds)
    assert sizes.max() - sizes.min() == (number % folds > 0)


def test_fold_table__every_class_in_its_share() -> None:
    labels = random_labels(500, chances=(0.4, 0.1, 0.03), seed=5)
    for fold in range(1, 6):
        part = fold_table(table_of(labels), fold=fold, folds=5, test_fraction=0, seed=0)
        assert part.sizes()["val"] == 100
        for c, name in enumerate(part.classes):
            assert abs(part.counts()["val"][name] - labels[:, c].sum() / 5) <= 1.5


def test_fold_table__test_part_and_what_stays() -> None:
    labels = random_labels(100, chances=(0.4, 0.1), seed=6)
    labels = np.column_stack([labels, np.arange(100) == 7])
    parts = [
        fold_table(table_of(labels), fold=i, folds=3, test_fraction=0.1, seed=0) for i in (1, 2, 3)
    ]
    tests = [set(part.items["path"][part.items["split"] == "test"]) for part in parts]
    assert tests[0] == tests[1] == tests[2]
    assert len(tests[0]) == 10
    said = "1 image stays in train in every fold: all there is of 'c2'."
    assert all(said in part.remarks for part in parts)


def test_fold_table__groups_stay_together() -> None:
    labels = random_labels(120, chances=(0.5, 0.2), seed=7)
    table = table_of(labels, groups=[f"g{row // 5}" for row in range(120)])
    for fold in (1, 2, 3):
        part = fold_table(table, fold=fold, folds=3, test_fraction=0, seed=0)
        assert (part.items.groupby("group")["split"].nunique() == 1).all()
        assert part.sizes() == {"train": 80, "val": 40}
    with pytest.raises(ConfigError, match="folds need 25 groups beside those that hold all"):
        fold_table(table, fold=1, folds=25, test_fraction=0, seed=0)


def test_stratified_folds__a_class_never_lies_in_one_fold_alone() -> None:
    """Image 0 has every class; the fold that it goes to may be full before the other has some."""
    labels = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)
    kept = set()
    for seed in range(30):
        numbers = stratified_folds(units_of(labels), folds=2, generator=np.random.default_rng(seed))
        kept.add(int((numbers == KEPT).sum()))
        for column in labels.T:
            assert len(set(numbers[column])) > 1
    assert kept == {0, 1}


def test_stratified_parts__a_unit_with_everything_goes_first() -> None:
    labels = np.array([[1, 1, 1]] + [[0, 0, 1]] * 9, dtype=bool)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        parts = stratified_parts(units_of(labels), sizes=[5, 5], generator=generator)
        assert parts[0] == 0
        assert np.bincount(parts).tolist() == [5, 5]


@pytest.mark.parametrize("limit", [9, 30, 200])
def test_limit_table__keeps_every_class_in_its_share(limit: int) -> None:
    labels = random_labels(150, chances=(0.5, 0.2, 0.02), seed=8)
    table = table_of(labels)
    kept = limit_table(table, limit=limit, seed=0)

    number = min(limit, 150)
    assert kept.sizes() == {"unsplit": number}
    for c, name in enumerate(table.classes):
        share = labels[:, c].sum() * number / 150
        assert max(1, share - 1) <= kept.counts()["unsplit"][name] <= share + 1
    assert kept.items.equals(limit_table(table, limit=limit, seed=0).items)


def test_limit_table__too_few_for_the_classes() -> None:
    table = table_of(np.eye(6, dtype=bool))
    with pytest.raises(ConfigError, match=r"--limit 4 is too small .* of unsplit; 6 is enough"):
        limit_table(table, limit=4, seed=0)
