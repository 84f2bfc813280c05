from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcli.data.splits import limit_table, split_table
from tlcli.data.table import ImageTable, make_table
from tlcli.errors import ConfigError, DataError


def table_of(sizes: dict[str, int], *, split: str = "unsplit", group_size: int = 0) -> ImageTable:
    rows = [
        (f"{name}/{i:03d}", name, split, f"g{i // group_size}{name}" if group_size else "")
        for name, size in sizes.items()
        for i in range(size)
    ]
    return make_table(
        pd.DataFrame(rows, columns=["path", "label", "split", "group"]), spec="s", root=Path("/r")
    )


def joined(*tables: ImageTable) -> ImageTable:
    return tables[0].with_items(pd.concat([table.items for table in tables]))


def split_of(table: ImageTable) -> dict[str, str]:
    return dict(zip(table.items["path"], table.items["split"], strict=True))


def test_split_table__numbers_per_class() -> None:
    table = split_table(
        table_of({"a": 1, "b": 2, "c": 3, "d": 10, "e": 104}),
        val_fraction=0.2,
        test_fraction=0.1,
        seed=0,
    )
    assert table.counts() == {
        "train": {"a": 1, "b": 1, "c": 1, "d": 7, "e": 73},
        "val": {"a": 0, "b": 1, "c": 1, "d": 2, "e": 21},
        "test": {"a": 0, "b": 0, "c": 1, "d": 1, "e": 10},
    }
    assert "1 class has a single image, which stays in train: 'a'." in table.remarks
    assert "test has no images of 2 of 5 classes: 'a', 'b'." in table.remarks


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    val=st.floats(0, 0.9),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**70),
)
def test_split_table__every_image_once_and_never_all(
    sizes: list[int], val: float, share: float, seed: int
) -> None:
    test = (0.9 - val) * share
    table = table_of({f"c{i}": size for i, size in enumerate(sizes)})
    done = split_table(table, val_fraction=val, test_fraction=test, seed=seed)
    assert sorted(done.items["path"]) == sorted(table.items["path"])
    for name, size in zip(done.classes, sizes, strict=True):
        numbers = {split: n[name] for split, n in done.counts().items()}
        expected = min(max(1, round(size * val)), size - 1) if val > 0 else 0
        assert numbers["train"] >= 1
        assert numbers.get("val", 0) == expected
        if test > 0:
            assert numbers.get("test", 0) == min(max(1, round(size * test)), size - 1 - expected)


