import numpy as np
import pytest
import torch

from tlcli.data.store.row_reader import RowReader

SHARDS = [
    {"a": torch.arange(6.0).reshape(3, 2), "b": torch.tensor([10, 11, 12], dtype=torch.uint8)},
    {"a": torch.arange(6.0, 10.0).reshape(2, 2), "b": torch.tensor([13, 14], dtype=torch.uint8)},
]


def test_take__any_order_and_repeated() -> None:
    taken = RowReader(SHARDS.__getitem__).take(np.array([[1, 0], [0, 2], [1, 0], [0, 0]], np.int32))

    assert taken["a"].tolist() == [[6, 7], [4, 5], [6, 7], [0, 1]]
    assert taken["b"].tolist() == [13, 12, 13, 10]
    assert taken["b"].dtype == torch.uint8


def test_take__is_a_copy_and_opens_a_shard_once() -> None:
    opened: list[int] = []

    def open_shard(number: int) -> dict[str, torch.Tensor]:
        opened.append(number)
        return SHARDS[number]

    reader = RowReader(open_shard)
    for _ in range(2):
        reader.take(np.array([[1, 1]], np.int32))["a"].zero_()

    assert opened == [1]
    assert SHARDS[1]["a"].tolist() == [[6, 7], [8, 9]]


def test_take__no_such_row() -> None:
    with pytest.raises(IndexError):
        RowReader(SHARDS.__getitem__).take(np.array([[0, 3]], np.int32))
