from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_stores import ids_of

from tlcli.data.store.store_items import ids_of as item_ids
from tlcli.data.store.store_items import read_items, write_items
from tlcli.errors import DataError

ITEMS = pd.DataFrame({"path": ["é.jpg", "b.jpg", "c.jpg"], "view": [-1, 0, 1], "w": [0.5, 1, 2]})
IDS = ids_of([3, 1, 3])


def test_write_items__and_back(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    write_items(path, ITEMS, ids=IDS)
    table = read_items(path)
    assert np.array_equal(item_ids(table), IDS)
    assert np.array_equal(item_ids(table.slice(1, 2)), IDS[1:])
    assert table.column_names == ["path", "view", "w", "id"]
    pd.testing.assert_frame_equal(table.drop_columns(["id"]).to_pandas(), ITEMS)


def test_write_items__same_bytes_whatever_the_index_and_memory_layout(tmp_path: Path) -> None:
    write_items(tmp_path / "a", ITEMS, ids=IDS)
    write_items(tmp_path / "b", ITEMS.set_axis([7, 7, 8]), ids=np.asfortranarray(IDS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_items__none(tmp_path: Path) -> None:
    write_items(tmp_path / "a", ITEMS[:0], ids=IDS[:0])
    table = read_items(tmp_path / "a")
    assert (len(table), item_ids(table).shape) == (0, (0, 32))


def test_write_items__read_by_pandas(tmp_path: Path) -> None:
    write_items(tmp_path / "a", ITEMS, ids=IDS)
    frame = pd.read_parquet(tmp_path / "a")
    assert frame["id"].tolist() == [row.tobytes() for row in IDS]


@pytest.mark.parametrize("name", ["id", "shard", "row"])
def test_write_items__reserved_columns(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"reserved columns: {{'{name}'}}"):
        write_items(tmp_path / "a", ITEMS.assign(**{name: 0}), ids=IDS)


def test_write_items__another_number_of_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 items, 2 ids"):
        write_items(tmp_path / "a", ITEMS, ids=IDS[:2])


def test_write_items__names_that_are_no_unicode(tmp_path: Path) -> None:
    items = pd.DataFrame({"path": pd.Series(["caf\udce9.jpg"], dtype=object)})
    with pytest.raises(DataError, match=r"'caf\\udce9.jpg' is no valid Unicode .* rename it"):
        write_items(tmp_path / "a", items, ids=IDS[:1])
    assert not list(tmp_path.iterdir())


def test_read_items__missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is missing: unfinished work\. Run the command that"):
        read_items(tmp_path / "a")


@pytest.mark.parametrize("damage", ["empty", "cut off", "of others", "other ids"])
def test_read_items__damaged(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a"
    write_items(path, ITEMS, ids=IDS)
    if damage in ("empty", "cut off"):
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-9])
    else:
        (ITEMS if damage == "of others" else ITEMS.assign(id="a")).to_parquet(path)
    with pytest.raises(DataError, match=r"a' is damaged \(.+\)\. Run the command that"):
        read_items(path)
