from pathlib import Path

import pytest
from tiny_boxes import annotation_record, image_record, without, write_coco, write_picture

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_table import BoxTable
from tlcli.errors import BadImageError, DataError


def load(tmp_path: Path, stated: tuple[int, int] | None, *, orientation: int) -> BoxTable:
    """Load one 40 x 30 picture, turned by EXIF, and a box in its corner."""
    record = image_record(1, file_name="1.jpg")
    if stated is None:
        record = without(record, "width", "height")
    else:
        record.update(width=stated[0], height=stated[1])
    annotations = [annotation_record(1, bbox=[0, 0, 30, 40])]
    path = write_coco(tmp_path / "x.json", images=[record], annotations=annotations)
    write_picture(tmp_path / "1.jpg", orientation=orientation)
    return load_boxes(str(path), on_bad_box="fix")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_assemble__frames_of_each_orientation(tmp_path: Path, orientation: int) -> None:
    upright = (30, 40) if orientation > 4 else (40, 30)
    for stated in (None, upright, (40, 30)):
        table = load(tmp_path, stated, orientation=orientation)
        row = table.images.iloc[0]
        assert (row["width"], row["height"]) == (stated or upright)
        assert row["is_upright"] == (stated is None or stated == upright)
        # boxes are judged in the frame they were drawn in
        clipped = table.boxes[["width", "height"]].to_numpy().tolist()
        assert clipped == [[30, 40 if row["height"] == 40 else 30]]


def test_assemble__other_sizes(tmp_path: Path) -> None:
    table = load(tmp_path, (400, 300), orientation=1)
    assert table.boxes[["width", "height", "area"]].to_numpy().tolist() == [[30, 40, 150.5]]
    assert table.repairs[0].path == "1.jpg"
    assert "stated as 400 x 300, the file has 40 x 30: boxes are scaled" in table.repairs[0].what
    with pytest.raises(DataError, match=r"'1.jpg' is stated as 50 x 50 but is 40 x 30"):
        load(tmp_path, (50, 50), orientation=1)


def test_assemble__missing_areas_are_those_of_the_box_that_is_kept(tmp_path: Path) -> None:
    rows = [annotation_record(1, bbox=[30, 20, 20, 20]), annotation_record(2, bbox=[1, 1, 2.5, 4])]
    rows = [without(row, "area") for row in rows]
    path = write_coco(tmp_path / "x.json", folder=tmp_path, annotations=rows)
    assert load_boxes(str(path), on_bad_box="fix").boxes["area"].tolist() == [100, 10]


def test_assemble__file_that_is_no_image(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json")
    (tmp_path / "1.png").write_text("hello")
    with pytest.raises(BadImageError, match=r"Cannot decode .*1.png: not an image format"):
        load_boxes(str(path), on_bad_box="fix")
