from pathlib import Path

import pytest
from tiny_boxes import (
    annotation_record,
    image_record,
    without,
    write_coco,
    write_picture,
    write_voc,
    write_yolo,
)

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_splits import split_boxes
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


def test_assemble__bad_images_are_skipped_with_their_boxes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(
            tmp_path / f"annotations/{split}.json",
            folder=tmp_path / split,
            images=[image_record(number) for number in (1, 2, 3)],
            annotations=[annotation_record(number, image_id=number) for number in (1, 2, 3)],
        )
    (tmp_path / "train/1.png").write_bytes(b"")
    (tmp_path / "val/2.png").write_text("hello")
    with pytest.raises(BadImageError, match=r"empty.*1 more.*\) Repair it, or .* --on-bad-image"):
        load_boxes(str(tmp_path), on_bad_box="fix", on_bad_image="fail")
    table = load_boxes(str(tmp_path), on_bad_box="fix", on_bad_image="skip")
    left = ["train/2.png", "train/3.png", "val/1.png", "val/3.png"]
    assert table.images["path"].tolist() == left
    assert table.boxes[["image", "annotation_id"]].to_numpy().tolist() == [
        [0, 2],
        [1, 3],
        [2, 1],
        [3, 3],
    ]
    assert table.skipped == (
        ("train/1.png", f"Cannot decode {tmp_path}/train/1.png: the file is empty (0 bytes)."),
        ("val/2.png", f"Cannot decode {tmp_path}/val/2.png: not an image format known here."),
    )
    assert table.kept([0, 2]).skipped == table.skipped
    split = split_boxes(table, val_fraction=0, test_fraction=0.5, seed=0)
    assert split.splits == ("train", "val", "test")
    assert split.skipped == table.skipped


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco file"])
def test_assemble__bad_images_are_skipped_in_every_layout(tmp_path: Path, kind: str) -> None:
    path = tmp_path
    if kind == "voc":
        write_voc(tmp_path, {name: [("cat", (1, 2, 3, 4))] for name in "ab"})
        bad = "JPEGImages/a.jpg"
    elif kind == "yolo":
        labels = dict.fromkeys("ab", "0 0.5 0.5 0.1 0.1")
        write_yolo(tmp_path, labels, yaml="train: images\nnames: [cat]\n")
        bad = "images/a.png"
    else:
        rows = [annotation_record(number, image_id=number) for number in (1, 2)]
        images = [image_record(1), image_record(2)]
        path = write_coco(tmp_path / "x.json", folder=tmp_path, images=images, annotations=rows)
        bad = "1.png"
    (tmp_path / bad).write_text("hello")
    table = load_boxes(str(path), on_bad_box="fix", on_bad_image="skip")
    assert [name for name, _ in table.skipped] == [bad]
    assert (len(table.images), len(table.boxes)) == (1, 1)


def test_assemble__nothing_is_left_when_all_are_skipped(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json")
    (tmp_path / "1.png").write_text("hello")
    with pytest.raises(BadImageError, match=r"The only image in .* cannot be read: Cannot dec"):
        load_boxes(str(path), on_bad_box="fix", on_bad_image="skip")
    images = [image_record(1), image_record(2)]
    path = write_coco(tmp_path / "y.json", images=images)
    (tmp_path / "2.png").write_text("hello")
    with pytest.raises(BadImageError, match=r"None of the 2 images in .* can be read: Cannot dec"):
        load_boxes(str(path), on_bad_box="fix", on_bad_image="skip")


def test_assemble__notes_are_of_the_images_that_can_be_read(tmp_path: Path) -> None:
    rows = [annotation_record(n, image_id=n, bbox=[1, 2, 0, 4]) for n in (1, 2, 3)]
    rows = [without(row, "area") for row in rows] + [annotation_record(4, image_id=3)]
    images = [image_record(number) for number in (1, 2, 3)]
    path = write_coco(tmp_path / "x.json", folder=tmp_path, images=images, annotations=rows)
    (tmp_path / "2.png").write_text("hello")
    table = load_boxes(str(path), on_bad_box="fix", on_bad_image="skip")
    assert table.remarks == (
        "2 annotations have no area; width x height is taken: '1.png', '3.png'.",
        "2 bad boxes are dropped (width or height not above 0): '1.png', '3.png', all in"
        " repairs.csv.",
    )
