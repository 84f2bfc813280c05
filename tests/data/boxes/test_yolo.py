from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tiny_boxes import write_picture, write_yolo

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.yolo import label_name
from tlcli.errors import DataError

YAML = "train: images\nnames: [cat, dog]\n"


def load(path: Path) -> BoxTable:
    return load_boxes(str(path), on_bad_box="fix")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/images/a.b.jpg", "images/labels/a.b.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("photos/images.jpg", "photos/images.txt"),
    ],
)
def test_label_name__last_images_becomes_labels(image: str, label: str) -> None:
    assert label_name(image) == label


def test_load_boxes__yolo_boxes_in_pixels(tmp_path: Path) -> None:
    labels = {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.5 0.5 1.0\n", "b": "", "c": None}
    table = load(write_yolo(tmp_path, labels, yaml=YAML))
    assert [(item.id, item.name) for item in table.categories] == [(0, "cat"), (1, "dog")]
    assert table.splits == ("train",)
    assert table.images["path"].tolist() == ["images/a.png", "images/b.png", "images/c.png"]
    columns = ["image", "category", "x", "y", "width", "height", "area"]
    assert table.boxes[columns].to_numpy().tolist() == [
        [0, 1, 15, 7.5, 10, 15, 150],
        [0, 0, 0, 0, 20, 30, 600],
    ]
    assert table.remarks == (
        "1 image has no label file and counts as an image without objects: 'images/c.png'.",
    )


def test_load_boxes__yolo_boxes_are_fractions_of_the_upright_picture(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 1 1"}, yaml=YAML)
    (tmp_path / "images/a.png").unlink()
    write_picture(tmp_path / "images/a.jpg", orientation=6)
    table = load(tmp_path)
    assert table.images[["width", "height", "is_upright"]].to_numpy().tolist() == [[30, 40, True]]
    assert table.boxes[["width", "height"]].to_numpy().tolist() == [[30, 40]]


def test_load_boxes__yolo_polygons(tmp_path: Path) -> None:
    table = load(write_yolo(tmp_path, {"a": "0 0.5 0.5 0.75 0.5 0.5 1"}, yaml=YAML))
    assert table.boxes[["x", "y", "width", "height"]].to_numpy().tolist() == [[20, 15, 10, 15]]
    assert table.remarks == (
        "1 label is a polygon; the box around it is taken: 'images/a.png'.",
        "train has no boxes of 1 of 2 classes: 'dog'.",
    )


def test_load_boxes__yolo_notes_of_the_images_that_are_left(tmp_path: Path) -> None:
    polygons = "0 0.5 0.5 0.75 0.5 0.5 1\n" * 2
    flat = "0 0.5 0.5 0 0.1\n"
    labels = {"a": None, "b": polygons + flat, "c": flat, "d": None, "e": None, "f": polygons}
    table = load(write_yolo(tmp_path, labels, yaml="train: images\nnames: [cat]\n"))
    assert table.remarks == (
        "3 images have no label file and count as images without objects: 'images/a.png',"
        " 'images/d.png' and 1 more.",
        "4 labels are polygons; the box around each is taken: 'images/b.png', 'images/f.png'.",
        "2 bad boxes are dropped (width or height not above 0): 'images/b.png', 'images/c.png',"
        " all in repairs.csv.",
    )
    assert table.kept([2, 3, 5]).remarks == (
        "1 image has no label file and counts as an image without objects: 'images/d.png'.",
        "2 labels are polygons; the box around each is taken: 'images/f.png'.",
        "1 bad box is dropped (width or height not above 0): 'images/c.png', in repairs.csv.",
    )
    assert table.kept([2, 3, 5]).kept([2]).remarks == (
        "2 labels are polygons; the box around each is taken: 'images/f.png'.",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a.txt line 2 has class 2, and names: has 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", r"a.txt line 2 has class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"a.txt line 2 has class 0.5; it must be a whole number"),
        ("0 0.5 0.5 0.1", r"a.txt line 2 has 4 numbers; a box has 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"a.txt line 2 has 6 numbers"),
        ("cat 0.5 0.5 0.1 0.1", r"a.txt line 2 holds what is no number: cat 0.5"),
    ],
)
def test_load_boxes__yolo_lines_without_meaning(tmp_path: Path, line: str, message: str) -> None:
    write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n{line}\n"}, yaml=YAML)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 412.0 0.5 0.1 0.1", "412.0"),
        ("0 0.5 0.5 0.1 64", "64"),
        ("0 0.5 -0.5 1.06 0.1", "1.06"),
        ("0 0.5 0.5 0.75 0.5 0.5 200", "200"),
    ],
)
@pytest.mark.parametrize("on_bad_box", ["fix", "drop", "fail"])
def test_load_boxes__yolo_boxes_in_the_file_in_pixels(
    tmp_path: Path, line: str, word: str, on_bad_box: Literal["fix", "drop", "fail"]
) -> None:
    write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n\n{line}\n"}, yaml=YAML)
    with pytest.raises(
        DataError,
        match=rf"labels/a.txt line 3: {word} is above 1: YOLO boxes are fractions of the picture,"
        r" are these pixels\? Divide x and width by the width of the picture, y and height by its",
    ):
        load_boxes(str(tmp_path), on_bad_box=on_bad_box)