def test_split_table__seed_decides() -> None:
    table = table_of({"a": 50, "b": 50})
    first, again, other = (
        split_of(split_table(table, val_fraction=0.2, test_fraction=0, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_split_table__a_class_is_drawn_without_regard_to_the_others() -> None:
    alone = split_of(
        split_table(table_of({"a": 30, "b": 30}), val_fraction=0.3, test_fraction=0, seed=4)
    )
    more = table_of({"0": 9, "b": 30, "a": 30, "z": 3})
    beside = split_of(split_table(more, val_fraction=0.3, test_fraction=0, seed=4))
    assert {path: beside[path] for path in alone} == alone
    assert {p[2:] for p, s in alone.items() if s == "val" and p[0] == "a"} != {
        p[2:] for p, s in alone.items() if s == "val" and p[0] == "b"
    }


def test_split_table__val_does_not_depend_on_the_test_fraction() -> None:
    table = table_of({"a": 40, "b": 40})
    with_test = split_of(split_table(table, val_fraction=0.2, test_fraction=0.2, seed=0))
    without = split_of(split_table(table, val_fraction=0.2, test_fraction=0, seed=0))
    assert {p for p, s in with_test.items() if s == "val"} == {
        p for p, s in without.items() if s == "val"
    }


def test_split_table__carves_val_out_of_train_and_keeps_test() -> None:
    test = table_of({"x": 4, "y": 4}, split="test")
    test = test.with_items(test.items.assign(path="test/" + test.items["path"]))
    table = joined(table_of({"x": 20, "y": 10}, split="train"), test)
    done = split_table(table, val_fraction=0.2, test_fraction=0, seed=0)
    assert done.counts() == {
        "train": {"x": 16, "y": 8},
        "val": {"x": 4, "y": 2},
        "test": {"x": 4, "y": 4},
    }
    assert done.part("test").equals(table.part("test"))
    with pytest.raises(
        ConfigError, match=r"s has a test part already; leave --test-split 0\.1 out"
    ):
        split_table(table, val_fraction=0.2, test_fraction=0.1, seed=0)


def test_split_table__given_parts_stay() -> None:
    val = table_of({"x": 4, "y": 4}, split="val")
    val = val.with_items(val.items.assign(path="val/" + val.items["path"]))
    table = joined(table_of({"x": 8, "y": 8}, split="train"), val)
    assert split_table(table, val_fraction=0.5, test_fraction=0, seed=0) is table
    done = split_table(table, val_fraction=0.5, test_fraction=0.25, seed=0)
    assert done.part("val").equals(table.part("val"))
    assert done.counts()["test"] == {"x": 2, "y": 2}
    done = split_table(table, val_fraction=0.5, test_fraction=0.75, seed=0)  # no val is drawn
    assert done.counts()["test"] == {"x": 6, "y": 6}


def test_split_table__zero_fractions_leave_train_only() -> None:
    done = split_table(table_of({"a": 3, "b": 3}), val_fraction=0, test_fraction=0, seed=0)
    assert done.splits == ("train",)


def test_split_table__val_only() -> None:
    table = table_of({"a": 3, "b": 3}, split="val")
    assert split_table(table, val_fraction=0.2, test_fraction=0, seed=0) is table
    with pytest.raises(ConfigError, match="s has no train part to take a test part from"):
        split_table(table, val_fraction=0.2, test_fraction=0.2, seed=0)


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (-0.1, 0, r"--val-split must be in 0\.\.0\.9, not -0\.1"),
        (0, 0.95, r"--test-split must be in 0\.\.0\.9, not 0\.95"),
        (0.2, 0.9, r"--val-split 0\.2 and --test-split 0\.9 would hold out 110% .* 90% at most"),
        (float("nan"), 0, r"--val-split must be in 0\.\.0\.9, not nan"),
    ],
)
def test_split_table__fractions_out_of_range(val: float, test: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_table(table_of({"a": 3, "b": 3}), val_fraction=val, test_fraction=test, seed=0)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4, 0.7])
def test_split_table__no_group_crosses(fraction: float) -> None:
    table = table_of({"a": 120, "b": 60}, group_size=3)
    done = split_table(table, val_fraction=fraction, test_fraction=0.2, seed=0)
    assert done.items.groupby("group")["split"].nunique().max() == 1
    numbers = done.counts()
    for name, size in (("a", 120), ("b", 60)):
        assert numbers["val"][name] / size == pytest.approx(fraction, abs=0.06)
        assert numbers["test"][name] / size == pytest.approx(0.2, abs=0.06)


