import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from tiny_boxes import annotation_record, image_record, write_coco, write_picture

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_table import (
    BOX_TYPES,
    IMAGE_TYPES,
    BoxTable,
    Repair,
    check_judgeable,
    check_trainable,
)
from tlcli.data.boxes.counted_notes import counted_note
from tlcli.errors import DataError

CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 7, "name": "emu"}]


@pytest.fixture
def table(tmp_path: Path) -> BoxTable:
    """Two train images (one a negative but for a crowd) and a val image, ids {3, 7, 90}."""
    write_coco(
        tmp_path / "annotations/instances_train.json",
        folder=tmp_path / "train",
        images=[image_record(5), image_record(2)],
        annotations=[
            annotation_record(11, image_id=2, category_id=90, bbox=[0.1, 0.7, 3.3, 4.4]),
            annotation_record(12, image_id=5, category_id=3, iscrowd=1),
            annotation_record(13, image_id=2, category_id=3),
        ],
        categories=CATEGORIES,
    )
    write_coco(
        tmp_path / "annotations/instances_val.json",
        folder=tmp_path / "val",
        annotations=[annotation_record(11, category_id=90)],
        categories=CATEGORIES,
    )
    return load_boxes(str(tmp_path), on_bad_box="fail")


def test_box_table__frames_have_the_promised_columns(table: BoxTable) -> None:
    assert table.images.dtypes.astype(str).to_dict() == IMAGE_TYPES
    assert table.boxes.dtypes.astype(str).to_dict() == BOX_TYPES
    assert table.images.index.tolist() == [0, 1, 2]
    assert table.boxes.index.tolist() == [0, 1, 2, 3]
    assert table.classes == ("cat", "emu", "dog")
    assert table.boxes[["image", "category"]].to_numpy().tolist() == [
        [1, 2],
        [0, 0],
        [1, 0],
        [2, 2],
    ]


def test_box_table__parts(table: BoxTable) -> None:
    assert table.splits == ("train", "val")
    assert table.images_of("val")[["row", "path"]].to_numpy().tolist() == [[2, "val/1.png"]]
    assert table.boxes_of("val")["image"].tolist() == [2]
    assert table.boxes_of("train")["annotation_id"].tolist() == [11, 12, 13]
    for part in (table.images_of, table.boxes_of, table.ground_truth):
        with pytest.raises(DataError, match=r"has no 'test' part; it has 'train', 'val'\."):
            part("test")


def test_box_table__counts(table: BoxTable) -> None:
    assert table.counts() == {
        "train": {
            "images": 2,
            "boxes": 2,
            "crowds": 1,
            "negatives": 1,
            "per_class": {"cat": 1, "emu": 0, "dog": 1},
        },
        "val": {
            "images": 1,
            "boxes": 1,
            "crowds": 0,
            "negatives": 0,
            "per_class": {"cat": 0, "emu": 0, "dog": 1},
        },
    }
    assert table.remarks == (
        "train has no boxes of 1 of 3 classes: 'emu'.",
        "val has no boxes of 2 of 3 classes: 'cat', 'emu'.",
    )


def test_ground_truth__pycocotools_reads_the_users_ids(table: BoxTable, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(table.ground_truth("train")))
    coco = COCO(str(tmp_path / "gt.json"))
    assert sorted(coco.getImgIds()) == [2, 5]
    assert sorted(coco.getCatIds()) == [3, 7, 90]
    assert coco.getAnnIds(imgIds=[5], iscrowd=True) == [12]
    assert coco.loadAnns([11]) == [
        {
            "id": 11,
            "image_id": 2,
            "category_id": 90,
            "bbox": [0.1, 0.7, 3.3, 4.4],
            "area": 150.5,
            "iscrowd": 0,
        }
    ]
    assert coco.loadImgs([5]) == [{"id": 5, "file_name": "train/5.png", "width": 40, "height": 30}]


def test_ground_truth__read_again_is_the_same_data(table: BoxTable) -> None:
    for split in table.splits:
        path = table.root / f"{split}.json"
        path.write_text(json.dumps(table.ground_truth(split)))
        again = load_boxes(str(path), on_bad_box="fail")
        assert again.categories == table.categories
        assert (
            again.ground_truth("unsplit")["annotations"]
            == (table.ground_truth(split)["annotations"])
        )


def test_kept__rows_and_boxes_are_renumbered(table: BoxTable) -> None:
    kept = table.kept(np.array([2, 1]))
    assert kept.images["path"].tolist() == ["train/2.png", "val/1.png"]
    assert kept.boxes["image"].tolist() == [0, 0, 1]
    assert kept.boxes["annotation_id"].tolist() == [11, 13, 11]


def test_fingerprint__changes_with_boxes_sizes_and_splits(table: BoxTable) -> None:
    same = load_boxes(str(table.root), on_bad_box="fix")
    assert same.fingerprint == table.fingerprint
    assert len(table.fingerprint) == 64
    assert table.kept([0, 1]).fingerprint != table.fingerprint
    path = table.root / "annotations/instances_val.json"
    path.write_text(path.read_text().replace("150.5", "150.25"))
    assert load_boxes(str(table.root), on_bad_box="fix").fingerprint != table.fingerprint
    path.write_text(path.read_text().replace("150.25", "150.5"))
    write_picture(table.root / "val/1.png", (80, 60))
    assert load_boxes(str(table.root), on_bad_box="fix").fingerprint != table.fingerprint
    (table.root / "val/1.png").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*val/1.png: No such file"):
        _ = same.kept([2]).fingerprint


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([], "has 1 image but no boxes"),
        ([annotation_record(1, iscrowd=1)], r"no boxes \(crowds do not count\)"),
        ([annotation_record(1, bbox=[50, 50, 5, 5])], "has 1 image but no boxes"),
    ],
)
def test_check_not_empty__no_boxes(
    tmp_path: Path, annotations: list[dict[str, object]], message: str
) -> None:
    path = write_coco(tmp_path / "x.json", folder=tmp_path, annotations=annotations)
    with pytest.raises(DataError, match=message):
        load_boxes(str(path), on_bad_box="fix")


