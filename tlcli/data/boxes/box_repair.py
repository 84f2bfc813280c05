"""Boxes without extent or outside their image: clipped, dropped or refused."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.data.boxes.box_table import XYWH, Repair
from tlcli.data.boxes.counted_notes import CountedNote
from tlcli.errors import DataError
from tlcli.results.counted import counted

OnBadBox = Literal["fix", "drop", "fail"]

MAX_OVERHANG = 1.0
"""Pixels that a box may reach outside its image and stay as written: rounding of tools."""
MIN_SIDE = 1.0
"""A clipped box narrower or lower than this, in pixels, is dropped."""
_MOST_NAMED = 3

_UNREADABLE = "not four finite numbers"
_FLAT = "width or height not above 0"
_OUTSIDE = "reaching outside the image"


class RepairedBoxes(NamedTuple):
    """What is left, with every box that was changed or dropped."""

    boxes: pd.DataFrame
    notes: tuple[CountedNote, ...]
    repairs: tuple[Repair, ...]


def repair_boxes(
    boxes: pd.DataFrame, images: pd.DataFrame, *, on_bad_box: OnBadBox
) -> RepairedBoxes:
    """Treat boxes that are bad: not finite, without extent, or over 1 px outside the image.

    Args:
        boxes: Columns image, x, y, width, height, area, written and any others, in pixels.
        images: Columns path, width and height, the rows that `image` counts.
        on_bad_box: "fix" clips to the image, and drops what is then below 1 px in width or
            height; the area of a clipped box is its width x height. "drop" leaves every bad box
            out; "fail" refuses.

    Raises:
        DataError: bad boxes, and `on_bad_box` is "fail".
    """
    xywh = boxes[XYWH].to_numpy(dtype=np.float64)
    sizes = images[["width", "height"]].to_numpy(dtype=np.float64)[boxes["image"]]
    kinds = bad_kinds(xywh, sizes)
    bad = np.flatnonzero(kinds != "")
    if not len(bad):
        return RepairedBoxes(boxes, (), ())
    if on_bad_box == "fail":
        raise DataError(_refusal(boxes, images, kinds, bad))
    clipped = clip_boxes(xywh[bad], sizes[bad])
    keep = (clipped[:, 2:] >= MIN_SIDE).all(axis=1) & (kinds[bad] == _OUTSIDE)
    if on_bad_box == "drop":
        keep[:] = False
    fates = [
        f"clipped to {_numbers(new)}" if kept else "dropped"
        for new, kept in zip(clipped, keep, strict=True)
    ]
    repairs = tuple(
        Repair(path, f"box {text}: {kind}; {fate}")
        for path, text, kind, fate in zip(
            images["path"].to_numpy()[boxes["image"].iloc[bad]],
            _as_written(boxes.iloc[bad]),
            kinds[bad],
            fates,
            strict=True,
        )
    )
    mended = boxes.copy()
    mended.loc[bad[keep], XYWH] = clipped[keep]
    mended.loc[bad[keep], "area"] = clipped[keep, 2] * clipped[keep, 3]
    left = mended.drop(index=bad[~keep]).reset_index(drop=True)
    rows = boxes["image"].to_numpy(dtype=np.int64)[bad]
    return RepairedBoxes(left, _notes(kinds[bad], keep, rows), repairs)


def bad_kinds(
    xywh: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> npt.NDArray[np.object_]:
    """Say what is wrong with each box, "" if nothing is.

    Args:
        xywh: (N, 4) x, y, width, height in pixels.
        sizes: (N, 2) width and height of each box's image.
    """
    kinds = np.full(len(xywh), "", dtype=object)
    finite = np.isfinite(xywh).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        ends = xywh[:, :2] + xywh[:, 2:]
        outside = (xywh[:, :2] < -MAX_OVERHANG) | (ends > sizes + MAX_OVERHANG)
    kinds[outside.any(axis=1)] = _OUTSIDE
    kinds[(xywh[:, 2:] <= 0).any(axis=1)] = _FLAT
    kinds[~finite] = _UNREADABLE
    return kinds


def clip_boxes(
    xywh: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the part of each box inside its image, (N, 4) as x, y, width, height.

    Boxes wholly outside get no extent, boxes that are not finite may get anything.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        starts = np.clip(xywh[:, :2], 0.0, sizes)
        ends = np.clip(xywh[:, :2] + xywh[:, 2:], 0.0, sizes)
        return np.concatenate([starts, np.maximum(ends - starts, 0.0)], axis=1)


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _as_written(boxes: pd.DataFrame) -> list[str]:
    values = boxes[XYWH].to_numpy(dtype=np.float64)
    return [text or _numbers(row) for text, row in zip(boxes["written"], values, strict=True)]


def _refusal(
    boxes: pd.DataFrame,
    images: pd.DataFrame,
    kinds: npt.NDArray[np.object_],
    bad: npt.NDArray[np.intp],
) -> str:
    few = bad[:_MOST_NAMED]
    first = boxes.iloc[few]
    told = [
        f"'{image.path}' ({image.width} x {image.height}): box {text}, {kind}"
        for image, text, kind in zip(
            images.iloc[first["image"]].itertuples(index=False),
            _as_written(first),
            kinds[few],
            strict=True,
        )
    ]
    more = f"; and {len(bad) - len(told)} more" if len(bad) > len(told) else ""
    return (
        f"{len(bad)} of {counted(len(boxes), 'box', 'boxes')} {'is' if len(bad) == 1 else 'are'}"
        f" bad: {'; '.join(told)}{more}."
        " Correct them, or give --on-bad-box fix or drop."
    )


def _notes(
    kinds: npt.NDArray[np.object_], keep: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]
) -> tuple[CountedNote, ...]:
    """Return a note for each fate and kind of bad boxes, whose images are `rows`."""
    notes = []
    for fate, has_fate in (("clipped", keep), ("dropped", ~keep)):
        for kind in (_OUTSIDE, _FLAT, _UNREADABLE):
            chosen = has_fate & (kinds == kind)
            note = CountedNote(
                one=f"1 bad box is {fate} ({kind}): {{names}}, in repairs.csv.",
                many=f"{{number}} bad boxes are {fate} ({kind}): {{names}}, all in repairs.csv.",
                rows=rows[chosen],
            )
            notes += [note] if chosen.any() else []
    return tuple(notes)
