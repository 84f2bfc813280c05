import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.store.row_ids import NOWHERE, RowIds, RowIndex, as_texts, first_appearances


def rows_of(texts: list[bytes]) -> RowIds:
    return np.frombuffer(b"".join(t.ljust(32, b"\0") for t in texts), np.uint8).reshape(-1, 32)


few_ids = st.lists(st.binary(max_size=2), max_size=12)
"""Short ids, so that there are copies, and ids that only differ in zero bytes at the end."""


@given(few_ids)
def test_first_appearances__as_a_dict_keeps_them(texts: list[bytes]) -> None:
    first: dict[bytes, int] = {}
    for place, text in enumerate(texts):
        first.setdefault(text.ljust(32, b"\0"), place)
    assert first_appearances(rows_of(texts)).tolist() == list(first.values())


@given(st.lists(few_ids, max_size=3), few_ids)
def test_locate__as_a_search_through_all_rows(
    shards: list[list[bytes]], texts: list[bytes]
) -> None:
    places: dict[bytes, list[int]] = {}
    for number, shard in enumerate(shards):
        for row, text in enumerate(shard):
            places.setdefault(text.ljust(32, b"\0"), [number, row])
    index = RowIndex(map(rows_of, shards), total=sum(map(len, shards)))
    located = index.locate(rows_of(texts))
    expected = [places.get(text.ljust(32, b"\0"), [NOWHERE, NOWHERE]) for text in texts]
    assert located.tolist() == expected
    assert located.dtype == np.int32


def test_as_texts__zero_bytes_at_the_end_are_part_of_an_id() -> None:
    ids = np.zeros((2, 32), np.uint8)
    ids[1, 31] = 1
    assert len(np.unique(as_texts(ids))) == 2


def test_as_texts__rows_of_another_array() -> None:
    wide = np.arange(3 * 64, dtype=np.uint8).reshape(3, 64)
    assert as_texts(wide[:, 32:]).tolist() == [row[32:].tobytes() for row in wide]


@pytest.mark.parametrize(
    "ids", [np.zeros((2, 31), np.uint8), np.zeros(32, np.uint8), np.zeros((2, 32), np.int64)]
)
def test_as_texts__refuses_other_shapes_and_types(ids: RowIds) -> None:
    with pytest.raises(ValueError, match=r"Ids are \(N, 32\) uint8, not"):
        as_texts(ids)