def test_check_trainable__negatives_only_in_train(tmp_path: Path) -> None:
    write_coco(tmp_path / "train.json", folder=tmp_path / "train", annotations=[])
    write_coco(tmp_path / "val.json", folder=tmp_path / "val")
    table = load_boxes(str(tmp_path), on_bad_box="fix")  # enough for an evaluation
    with pytest.raises(DataError, match=r"has no box \(crowds .*\) in its 1 train image; annot"):
        check_trainable(table)


def test_check_trainable__one_box_is_enough(table: BoxTable) -> None:
    check_trainable(table)
    check_trainable(table.kept([2]))  # no train part to look at
    with pytest.raises(DataError, match=r"no box .* in its 1 train image"):
        check_trainable(table.kept([0, 2]))  # a crowd only
    with pytest.raises(DataError, match=r"no box .* in its 1 unsplit image"):
        check_trainable(table.kept([0]).as_one_part())


def test_check_judgeable__needs_a_box_that_is_no_crowd(table: BoxTable) -> None:
    for split in table.splits:
        check_judgeable(table, split)
    with pytest.raises(
        DataError,
        match=r"The train part of .* has no boxes \(crowds do not count\), so nothing can be meas",
    ):
        check_judgeable(table.kept([0, 2]), "train")
    with pytest.raises(DataError, match="has no 'test' part"):
        check_judgeable(table, "test")


def test_remarks__images_in_two_splits(table: BoxTable) -> None:
    paths = table.images["path"].tolist()
    twice = replace(table, images=table.images.assign(path=[paths[2], paths[1], paths[2]]))
    assert twice.remarks[0] == (
        "1 image is in more than one split ('val/1.png'); numbers on images that were trained on"
        " say little."
    )
    for left in ([0, 1], [1, 2]):
        assert not [text for text in twice.kept(left).remarks if "more than one split" in text]
    assert not [text for text in twice.as_one_part().remarks if "more than one split" in text]


def test_kept__counted_notes_of_images_that_are_left(table: BoxTable) -> None:
    odd = counted_note("1 box is odd: {names}.", "{number} boxes are odd: {names}.", [2, 0, 2])
    table = replace(table, counted_notes=(odd,))

    def told(table: BoxTable) -> list[str]:
        return [text for text in table.remarks if "odd" in text]

    assert told(table) == ["3 boxes are odd: 'val/1.png', 'train/5.png'."]
    assert told(table.kept([1, 2])) == ["2 boxes are odd: 'val/1.png'."]
    assert told(table.kept([1, 2]).kept([1]).as_one_part()) == ["2 boxes are odd: 'val/1.png'."]
    assert told(table.kept([0, 1])) == ["1 box is odd: 'train/5.png'."]
    assert told(table.kept([1])) == []


def test_kept__repairs_of_images_that_are_left(table: BoxTable) -> None:
    repairs = (Repair("val/1.png", "a"), Repair("train/5.png", "b"), Repair("val/1.png", "c"))
    table = replace(table, repairs=repairs)
    assert table.kept([1, 2]).repairs == (repairs[0], repairs[2])
    assert table.kept([0, 1]).repairs == (repairs[1],)
    assert table.repairs_of("val") == (repairs[0], repairs[2])
    assert table.repairs_of("train") == (repairs[1],)
    with pytest.raises(DataError, match="has no 'test' part"):
        table.repairs_of("test")


def test_as_one_part__ids_that_meet_are_replaced(table: BoxTable) -> None:
    one = table.as_one_part()
    assert one.splits == ("unsplit",)
    assert one.images.dtypes.astype(str).to_dict() == IMAGE_TYPES
    assert one.boxes.dtypes.astype(str).to_dict() == BOX_TYPES
    assert one.images["image_id"].tolist() == [5, 2, 1]  # each is there once
    assert one.boxes["annotation_id"].tolist() == [1, 2, 3, 4]  # 11 was there twice
    assert one.notes == (
        "Annotation ids stand in more than one part; annotations are numbered from 1.",
    )
    assert one.fingerprint != table.fingerprint

    clash = replace(table, images=table.images.assign(image_id=[7, 8, 7])).as_one_part()
    assert clash.images["image_id"].tolist() == [1, 2, 3]
    assert clash.notes[0] == ("Image ids stand in more than one part; images are numbered from 1.")
    truth = clash.ground_truth("unsplit")
    assert [item["image_id"] for item in truth["annotations"]] == [2, 1, 2, 3]
    assert [item["bbox"] for item in truth["annotations"]] == (
        [
            item["bbox"]
            for split in table.splits
            for item in table.ground_truth(split)["annotations"]
        ]
    )


def test_as_one_part__without_clashes_nothing_but_the_split_changes(table: BoxTable) -> None:
    part = table.kept([0, 1])
    one = part.as_one_part()
    assert one.notes == part.notes
    assert one.boxes.equals(part.boxes)
    assert one.images.drop(columns="split").equals(part.images.drop(columns="split"))


def test_check_not_empty__no_images(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", images=[], annotations=[])
    with pytest.raises(DataError, match="No images in"):
        load_boxes(str(path), on_bad_box="fix")
