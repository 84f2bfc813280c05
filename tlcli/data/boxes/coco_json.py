"""One COCO json file: images, annotations, categories.

Format: https://cocodataset.org/#format-data (object detection). Only `images` with `id` and
`file_name`, `categories` with `id` and `name`, and `annotations` with `image_id`, `category_id`
and `bbox` (or polygons) are needed; the rest is filled in.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.data.boxes.box_table import Category
from tlcli.data.boxes.counted_notes import CountedNote
from tlcli.data.boxes.image_names import relative_name
from tlcli.data.boxes.json_columns import numbers_or_nan, quadruples, shown, whole_numbers
from tlcli.data.boxes.raw_parts import RAW_BOX_TYPES, RAW_IMAGE_TYPES, RawPart
from tlcli.errors import DataError
from tlcli.results.counted import counted

_LISTS = ("images", "annotations", "categories")
_ARTICLES = {"image_id": "an", "category_id": "a"}
_NO_AREA = (
    "1 annotation has no area; width x height is taken: {names}.",
    "{number} annotations have no area; width x height is taken: {names}.",
)
_OUTLINE_TAKEN = (
    "1 annotation has no bbox; the one around its polygons is taken: {names}.",
    "{number} annotations have no bbox; the one around their polygons is taken: {names}.",
)

Record = Mapping[str, Any]


def read_coco_json(path: Path, *, split: str) -> RawPart:
    """Read one file; the paths of its images are its `file_name`s, shortened.

    Raises:
        DataError: the file is no detection json, or something in it has no meaning: an id that is
            no whole number, an annotation of an unknown image or category, a name that leaves the
            image folder.
    """
    document = _load(path)
    images = _images(document["images"], source=path)
    categories = _categories(document["categories"], source=path)
    boxes, notes, counted_notes = _boxes(
        document["annotations"],
        image_ids=images["image_id"].to_numpy(),
        category_ids=np.array([item.id for item in categories], dtype=np.int64),
        source=path,
    )
    return RawPart(
        split=split,
        source=str(path),
        images=images,
        boxes=boxes,
        categories=categories,
        notes=tuple(f"{path.name}: {note}" for note in notes),
        counted_notes=counted_notes,
    )


def _load(path: Path) -> dict[str, list[Record]]:
    """Return the three lists of records, outlines of objects that have a box left out."""
    try:
        document = json.loads(path.read_bytes(), object_hook=_without_outline)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Is it whole?") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is no COCO json: it holds a {type(document).__name__}.")
    for key in _LISTS:
        if not isinstance(document.get(key), list):
            there = ", ".join(map(str, list(document)[:8])) or "nothing"
            raise DataError(
                f"{path} is no COCO json for detection: it needs the lists"
                f" {', '.join(_LISTS)}, and '{key}' is not one (it has {there})."
            )
        strange = [record for record in document[key] if not isinstance(record, dict)]
        if strange:
            raise DataError(f"{path} has {shown(strange[0])} among its {key}; records are wanted.")
    return {key: document[key] for key in _LISTS}


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Forget polygons and masks while reading: they are most of a file and nothing here."""
    if record.get("bbox") and "segmentation" in record:
        del record["segmentation"]
    return record


def _column(records: Sequence[Record], key: str, *, source: Path, what: str) -> list[Any]:
    values = [record.get(key) for record in records]
    if None in values:
        raise DataError(
            f"{source}: {what} number {values.index(None) + 1} has no '{key}':"
            f" {shown(dict(records[values.index(None)]))}."
        )
    return values


def _images(records: Sequence[Record], *, source: Path) -> pd.DataFrame:
    names = _column(records, "file_name", source=source, what="image")
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{source} has the file_name {shown(name)}, which is no text.")
    ids = _column(records, "id", source=source, what="image")
    columns = {
        "path": [relative_name(name, source=source) for name in names],
        "image_id": whole_numbers(ids, what=f"id of an image in {source}"),
        "width": _sides(records, "width", source=source),
        "height": _sides(records, "height", source=source),
    }
    return pd.DataFrame(columns).astype(RAW_IMAGE_TYPES)


def _sides(records: Sequence[Record], key: str, *, source: Path) -> npt.NDArray[np.int64]:
    values = [record.get(key) or 0 for record in records]
    sides = whole_numbers(values, what=f"{key} of an image in {source}")
    if (sides < 0).any():
        raise DataError(f"The {key} of an image in {source} is {sides.min()}; it must be above 0.")
    return sides


