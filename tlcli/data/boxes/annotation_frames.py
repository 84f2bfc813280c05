"""Which picture boxes were drawn on: the stated image sizes compared with the files.

A viewer turns a photo as its EXIF block says; many annotation tools do not. The stated size tells
which one it was, file by file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from tlcli.data.boxes.box_table import Repair
from tlcli.data.boxes.counted_notes import CountedNote, counted_note
from tlcli.data.boxes.image_headers import ImageHeader
from tlcli.errors import DataError
from tlcli.results.counted import counted

MAX_ASPECT_ERROR = 0.01
"""How far two aspect ratios may lie apart, relatively, for a copy of the image in another size."""
_MOST_NAMED = 3
_SENTENCES = {
    "exif": (
        "1 image is turned by EXIF and its boxes with it: {names}.",
        "{number} images are turned by EXIF and their boxes with them: {names}.",
    ),
    "turned": (
        "1 image is turned by EXIF while its boxes lie in the unturned pixels, as the stated size"
        " tells; both are brought together: {names}, in repairs.csv.",
        "{number} images are turned by EXIF while their boxes lie in the unturned pixels, as the"
        " stated sizes tell; both are brought together: {names}, all in repairs.csv.",
    ),
    "unclear": (
        "1 image is turned by EXIF in a way that leaves its size; its boxes are taken to lie in"
        " the upright picture: {names}.",
        "{number} images are turned by EXIF in a way that leaves their size; their boxes are taken"
        " to lie in the upright picture: {names}.",
    ),
    "scaled": (
        "1 image has another size than stated, in the same shape; its boxes are scaled: {names},"
        " in repairs.csv.",
        "{number} images have another size than stated, in the same shape; their boxes are scaled:"
        " {names}, all in repairs.csv.",
    ),
}
"""What is told of one image and of more, by the remark of its frame."""


class Frames(NamedTuple):
    """Images with width, height and is_upright of their annotation frames."""

    images: pd.DataFrame
    notes: tuple[CountedNote, ...]
    repairs: tuple[Repair, ...]


def settle_frames(images: pd.DataFrame, headers: Sequence[ImageHeader], *, source: str) -> Frames:
    """Decide the annotation frame of every image.

    Args:
        images: Columns path, width, height as stated (0 = not stated) and any others.
        headers: The header of each image's file.
        source: What the images are of, for messages.

    Raises:
        DataError: stated sizes that fit neither the picture nor its stored pixels.
    """
    stated = zip(images["width"].tolist(), images["height"].tolist(), strict=True)
    frames = [_frame(size, header) for size, header in zip(stated, headers, strict=True)]
    paths = images["path"].tolist()
    _refuse_misfits(images, headers, frames, source=source)
    repairs = [
        Repair(path, _change(frame, header))
        for path, frame, header in zip(paths, frames, headers, strict=True)
        if frame and ("turned" in frame.remarks or "scaled" in frame.remarks)
    ]
    settled = images.assign(
        width=[frame.size[0] for frame in frames if frame],
        height=[frame.size[1] for frame in frames if frame],
        is_upright=[frame.is_upright for frame in frames if frame],
    )
    return Frames(settled, _notes(frames), tuple(repairs))


class _Frame(NamedTuple):
    size: tuple[int, int]
    is_upright: bool
    remarks: tuple[str, ...] = ()


def _frame(stated: tuple[int, int], header: ImageHeader) -> _Frame | None:
    """Return the frame of one image, None if the stated size fits in no way."""
    if 0 in stated:
        return _Frame(header.upright, True)
    turned = header.orientation != 1
    fits_exactly = stated in (header.upright, header.stored)
    if stated == header.upright[::-1] and not fits_exactly:
        return None  # a nearly square picture that was turned, not a copy in another size
    for exact in (True, False):
        for is_upright, size in ((True, header.upright), (False, header.stored)):
            if stated == size if exact else _same_shape(stated, size):
                unclear = turned and is_upright and header.upright == header.stored
                remarks = {
                    "scaled": not exact,
                    "turned": not is_upright,
                    "exif": turned and is_upright and not unclear,
                    "unclear": unclear,
                }
                return _Frame(stated, is_upright, tuple(k for k, v in remarks.items() if v))
    return None


def _same_shape(stated: tuple[int, int], size: tuple[int, int]) -> bool:
    across, down = stated[0] * size[1], stated[1] * size[0]
    return abs(across - down) <= MAX_ASPECT_ERROR * max(across, down)


def _refuse_misfits(
    images: pd.DataFrame,
    headers: Sequence[ImageHeader],
    frames: Sequence[_Frame | None],
    *,
    source: str,
) -> None:
    rows = [row for row, frame in enumerate(frames) if frame is None]
    if not rows:
        return
    told = []
    for row in rows[:_MOST_NAMED]:
        image, upright = images.iloc[row], headers[row].upright
        told.append(
            f"'{image['path']}' is stated as {image['width']} x {image['height']} but is"
            f" {upright[0]} x {upright[1]}{_guess(image, upright)}"
        )
    raise DataError(
        f"{counted(len(rows), 'image')} of {source} {'has' if len(rows) == 1 else 'have'} another"
        " shape than the annotations state:"
        f" {'; '.join(told)}. Their boxes belong to other pictures; use the images that were"
        " annotated, or correct width and height."
    )


def _guess(image: pd.Series, upright: tuple[int, int]) -> str:
    is_swapped = (image["height"], image["width"]) == upright
    return " (turned by a quarter?)" if is_swapped else ""


def _change(frame: _Frame, header: ImageHeader) -> str:
    width, height = frame.size
    shown = header.upright if frame.is_upright else header.stored
    changes = []
    if not frame.is_upright:
        changes.append(
            f"boxes lie in the stored pixels, which EXIF orientation {header.orientation} turns"
        )
    if "scaled" in frame.remarks:
        changes.append(
            f"stated as {width} x {height}, the file has {shown[0]} x {shown[1]}: boxes are scaled"
        )
    return "; ".join(changes)


def _notes(frames: Sequence[_Frame | None]) -> tuple[CountedNote, ...]:
    found = {
        what: [row for row, frame in enumerate(frames) if frame and what in frame.remarks]
        for what in _SENTENCES
    }
    return tuple(counted_note(*_SENTENCES[what], rows) for what, rows in found.items() if rows)