def test_load_boxes__yolo_fractions_a_bit_above_1_are_bad_boxes_at_most(tmp_path: Path) -> None:
    text = "0 0.5 0.5 1.04 1.02\n0 0.5 0.5 1.05 1.05\n0 1.05 0.5 0.1 0.1\n0 inf 0.5 0.1 0.1\n"
    write_yolo(tmp_path, {"a": text}, yaml="train: images\nnames: [cat]\n")
    table = load(tmp_path)
    columns = ["x", "y", "width", "height"]
    # Of 40 x 30 pixels: out by 0.8, by a hair over 1, and from the right edge on
    assert table.boxes[columns].to_numpy() == pytest.approx(
        np.array([[-0.8, -0.3, 41.6, 30.6], [0, 0, 40, 30]])
    )
    fates = [repair.what.split("; ")[1] for repair in table.repairs]
    assert fates == ["clipped to [0, 0, 40, 30]", "dropped", "dropped"]
    with pytest.raises(DataError, match="3 of 4 boxes are bad"):
        load_boxes(str(tmp_path), on_bad_box="fail")


def test_load_boxes__yolo_bad_boxes(tmp_path: Path) -> None:
    text = "0 nan 0.5 0.1 0.1\n0 0.9 0.5 0.4 0.5\n0 .5 .5 0 .1\n0 .5 .5 .5 .5\n"
    table = load(write_yolo(tmp_path, {"a": text}, yaml=YAML))
    assert table.boxes["annotation_id"].tolist() == [2, 4]
    assert table.boxes["area"].tolist() == pytest.approx([12 * 15, 300])
    assert len(table.repairs) == 3


def test_load_boxes__yolo_lists(tmp_path: Path) -> None:
    labels = dict.fromkeys("abcd", "0 0.5 0.5 0.1 0.1")
    yaml = "train: [lists/train.txt, images/d.png]\nval: lists/val.txt\nnames: {0: cat, 7: emu}\n"
    write_yolo(tmp_path, labels, yaml=yaml)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text(f"./images/a.png\n{tmp_path}/images/b.png\n")
    (tmp_path / "lists/val.txt").write_text("images/c.png\n")
    table = load(tmp_path / "data.yaml")
    assert table.images[["path", "split"]].to_numpy().tolist() == [
        ["images/a.png", "train"],
        ["images/b.png", "train"],
        ["images/d.png", "train"],
        ["images/c.png", "val"],
    ]
    assert [item.id for item in table.categories] == [0, 7]


@pytest.mark.parametrize("line", ["/etc/a.png", "../a.png", "./images/../../a.png"])
def test_load_boxes__yolo_lists_must_not_leave(tmp_path: Path, line: str) -> None:
    write_yolo(tmp_path, {"a": ""}, yaml="train: train.txt\nnames: [cat]\n")
    (tmp_path / "train.txt").write_text(f"images/a.png\n{line}\n")
    with pytest.raises(DataError, match=r"train.txt names the image .* (absolute path|folder by)"):
        load(tmp_path)


def test_load_boxes__yolo_without_any_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": None}, yaml=YAML)
    with pytest.raises(
        DataError, match=r"no image has labels; .* were looked for in 'labels/a.txt"
    ):
        load(tmp_path)
    write_yolo(tmp_path, {}, yaml="train: empty\nnames: [cat]\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images for train in .*empty"):
        load(tmp_path)


def test_load_boxes__yolo_poses_are_no_polygons(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.25 0.5 0.4 0.4 0.6 0.6"  # a box and two key points
    write_yolo(tmp_path, {"a": line}, yaml=f"{YAML}kpt_shape: [2, 2]\n")
    with pytest.raises(DataError, match=r"data.yaml has kpt_shape: .* export the data set for det"):
        load(tmp_path)
