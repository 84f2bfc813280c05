from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_stores import fill, ids_of, listed_files, tensors_of, vectors_of

from tlcli.data.store.tensor_store import TensorStore
from tlcli.errors import DataError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TensorStore:
    """Ten rows in shards of 3, 3, 3 and 1."""
    return fill(tmp_path_factory.mktemp("store"), range(10))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 9), max_size=15), st.integers(1, 16))
def test_blocks__every_row_once_and_the_same_again(
    store: TensorStore, numbers: list[int], size: int
) -> None:
    ids = ids_of(numbers)
    rows = store.rows(store.locate(ids))
    blocks = list(rows.blocks(size=size))
    assert [len(block) for block, _ in blocks] == [
        min(size, len(numbers) - start) for start in range(0, len(numbers), size)
    ]
    positions = np.concatenate([np.empty(0, int), *(places for _, places in blocks)])
    assert sorted(positions) == list(range(len(numbers)))
    for block, places in blocks:
        assert block.dtype == torch.float32
        assert torch.equal(block, vectors_of(ids[places]))
    again = list(rows.blocks(size=size))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(blocks, again, strict=True))
    assert np.array_equal(positions, [p for _, places in again for p in places])
    located = store.locate(ids)[positions].tolist()
    assert located == sorted(located), "in the order of the disk"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 9), max_size=15), st.integers(1, 16))
def test_tensors_and_load__as_stored(store: TensorStore, numbers: list[int], size: int) -> None:
    ids = ids_of(numbers)
    rows = store.rows(store.locate(ids))
    for tensors, places in rows.tensors(size=size):
        for name, expected in tensors_of(ids[places]).items():
            assert tensors[name].dtype == expected.dtype
            assert torch.equal(tensors[name], expected)
    loaded = rows.load()
    for name, expected in tensors_of(ids).items():
        assert loaded[name].dtype == expected.dtype
        assert torch.equal(loaded[name], expected)


def test_blocks__named_tensors_in_the_order_asked_for(store: TensorStore) -> None:
    ids = ids_of(range(4))
    rows = store.rows(store.locate(ids), ["map", "embedding"])
    (block, places), *rest = rows.blocks(size=100)
    assert (rows.dim, len(rows), rest) == (7, 4, [])
    assert torch.equal(block[:, :4], tensors_of(ids[places])["map"].flatten(1).float())
    assert torch.equal(block[:, 4:], tensors_of(ids[places])["embedding"].float())
    assert store.rows(store.locate(ids), ["embedding"]).dim == 3


def test_blocks__may_be_changed_by_the_caller(store: TensorStore) -> None:
    ids = ids_of(range(10))
    rows = store.rows(store.locate(ids))
    for block, _ in rows.blocks(size=1):
        block.zero_()
    for block, places in rows.blocks(size=4):
        assert torch.equal(block, vectors_of(ids[places]))


def test_blocks__one_number_per_row(tmp_path: Path) -> None:
    store = TensorStore.open_or_create(tmp_path, key={})
    plans = store.plan(ids_of(range(5)), rows_per_shard=2)
    for plan in plans:
        store.write(plan, {"score": torch.from_numpy(plan.positions).float()})
    store.seal(plans)
    rows = store.rows(store.locate(ids_of(range(5))))
    assert rows.dim == 1
    for block, places in rows.blocks(size=3):
        assert block[:, 0].tolist() == places.tolist()


def test_blocks__size_zero(store: TensorStore) -> None:
    rows = store.rows(store.locate(ids_of([1])))
    with pytest.raises(ValueError, match="A block has 1 row or more, not 0"):
        next(rows.blocks(size=0))


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_blocks__damaged_since_it_was_located(tmp_path: Path, damage: str) -> None:
    store = fill(tmp_path / "store", range(10))
    rows = store.rows(store.locate(ids_of(range(10))))
    path = listed_files(store)[2]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"The shard '.*{path.name}' is missing or damaged"):
        list(rows.blocks(size=2))
