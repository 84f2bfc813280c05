"""Row ids: 32 bytes each, held as plain arrays, a million of them in 32 MB."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ID_BYTES = 32

RowIds = npt.NDArray[np.uint8]
"""Shape (N, 32): one id a row, for instance the SHA-256 of an image file."""

Locations = npt.NDArray[np.int32]
"""Shape (N, 2): number of the shard and row in it."""

NOWHERE = -1
"""Both numbers of a location that does not exist."""


def as_texts(ids: RowIds) -> npt.NDArray[np.bytes_]:
    """View ids as an array of N byte strings, which numpy sorts and compares as a whole.

    Raises:
        ValueError: `ids` is not (N, 32) uint8.
    """
    if ids.ndim != 2 or ids.shape[1] != ID_BYTES or ids.dtype != np.uint8:
        raise ValueError(f"Ids are (N, {ID_BYTES}) uint8, not {ids.shape} {ids.dtype}.")
    # numpy ignores zero bytes at the end of a string: harmless, all have the same length.
    texts: npt.NDArray[np.bytes_] = np.ascontiguousarray(ids).view(f"S{ID_BYTES}")[:, 0]
    return texts


def first_appearances(ids: RowIds) -> npt.NDArray[np.int64]:
    """Return the index of every distinct id's first row, ascending."""
    _, first = np.unique(as_texts(ids), return_index=True)
    return np.sort(first).astype(np.int64, copy=False)


class RowIndex:
    """Where every id lies: 40 bytes for each."""

    def __init__(self, ids_of_shards: Sequence[RowIds]) -> None:
        """Index the rows of shards 0, 1, ...; of an id that is there twice, the first row."""
        texts = as_texts(np.concatenate([np.empty((0, ID_BYTES), np.uint8), *ids_of_shards]))
        counts = [len(ids) for ids in ids_of_shards]
        order = np.argsort(texts, kind="stable")
        self._texts = texts[order]
        self._places: Locations = np.empty((len(texts), 2), np.int32)
        self._places[:, 0] = np.repeat(np.arange(len(counts)), counts)[order]
        starts = np.cumsum([0, *counts])[:-1]
        self._places[:, 1] = order - starts[self._places[:, 0]] if counts else 0

    def locate(self, ids: RowIds) -> Locations:
        """Return shard and row of every id; `NOWHERE` twice if it has none."""
        texts = as_texts(ids)
        if not len(self._texts):
            return np.full((len(texts), 2), NOWHERE, np.int32)
        nearest = np.searchsorted(self._texts, texts)
        nearest[nearest == len(self._texts)] = 0
        found = self._texts[nearest] == texts
        return np.where(found[:, None], self._places[nearest], np.int32(NOWHERE))
