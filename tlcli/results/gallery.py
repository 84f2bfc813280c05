"""Contact sheets of images with the boxes that are there and those that were found."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tlcli.results.atomic import replacing
from tlcli.results.drawable_text import legible, picture_font, shortened
from tlcli.results.picture_fonts import class_label_to_draw, runs_of

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the sheet."""

NUM_COLUMNS = 4
CELL_WIDTH = 420
CELL_HEIGHT = 340
"""Room for an image; smaller ones are enlarged up to four times."""

_MAX_ENLARGEMENT = 4.0
_GAP = 12
_TITLE_SIZE = 20
_CAPTION_SIZE = 14
_LABEL_SIZE = 12
_TITLE_HEIGHT = 66
_CAPTION_HEIGHT = 24
_MAX_NAME = 22
_TRUTH_COLOR: Color = (0, 255, 90)
_CROWD_COLOR: Color = (190, 190, 190)
_LEGEND = "green: ground truth (grey: crowd); other colours: detections, one colour per class"


@dataclass(frozen=True, kw_only=True)
class GalleryBox:
    """One box as it is to be drawn."""

    box: tuple[float, float, float, float]
    """x, y, width and height in pixels of its image."""
    class_index: int
    """Chooses the colour of a detection."""
    name: str
    score: float | None = None
    """None for ground truth."""
    is_crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class GalleryPicture:
    """One image of a gallery."""

    image: Image.Image | npt.NDArray[np.uint8]
    """In the annotation frame; an array has the shape (H, W, 3)."""
    caption: str
    truths: Sequence[GalleryBox]
    detections: Sequence[GalleryBox]


