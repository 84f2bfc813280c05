"""From what annotation files say to a checked `BoxTable`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlcli.data.boxes.annotation_frames import settle_frames
from tlcli.data.boxes.box_repair import OnBadBox, repair_boxes
from tlcli.data.boxes.box_table import (
    BOX_TYPES,
    IMAGE_TYPES,
    XYWH,
    BoxTable,
    check_not_empty,
    kept_rows,
    typed,
)
from tlcli.data.boxes.counted_notes import CountedNote
from tlcli.data.boxes.image_headers import ImageHeader, OnBadImage, probe_headers, read_headers
from tlcli.data.boxes.raw_parts import JoinedParts, RawPart, join_parts
from tlcli.errors import BadImageError


def assemble(
    parts: Sequence[RawPart], *, root: Path, on_bad_box: OnBadBox, on_bad_image: OnBadImage
) -> BoxTable:
    """Join the parts of a data set, and check its files, sizes and boxes.

    Args:
        parts: At least one; no two of one split. Paths are relative to `root`.
        root: Absolute folder.
        on_bad_box: See `box_repair.repair_boxes`.
        on_bad_image: "skip" leaves out images whose header cannot be read, "fail" refuses them.

    Raises:
        DataError: parts, files, sizes or boxes do not fit together; see the functions called here.
        BadImageError: an image file is none, or with "skip": all of them are none.
    """
    joined = join_parts(parts)
    readable = _readable(joined, root=root, on_bad_image=on_bad_image)
    frames = settle_frames(readable.images, readable.headers, source=str(root))
    fractions = {part.split for part in parts if part.in_fractions}
    boxes = _in_pixels(readable.boxes, frames.images, splits=fractions)
    repaired = repair_boxes(boxes, frames.images, on_bad_box=on_bad_box)
    filled = _with_areas(repaired.boxes)
    table = BoxTable(
        spec=str(root),
        root=root,
        images=typed(frames.images, IMAGE_TYPES),
        boxes=typed(filled, BOX_TYPES),
        categories=joined.categories,
        notes=joined.notes,
        counted_notes=(*readable.notes, *frames.notes, *repaired.notes),
        repairs=(*frames.repairs, *repaired.repairs),
        skipped=readable.skipped,
    )
    check_not_empty(table)
    return table


class _Readable(NamedTuple):
    images: pd.DataFrame
    boxes: pd.DataFrame
    notes: tuple[CountedNote, ...]
    headers: list[ImageHeader]
    skipped: tuple[tuple[str, str], ...]


def _readable(joined: JoinedParts, *, root: Path, on_bad_image: OnBadImage) -> _Readable:
    """Return the images with a header, what belongs to them, and path and reason of the others."""
    paths = joined.images["path"].tolist()
    probe = probe_headers if on_bad_image == "skip" else read_headers
    found: Sequence[ImageHeader | BadImageError] = probe(root, paths)
    reasons = {
        path: str(header)
        for path, header in zip(paths, found, strict=True)
        if isinstance(header, BadImageError)
    }
    good = [row for row, path in enumerate(paths) if path not in reasons]
    if reasons and not good:
        first = next(iter(reasons.values()))
        none = "None of the {:,} images in {} can be read: {}"
        only = "The only image in {1} cannot be read: {2}"
        text = only if len(paths) == 1 else none
        raise BadImageError(text.format(len(paths), root, first))
    kept = kept_rows(joined.images, joined.boxes, joined.counted_notes, rows=good)
    headers = [header for header in found if isinstance(header, ImageHeader)]
    return _Readable(*kept, headers, tuple(reasons.items()))


def _in_pixels(boxes: pd.DataFrame, images: pd.DataFrame, *, splits: set[str]) -> pd.DataFrame:
    """Multiply boxes that are fractions (of the images in `splits`) by their image's size."""
    if not splits:
        return boxes
    factors = images[["width", "height", "width", "height"]].to_numpy(dtype=np.float64)
    factors[~images["split"].isin(splits).to_numpy(dtype=bool)] = 1.0
    pixels = boxes[XYWH].to_numpy(dtype=np.float64) * factors[boxes["image"]]
    return boxes.assign(**dict(zip(XYWH, pixels.T, strict=True)))


def _with_areas(boxes: pd.DataFrame) -> pd.DataFrame:
    return boxes.assign(area=boxes["area"].fillna(boxes["width"] * boxes["height"]))
