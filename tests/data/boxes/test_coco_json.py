import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_boxes import annotation_record, image_record, without, write_coco

from tlcli.data.boxes.box_table import Category
from tlcli.data.boxes.coco_json import read_coco_json
from tlcli.data.boxes.raw_parts import RawPart
from tlcli.errors import DataError


def read(tmp_path: Path, **parts: Any) -> RawPart:
    return read_coco_json(write_coco(tmp_path / "x.json", **parts), split="train")


def texts(part: RawPart) -> list[str]:
    paths = part.images["path"].to_numpy(dtype=object)
    return [note.text(paths) for note in part.counted_notes if len(note.rows)]


def test_read_coco_json__everything_as_written(tmp_path: Path) -> None:
    part = read(
        tmp_path,
        images=[image_record(9), image_record(4, file_name="./sub//b.png")],
        annotations=[
            annotation_record(12, image_id=4, category_id=90, bbox=[0.1, 0.2, 3, 4.7]),
            annotation_record(3, image_id=9, category_id=3, iscrowd=1),
        ],
        categories=[
            {"id": 90, "name": "dog", "supercategory": "none"},
            {"id": 3, "name": "cat"},
        ],
    )
    assert part.categories == (
        Category(id=90, name="dog", supercategory="none"),
        Category(id=3, name="cat"),
    )
    assert part.images.to_dict("list") == {
        "path": ["9.png", "sub/b.png"],
        "image_id": [9, 4],
        "width": [40, 40],
        "height": [30, 30],
    }
    assert part.boxes.to_dict("list") == {
        "image": [1, 0],
        "category": [0, 1],
        "x": [0.1, 1.0],
        "y": [0.2, 2.0],
        "width": [3.0, 10.0],
        "height": [4.7, 20.0],
        "area": [150.5, 150.5],
        "is_crowd": [False, True],
        "annotation_id": [12, 3],
        "written": ["", ""],
    }
    assert (part.notes, texts(part)) == ((), [])


def test_read_coco_json__what_is_missing_is_filled(tmp_path: Path) -> None:
    bare = [without(annotation_record(n), "id", "area", "iscrowd") for n in (1, 2)]
    part = read(tmp_path, images=[without(image_record(1), "width")], annotations=bare)
    assert part.boxes["annotation_id"].tolist() == [1, 2]
    assert part.boxes["area"].isna().all()
    assert not part.boxes["is_crowd"].any()
    assert part.images["width"].tolist() == [0]
    assert part.notes == (
        "x.json: annotation ids are missing, repeated or below 1; annotations are numbered from 1.",
    )
    assert texts(part) == ["2 annotations have no area; width x height is taken: '1.png'."]


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), ("a", 1), (2**63, 1)])
def test_read_coco_json__annotation_ids_that_cannot_be_used(
    tmp_path: Path, ids: tuple[Any, Any]
) -> None:
    part = read(tmp_path, annotations=[annotation_record(value) for value in ids])
    assert part.boxes["annotation_id"].tolist() == [1, 2]
    assert "annotations are numbered from 1" in part.notes[0]


def test_read_coco_json__box_around_polygons(tmp_path: Path) -> None:
    polygons = [[5, 6, 9, 6, 9, 8.5], [1, 7, 2, 7, 2, 12]]
    part = read(
        tmp_path,
        annotations=[
            annotation_record(1, bbox=[], segmentation=polygons),
            annotation_record(2, segmentation=polygons),
            without(annotation_record(3), "bbox"),
        ],
    )
    boxes = part.boxes[["x", "y", "width", "height"]].to_numpy().tolist()
    assert boxes[:2] == [[1, 6, 8, 6], [1, 2, 10, 20]]
    assert np.isnan(boxes[2]).all()
    assert part.boxes["written"].tolist() == ["", "", "missing"]
    assert part.notes == ()
    assert texts(part) == [
        "1 annotation has no bbox; the one around its polygons is taken: '1.png'."
    ]


@pytest.mark.parametrize("bbox", [[1, 2, 3], ["1", 2, 3, 4], [1, 2, 3, None], {"x": 1}, "box"])
def test_read_coco_json__odd_boxes_keep_their_text(tmp_path: Path, bbox: object) -> None:
    part = read(tmp_path, annotations=[annotation_record(1, bbox=bbox), annotation_record(2)])
    assert part.boxes["x"].isna().tolist() == [True, False]
    assert part.boxes["written"].tolist() == [repr(bbox), ""]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_read_coco_json__non_finite_boxes_are_left_to_the_repair(tmp_path: Path, text: str) -> None:
    path = write_coco(tmp_path / "x.json")
    path.write_text(path.read_text().replace("[1, 2, 10, 20]", f"[1, 2, {text}, 20]"))
    part = read_coco_json(path, split="train")
    assert not np.isfinite(part.boxes["width"]).any()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": [image_record("a")]}, "id of an image in .* is 'a'; it must be a whole"),
        ({"images": [image_record(2**70)]}, "it must fit 63 bits"),
        ({"images": [image_record(1, width=-4)]}, "The width of an image in .* is -4"),
        ({"images": [image_record(1, width="40")]}, "The width of an image in .* is '40'"),
        ({"images": [image_record(1, file_name=3)]}, "has the file_name 3, which is no text"),
        ({"images": [without(image_record(1), "file_name")]}, "image number 1 has no 'file_name'"),
        ({"images": [image_record(1, file_name="/a")]}, "absolute path"),
        ({"images": [image_record(1, file_name="../a")]}, "leaves the image folder"),
        (
            {"annotations": [annotation_record(1, image_id=5)]},
            "1 annotation has an image_id .* first 5",
        ),
        (
            {"annotations": [annotation_record(1, category_id=8)]},
            "has a category_id that .* first 8",
        ),
        ({"annotations": [annotation_record(1, category_id="7")]}, "is '7'; it must be a whole"),
        ({"annotations": [without(annotation_record(1), "image_id")]}, "number 1 has no 'image_id"),
        ({"annotations": [annotation_record(1, iscrowd=2)]}, "with iscrowd 2; it must be 0 or 1"),
        ({"annotations": [without(annotation_record(1), "bbox")]}, "none has a 'bbox' .*caption"),
        ({"categories": [{"id": 7}]}, "category number 1 has no 'name'"),
        ({"categories": [{"id": 7, "name": " "}]}, "the category name ' ', which names nothing"),
        ({"categories": [{"id": 7.5, "name": "a"}]}, "id of a category in .* is 7.5"),
    ],
)
def test_read_coco_json__what_has_no_meaning(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    if "caption" in message:
        parts["annotations"][0]["caption"] = "a cat"
    with pytest.raises(DataError, match=message):
        read(tmp_path, **parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"images": [', "is not valid JSON: .* Is it whole"),
        ("[" * 200_000, "is not valid JSON"),
        (f'{{"images": {"9" * 5000}}}', "is not valid JSON"),
        ("[1]", "is no COCO json: it holds a list"),
        ("{}", r"'images' is not one \(it has nothing\)"),
        ('{"images": [], "licenses": 1}', r"'annotations' is not one \(it has images, licenses\)"),
        (
            json.dumps({"images": [], "annotations": ["a"], "categories": []}),
            "has 'a' among its annotations",
        ),
    ],
)
def test_read_coco_json__no_detection_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_coco_json(tmp_path / "x.json", split="train")


def test_read_coco_json__unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="not valid JSON"):
        read_coco_json(tmp_path / "x.json", split="train")
    with pytest.raises(DataError, match=r"Cannot read .*: No such file"):
        read_coco_json(tmp_path / "y.json", split="train")
