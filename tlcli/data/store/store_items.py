"""`items.parquet` of a tensor store: what its rows belong to, for tlcli and for other tools."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tlcli.data.store.durable_files import write_durably
from tlcli.data.store.row_ids import ID_BYTES, RowIds, as_texts
from tlcli.errors import DataError

ID = "id"
"""The column of row ids, 32 bytes each. An id is in a shard too, under the same value."""
PLACE = ("shard", "row")
"""Columns that `TensorStore.read_items` adds; they are not stored, since shards may move."""

_ROW_GROUP = 1 << 16


def write_items(path: Path, items: pd.DataFrame, *, ids: RowIds) -> None:
    """Write one row per item with the id of its tensors; the same items give the same bytes.

    Args:
        path: The file.
        items: Any columns but `ID` and `PLACE`; the index is not kept.
        ids: Shape (N, 32); copies of an image have the same.

    Raises:
        ValueError: a reserved column, or another number of ids than items.
        DataError: a text that is no Unicode, such as a broken file name.
        MachineError: the disk is full or the folder cannot be written to.
    """
    reserved = {ID, *PLACE} & set(items.columns)
    if reserved or len(items) != len(as_texts(ids)):
        raise ValueError(f"{len(items)} items, {len(ids)} ids, reserved columns: {reserved}.")
    try:
        table = pa.Table.from_pandas(items, preserve_index=False)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{error.object!r} is no valid Unicode and cannot be kept in '{path}': rename it."
        ) from error
    buffers = [None, pa.py_buffer(np.ascontiguousarray(ids))]
    column = pa.Array.from_buffers(pa.binary(ID_BYTES), len(ids), buffers)
    # pandas' own metadata would change with its version; the columns say all.
    table = table.append_column(ID, column).replace_schema_metadata(None)
    write_durably(
        path,
        lambda temporary: pq.write_table(
            table, temporary, row_group_size=_ROW_GROUP, use_dictionary=list(items.columns)
        ),
    )


def read_items(path: Path) -> pa.Table:
    """Read what `write_items` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    remedy = "Run the command that computed these features again: it goes on where it stopped."
    try:
        table = pq.read_table(path)
        if table.schema.field(ID).type != pa.binary(ID_BYTES):
            raise ValueError(f"the column '{ID}' has another type")
    except FileNotFoundError as error:
        raise DataError(f"'{path}' is missing: unfinished work. {remedy}") from error
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise DataError(f"'{path}' is damaged ({error}). {remedy}") from error
    return table


def ids_of(table: pa.Table) -> RowIds:
    """Return the ids of a table of items, shape (N, 32)."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, ID_BYTES)[
            chunk.offset : chunk.offset + len(chunk)
        ]
        for chunk in table.column(ID).chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty((0, ID_BYTES), np.uint8), *parts])
