import colorsys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.results.gallery import (
    CELL_HEIGHT,
    CELL_WIDTH,
    GalleryBox,
    GalleryPicture,
    class_color,
    draw_gallery,
    select_gallery,
)

GREEN = (0, 255, 90)


def make_picture(
    *,
    size: tuple[int, int] = (CELL_WIDTH, 200),
    truths: tuple[GalleryBox, ...] = (),
    detections: tuple[GalleryBox, ...] = (),
    caption: str = "a.jpg",
) -> GalleryPicture:
    return GalleryPicture(
        image=Image.new("RGB", size, (60, 60, 60)),
        caption=caption,
        truths=truths,
        detections=detections,
    )


def make_box(
    *, left: float = 100, name: str = "cat", index: int = 0, score: float | None = None
) -> GalleryBox:
    return GalleryBox(box=(left, 50, 80, 60), class_index=index, name=name, score=score)


def draw(path: Path, *pictures: GalleryPicture) -> np.ndarray:
    draw_gallery(path, pictures=pictures, title="val: best images")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pixels_of(sheet: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of exactly this colour, shape (2, n)."""
    return np.array(np.nonzero((sheet == color).all(axis=2)))


@pytest.mark.parametrize("number", [0, 1, 4, 5])
def test_draw_gallery__any_number_of_pictures(tmp_path: Path, number: int) -> None:
    sheet = draw(tmp_path / "g.png", *[make_picture()] * number)
    rows = -(-number // 4)
    assert rows * 200 < sheet.shape[0] < rows * 260 + 100
    assert sheet.shape[1] >= min(number, 4) * CELL_WIDTH


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_draw_gallery__boxes_scale_with_their_image(tmp_path: Path, scale: float) -> None:
    size = (round(CELL_WIDTH * scale), round(200 * scale))
    box = GalleryBox(
        box=(100 * scale, 50 * scale, 200 * scale, 100 * scale), class_index=0, name=""
    )
    sheet = draw(tmp_path / "g.png", make_picture(size=size, truths=(box,)))
    shown = sheet[66 : 66 + 200, 12 : 12 + CELL_WIDTH]
    frame = (shown[50:151, 100:301] == GREEN).all(axis=2)
    for edge in (frame[0], frame[-1], frame[:, 0], frame[:, -1]):
        assert edge.all()
    assert not frame[2:-2, 2:-2].any()


def test_draw_gallery__detections_in_the_colour_of_their_class(tmp_path: Path) -> None:
    found = tuple(make_box(left=20 + 130 * i, index=i, score=0.9) for i in range(3))
    sheet = draw(tmp_path / "g.png", make_picture(detections=found))
    for index in range(3):
        assert pixels_of(sheet, class_color(index)).shape[1] > 400
    assert pixels_of(sheet, GREEN).shape[1] == 0


def test_draw_gallery__labels_cover_no_other_label(tmp_path: Path) -> None:
    """Of twenty boxes at one place those that find no room for a label go without one."""
    one = draw(tmp_path / "1.png", make_picture(detections=(make_box(score=0.9),)))
    many = draw(
        tmp_path / "20.png",
        make_picture(detections=(make_box(score=0.9), *[make_box(score=0.5)] * 19)),
    )
    label = one[66 + 50 - 17 : 66 + 50, 12 + 100 : 12 + 150]
    np.testing.assert_array_equal(many[66 + 50 - 17 : 66 + 50, 12 + 100 : 12 + 150], label)


def test_draw_gallery__arrays_too(tmp_path: Path) -> None:
    picture = make_picture(truths=(make_box(),))
    as_array = GalleryPicture(
        image=np.asarray(picture.image), caption="a.jpg", truths=(make_box(),), detections=()
    )
    np.testing.assert_array_equal(
        draw(tmp_path / "a.png", picture), draw(tmp_path / "b.png", as_array)
    )


def test_draw_gallery__the_image_itself_is_left_alone(tmp_path: Path) -> None:
    picture = make_picture(size=(CELL_WIDTH, 300), truths=(make_box(),))
    draw(tmp_path / "g.png", picture)
    assert np.unique(np.asarray(picture.image)).tolist() == [60]


def test_draw_gallery__hard_names_sizes_and_boxes(tmp_path: Path) -> None:
    boxes = (
        make_box(name="猫", score=0.5),
        make_box(name="very " * 30, score=0.4),
        make_box(name="\udcff", left=-50, score=0.3),
        GalleryBox(box=(0, 0, 0, 0), class_index=79, name="", score=0.2),
        GalleryBox(box=(500, 500, 900, 900), class_index=80, name="far", score=0.1),
        GalleryBox(box=(5, 5, 9, 9), class_index=0, name="crowd", is_crowd=True),
    )
    for size in ((1, 1), (3, 900), (4000, 30)):
        picture = make_picture(size=size, truths=boxes, detections=boxes, caption="猫" * 200)
        sheet = draw(tmp_path / "g.png", picture)
        assert sheet.shape[0] < CELL_HEIGHT + 150


def test_class_color__never_green() -> None:
    for index in range(100):
        hue, _, _ = colorsys.rgb_to_hls(*(part / 255 for part in class_color(index)))
        assert not 0.2 < hue < 0.48
    assert len({class_color(index) for index in range(80)}) == 80


def test_select_gallery__best_and_worst() -> None:
    quality = np.array([0.5, 1.0, 0.0, 1.0, 0.9, 0.0, 1.0])
    num_boxes = np.array([4, 2, 3, 8, 1, 5, 0])
    assert select_gallery(quality, num_boxes=num_boxes, count=2) == ([3, 1], [5, 2])


def test_select_gallery__images_with_nothing_to_see_come_late() -> None:
    quality = np.array([1.0, 0.2, 0.0, 1.0])
    num_boxes = np.array([0, 3, 2, 0])
    assert select_gallery(quality, num_boxes=num_boxes, count=2) == ([1, 0], [2, 3])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_select_gallery__few_images_are_shown_once(number: int) -> None:
    best, worst = select_gallery(
        np.linspace(0.1, 1, number), num_boxes=np.ones(number, dtype=int), count=8
    )
    assert sorted(best + worst) == list(range(number))
    assert len(best) == -(-number // 2)
