"""From what annotation files say to a checked `BoxTable`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlcli.data.boxes.annotation_frames import settle_frames
from tlcli.data.boxes.box_repair import OnBadBox, repair_boxes
from tlcli.data.boxes.box_table import (
    BOX_TYPES,
    IMAGE_TYPES,
    XYWH,
    BoxTable,
    check_trainable,
    typed,
)
from tlcli.data.boxes.image_headers import read_headers
from tlcli.data.boxes.raw_parts import RawPart, join_parts


def assemble(parts: Sequence[RawPart], *, root: Path, on_bad_box: OnBadBox) -> BoxTable:
    """Join the parts of a data set, and check its files, sizes and boxes.

    Args:
        parts: At least one; no two of one split. Paths are relative to `root`.
        root: Absolute folder.
        on_bad_box: See `box_repair.repair_boxes`.

    Raises:
        DataError: parts, files, sizes or boxes do not fit together; see the functions called here.
        BadImageError: an image file is none.
    """
    joined = join_parts(parts)
    headers = read_headers(root, joined.images["path"].tolist())
    frames = settle_frames(joined.images, headers, source=str(root))
    fractions = {part.split for part in parts if part.in_fractions}
    boxes = _in_pixels(joined.boxes, frames.images, splits=fractions)
    repaired = repair_boxes(boxes, frames.images, on_bad_box=on_bad_box)
    filled = _with_areas(repaired.boxes)
    table = BoxTable(
        spec=str(root),
        root=root,
        images=typed(frames.images, IMAGE_TYPES),
        boxes=typed(filled, BOX_TYPES),
        categories=joined.categories,
        notes=(*joined.notes, *frames.notes, *repaired.notes),
        repairs=(*frames.repairs, *repaired.repairs),
    )
    return check_trainable(table)


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
