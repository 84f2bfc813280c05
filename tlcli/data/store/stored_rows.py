"""Reading chosen rows of a tensor store, block by block, without loading the rest."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlcli.data.store.row_ids import Locations
from tlcli.data.store.shard_files import read_shard
from tlcli.data.store.shard_header import ShardFile, TensorSpec

Positions = npt.NDArray[np.int64]
"""Shape (n,): which of the given locations each row of a block is."""

_LOAD_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Those rows of a block that come from one shard."""

    tensors: Mapping[str, Tensor]
    """All rows of the shard, on disk."""
    rows: npt.NDArray[np.int32]
    place: slice
    """In the block."""

    def of(self, name: str) -> Tensor:
        """Take the rows of a tensor; a view if they are neighbours."""
        if bool((np.diff(self.rows) == 1).all()):
            return self.tensors[name][int(self.rows[0]) : int(self.rows[-1]) + 1]
        return self.tensors[name][torch.from_numpy(self.rows)]


class StoredRows:
    """Rows at given locations; every iteration reads the shards anew, in their order."""

    def __init__(
        self, shards: Sequence[ShardFile], locations: Locations, *, specs: Mapping[str, TensorSpec]
    ) -> None:
        """Choose rows.

        Args:
            shards: All shards of the store.
            locations: Shape (N, 2), as `TensorStore.locate` returns them; may repeat.
            specs: Which tensors, in their order.
        """
        self._shards = shards
        self._specs = dict(specs)
        self._order = np.lexsort((locations[:, 1], locations[:, 0]))
        self._locations = locations[self._order]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def dim(self) -> int:
        """Numbers in a row of `blocks`: all tensors, flattened."""
        return sum(math.prod(spec.shape) for spec in self._specs.values())

    def blocks(self, *, size: int) -> Iterator[tuple[Tensor, Positions]]:
        """Yield the rows as vectors, in the order in which they lie on disk.

        Args:
            size: Rows in a block; the last may have fewer.

        Yields:
            Values (n, dim) float32, the tensors flattened and side by side, the caller's to
            change; and the positions of these rows.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for pieces, positions in self._read(size=size):
            block = torch.empty(len(positions), self.dim, dtype=torch.float32)
            for piece in pieces:
                column = 0
                for name in self._specs:
                    values = piece.of(name).reshape(len(piece.rows), -1)
                    block[piece.place, column : column + values.shape[1]] = values
                    column += values.shape[1]
            yield block, positions

    def tensors(self, *, size: int) -> Iterator[tuple[dict[str, Tensor], Positions]]:
        """Yield the rows as they are stored: by name, (n, ...) in their own type and shape.

        Positions, order and errors are those of `blocks`.
        """
        for pieces, positions in self._read(size=size):
            yield {n: torch.cat([p.of(n) for p in pieces]) for n in self._specs}, positions

    def load(self) -> dict[str, Tensor]:
        """Read all rows into memory, as `tensors` but in the order of the given locations."""
        loaded = {
            name: torch.empty((len(self), *spec.shape), dtype=spec.torch_dtype)
            for name, spec in self._specs.items()
        }
        for pieces, positions in self._read(size=_LOAD_ROWS):
            for piece in pieces:
                places = torch.from_numpy(positions[piece.place])
                for name, values in loaded.items():
                    values[places] = piece.of(name)
        return loaded

    def _read(self, *, size: int) -> Iterator[tuple[list[_Piece], Positions]]:
        if size < 1:
            raise ValueError(f"A block has 1 row or more, not {size}.")
        opened: dict[int, dict[str, Tensor]] = {}
        for start in range(0, len(self), size):
            locations = self._locations[start : start + size]
            numbers, begins = np.unique(locations[:, 0], return_index=True)
            opened = {int(n): opened.get(int(n)) or self._open(int(n)) for n in numbers}
            ends = [*begins[1:], len(locations)]
            yield (
                [
                    _Piece(
                        tensors=opened[int(number)],
                        rows=locations[begin:end, 1],
                        place=slice(begin, end),
                    )
                    for number, begin, end in zip(numbers, begins, ends, strict=True)
                ],
                self._order[start : start + size],
            )

    def _open(self, number: int) -> dict[str, Tensor]:
        shard = self._shards[number]
        return read_shard(shard.path, expected=shard.header, names=tuple(self._specs))