def select_gallery(
    quality: npt.NDArray[np.float64], *, num_boxes: npt.NDArray[np.integer[Any]], count: int
) -> tuple[list[int], list[int]]:
    """Choose the images that went best and those that went worst, best and worst first.

    Of equally good images those with more boxes come first. Images with nothing to see are right,
    but shown among the best only if too few others went well. No image is in both lists.

    Args:
        quality: From 0 to 1, such as the F1 of its boxes, shape (I,).
        num_boxes: How much there is to see in each image, shape (I,).
        count: Length of each list; less if there are fewer than twice as many images.
    """
    positions = np.arange(len(quality))
    tier = np.where(num_boxes == 0, 1, np.where(quality > 0, 0, 2))
    best = np.lexsort((positions, -num_boxes, -quality, tier))
    num_best = min(count, -(-len(quality) // 2))
    chosen = best[:num_best].tolist()
    worst = [i for i in np.lexsort((positions, -num_boxes, quality)).tolist() if i not in chosen]
    return chosen, worst[:count]


def draw_gallery(path: Path, *, pictures: Sequence[GalleryPicture], title: str) -> None:
    """Draw images in four columns, with ground truth in green and detections by class, as PNG.

    Detections have their name and score. Labels are placed by falling score where they cover no
    other; one that finds no place is left out. Names are those of all figures, see
    `class_labels_to_draw`; what is longer than 22 characters is shortened.

    Args:
        path: The file to write.
        pictures: In their order; there may be none.
        title: The line above.

    Raises:
        MachineError: If the disk refuses.
    """
    columns = max(1, min(NUM_COLUMNS, len(pictures)))
    cells = [_draw_cell(picture) for picture in pictures]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    width = max(
        columns * (CELL_WIDTH + _GAP) + _GAP, _text_width(_LEGEND, _CAPTION_SIZE) + 2 * _GAP
    )
    sheet = Image.new("RGB", (width, _TITLE_HEIGHT + sum(heights) + _GAP), "white")
    _write_title(ImageDraw.Draw(sheet), title, width=width)
    top = _TITLE_HEIGHT
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (CELL_WIDTH + _GAP), top))
        top += height
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def class_color(index: int) -> Color:
    """Choose a bright colour that is not green: golden-ratio steps around the rest of the wheel."""
    hue = (0.5 + 0.68 * ((index * 0.6180339887) % 1)) % 1
    lightness = (0.62, 0.5, 0.74)[index // 12 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write_title(draw: ImageDraw.ImageDraw, title: str, *, width: int) -> None:
    text = _fitted(legible(title), _TITLE_SIZE, width=width - 2 * _GAP)
    draw.text((_GAP, 10), text, fill="black", font=picture_font(_TITLE_SIZE))
    draw.text((_GAP, 38), _LEGEND, fill=(90, 90, 90), font=picture_font(_CAPTION_SIZE))


def _draw_cell(picture: GalleryPicture) -> Image.Image:
    """One image with its boxes above its caption."""
    image = _as_image(picture.image)
    scale = min(CELL_WIDTH / image.width, CELL_HEIGHT / image.height, _MAX_ENLARGEMENT)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    scales = (size[0] / image.width, size[1] / image.height)
    _draw_boxes(shown, picture, scales=scales)
    cell = Image.new("RGB", (CELL_WIDTH, shown.height + _CAPTION_HEIGHT), "white")
    cell.paste(shown, (0, 0))
    caption = _fitted(legible(picture.caption), _CAPTION_SIZE, width=CELL_WIDTH)
    ImageDraw.Draw(cell).text(
        (0, shown.height + 3), caption, fill="black", font=picture_font(_CAPTION_SIZE)
    )
    return cell


def _as_image(image: Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    return (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")


def _draw_boxes(
    shown: Image.Image, picture: GalleryPicture, *, scales: tuple[float, float]
) -> None:
    draw = ImageDraw.Draw(shown)
    detections = sorted(picture.detections, key=lambda found: -(found.score or 0))
    for truth in picture.truths:
        corners = _corners(truth, scales=scales)
        _draw_frame(draw, corners, color=_truth_color(truth), width=1, outline=3)
    for found in reversed(detections):
        color = class_color(found.class_index)
        _draw_frame(draw, _corners(found, scales=scales), color=color, width=2, outline=2)
    taken: list[Rectangle] = []
    for box in (*detections, *picture.truths):
        _draw_label(draw, box, scales=scales, size=shown.size, taken=taken)


def _corners(box: GalleryBox, *, scales: tuple[float, float]) -> Rectangle:
    x, y, width, height = box.box
    return x * scales[0], y * scales[1], (x + width) * scales[0], (y + height) * scales[1]


def _draw_frame(
    draw: ImageDraw.ImageDraw, corners: Rectangle, *, color: Color, width: int, outline: int
) -> None:
    """Draw a rectangle; a thin one gets dark edges so that it shows on any ground."""
    left, top, right, bottom = corners
    right, bottom = max(left, right), max(top, bottom)
    if outline > width:
        edges = (left - 1, top - 1, right + 1, bottom + 1)
        draw.rectangle(edges, outline=(0, 0, 0), width=outline)
    draw.rectangle((left, top, right, bottom), outline=color, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: GalleryBox,
    *,
    scales: tuple[float, float],
    size: tuple[int, int],
    taken: list[Rectangle],
) -> None:
    """Write name and score at a corner of the box where no other label is."""
    text = _label_text(box)
    width, height = _text_width(text, _LABEL_SIZE) + 5, _LABEL_SIZE + 4
    for left, top in _label_places(_corners(box, scales=scales), width=width, height=height):
        left = min(max(left, 0), size[0] - width)
        top = min(max(top, 0), size[1] - height)
        place = (left, top, left + width, top + height)
        if left < 0 or top < 0 or any(_overlap(place, other) for other in taken):
            continue
        taken.append(place)
        ground, ink = _label_colors(box)
        draw.rectangle(place, fill=ground)
        _write(draw, text, left=left + 2, top=top + 1, ink=ink)
        return


def _write(draw: ImageDraw.ImageDraw, text: str, *, left: float, top: float, ink: Color) -> None:
    """Write a label, each letter in a font that has it, on one baseline."""
    baseline = top + picture_font(_LABEL_SIZE).getmetrics()[0]
    for part, file in runs_of(text):
        font = picture_font(_LABEL_SIZE, file)
        draw.text((left, baseline), part, fill=ink, font=font, anchor="ls")
        left += font.getlength(part)


def _label_text(box: GalleryBox) -> str:
    name = box.name or f"class {box.class_index + 1}"
    name = shortened(class_label_to_draw(name, number=box.class_index + 1), limit=_MAX_NAME)
    return name if box.score is None else f"{name} {box.score:.2f}"


def _label_colors(box: GalleryBox) -> tuple[Color, Color]:
    """Choose ground and ink: black or white, whichever can be read on a detection's colour."""
    if box.score is None:
        return (0, 0, 0), _truth_color(box)
    red, green, blue = class_color(box.class_index)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (red, green, blue), (0, 0, 0) if luma > 110 else (255, 255, 255)


def _truth_color(box: GalleryBox) -> Color:
    return _CROWD_COLOR if box.is_crowd else _TRUTH_COLOR


def _label_places(
    corners: Rectangle, *, width: float, height: float
) -> tuple[tuple[float, float], ...]:
    """Above, below, inside at the top and at the bottom, on the left and on the right."""
    left, top, right, bottom = corners
    levels = (top - height - 1, bottom + 1, top + 2, bottom - height - 2)
    return tuple((side, level) for level in levels for side in (left, right - width))


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def _text_width(text: str, size: int) -> int:
    parts = (picture_font(size, file).getlength(part) for part, file in runs_of(text))
    return -int(-sum(parts) // 1)


def _fitted(text: str, size: int, *, width: int) -> str:
    """Shorten a text until it is at most `width` pixels wide."""
    limit = len(text)
    while limit > 3 and _text_width(shortened(text, limit=limit), size) > width:
        limit -= 1
    return shortened(text, limit=limit)
