from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny_boxes import write_picture, write_voc, write_voc_list

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.pascal_voc import read_voc_xml
from tlcli.errors import BadImageError, DataError

CAT, DOG = ("cat", (1, 2, 11, 22)), ("dog", (3.5, 4, 9, 30))


def load(path: Path) -> BoxTable:
    return load_boxes(str(path), on_bad_box="fix")


def test_load_boxes__voc_without_lists(tmp_path: Path) -> None:
    table = load(write_voc(tmp_path, {"b c": [DOG, CAT], "a": [CAT], "n": []}))
    assert table.splits == ("unsplit",)
    assert [(item.id, item.name) for item in table.categories] == [(1, "cat"), (2, "dog")]
    assert table.images[["path", "image_id"]].to_numpy().tolist() == [
        ["JPEGImages/a.jpg", 1],
        ["JPEGImages/b c.jpg", 2],
        ["JPEGImages/n.jpg", 3],
    ]
    columns = ["image", "category", "x", "y", "width", "height", "area", "annotation_id"]
    assert table.boxes[columns].to_numpy().tolist() == [
        [0, 0, 1, 2, 10, 20, 200, 1],
        [1, 1, 3.5, 4, 5.5, 26, 143, 2],
        [1, 0, 1, 2, 10, 20, 200, 3],
    ]
    assert table.counts()["unsplit"]["negatives"] == 1


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"train": ["a"], "val": ["b c"]}, ["train", "val"]),
        ({"train": ["a"], "val": ["b c"], "trainval": ["a", "b c"]}, ["train", "val"]),
        ({"trainval": ["a  1", "b c -1"]}, ["train", "train"]),
        ({"trainval": ["a"], "test": ["b c"]}, ["train", "test"]),
    ],
)
def test_load_boxes__voc_lists(
    tmp_path: Path, lists: dict[str, list[str]], splits: list[str]
) -> None:
    write_voc(tmp_path, {"a": [CAT], "b c": [CAT], "unlisted": [DOG]})
    for name, lines in lists.items():
        write_voc_list(tmp_path, name, lines)
    table = load(tmp_path)
    assert table.images["path"].tolist() == ["JPEGImages/a.jpg", "JPEGImages/b c.jpg"]
    assert table.images["split"].tolist() == splits
    assert "1 annotated image is in no list and not used: 'unlisted'." in table.notes


def test_load_boxes__voc_val_may_have_no_objects_but_no_new_class(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": []})
    write_voc_list(tmp_path, "train", ["a"])
    write_voc_list(tmp_path, "val", ["b"])
    assert load(tmp_path).counts()["val"]["negatives"] == 1
    write_voc(tmp_path, {"b": [DOG]})
    with pytest.raises(DataError, match=r"val.txt has the val categories 'dog', which .*train.txt"):
        load(tmp_path)


def test_load_boxes__voc_difficult_objects_are_kept_and_told(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT, DOG]})
    path = tmp_path / "Annotations/a.xml"
    path.write_text(path.read_text().replace("</name>", "</name><difficult>1</difficult>", 1))
    table = load(tmp_path)
    assert len(table.boxes) == 2
    assert table.remarks == (
        "1 object is marked difficult; it counts like all others: 'JPEGImages/a.jpg'.",
    )


def test_load_boxes__voc_corner_that_is_no_number(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT, ("cat", ("x", 1, 2, 3))]})
    table = load(tmp_path)
    assert len(table.boxes) == 1
    assert "xmin 'x', ymin '1', xmax '2', ymax '3': not four finite" in table.repairs[0].what


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid XML"),
        ("<annotation><object>", r"is not valid XML: .* Is it whole\?"),
        ("<data/>", "is no Pascal VOC annotation: it holds <data>"),
        ("<annotation><object><bndbox/></object></annotation>", "has an object without a name"),
        ("<annotation><size><width>wide</width></size></annotation>", "states the width 'wide'"),
        ("<annotation><size><width>-1</width></size></annotation>", "states the width '-1'"),
    ],
)
def test_read_voc_xml__broken_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_voc_xml(tmp_path / "a.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_read_voc_xml__document_types_are_refused(tmp_path: Path, encoding: str) -> None:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY x SYSTEM'
        ' "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>'
    )
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"it declares a document type \(a\), which is not allowed"):
        read_voc_xml(tmp_path / "a.xml")


def test_load_boxes__voc_files_that_are_missing(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]})
    write_voc_list(tmp_path, "train", ["a", "c", "../x"])
    with pytest.raises(DataError, match=r"2 of the 3 images in .*train.txt have no xml file .*'c'"):
        load(tmp_path)
    write_voc_list(tmp_path, "train", [])
    with pytest.raises(DataError, match=r"train.txt lists no images"):
        load(tmp_path)
    write_voc_list(tmp_path, "train", ["a", "a"])
    with pytest.raises(DataError, match=r"train.txt has 1 image whose file another image has too"):
        load(tmp_path)
    write_voc_list(tmp_path, "train", ["a", "b"])
    (tmp_path / "JPEGImages/b.jpg").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"b.jpg: not an image format known here"):
        load(tmp_path)
    (tmp_path / "JPEGImages/b.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 annotated images is not in .*JPEGImages: 'b'"):
        load(tmp_path)
    write_picture(tmp_path / "JPEGImages/b.png")
    write_picture(tmp_path / "JPEGImages/b.bmp")
    with pytest.raises(DataError, match=r"has 'b.bmp', 'b.png': which one is annotated"):
        load(tmp_path)


def test_load_boxes__real_voc_is_read_without_loss(shared_data: Path) -> None:
    root = shared_data / "bccd_voc"
    table = load(root)
    counts = table.counts()
    kinds: dict[str, Counter[str]] = {}
    bad = []
    for split in ("train", "val", "test"):
        stems = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        assert counts[split]["images"] == len(stems)
        assert counts[split]["negatives"] == counts[split]["crowds"] == 0
        kinds[split] = Counter()
        for stem in stems:
            for item in ElementTree.parse(root / f"Annotations/{stem}.xml").iter("object"):
                corners = [int(str(item.findtext(f"bndbox/{tag}"))) for tag in ("xmin", "ymin")]
                ends = [int(str(item.findtext(f"bndbox/{tag}"))) for tag in ("xmax", "ymax")]
                if ends[0] <= corners[0] or ends[1] <= corners[1]:
                    bad.append(f"JPEGImages/{stem}.jpg")
                else:
                    kinds[split][str(item.findtext("name"))] += 1
        assert counts[split]["per_class"] == kinds[split]
    assert [repair.path for repair in table.repairs] == bad
    assert len(bad) == 2
    assert len(table.images) == 364
    assert len(table.boxes) == 4888 - 2
    assert table.remarks == (
        f"2 bad boxes are dropped (width or height not above 0): '{bad[0]}', '{bad[1]}', all in"
        " repairs.csv.",
    )
    for rows, number in (([0, 1, 2], 0), (table.images["path"].isin(bad[:1]), 1)):
        few = table.kept(np.flatnonzero(rows) if number else rows)
        assert len([text for text in few.remarks if "repairs.csv" in text]) == number
