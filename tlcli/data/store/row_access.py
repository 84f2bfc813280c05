"""Rows for worker processes, which ask for one at a time: small to send, however they start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from tlcli.data.store.row_ids import Locations, RowIds
from tlcli.data.store.row_reader import RowReader
from tlcli.data.store.tensor_store import TensorStore


class RowAccess(Protocol):
    """N rows by their number."""

    def __call__(self, number: int) -> Mapping[str, Tensor]:
        """Return the tensors of a row by name; they are not written to."""


class RowsInMemory:
    """Rows that lie in memory.

    Forked processes see the same memory. For one that is spawned torch moves the tensors to memory
    that all processes share, once.

    Args:
        blocks: Tensors (n, ...) by name.
        locations: Shape (N, 2), number of the block and row in it.
    """

    def __init__(self, blocks: Sequence[Mapping[str, Tensor]], locations: Locations) -> None:
        self.blocks = tuple(blocks)
        self._locations = locations

    def __call__(self, number: int) -> Mapping[str, Tensor]:
        """Return the tensors of a row by name, views of the block."""
        block, row = self._locations[number].tolist()
        return {name: values[row] for name, values in self.blocks[block].items()}


class RowsInStore:
    """Rows of a tensor store, which every process opens for itself.

    Args:
        path: Of the store.
        ids: Shape (N, 32).
    """

    def __init__(self, path: Path, ids: RowIds) -> None:
        self._path = path
        self._ids = ids
        self._opened: tuple[RowReader, Locations] | None = None

    def __call__(self, number: int) -> Mapping[str, Tensor]:
        """Return copies of the tensors of a row by name.

        Raises:
            DataError: The row is not there, or a shard is damaged.
        """
        if self._opened is None:
            store = TensorStore.open(self._path)
            self._opened = store.reader(), store.locate(self._ids)
        reader, locations = self._opened
        taken = reader.take(locations[number : number + 1])
        return {name: values[0] for name, values in taken.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open."""
        return {**vars(self), "_opened": None}
