"""Single rows, in this process and in others."""

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tlcli.data.store.row_access import RowAccess, RowsInMemory, RowsInStore
from tlcli.data.store.row_ids import RowIds
from tlcli.data.store.tensor_store import TensorStore
from tlcli.errors import DataError

VALUES = torch.arange(15, dtype=torch.uint8).reshape(5, 3)
IDS: RowIds = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
ORDER = [3, 0, 3, 4]


def in_memory(_: Path) -> RowsInMemory:
    places = np.array([[1, 1], [0, 0], [1, 1], [1, 2]], dtype=np.int32)
    return RowsInMemory([{"a": VALUES[:2]}, {"a": VALUES[2:]}], places)


def in_store(path: Path) -> RowsInStore:
    store = TensorStore.open_or_create(path / "store", key={"test": 1})
    plans = store.plan(IDS, rows_per_shard=2)
    for plan in plans:
        store.write(plan, {"a": VALUES[torch.from_numpy(plan.positions)]})
    store.seal(plans)
    return RowsInStore(path / "store", IDS[ORDER])


both = pytest.mark.parametrize("make", [in_memory, in_store])


def rows_of(access: RowAccess) -> list[list[int]]:
    return [access(number)["a"].tolist() for number in range(len(ORDER))]


@both
def test_access__rows_and_what_is_left_of_them_in_another_process(
    tmp_path: Path, make: Callable[[Path], RowAccess]
) -> None:
    access = make(tmp_path)
    expected = VALUES[ORDER].tolist()

    assert rows_of(access) == expected
    assert rows_of(pickle.loads(pickle.dumps(access))) == expected  # after it was opened


def test_rows_in_store__are_small_to_send(tmp_path: Path) -> None:
    access = in_store(tmp_path)
    rows_of(access)

    assert len(pickle.dumps(access)) < len(ORDER) * 32 + 1000


def test_rows_in_store__rows_that_are_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 2 rows are not in"):
        RowsInStore(in_store(tmp_path)._path, np.stack([IDS[0], 255 - IDS[1]]))(0)


def _send(access: RowAccess, queue: "multiprocessing.Queue[list[list[int]]]") -> None:
    queue.put(rows_of(access))


@pytest.mark.slow
@both
def test_access__in_a_spawned_process(tmp_path: Path, make: Callable[[Path], RowAccess]) -> None:
    context = torch.multiprocessing.get_context("spawn")
    access, queue = make(tmp_path), context.Queue()
    process = context.Process(target=_send, args=(access, queue))
    process.start()

    assert queue.get(timeout=120) == VALUES[ORDER].tolist()
    process.join()
    if isinstance(access, RowsInMemory):
        tensors: list[Tensor] = [block["a"] for block in access.blocks]
        assert all(tensor.is_shared() for tensor in tensors)
