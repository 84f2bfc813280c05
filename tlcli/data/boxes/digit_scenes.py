"""The built-in detection sample: scenes composed of scikit-learn's handwritten digits."""

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlcli.data.cache_folder import cache_folder
from tlcli.errors import DataError, MachineError

SPLIT_SIZES = {"train": 160, "val": 40, "test": 40}
SIDE = 160
"""Width and height of a scene in pixels."""
MAX_DIGITS = 6
SCALES = (2, 3, 4, 5)
_FOLDER_NAME = "sample-digit-scenes-v2"
_OLD_FOLDER_NAMES = ("sample-digit-scenes-v1",)
"""With other pictures; nothing reads them any more, but they are ours to count and remove."""
_EMPTY_EVERY = 20
_BRIGHTEST = 60
"""Of the background."""
_PLACING_TRIALS = 100


class PlacedDigit(NamedTuple):
    """A digit in a scene; its box is tight around the ink, in pixels."""

    digit: int
    x: int
    y: int
    width: int
    height: int


class Scene(NamedTuple):
    """A gray picture (SIDE, SIDE) and what is in it."""

    pixels: npt.NDArray[np.uint8]
    digits: tuple[PlacedDigit, ...]


def is_scene_folder(name: str) -> bool:
    """Say whether a folder of the cache holds this sample, old or new, finished or begun."""
    return name.split(".", maxsplit=1)[0] in (_FOLDER_NAME, *_OLD_FOLDER_NAMES)


def digit_scenes_folder() -> Path:
    """Return a COCO folder of 240 gray PNGs with up to six digits each, made on the first call.

    Every twentieth scene is empty. Digits are magnified 2 to 5 times and do not overlap; no
    handwriting is in two splits. The same on every machine: `random.Random.random` and integer
    arithmetic only.

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
                f"Cannot write the sample scenes to {folder}: {error.strerror or error}; set"
                " TLCLI_CACHE_DIR to a folder that can be written."
            ) from error
    found, wanted = sum(1 for _ in folder.glob("*/*.png")), sum(SPLIT_SIZES.values())
    if found != wanted:
        raise DataError(f"{folder} has {found} images instead of {wanted}; remove the folder.")
    return folder


def compose_scene(
    stamps: Sequence[tuple[int, npt.NDArray[np.uint8]]], *, number: int, generator: random.Random
) -> Scene:
    """Draw one scene.

    Args:
        stamps: Digits to choose from, each with its gray picture (8, 8).
        number: Place in its split; decides which scenes are empty.
        generator: Where all chance comes from.
    """
    pixels = _background(generator)
    is_empty = number % _EMPTY_EVERY == _EMPTY_EVERY - 1
    placed: list[PlacedDigit] = []
    for _ in range(0 if is_empty else 1 + _draw(generator, MAX_DIGITS)):
        digit, small = stamps[_draw(generator, len(stamps))]
        scale = SCALES[_draw(generator, len(SCALES))]
        stamp = np.kron(_tight(small), np.ones((scale, scale), dtype=np.uint8))
        place = _free_place(stamp.shape, placed, generator)
        if place is not None:
            x, y = place
            height, width = stamp.shape
            window = pixels[y : y + height, x : x + width]
            np.maximum(window, stamp, out=window)
            placed.append(PlacedDigit(digit, x, y, width, height))
    return Scene(pixels, tuple(placed))


def _background(generator: random.Random) -> npt.NDArray[np.uint8]:
    """Return a dark slope, another one for each scene, so that empty ones are no copies."""
    start, down, right = (_draw(generator, _BRIGHTEST // 3 + 1) for _ in range(3))
    steps = np.arange(SIDE)
    slope = start + steps[:, None] * down // SIDE + steps * right // SIDE
    return slope.astype(np.uint8)


def _draw(generator: random.Random, number: int) -> int:
    return int(generator.random() * number)


def _tight(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut off the rows and columns without ink that is seen on any background."""
    ink = picture > _BRIGHTEST
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    shape: tuple[int, ...], placed: Sequence[PlacedDigit], generator: random.Random
) -> tuple[int, int] | None:
    """Return x and y where nothing is yet, None if chance finds no such place."""
    height, width = shape
    for _ in range(_PLACING_TRIALS):
        x, y = _draw(generator, SIDE - width + 1), _draw(generator, SIDE - height + 1)
        if all(
            x + width <= other.x
            or other.x + other.width <= x
            or y + height <= other.y
            or other.y + other.height <= y
            for other in placed
        ):
            return x, y
    return None


def _make(folder: Path) -> None:
    """Write to a temporary folder beside `folder` and rename, so that it is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_NAME}.", dir=folder.parent))
    try:
        _write(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same pictures
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    stamps = list(zip(digits.target.tolist(), pixels, strict=True))
    generator = random.Random(0)
    (folder / "annotations").mkdir()
    start = 0
    for split, size in SPLIT_SIZES.items():
        end = start + len(stamps) * size // sum(SPLIT_SIZES.values())
        scenes = [
            compose_scene(stamps[start:end], number=number, generator=generator)
            for number in range(size)
        ]
        start = end
        (folder / split).mkdir()
        for number, scene in enumerate(scenes):
            Image.fromarray(scene.pixels).save(folder / split / f"{number:04d}.png")
        text = json.dumps(_document(scenes))
        (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")


def _document(scenes: Sequence[Scene]) -> dict[str, object]:
    found = [(image, item) for image, scene in enumerate(scenes, 1) for item in scene.digits]
    return {
        "info": {"description": "Scenes of handwritten digits, made by tlcli"},
        "images": [
            {"id": number, "file_name": f"{number - 1:04d}.png", "width": SIDE, "height": SIDE}
            for number in range(1, len(scenes) + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": item.digit,
                "bbox": [item.x, item.y, item.width, item.height],
                "area": item.width * item.height,
                "iscrowd": 0,
            }
            for number, (image, item) in enumerate(found, start=1)
        ],
        "categories": [
            {"id": digit, "name": str(digit), "supercategory": "digit"} for digit in range(10)
        ],
    }
