import numpy as np
import pandas as pd
import pytest

from tlcli.data.boxes.annotation_frames import Frames, settle_frames
from tlcli.data.boxes.image_headers import ImageHeader
from tlcli.errors import DataError

TURNED = ImageHeader(upright=(30, 40), stored=(40, 30), orientation=6)
PLAIN = ImageHeader(upright=(40, 30), stored=(40, 30), orientation=1)


def settle(stated: tuple[int, int], header: ImageHeader) -> Frames:
    images = pd.DataFrame({"path": ["a.jpg"], "width": [stated[0]], "height": [stated[1]]})
    return settle_frames(images, [header], source="x.json")


def texts(found: Frames) -> list[str]:
    return [note.text(np.array(["a.jpg"], dtype=object)) for note in found.notes]


def frame(found: Frames) -> tuple[int, int, bool]:
    row = found.images.iloc[0]
    return int(row["width"]), int(row["height"]), bool(row["is_upright"])


@pytest.mark.parametrize(
    ("stated", "header", "expected", "note"),
    [
        ((40, 30), PLAIN, (40, 30, True), ""),
        ((0, 0), PLAIN, (40, 30, True), ""),
        ((0, 0), TURNED, (30, 40, True), ""),
        ((30, 40), TURNED, (30, 40, True), "1 image is turned by EXIF and its boxes with it"),
        ((40, 30), TURNED, (40, 30, False), "its boxes lie in the unturned pixels"),
        ((80, 60), PLAIN, (80, 60, True), "1 image has another size than stated"),
        ((80, 60), TURNED, (80, 60, False), "1 image has another size than stated"),
        ((60, 80), TURNED, (60, 80, True), "1 image has another size than stated"),
    ],
)
def test_settle_frames__every_case(
    stated: tuple[int, int], header: ImageHeader, expected: tuple[int, int, bool], note: str
) -> None:
    found = settle(stated, header)
    assert frame(found) == expected
    assert note in " ".join(texts(found))
    assert bool(found.notes) == bool(note)
    changed = not expected[2] or expected[0] > 40 or expected[1] > 40
    assert [repair.path for repair in found.repairs] == ["a.jpg"] * changed


@pytest.mark.parametrize(
    "header",
    [
        ImageHeader(upright=(40, 30), stored=(40, 30), orientation=3),
        ImageHeader(upright=(40, 40), stored=(40, 40), orientation=6),
    ],
)
def test_settle_frames__turns_that_sizes_cannot_tell_are_told(header: ImageHeader) -> None:
    found = settle(header.upright, header)
    assert frame(found)[2]
    (text,) = texts(found)
    assert text.endswith("its boxes are taken to lie in the upright picture: 'a.jpg'.")
    assert found.repairs == ()


@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 7, 8])
def test_settle_frames__near_squares_are_told_apart_exactly(orientation: int) -> None:
    sideways = orientation > 4
    upright = (100, 101) if sideways else (101, 100)
    header = ImageHeader(upright=upright, stored=(101, 100), orientation=orientation)
    assert frame(settle((101, 100), header)) == (101, 100, not sideways)


def test_settle_frames__another_shape_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 image of x.json has .* 'a.jpg' is stated as 50 x 30"):
        settle((50, 30), PLAIN)
    assert frame(settle((4000, 2980), PLAIN))[2]  # 0.7 % off
    with pytest.raises(DataError, match=r"is 40 x 30\. Their boxes belong to other pictures"):
        settle((4000, 2950), PLAIN)  # 1.7 % off


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_settle_frames__a_near_square_on_its_side_is_no_copy(orientation: int) -> None:
    header = ImageHeader(upright=(1000, 1003), stored=(1000, 1003), orientation=orientation)
    with pytest.raises(
        DataError, match=r"stated as 1003 x 1000 but is 1000 x 1003 \(turned by a quarter\?\)"
    ):
        settle((1003, 1000), header)
    assert frame(settle((2000, 2006), header)) == (2000, 2006, True)


def test_settle_frames__counts_by_kind() -> None:
    images = pd.DataFrame(
        {"path": ["a", "b", "c", "d"], "width": [80, 40, 30, 80], "height": [60, 30, 40, 60]}
    )
    found = settle_frames(images, [PLAIN, TURNED, TURNED, PLAIN], source="x.json")
    assert [note.text(images["path"].to_numpy(dtype=object)) for note in found.notes] == [
        "1 image is turned by EXIF and its boxes with it: 'c'.",
        "1 image is turned by EXIF while its boxes lie in the unturned pixels, as the stated size"
        " tells; both are brought together: 'b', in repairs.csv.",
        "2 images have another size than stated, in the same shape; their boxes are scaled: 'a',"
        " 'd', all in repairs.csv.",
    ]
    assert [repair.path for repair in found.repairs] == ["a", "b", "d"]
