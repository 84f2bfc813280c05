"""YOLO: one text file of boxes per image, in fractions of the image's upright size."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from tlcli.data.boxes.box_assembly import assemble
from tlcli.data.boxes.box_repair import OnBadBox
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.counted_notes import CountedNote, counted_note
from tlcli.data.boxes.image_headers import OnBadImage
from tlcli.data.boxes.image_names import refuse_escapes, relative_name
from tlcli.data.boxes.raw_parts import RAW_BOX_TYPES, RAW_IMAGE_TYPES, RawPart
from tlcli.data.boxes.yolo_yaml import YoloYaml, read_yolo_yaml
from tlcli.data.folders import list_images
from tlcli.data.images import is_image_name
from tlcli.errors import DataError
from tlcli.results.counted import counted

MAX_FRACTION = 1.05
"""A larger number in a label file is no rounding: it is likely given in pixels."""


class YoloRow(NamedTuple):
    """One line of a label file; the box as left, top, width, height in fractions."""

    class_index: int
    xywh: tuple[float, float, float, float]
    is_polygon: bool


def read_yolo(path: Path, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage) -> BoxTable:
    """Read the data set of an absolute yaml path.

    Images are numbered from 1 in each split; category ids are the class indices. The labels of
    `.../images/NAME.jpg` are in `.../labels/NAME.txt`, or beside the image where its path has no
    folder `images`. An image without such a file is a negative.

    Raises:
        DataError: yaml, images or labels are not as they should be.
    """
    settings = read_yolo_yaml(path)
    parts = [_part(settings, split, places) for split, places in settings.parts.items()]
    if not any(len(part.boxes) for part in parts):
        first = parts[0].images["path"].iloc[0]
        raise DataError(
            f"{path}: no image has labels; those of '{first}' were looked for in"
            f" '{label_name(first)}' (below {settings.root})."
        )
    return assemble(parts, root=settings.root, on_bad_box=on_bad_box, on_bad_image=on_bad_image)


def label_name(image_name: str) -> str:
    """Return the label file of an image: the last folder `images` becomes `labels`."""
    name = PurePosixPath(image_name).with_suffix(".txt")
    folders = list(name.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return str(PurePosixPath(*folders, name.name))


def read_label_file(path: Path, *, class_rows: Mapping[int, int]) -> list[YoloRow] | None:
    """Return the rows of one file, None if there is no file.

    Args:
        path: Lines `class x_center y_center width height`, or `class x y x y x y ...` for a
            polygon, of which the box around it is taken.
        class_rows: The class indices there are.

    Raises:
        DataError: a line is of neither kind, of an unknown class, or not in fractions.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: {error}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse(line.split(), where=f"{path} line {number}")
            if row.class_index not in class_rows:
                raise DataError(
                    f"{path} line {number} has class {row.class_index}, and names: has"
                    f" {counted(len(class_rows), 'class', 'classes')}, {min(class_rows)} to"
                    f" {max(class_rows)}."
                )
            rows.append(row)
    return rows


def _parse(words: Sequence[str], *, where: str) -> YoloRow:
    try:
        index, *numbers = map(float, words)
    except ValueError as error:
        raise DataError(f"{where} holds what is no number: {' '.join(words)[:80]}.") from error
    if not index.is_integer():
        raise DataError(f"{where} has class {words[0]}; it must be a whole number.")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DataError(
            f"{where} has {counted(len(words), 'number')}; a box has 5 (class, x, y, width,"
            " height), a polygon 7, 9, ..."
        )
    _refuse_pixels(words[1:], numbers, where=where)
    if len(numbers) == 4:
        x, y, width, height = numbers
        return YoloRow(int(index), (x - width / 2, y - height / 2, width, height), False)
    xs, ys = numbers[::2], numbers[1::2]
    if not all(map(math.isfinite, numbers)):
        return YoloRow(int(index), (math.nan,) * 4, True)
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return YoloRow(int(index), box, True)


def _refuse_pixels(words: Sequence[str], numbers: Sequence[float], *, where: str) -> None:
    for word, number in zip(words, numbers, strict=True):
        if MAX_FRACTION < number < math.inf:
            raise DataError(
                f"{where}: {word} is above 1: YOLO boxes are fractions of the picture, are these"
                " pixels? Divide x and width by the width of the picture, y and height by its"
                " height."
            )


def _part(settings: YoloYaml, split: str, places: Sequence[Path]) -> RawPart:
    names = [name for place in places for name in _names(settings, place)]
    if not names:
        raise DataError(f"{settings.path}: no images for {split} in {places[0]}.")
    class_rows = {item.id: row for row, item in enumerate(settings.categories)}
    root = settings.root
    files = [read_label_file(root / label_name(name), class_rows=class_rows) for name in names]
    rows = [
        (image, class_rows[row.class_index], *row.xywh, math.nan, False, "")
        for image, file in enumerate(files)
        for row in file or ()
    ]
    columns = [name for name in RAW_BOX_TYPES if name != "annotation_id"]
    boxes = pd.DataFrame(rows, columns=columns).assign(annotation_id=range(1, len(rows) + 1))
    numbers = range(1, len(names) + 1)
    images = pd.DataFrame({"path": names, "image_id": numbers, "width": 0, "height": 0})
    return RawPart(
        split=split,
        source=f"{settings.path} ({split})",
        images=images.astype(RAW_IMAGE_TYPES),
        boxes=boxes.astype(RAW_BOX_TYPES),
        categories=settings.categories,
        notes=settings.notes,
        counted_notes=_notes(files),
        in_fractions=True,
    )


def _notes(files: Sequence[Sequence[YoloRow] | None]) -> tuple[CountedNote, ...]:
    rows = list(enumerate(files))
    return (
        counted_note(
            "1 image has no label file and counts as an image without objects: {names}.",
            "{number} images have no label file and count as images without objects: {names}.",
            [row for row, file in rows if file is None],
        ),
        counted_note(
            "1 label is a polygon; the box around it is taken: {names}.",
            "{number} labels are polygons; the box around each is taken: {names}.",
            [row for row, file in rows for line in file or () if line.is_polygon],
        ),
    )


def _names(settings: YoloYaml, place: Path) -> list[str]:
    """Return the images of a folder, a list or a single file, relative to the root."""
    root = settings.root
    if place.is_dir():
        found = list_images(place).images
        refuse_escapes(place, found)
        return [(place.relative_to(root) / name).as_posix() for name in found]
    if is_image_name(place.name):
        names = [place.relative_to(root).as_posix()]
    else:
        names = _read_list(place, root)
    refuse_escapes(root, names)
    return names


def _read_list(path: Path, root: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    names = []
    for line in filter(None, map(str.strip, lines)):
        place = Path(line)
        if place.is_absolute() and place.is_relative_to(root):
            line = place.relative_to(root).as_posix()
        name = relative_name(line, source=path)
        # A list speaks from its own folder, or from the root of the data set
        beside = (path.parent.relative_to(root) / name).as_posix()
        is_there = os.path.isfile(root / beside)  # noqa: PTH113  (False for impossible names)
        names.append(beside if is_there else name)
    return names
