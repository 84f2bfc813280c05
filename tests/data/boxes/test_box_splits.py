from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.boxes.box_splits import (
    limit_boxes,
    read_box_split,
    split_boxes,
    write_box_split,
)
from tlcli.data.boxes.box_table import BOX_TYPES, IMAGE_TYPES, BoxTable, Category, typed
from tlcli.errors import ConfigError, DataError


def make(held: list[set[int]], *, splits: list[str] | None = None) -> BoxTable:
    """Make a table whose image i has one box of each class in `held[i]`."""
    pairs = [(row, name) for row, classes in enumerate(held) for name in sorted(classes)]
    images = pd.DataFrame(
        {
            "path": [f"{row:03d}.png" for row in range(len(held))],
            "split": splits or ["unsplit"] * len(held),
            "image_id": range(len(held)),
            "width": 40,
            "height": 30,
            "is_upright": True,
        }
    )
    boxes = pd.DataFrame(pairs, columns=["image", "category"]).assign(
        x=1, y=1, width=5, height=5, area=25, is_crowd=False, annotation_id=range(len(pairs))
    )
    number = 1 + max((name for _, name in pairs), default=0)
    return BoxTable(
        spec="data",
        root=Path("/data"),
        images=typed(images, IMAGE_TYPES),
        boxes=typed(boxes, BOX_TYPES),
        categories=tuple(Category(id=name, name=str(name)) for name in range(number)),
    )


def split_counts(table: BoxTable) -> dict[str, int]:
    return {split: part["images"] for split, part in table.counts().items()}


HELD = st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=2, max_size=30)


@given(HELD, st.floats(0.01, 0.45), st.floats(0, 0.45), st.integers(-5, 5))
def test_split_boxes__sizes_and_determinism(
    held: list[set[int]], val: float, test: float, seed: int
) -> None:
    table = make(held)
    found = split_boxes(table, val_fraction=val, test_fraction=test, seed=seed)
    counts = split_counts(found)
    assert counts["val"] == max(1, round(len(held) * val))
    assert counts["train"] >= 1
    if test > 0 and len(held) > 1 + counts["val"]:
        wanted = max(1, round(len(held) * test))
        assert counts["test"] == min(wanted, len(held) - counts["val"] - 1)
    assert found.boxes.equals(table.boxes)
    assert found.images.drop(columns="split").equals(table.images.drop(columns="split"))
    again = split_boxes(table, val_fraction=val, test_fraction=test, seed=seed)
    assert again.images.equals(found.images)


@given(HELD, st.integers(0, 3))
def test_split_boxes__classes_stay_in_train(held: list[set[int]], seed: int) -> None:
    held = held + [set()] * len(held)  # negatives make room
    found = split_boxes(make(held), val_fraction=0.1, test_fraction=0, seed=seed)
    in_all = Counter(name for classes in held for name in classes)
    rows = np.flatnonzero(found.images["split"] == "train")
    assert {name for row in rows for name in held[row]} == set(in_all)


def test_split_boxes__every_class_is_in_val_where_there_is_room() -> None:
    held = [{0, row % 5} for row in range(200)] + [{5}, {5}, {6}]
    found = split_boxes(make(held), val_fraction=0.1, test_fraction=0.1, seed=3)
    for split in ("val", "test"):
        per_class = found.counts()[split]["per_class"]
        assert per_class["6"] == 0
        assert all(2 <= per_class[str(name)] <= 10 for name in range(1, 5))
    assert found.counts()["val"]["per_class"]["5"] == 1
    assert found.counts()["train"]["per_class"]["5"] == 1


def test_split_boxes__other_seed_other_split() -> None:
    table = make([{0}] * 50)
    first = split_boxes(table, val_fraction=0.2, test_fraction=0, seed=0)
    other = split_boxes(table, val_fraction=0.2, test_fraction=0, seed=1)
    assert not first.images["split"].equals(other.images["split"])


