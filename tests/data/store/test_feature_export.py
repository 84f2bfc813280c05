import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny_stores import KEY, contents, fill, ids_of, listed_files, shard_file, tensors_of

from tlcli.data.store import feature_export
from tlcli.data.store.feature_export import export_npy, export_parquet
from tlcli.data.store.tensor_store import TensorStore
from tlcli.errors import DataError, MachineError

NUMBERS = [5, 3, 5, 1, 0, 2, 4, 9, 8, 7, 3]
"""With copies; shards of three rows lie in another order."""


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return fill(tmp_path / "store", NUMBERS)


@pytest.fixture(params=[1, 2, 100], ids="batches of {}".format)
def _small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_export, "_BATCH_ROWS", request.param)


@pytest.mark.usefixtures("_small_batches")
def test_export_npy__in_the_order_of_the_items(store: TensorStore, tmp_path: Path) -> None:
    paths = export_npy(store, tmp_path / "out" / "npy")
    assert [path.name for path in paths] == ["embedding.npy", "map.npy", "items.csv"]
    assert sorted(contents(tmp_path / "out" / "npy")) == sorted(path.name for path in paths)
    expected = tensors_of(ids_of(NUMBERS))
    embedding, map_ = np.load(paths[0]), np.load(paths[1], mmap_mode="r")
    assert (embedding.dtype, map_.dtype) == (np.float16, np.float32)
    assert np.array_equal(embedding, expected["embedding"].numpy())
    assert np.array_equal(map_, expected["map"].float().numpy())


@pytest.mark.usefixtures("_small_batches")
def test_export_npy__items(store: TensorStore, tmp_path: Path) -> None:
    *_, path = export_npy(store, tmp_path)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "id"]
    expected = zip(NUMBERS, ids_of(NUMBERS), strict=True)
    assert rows[1:] == [[f"{number}.jpg", row.tobytes().hex()] for number, row in expected]


def test_export_npy__same_bytes_as_numpy_writes(store: TensorStore, tmp_path: Path) -> None:
    path = export_npy(store, tmp_path)[0]
    np.save(tmp_path / "numpy.npy", tensors_of(ids_of(NUMBERS))["embedding"].numpy())
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.usefixtures("_small_batches")
def test_export_parquet__columns_and_lists(store: TensorStore, tmp_path: Path) -> None:
    path = tmp_path / "out" / "features.parquet"
    export_parquet(store, path)
    assert sorted(contents(path.parent)) == ["features.parquet"]
    table = pq.read_table(path)
    assert table.column_names == ["path", "id", "embedding", "map"]
    assert table["path"].to_pylist() == [f"{number}.jpg" for number in NUMBERS]
    assert table["id"].to_pylist() == [row.tobytes() for row in ids_of(NUMBERS)]
    for name, expected in tensors_of(ids_of(NUMBERS)).items():
        assert table[name].to_pylist() == expected.float().flatten(1).tolist()
    assert str(table.schema.field("map").type) == "fixed_size_list<element: float>[4]"
    stacked = np.stack(pd.read_parquet(path)["embedding"].to_numpy())
    assert np.array_equal(stacked, tensors_of(ids_of(NUMBERS))["embedding"].float().numpy())


def test_export__bytes_stay_bytes(tmp_path: Path) -> None:
    store = TensorStore.open_or_create(tmp_path / "store", key={})
    ids = ids_of(range(4))
    (plan,) = store.plan(ids, rows_per_shard=9)
    store.write(plan, {"image": torch.from_numpy(ids[:, :6].reshape(4, 3, 2).copy())})
    store.seal([plan])
    store.write_items(pd.DataFrame({"view": range(4)}), ids=ids)
    images = np.load(export_npy(store, tmp_path)[0])
    assert images.dtype == np.uint8
    assert np.array_equal(images, ids[:, :6].reshape(4, 3, 2))
    export_parquet(store, tmp_path / "a.parquet")
    column = pq.read_table(tmp_path / "a.parquet")["image"]
    assert str(column.type) == "fixed_size_list<element: uint8>[6]"
    assert column.to_pylist() == ids[:, :6].tolist()


def test_export__no_items(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", range(3))
    store.items_path.unlink()
    with pytest.raises(DataError, match=r"items\.parquet' is missing: unfinished work"):
        export_npy(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export__no_rows(tmp_path: Path) -> None:
    store = TensorStore.open_or_create(tmp_path, key=KEY)
    store.write_items(pd.DataFrame({"path": []}), ids=ids_of([]))
    with pytest.raises(DataError, match="has no rows yet: there is nothing to export"):
        export_parquet(store, tmp_path / "a.parquet")


def test_export_parquet__a_tensor_named_as_a_column(store: TensorStore, tmp_path: Path) -> None:
    store.write_items(pd.DataFrame({"map": NUMBERS}), ids=ids_of(NUMBERS))
    with pytest.raises(DataError, match=r"'map' names both a tensor and a column of '.*store'"):
        export_parquet(store, tmp_path / "a.parquet")


def test_export__damaged_store_leaves_the_old_file(store: TensorStore, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"old")
    (tmp_path / "embedding.npy").write_bytes(b"old")
    before = contents(tmp_path)
    store.locate(ids_of(NUMBERS))
    last = listed_files(store)[-1]
    cut = last.read_bytes()[:-1]
    last.write_bytes(cut)
    for export, place in ((export_parquet, tmp_path / "a.parquet"), (export_npy, tmp_path)):
        with pytest.raises(DataError, match="is missing or damaged"):
            export(store, place)
    name = last.relative_to(tmp_path).as_posix()
    assert contents(tmp_path) == {**before, name: cut}
    assert last == shard_file(store, last.stem)


def test_export_parquet__place_that_is_a_folder(store: TensorStore, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"Cannot write '{tmp_path}'"):
        export_parquet(store, tmp_path)
