"""The built-in sample data: scikit-learn's handwritten digits, as image files."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tlcli.data.cache_folder import cache_folder
from tlcli.errors import DataError, MachineError

NUM_DIGITS = 1797
_FOLDER_NAME = "sample-digits-v1"


def is_sample_folder(name: str) -> bool:
    """Say whether a folder of the cache holds this sample, finished or begun."""
    return name == _FOLDER_NAME or name.startswith(f"{_FOLDER_NAME}.")


def digits_folder() -> Path:
    """Return a folder of 1797 gray 8x8 PNGs, one folder per digit, made on the first call.

    The pictures are the test part of the UCI set "Optical Recognition of Handwritten Digits"
    (Alpaydin and Kaynak, 1998) that scikit-learn carries; their 0..16 is scaled to 0..255.

    Raises:
        MachineError: the cache folder cannot be written.
        DataError: files of the folder were removed or added since it was made.
    """
    folder = cache_folder() / _FOLDER_NAME
    if not folder.is_dir():
        try:
            _make(folder)
        except OSError as error:
            raise MachineError(
                f"Cannot write the sample digits to {folder}: {error.strerror or error}; set"
                " TLCLI_CACHE_DIR to a folder that can be written."
            ) from error
    found = sum(1 for _ in folder.glob("*/*.png"))
    if found != NUM_DIGITS:
        raise DataError(f"{folder} has {found} images instead of {NUM_DIGITS}; remove the folder.")
    return folder


def _make(folder: Path) -> None:
    """Write to a temporary folder beside `folder` and rename, so that it is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_NAME}.", dir=folder.parent))
    try:
        _write_pngs(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same pictures
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_pngs(folder: Path) -> None:
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for digit in range(10):
        (folder / str(digit)).mkdir()
    for index, (image, digit) in enumerate(zip(pixels, digits.target, strict=True)):
        Image.fromarray(image).save(folder / str(digit) / f"{index:04d}.png")
