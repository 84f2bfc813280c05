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


def frame(found: Frames) -> tuple[int, int, bool]:
    row = found.images.iloc[0]
    return int(row["width"]), int(row["height"]), bool(row["is_upright"])


@pytest.mark.parametrize(
    ("stated", "header", "expected", "note"),
    [
        ((40, 30), PLAIN, (40, 30, True), ""),
        ((0, 0), PLAIN, (40, 30, True), ""),
        ((0, 0), TURNED, (30, 40, True), ""),
        ((30, 40), TURNED, (30, 40, True), "1 images are turned by EXIF and their boxes with"),
        ((40, 30), TURNED, (40, 30, False), "while their boxes lie in the unturned pixels"),
        ((80, 60), PLAIN, (80, 60, True), "another size than stated"),
        ((80, 60), TURNED, (80, 60, False), "another size than stated"),
        ((60, 80), TURNED, (60, 80, True), "another size than stated"),
    ],
)
def test_settle_frames__every_case(
    stated: tuple[int, int], header: ImageHeader, expected: tuple[int, int, bool], note: str
) -> None:
    found = settle(stated, header)
    assert frame(found) == expected
    assert note in " ".join(found.notes)
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
    assert "taken to lie in the upright picture" in found.notes[0]
    assert found.repairs == ()


@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 7, 8])
def test_settle_frames__near_squares_are_told_apart_exactly(orientation: int) -> None:
    sideways = orientation > 4
    upright = (100, 101) if sideways else (101, 100)
    header = ImageHeader(upright=upright, stored=(101, 100), orientation=orientation)
    assert frame(settle((101, 100), header)) == (101, 100, not sideways)


def test_settle_frames__another_shape_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 images of x.json .* 'a.jpg' is stated as 50 x 30 but"):
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
