import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_boxes import write_coco, write_picture, write_voc, write_yolo

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_layouts import box_layout, find_label_file, yaml_lines
from tlcli.data.catalog import load_table
from tlcli.errors import DataError

LABEL = "0 0.5 0.5 0.1 0.1\n"


def write_labelled(root: Path, *names: str) -> None:
    """Write pictures below folders called `images`, with labels beside them."""
    for name in names:
        write_picture(root / f"{name}.png")
        label = root / f"{name}.txt".replace("images", "labels")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(LABEL)


def make_layout(root: Path, kind: str) -> str:
    """Write a small data set of boxes and return how it is to be called."""
    if kind == "coco":
        write_coco(root / "annotations/instances_train2017.json", folder=root / "train2017")
        write_coco(root / "annotations/instances_val2017.json", folder=root / "val2017")
        return "COCO boxes (annotations/instances_train2017.json)"
    if kind == "coco in split folders":
        write_coco(root / "annotations/instances_train.json", folder=root / "train")
        write_coco(root / "annotations/instances_val.json", folder=root / "val")
        return "COCO boxes (annotations/instances_train.json)"
    if kind == "two years":
        for year in (2014, 2017):
            folder = root / f"train{year}"
            write_coco(root / f"annotations/instances_train{year}.json", folder=folder)
        return "COCO boxes (annotations/instances_train2014.json)"
    if kind == "roboflow coco":
        for split in ("train", "valid"):
            write_coco(root / split / "_annotations.coco.json", folder=root / split)
        return "COCO boxes (train/_annotations.coco.json)"
    if kind == "loose coco":
        write_coco(root / "boxes.json", folder=root / "images")
        return "COCO boxes (boxes.json)"
    if kind == "voc":
        write_voc(root, {"a": [("cat", (1, 2, 3, 4))]})
        return "Pascal VOC boxes (Annotations)"
    if kind == "yolo":
        write_yolo(root, {"a": LABEL}, yaml="train: images\nnames: [cat]\n")
        return "YOLO boxes (data.yaml)"
    if kind == "roboflow yolo":
        write_labelled(root, "train/images/a", "valid/images/b")
        (root / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cat]\n")
        return "YOLO boxes (data.yaml)"
    write_labelled(root, "images/train/a", "images/val/b")
    return "YOLO boxes (labels/train/a.txt)"


KINDS = [
    "coco",
    "coco in split folders",
    "two years",
    "roboflow coco",
    "loose coco",
    "voc",
    "yolo",
    "roboflow yolo",
    "yolo without yaml",
]


@pytest.mark.parametrize("kind", KINDS)
def test_box_layout__of_each_layout(tmp_path: Path, kind: str) -> None:
    layout = make_layout(tmp_path, kind)
    assert box_layout(tmp_path) == layout
    # What was "fill or remove 'annotations'" in `finetune` and `evaluate`
    with pytest.raises(DataError) as caught:
        load_table(str(tmp_path))
    told = f"{tmp_path} looks like {layout}; `tlcli detect-finetune` takes those."
    assert str(caught.value) == told
    if kind not in ("two years", "yolo without yaml"):
        assert len(load_boxes(str(tmp_path), on_bad_box="fail").boxes)


def test_box_layout__of_files(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "x.json")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    for path, kind in ((coco, "COCO"), (tmp_path / "data.yaml", "YOLO")):
        assert box_layout(path) == f"{kind} boxes"
        with pytest.raises(DataError, match=f"{path.name} looks like {kind} boxes; `tlcli detect-"):
            load_table(str(path))
    for name, text in (("a.json", "[1]"), ("b.json", ""), ("a.yaml", "a: ["), ("b.yml", "a: 1")):
        (tmp_path / name).write_text(text)
        assert box_layout(tmp_path / name) is None
        with pytest.raises(DataError, match="is a file of no kind understood here"):
            load_table(str(tmp_path / name))


def test_box_layout__classification_data_has_none(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/2.png", "images/3.png"):
        write_picture(tmp_path / name)
    (tmp_path / "labels").mkdir()
    files = {
        "labels/1.txt": "a cat on 2 mats, 3 times\n",
        "labels/2.txt": "",
        "labels/classes.txt": "cat\ndog\n",
        "classes.json": json.dumps({"cat": 0, "dog": 1}),
        "params.yaml": "lr: 0.1\n",
        "broken.yaml": "a: [\n",
        "captions_train.json": '{"annotations": [{"bbox": [1, 2, 3, 4]}]}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert box_layout(tmp_path) is None
    with pytest.raises(DataError, match=r"No images in the class folders 'labels' of .*; fill or"):
        load_table(str(tmp_path))


def test_load_table__class_folders_with_boxes_beside_them_are_read(tmp_path: Path) -> None:
    for name in ("train/cats/1.png", "train/dogs/2.png", "val/cats/3.png", "val/dogs/4.png"):
        write_picture(tmp_path / name)
    write_coco(tmp_path / "annotations/instances_train.json")
    assert load_table(str(tmp_path)).splits == ("train", "val")


@pytest.mark.parametrize(
    ("names", "label", "lines"),
    [
        (["images/a"], "labels/a.txt", ["train: images"]),
        (
            ["images/train/a", "images/val/b"],
            "labels/train/a.txt",
            ["train: images/train", "val: images/val"],
        ),
        (
            ["train/images/a", "valid/images/b", "test/images/c"],
            "test/labels/c.txt",
            ["train: train/images", "val: valid/images", "test: test/images"],
        ),
    ],
)
def test_load_boxes__yolo_without_a_yaml(
    tmp_path: Path, names: list[str], label: str, lines: list[str]
) -> None:
    write_labelled(tmp_path, *names)
    lines = [*lines, "names: [cat, dog]"]
    assert yaml_lines(tmp_path) == lines
    assert find_label_file(tmp_path) == tmp_path / label
    with pytest.raises(DataError) as caught:
        load_boxes(str(tmp_path), on_bad_box="fix")
    assert str(caught.value) == (
        f"{tmp_path} looks like YOLO boxes ({label}), but data.yaml is missing, which says where"
        " the images are and what the classes are called. Write it with lines like"
        f" {', '.join(f'`{line}`' for line in lines)}: the classes in the order of their numbers."
    )
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == ["cat", "dog"]
    assert len(load_boxes(str(tmp_path), on_bad_box="fix").boxes) == len(names)


def test_find_label_file__needs_images_beside_it(tmp_path: Path) -> None:
    write_labelled(tmp_path, "images/a")
    shutil.move(tmp_path / "images", tmp_path / "photos")
    assert find_label_file(tmp_path) is None
