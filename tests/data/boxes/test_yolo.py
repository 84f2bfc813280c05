from pathlib import Path

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
    assert table.notes == (
        "train: 1 images have no label file and count as images without objects: 'images/c.png'.",
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
    assert table.notes == ("train: 1 labels are polygons; the box around each is taken.",)


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
