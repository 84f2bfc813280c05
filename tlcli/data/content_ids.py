"""What a file holds, as 32 bytes: the key by which computed things are found again."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlcli.data.store.row_ids import first_appearances
from tlcli.errors import DataError

Ids = npt.NDArray[np.uint8]
"""Shape (N, 32): one SHA-256 per row."""

_SIZE = 32
_CHUNK = 256


def content_ids(names: Sequence[str] | npt.NDArray[np.object_], *, root: Path, threads: int) -> Ids:
    """Return the SHA-256 of the bytes of every file, shape (N, 32).

    Every byte is read each time: neither name, size nor date tell whether a file is the same.

    Args:
        names: Files, relative to `root` or absolute.
        root: A folder.
        threads: How many files are read at once.

    Raises:
        DataError: a file cannot be read.
    """
    ids = np.empty((len(names), _SIZE), dtype=np.uint8)
    with ThreadPoolExecutor(max_workers=threads) as executor:
        for start in range(0, len(names), _CHUNK):  # map() alone would queue a million futures
            paths = [root / name for name in names[start : start + _CHUNK]]
            ids[start : start + _CHUNK] = _as_rows(executor.map(_digest_of, paths))
    return ids


def equal_rows(ids: Ids) -> list[list[int]]:
    """Return the groups of two or more of N images that are the same, by position.

    Args:
        ids: Of their contents.

    Returns:
        Groups in the order of their first images, and images of a group in their order.
    """
    if len(first_appearances(ids)) == len(ids):
        return []  # most often so, and found without a copy of all ids
    _, group = np.unique(ids.view(f"V{_SIZE}").reshape(-1), return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted(part.tolist() for part in parts if len(part) > 1)


def view_ids(ids: Ids, *, level: str, seed: int, view: int) -> Ids:
    """Return the ids of one random view of every image, shape (N, 32).

    Args:
        ids: Of the images' contents.
        level: Strength of the augmentation.
        seed: Of the random views.
        view: Number of the view.
    """
    suffix = f"/{level}/{seed}/{view}".encode()
    return _as_rows(hashlib.sha256(row.tobytes() + suffix).digest() for row in ids)


def _as_rows(digests: Iterable[bytes]) -> Ids:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _SIZE)


def _digest_of(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
