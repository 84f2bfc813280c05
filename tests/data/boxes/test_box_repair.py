import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.boxes.box_repair import bad_kinds, clip_boxes, repair_boxes
from tlcli.errors import DataError

IMAGES = pd.DataFrame({"path": ["a.jpg"], "width": [40], "height": [30]})
ANY_NUMBER = st.floats(width=32) | st.floats(-50, 100)


def frame(*boxes: list[float], written: str = "") -> pd.DataFrame:
    found = pd.DataFrame(list(boxes), columns=["x", "y", "width", "height"], dtype=float)
    return found.assign(image=0, area=7.0, written=written, annotation_id=range(len(boxes)))


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([0, 0, 40, 30], ""),
        ([-1, -1, 42, 32], ""),
        ([1, 1, 0.25, 0.25], ""),
        ([-1.01, 0, 5, 5], "reaching outside the image"),
        ([0, 0, 5, 31.01], "reaching outside the image"),
        ([100, 100, 5, 5], "reaching outside the image"),
        ([1, 1, 0, 5], "width or height not above 0"),
        ([1, 1, 5, -2], "width or height not above 0"),
        ([1, 1, math.nan, 5], "not four finite numbers"),
        ([1, 1, math.inf, 5], "not four finite numbers"),
    ],
)
def test_bad_kinds__what_is_bad(box: list[float], kind: str) -> None:
    assert bad_kinds(np.array([box], dtype=float), np.array([[40.0, 30.0]])).tolist() == [kind]


def test_repair_boxes__good_boxes_stay_as_written() -> None:
    boxes = frame([-0.7, 0.1, 41.3, 30.2], [3, 4, 5, 6])
    for mode in ("fix", "drop", "fail"):
        found = repair_boxes(boxes, IMAGES, on_bad_box=mode)
        assert found.boxes.equals(boxes)
        assert (found.notes, found.repairs) == ((), ())


def test_repair_boxes__fix_clips_and_drops_slivers() -> None:
    boxes = frame([30, 20, 20, 20], [39.5, 0, 20, 20], [3, 4, 5, 6], [1, 1, 0, 5], [50, 0, 5, 5])
    found = repair_boxes(boxes, IMAGES, on_bad_box="fix")
    assert found.boxes[["x", "y", "width", "height", "area"]].to_numpy().tolist() == [
        [30, 20, 10, 10, 100],
        [3, 4, 5, 6, 7],
    ]
    assert found.boxes["annotation_id"].tolist() == [0, 2]
    assert [note.text(IMAGES["path"].to_numpy(dtype=object)) for note in found.notes] == [
        "1 bad box is clipped (reaching outside the image): 'a.jpg', in repairs.csv.",
        "2 bad boxes are dropped (reaching outside the image): 'a.jpg', all in repairs.csv.",
        "1 bad box is dropped (width or height not above 0): 'a.jpg', in repairs.csv.",
    ]
    assert [repair.path for repair in found.repairs] == ["a.jpg"] * 4
    assert found.repairs[0].what == (
        "box [30, 20, 20, 20]: reaching outside the image; clipped to [30, 20, 10, 10]"
    )
    assert found.repairs[1].what.endswith("; dropped")


def test_repair_boxes__drop_leaves_every_bad_box_out() -> None:
    boxes = frame([30, 20, 20, 20], [3, 4, 5, 6])
    found = repair_boxes(boxes, IMAGES, on_bad_box="drop")
    assert found.boxes["annotation_id"].tolist() == [1]
    assert len(found.repairs) == 1


def test_repair_boxes__notes_point_to_the_images_of_bad_boxes() -> None:
    images = pd.concat([IMAGES] * 4, ignore_index=True).assign(path=["a", "b", "c", "d"])
    boxes = frame([1, 1, 0, 5], [3, 4, 5, 6], [1, 1, 2, -5], [1, 1, 9, 0], [2, 2, 0, 0])
    found = repair_boxes(boxes.assign(image=[1, 0, 2, 2, 3]), images, on_bad_box="fix")
    (note,) = found.notes
    assert note.rows.tolist() == [1, 2, 2, 3]
    assert note.text(images["path"].to_numpy(dtype=object)) == (
        "4 bad boxes are dropped (width or height not above 0): 'b', 'c' and 1 more, all in"
        " repairs.csv."
    )


def test_repair_boxes__fail_of_a_single_box() -> None:
    with pytest.raises(DataError, match=r"^1 of 1 box is bad: 'a.jpg'"):
        repair_boxes(frame([1, 1, 0, 5]), IMAGES, on_bad_box="fail")


def test_repair_boxes__fail_names_files_values_and_remedy() -> None:
    boxes = pd.concat([frame([1, 1, 0, 5]), frame([math.nan] * 4, written="['a', 2]")])
    boxes = pd.concat([boxes, frame(*[[-5, 0, 9, 9]] * 3)], ignore_index=True)
    with pytest.raises(DataError) as caught:
        repair_boxes(boxes, IMAGES, on_bad_box="fail")
    text = str(caught.value)
    assert text.startswith("5 of 5 boxes are bad: 'a.jpg' (40 x 30): box [1, 1, 0, 5], width or")
    assert "box ['a', 2], not four finite numbers" in text
    assert text.endswith("; and 2 more. Correct them, or give --on-bad-box fix or drop.")


@given(st.lists(st.tuples(ANY_NUMBER, ANY_NUMBER, ANY_NUMBER, ANY_NUMBER), max_size=8))
def test_repair_boxes__what_is_left_is_never_bad(boxes: list[tuple[float, ...]]) -> None:
    table = frame(*map(list, boxes))
    fixed = repair_boxes(table, IMAGES, on_bad_box="fix")
    dropped = repair_boxes(table, IMAGES, on_bad_box="drop")
    for found in (fixed, dropped):
        xywh = found.boxes[["x", "y", "width", "height"]].to_numpy(dtype=float)
        sizes = np.tile([40.0, 30.0], (len(xywh), 1))
        assert set(bad_kinds(xywh, sizes)) <= {""}
    good = set(dropped.boxes["annotation_id"])
    for row, box in enumerate(boxes):  # a plain reading of the rule
        x, y, width, height = box
        is_good = (
            all(map(math.isfinite, box))
            and width > 0
            and height > 0
            and min(x, y) >= -1
            and x + width <= 41
            and y + height <= 31
        )
        assert (row in good) == is_good
    assert len(fixed.repairs) == len(dropped.repairs) == len(boxes) - len(good)
    for found in (fixed, dropped):
        assert sum(len(note.rows) for note in found.notes) == len(found.repairs)


@given(st.tuples(*[st.floats(-100, 100)] * 2), st.tuples(*[st.floats(0, 100)] * 2))
def test_clip_boxes__is_the_intersection(start: tuple[float, ...], size: tuple[float, ...]) -> None:
    x, y, width, height = clip_boxes(np.array([[*start, *size]]), np.array([[40.0, 30.0]]))[0]
    assert width == pytest.approx(max(0.0, min(start[0] + size[0], 40) - max(start[0], 0)))
    assert height == pytest.approx(max(0.0, min(start[1] + size[1], 30) - max(start[1], 0)))
    assert 0 <= x <= 40
    assert 0 <= y <= 30