def test_split_table__groups_are_seeded() -> None:
    table = table_of({"a": 60, "b": 60}, group_size=2)
    first, again, other = (
        split_of(split_table(table, val_fraction=0.2, test_fraction=0, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_split_table__images_without_group_move_alone() -> None:
    table = table_of({"a": 40, "b": 40}, group_size=4)
    items = table.items.assign(group=table.items["group"].where(table.items["label"] == "a", ""))
    done = split_table(table.with_items(items), val_fraction=0.25, test_fraction=0, seed=0)
    assert done.counts()["val"]["b"] == pytest.approx(10, abs=2)
    assert done.items[done.items["label"] == "a"].groupby("group")["split"].nunique().max() == 1


def test_split_table__uneven_groups_are_told() -> None:
    rows = [(f"a{i}", "ab"[i % 2], "unsplit", "big" if i < 90 else f"g{i}") for i in range(100)]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"))
    done = split_table(table, val_fraction=0.3, test_fraction=0, seed=0)
    share = len(done.part("val")) / 100
    assert (
        f"val has {share:.1%} of the images instead of 30.0%, because groups are kept whole."
        in done.remarks
    )


def test_split_table__the_only_group_of_a_class_stays_in_train() -> None:
    rows = [(f"a{i}", "a", "unsplit", f"g{i}") for i in range(8)]
    rows += [(f"b{i}", "b", "unsplit", "only") for i in range(8)]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"))
    for seed in range(12):
        done = split_table(table, val_fraction=0.2, test_fraction=0, seed=seed)
        assert done.counts()["train"]["b"] == 8
        assert done.counts()["val"]["a"] >= 1
        assert "val has no images of 1 of 2 classes: 'b'." in done.remarks


def test_split_table__the_largest_group_is_not_always_in_val() -> None:
    rows = [
        (f"a{i}", "ab"[i >= 40 and i % 2], "unsplit", "big" if i < 40 else f"g{i // 4}")
        for i in range(100)
    ]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"))
    homes = Counter(
        split_of(split_table(table, val_fraction=0.2, test_fraction=0, seed=seed))["a0"]
        for seed in range(20)
    )
    assert homes["train"] > homes["val"] > 0


def test_split_table__no_class_can_spare_a_group() -> None:
    rows = [(f"{c}{i}", c, "unsplit", f"g{c}") for c in "ab" for i in range(8)]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"))
    with pytest.raises(DataError, match="no train images are left of a class; use more groups"):
        split_table(table, val_fraction=0.2, test_fraction=0, seed=0)


def test_split_table__one_group_only() -> None:
    table = table_of({"a": 4, "b": 4})
    table = table.with_items(table.items.assign(group="all"))
    with pytest.raises(DataError, match="too few groups to split"):
        split_table(table, val_fraction=0.2, test_fraction=0, seed=0)


def webster_by_sorting(sizes: dict[str, int], limit: int) -> dict[str, int]:
    quotients = [
        (size / (2 * seat + 1), -ord(name[0]), name)
        for name, size in sizes.items()
        for seat in range(1, size)
    ]
    best = sorted(quotients, reverse=True)[: max(0, limit - len(sizes))]
    extra = Counter(name for _, _, name in best)
    return {name: 1 + extra[name] for name in sizes}


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=6), limit=st.integers(6, 200))
def test_limit_table__webster_seats(sizes: list[int], limit: int) -> None:
    named = dict(zip("abcdef", sizes, strict=False))
    table = limit_table(table_of(named, split="train"), limit=limit, seed=0)
    assert table.counts()["train"] == webster_by_sorting(named, limit)
    assert len(table.items) == min(limit, sum(sizes))


def test_limit_table__each_split_by_itself_and_seeded() -> None:
    table = split_table(table_of({"a": 60, "b": 40}), val_fraction=0.2, test_fraction=0, seed=0)
    first, again, other = (limit_table(table, limit=10, seed=seed) for seed in (0, 0, 1))
    assert first.counts() == {"train": {"a": 6, "b": 4}, "val": {"a": 6, "b": 4}}
    assert split_of(first) == split_of(again)
    assert split_of(first) != split_of(other)
    whole = split_of(table)
    assert all(whole[path] == split for path, split in split_of(first).items())


def test_limit_table__fewer_than_classes() -> None:
    with pytest.raises(ConfigError, match="--limit 2 is smaller than the 3 classes of train"):
        limit_table(table_of({"a": 3, "b": 3, "c": 3}, split="train"), limit=2, seed=0)


def test_limit_table__rows_are_a_random_sample() -> None:
    table = table_of({"a": 100, "b": 100}, split="train")
    kept = limit_table(table, limit=100, seed=3).part("train")["path"]
    numbers = np.array([int(path[2:]) for path in kept])
    assert 35 < numbers.mean() < 65  # the first half would have 24.5
