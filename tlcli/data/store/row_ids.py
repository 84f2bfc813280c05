"""Row ids: 32 bytes each, held as plain arrays, a million of them in 32 MB."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

ID_BYTES = 32

RowIds = npt.NDArray[np.uint8]
"""Shape (N, 32): one id a row, for instance the SHA-256 of an image file."""

Locations = npt.NDArray[np.int32]
"""Shape (N, 2): number of the shard and row in it."""

_CHUNK = 1 << 16
"""Rows that are looked at together."""

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
    texts = as_texts(ids)
    order = np.argsort(texts, kind="stable")
    is_first = np.ones(len(texts), bool)
    for start in range(1, len(texts), _CHUNK):  # so that no second copy of all ids is made
        run = texts[order[start - 1 : start + _CHUNK]]
        is_first[order[start : start + _CHUNK]] = run[1:] != run[:-1]
    return np.flatnonzero(is_first)


class RowIndex:
    """Where every id lies: 40 bytes for each."""

    def __init__(self, ids_of_shards: Iterable[RowIds], *, total: int) -> None:
        """Index the rows of shards 0, 1, ...; of an id that is there twice, the first row.

        Args:
            ids_of_shards: For each shard (n, 32).
            total: Rows in all shards.
        """
        texts = np.empty(total, f"S{ID_BYTES}")
        places: Locations = np.empty((total, 2), np.int32)
        start = 0
        for number, ids in enumerate(ids_of_shards):
            stop = start + len(ids)
            texts[start:stop] = as_texts(ids)
            places[start:stop] = np.stack([np.full(len(ids), number), np.arange(len(ids))], axis=1)
            start = stop
        order = np.argsort(texts, kind="stable")
        self._texts, self._places = texts[order], places[order]

    def locate(self, ids: RowIds) -> Locations:
        """Return shard and row of every id; `NOWHERE` twice if it has none."""
        texts = as_texts(ids)
        locations: Locations = np.full((len(texts), 2), NOWHERE, np.int32)
        for start in range(0, len(texts) if len(self._texts) else 0, _CHUNK):
            wanted = texts[start : start + _CHUNK]
            nearest = np.searchsorted(self._texts, wanted)
            nearest[nearest == len(self._texts)] = 0
            found = self._texts[nearest] == wanted
            locations[start : start + _CHUNK][found] = self._places[nearest[found]]
        return locations