def test_split_boxes__given_parts_stay() -> None:
    table = make([{0}] * 4, splits=["train", "train", "val", "test"])
    same = split_boxes(table, val_fraction=0.5, test_fraction=0, seed=0)
    assert same.images.equals(table.images)
    with pytest.raises(ConfigError, match=r"has a test part already; leave --test-split 0\.1 out"):
        split_boxes(table, val_fraction=0.1, test_fraction=0.1, seed=0)
    table = make([{0}] * 4, splits=["train", "train", "train", "test"])
    found = split_boxes(table, val_fraction=0.1, test_fraction=0, seed=0)
    assert split_counts(found) == {"train": 2, "val": 1, "test": 1}


def test_split_boxes__nothing_to_take_from() -> None:
    table = make([{0}], splits=["val"])
    assert split_boxes(table, val_fraction=0.1, test_fraction=0, seed=0).splits == ("val",)
    with pytest.raises(ConfigError, match="has no train part to take a test part from"):
        split_boxes(table, val_fraction=0, test_fraction=0.1, seed=0)
    assert split_boxes(make([{0}]), val_fraction=0.5, test_fraction=0, seed=0).splits == ("train",)


@pytest.mark.parametrize("fractions", [(-0.1, 0), (0.95, 0), (0, 0.95), (0.5, 0.5)])
def test_split_boxes__fractions_out_of_range(fractions: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"(must be in 0\.\.0\.9, not|may take 90% at most)"):
        split_boxes(make([{0}] * 3), val_fraction=fractions[0], test_fraction=fractions[1], seed=0)


def test_limit_boxes__at_most_so_many_of_each_split() -> None:
    table = make([{0}] * 30 + [{0}] * 3, splits=["train"] * 30 + ["val"] * 3)
    small = limit_boxes(table, limit=7, seed=1)
    assert split_counts(small) == {"train": 7, "val": 3}
    assert len(small.boxes) == 10
    assert small.images["path"].is_monotonic_increasing
    assert limit_boxes(table, limit=7, seed=1).images.equals(small.images)
    assert not limit_boxes(table, limit=7, seed=2).images.equals(small.images)


def test_limit_boxes__useless_limits() -> None:
    with pytest.raises(ConfigError, match="--limit is 0; it must be 1 or more"):
        limit_boxes(make([{0}]), limit=0, seed=0)


def test_limit_boxes__a_sample_without_boxes_is_no_error_here() -> None:
    table = make([set()] * 99 + [{0}] + [{0}] * 3, splits=["train"] * 100 + ["val"] * 3)
    small = limit_boxes(table, limit=1, seed=0)
    assert [part["boxes"] for part in small.counts().values()] == [0, 1]


def test_read_box_split__gives_back_what_was_written(tmp_path: Path) -> None:
    fresh = make([{0}] * 9)
    split = split_boxes(fresh, val_fraction=0.3, test_fraction=0.2, seed=0)
    write_box_split(split, tmp_path / "splits.csv")
    assert (tmp_path / "splits.csv").read_text().startswith("path,split\n000.png,")
    assert read_box_split(fresh, tmp_path / "splits.csv").images.equals(split.images)


def test_read_box_split__changed_data(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    write_box_split(make([{0}] * 3, splits=["train", "train", "val"]), path)
    with pytest.raises(DataError, match=r"1 image appeared \('003.png'\), 0 vanished"):
        read_box_split(make([{0}] * 4), path)
    with pytest.raises(DataError, match=r"0 images appeared \(\), 1 vanished \('002.png'\)"):
        read_box_split(make([{0}] * 2), path)
    with pytest.raises(DataError, match=r"the split of 1 image is another: '001.png'"):
        read_box_split(make([{0}] * 3, splits=["train", "val", "val"]), path)
    turned = make([{0}] * 3).images.iloc[::-1].reset_index(drop=True)
    with pytest.raises(DataError, match="its images come in another order"):
        read_box_split(BoxTable(**{**vars(make([{0}] * 3)), "images": turned}), path)


def test_read_box_split__no_split_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read the saved split"):
        read_box_split(make([{0}]), tmp_path / "splits.csv")
    (tmp_path / "splits.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no saved split: it needs the columns path,split"):
        read_box_split(make([{0}]), tmp_path / "splits.csv")
