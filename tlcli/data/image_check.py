"""Looking at image files before hours are spent on them: broken ones and exact copies."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tlcli.data.images import read_image
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import DataError

_CHUNK = 256
_GRAY = ("1", "L", "LA", "La", "F")
"""Pillow's modes without colour, beside those of integers (I)."""


class ImageCheck(NamedTuple):
    """One image file and what is wrong with it, None if nothing is."""

    path: Path
    problem: str | None


def check_images(paths: Sequence[Path], *, threads: int) -> Iterator[ImageCheck]:
    """Decode every file in full and yield the findings in the order of `paths`.

    Decoding in Pillow releases the interpreter lock, so threads do help.
    """
    with ThreadPoolExecutor(max_workers=threads) as executor:
        for start in range(0, len(paths), _CHUNK):
            yield from executor.map(_check_image, paths[start : start + _CHUNK])


def count_converted(paths: Sequence[Path], *, channels: int, threads: int) -> int:
    """Return how many images change when they are read with `channels` channels.

    For 1 those that are stored in colour or with a palette, for 4 those without transparency. Only
    the beginning of each file is read; files that are no images count as none.
    """
    if channels == RGB_CHANNELS:
        return 0
    is_changed = _is_coloured if channels == 1 else _is_opaque
    with ThreadPoolExecutor(max_workers=threads) as executor:
        found = executor.map(lambda path: _is_stored_so(path, is_changed), paths)
        return sum(found)


def _is_coloured(image: Image.Image) -> bool:
    return not image.mode.startswith("I") and image.mode not in _GRAY


def _is_opaque(image: Image.Image) -> bool:
    return not image.has_transparency_data


def _is_stored_so(path: Path, is_so: Callable[[Image.Image], bool]) -> bool:
    """Ask something of an image that is not decoded."""
    try:
        with Image.open(path) as image:
            return is_so(image)
    except Exception:  # as in read_image, which tells of it when the picture is wanted
        return False


def find_duplicates(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return groups of two or more files with the same bytes, in the order of `paths`.

    Files are compared by size first and then by SHA-256.

    Raises:
        DataError: a file cannot be read.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    by_digest: defaultdict[bytes, list[Path]] = defaultdict(list)
    try:
        for path in paths:
            by_size[path.stat().st_size].append(path)
        for same_size in by_size.values():
            for path in same_size if len(same_size) > 1 else ():
                by_digest[hashlib.sha256(path.read_bytes()).digest()].append(path)
    except OSError as error:
        raise DataError(f"Cannot read {error.filename}: {error.strerror}.") from error
    return [tuple(group) for group in by_digest.values() if len(group) > 1]


def _check_image(path: Path) -> ImageCheck:
    try:
        read_image(path)
    except DataError as error:
        return ImageCheck(path, str(error))
    return ImageCheck(path, None)
