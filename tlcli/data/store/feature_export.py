"""Stored tensors as files for other tools: numpy arrays, or one Parquet table."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tlcli.data.store.shard_header import TensorSpec
from tlcli.data.store.store_items import ID, ids_of, read_items
from tlcli.data.store.tensor_store import TensorStore
from tlcli.errors import DataError
from tlcli.results.atomic import make_folder, replacing, write_csv

_BATCH_BYTES = 32 << 20
_BATCH_ROWS = 8192
_CSV_ROWS = 1024


def export_npy(store: TensorStore, folder: Path) -> list[Path]:
    """Write `NAME.npy` for each tensor and `items.csv`, all in the order of the items.

    Types are kept, but for bfloat16, which numpy does not have: it becomes float32. Ids are in
    hex. Memory stays bounded, whatever the number of items.

    Args:
        store: With items.
        folder: Is made if it is not there.

    Returns:
        The files.

    Raises:
        DataError: the store has no items or no rows, or is damaged.
        MachineError: the disk is full or the folder cannot be written to.
    """
    items = _items_of(store)
    make_folder(folder)
    paths = [_write_npy(store, items, name=name, folder=folder) for name in store.tensors]
    paths.append(folder / "items.csv")
    write_csv(paths[-1], header=items.column_names, rows=_csv_rows(items))
    return paths


def export_parquet(store: TensorStore, path: Path) -> None:
    """Write one table: the columns of the items and a list column for each tensor.

    Lists have a fixed size, tensors are flattened; floating types become float32, since many
    readers lack the smaller ones. Memory stays bounded, whatever the number of items.

    Args:
        store: With items.
        path: The file; its folder is made if it is not there.

    Raises:
        DataError: the store has no items or no rows, is damaged, or a tensor is named as a column.
        MachineError: the disk is full or the folder cannot be written to.
    """
    items = _items_of(store)
    twice = sorted({*items.column_names} & {*store.tensors})
    if twice:
        raise DataError(
            f"'{twice[0]}' names both a tensor and a column of '{store.path}': export it as npy."
        )
    types = {name: _list_type(spec) for name, spec in store.tensors.items()}
    schema = pa.schema([*items.schema, *(pa.field(name, type_) for name, type_ in types.items())])
    make_folder(path.parent)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for part, tensors in _in_order(store, items, names=list(types)):
            for name, type_ in types.items():
                part = part.append_column(name, _lists(tensors[name], type_))
            writer.write_table(part)


def _items_of(store: TensorStore) -> pa.Table:
    items = read_items(store.items_path)
    if not store.tensors:
        raise DataError(f"'{store.path}' has no rows yet: there is nothing to export.")
    return items


def _in_order(
    store: TensorStore, items: pa.Table, *, names: Sequence[str]
) -> Iterator[tuple[pa.Table, dict[str, Tensor]]]:
    """Yield slices of the items with their tensors."""
    size = _batch_rows([store.tensors[name] for name in names])
    for start in range(0, len(items), size):
        part = items.slice(start, size)
        yield part, store.read(ids_of(part), names)


def _batch_rows(specs: Sequence[TensorSpec]) -> int:
    row_bytes = sum(4 * math.prod(spec.shape) for spec in specs)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))


def _write_npy(store: TensorStore, items: pa.Table, *, name: str, folder: Path) -> Path:
    path = folder / f"{name}.npy"
    spec = store.tensors[name]
    empty = _as_numpy(torch.empty((0, *spec.shape), dtype=spec.torch_dtype))
    header = {
        "descr": np.lib.format.dtype_to_descr(empty.dtype),
        "fortran_order": False,
        "shape": (len(items), *spec.shape),
    }
    # Not a memory map: on a full disk that ends the process instead of raising an error.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, tensors in _in_order(store, items, names=[name]):
            file.write(_as_numpy(tensors[name]).tobytes())
    return path


def _as_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _csv_rows(items: pa.Table) -> Iterator[list[object]]:
    place = items.column_names.index(ID)
    for batch in items.to_batches(max_chunksize=_CSV_ROWS):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield [v.hex() if i == place else v for i, v in enumerate(values)]


def _list_type(spec: TensorSpec) -> pa.DataType:
    return pa.list_(pa.uint8() if spec.dtype == "uint8" else pa.float32(), math.prod(spec.shape))


def _lists(tensor: Tensor, type_: pa.DataType) -> pa.Array:
    values = (tensor.float() if tensor.is_floating_point() else tensor).reshape(-1).numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(values), type=type_)