def _categories(records: Sequence[Record], *, source: Path) -> tuple[Category, ...]:
    names = _column(records, "name", source=source, what="category")
    ids = _column(records, "id", source=source, what="category")
    numbers = whole_numbers(ids, what=f"id of a category in {source}").tolist()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{source} has the category name {shown(name)}, which names nothing.")
    above = [str(record.get("supercategory") or "") for record in records]
    return tuple(
        Category(id=number, name=name, supercategory=group)
        for number, name, group in zip(numbers, names, above, strict=True)
    )


def _boxes(
    records: Sequence[Record],
    *,
    image_ids: npt.NDArray[np.int64],
    category_ids: npt.NDArray[np.int64],
    source: Path,
) -> tuple[pd.DataFrame, list[str], tuple[CountedNote, ...]]:
    """Return the boxes, what to tell of the file, and what to tell of its images."""
    if records and not any(record.get("bbox") or record.get("segmentation") for record in records):
        raise DataError(
            f"{source} has {counted(len(records), 'annotation')} and none has a 'bbox' (keys:"
            f" {', '.join(records[0])}); give the instances json of the data set."
        )
    xywh, written, from_outlines = _xywh(records)
    areas = numbers_or_nan([record.get("area") for record in records])
    areas[~np.isfinite(areas)] = np.nan
    numbers, notes = _annotation_ids(records)
    rows = _rows(records, "image_id", known=image_ids, source=source)
    columns = {
        "image": rows,
        "category": _rows(records, "category_id", known=category_ids, source=source),
        **dict(zip(("x", "y", "width", "height"), xywh.T, strict=True)),
        "area": areas,
        "is_crowd": _crowds(records, source=source),
        "annotation_id": numbers,
        "written": written,
    }
    counted_notes = (
        CountedNote(one=_OUTLINE_TAKEN[0], many=_OUTLINE_TAKEN[1], rows=rows[from_outlines]),
        CountedNote(one=_NO_AREA[0], many=_NO_AREA[1], rows=rows[np.isnan(areas)]),
    )
    return pd.DataFrame(columns).astype(RAW_BOX_TYPES), notes, counted_notes


def _xywh(
    records: Sequence[Record],
) -> tuple[npt.NDArray[np.float64], list[str], npt.NDArray[np.bool_]]:
    """Return (N, 4) boxes, the text of those that are none, and which are around polygons."""
    values = [record.get("bbox") or None for record in records]
    from_outlines = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values):
        if value is None:
            values[row] = _around(records[row].get("segmentation"))
            from_outlines[row] = values[row] is not None
    xywh = quadruples(values)
    written = [""] * len(values)
    for row in np.flatnonzero(np.isnan(xywh).any(axis=1)).tolist():
        written[row] = "missing" if values[row] is None else shown(values[row])
    return xywh, written, from_outlines


def _around(polygons: object) -> list[float] | None:
    """Return the box around polygons `[[x, y, x, y, ...], ...]`, None if they are none."""
    if not isinstance(polygons, list) or not polygons:
        return None
    points = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return None
        points.append(numbers_or_nan(polygon).reshape(-1, 2))
    corners = np.concatenate(points)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _rows(
    records: Sequence[Record], key: str, *, known: npt.NDArray[np.int64], source: Path
) -> npt.NDArray[np.int64]:
    """Return where each annotation's id stands among the `known` ones."""
    values = _column(records, key, source=source, what="annotation")
    ids = whole_numbers(values, what=f"{key} of an annotation in {source}")
    # Ids that stand twice are refused later, with the names; here the first will do
    first = pd.Series(np.arange(len(known)), index=known).groupby(level=0).first()
    at = pd.Index(first.index).get_indexer(pd.Index(ids))
    if (at < 0).any():
        strange = ids[at < 0]
        raise DataError(
            f"{source}: {counted(len(strange), 'annotation has', 'annotations have')}"
            f" {_ARTICLES[key]} {key} that is not in the file, the first {strange[0]}; add it to"
            " the file or remove them."
        )
    rows: npt.NDArray[np.int64] = first.to_numpy(dtype=np.int64)[at]
    return rows


def _crowds(records: Sequence[Record], *, source: Path) -> npt.NDArray[np.bool_]:
    values = [record.get("iscrowd") or 0 for record in records]
    for value in set(map(repr, values)) - {"0", "1", "True", "1.0"}:
        raise DataError(f"{source} has an annotation with iscrowd {value}; it must be 0 or 1.")
    return np.array(values, dtype=bool)


def _annotation_ids(records: Sequence[Record]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return ids from 1, the file's own if each is there once; pycocotools takes 0 for "none"."""
    own = [record.get("id") for record in records]
    if all(type(value) is int and 0 < value < 2**63 for value in own) and len(set(own)) == len(own):
        return np.array(own, dtype=np.int64), []
    note = "annotation ids are missing, repeated or below 1; annotations are numbered from 1."
    return np.arange(1, len(own) + 1, dtype=np.int64), [note]
