import json
import re
from pathlib import Path

import pytest
from tiny_boxes import annotation_record, image_record, write_coco, write_picture

from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_table import BoxTable
from tlcli.errors import DataError


def load(path: Path) -> BoxTable:
    return load_boxes(str(path), on_bad_box="fix")


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "images", "train", "pics", ""])
def test_load_boxes__coco_folder_finds_its_images(tmp_path: Path, folder: str) -> None:
    write_coco(tmp_path / "annotations/instances_train2017.json", folder=tmp_path / folder)
    table = load(tmp_path)
    assert table.splits == ("train",)
    assert table.images["path"].tolist() == [str(Path(folder) / "1.png")]


def test_load_boxes__coco_parts_and_other_jsons(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        path = tmp_path / f"annotations/instances_{split}2017.json"
        write_coco(path, folder=tmp_path / f"{split}2017")
    (tmp_path / "annotations/captions_train2017.json").write_text("{}")
    (tmp_path / "annotations/person_keypoints_val2017.json").write_text("{}")
    table = load(tmp_path)
    assert table.images[["path", "split"]].to_numpy().tolist() == [
        ["train2017/1.png", "train"],
        ["val2017/1.png", "val"],
        ["test2017/1.png", "test"],
    ]
    assert table.notes == (
        "2 other json files are not used: 'captions_train2017.json',"
        " 'person_keypoints_val2017.json'.",
    )


def test_load_boxes__two_years_of_one_split(tmp_path: Path) -> None:
    for year in (2014, 2017):
        write_coco(tmp_path / f"annotations/instances_train{year}.json")
    with pytest.raises(
        DataError, match=r"'instances_train2014.json' and .*both mean 'train'; keep"
    ):
        load(tmp_path)


def test_load_boxes__roboflow(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        write_coco(tmp_path / name / "_annotations.coco.json", folder=tmp_path / name)
    table = load(tmp_path)
    assert table.splits == ("train", "val", "test")
    assert set(table.images["path"]) == {"train/1.png", "valid/1.png", "test/1.png"}
    assert load(tmp_path / "valid").splits == ("unsplit",)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("x.json", ""),
        ("x.json", "images"),
        ("x.json", "photos"),
        ("sub/x.json", "photos"),
        ("annotations/instances_default.json", "images/default"),
    ],
)
def test_load_boxes__one_json_and_images_near_it(tmp_path: Path, name: str, folder: str) -> None:
    record = image_record(1, file_name="deep/er/1.png")
    path = write_coco(tmp_path / name, folder=tmp_path / folder, images=[record])
    table = load(path)
    assert table.splits == ("unsplit",)
    assert (table.root / table.images["path"][0]).samefile(tmp_path / folder / "deep/er/1.png")
    if not name.startswith("sub"):
        assert load(tmp_path).images.equals(table.images)


def test_load_boxes__images_nowhere(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "sub/x.json")
    with pytest.raises(DataError, match=r"The images of .*x.json \('1.png'\) are nowhere near it"):
        load(path)


def test_load_boxes__some_images_missing(tmp_path: Path) -> None:
    records = [image_record(1), image_record(2), image_record(3)]
    path = write_coco(tmp_path / "x.json", images=records)
    write_picture(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"2 of 3 annotated images are not in .*: '2.png', '3.png'"):
        load(path)


def test_load_boxes__linked_image_folder_is_fine_but_not_a_way_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "elsewhere/1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train2017").symlink_to(tmp_path / "elsewhere")
    write_coco(tmp_path / "data/annotations/instances_train2017.json")
    assert load(tmp_path / "data").images["path"].tolist() == ["train2017/1.png"]
    (tmp_path / "secret.png").write_bytes((tmp_path / "elsewhere/1.png").read_bytes())
    (tmp_path / "elsewhere/1.png").unlink()
    (tmp_path / "elsewhere/1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"train2017/1.png leads out of the image folder"):
        load(tmp_path / "data")


@pytest.mark.parametrize(
    ("train", "val"),
    [("tiny_coco/images/train2017", "tiny_coco/images/val2017"), ("coco_tiny160/train2017", "")],
)
def test_load_boxes__real_sets_are_read_without_loss(
    shared_data: Path, train: str, val: str
) -> None:
    root = shared_data / train.split("/", maxsplit=1)[0]
    table = load(root)
    assert table.repairs == ()
    assert table.notes == ()
    for split in ("train", "val"):
        plain = json.loads((root / f"annotations/instances_{split}2017.json").read_bytes())
        crowds = [item for item in plain["annotations"] if item["iscrowd"]]
        single = [item for item in plain["annotations"] if not item["iscrowd"]]
        counts = table.counts()[split]
        assert counts["images"] == len(plain["images"])
        assert counts["boxes"] == len(single) == sum(counts["per_class"].values())
        assert counts["crowds"] == len(crowds)
        with_boxes = {item["image_id"] for item in single}
        assert counts["negatives"] == len(plain["images"]) - len(with_boxes)
        names = {item["id"]: item["name"] for item in plain["categories"]}
        assert counts["per_class"] == {
            name: sum(item["category_id"] == number for item in single)
            for number, name in names.items()
        }
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        assert table.ground_truth(split)["annotations"] == [
            {key: item[key] for key in keys} for item in plain["annotations"]
        ]


def test_load_boxes__real_numbers_known_beforehand(shared_data: Path) -> None:
    counts = load(shared_data / "coco_tiny160").counts()
    assert [counts[split]["boxes"] for split in ("train", "val")] == [705 - 6, 815 - 11]
    assert [counts[split]["crowds"] for split in ("train", "val")] == [6, 11]
    tiny = load(shared_data / "tiny_coco")
    assert tiny.counts()["train"]["negatives"] == 2
    assert [tiny.counts()[split]["images"] for split in tiny.splits] == [32, 6]


def test_load_boxes__bad_boxes_of_every_kind(tmp_path: Path) -> None:
    boxes = [[1, 2, 10, 20], [35, 0, 10, 10], [5, 5, 0, 5], [1, 2], ["a", 0, 1, 1]]
    rows = [annotation_record(number, bbox=box) for number, box in enumerate(boxes, start=1)]
    path = write_coco(tmp_path / "x.json", folder=tmp_path, annotations=rows)
    table = load(path)
    assert table.boxes["annotation_id"].tolist() == [1, 2]
    assert table.boxes["area"].tolist() == [150.5, 50.0]
    assert len(table.repairs) == 4
    assert "box [1, 2]: not four finite numbers; dropped" in [item.what for item in table.repairs]
    with pytest.raises(DataError, match="4 of 5 boxes are bad"):
        load_boxes(str(path), on_bad_box="fail")
    dropped = load_boxes(str(path), on_bad_box="drop")
    assert dropped.boxes["annotation_id"].tolist() == [1]


def test_load_boxes__names_that_no_disk_can_hold(tmp_path: Path) -> None:
    records = [image_record(1), image_record(2, file_name="a" * 300)]
    path = write_coco(tmp_path / "x.json", images=records)
    write_picture(tmp_path / "1.png")
    with pytest.raises(DataError, match="File name too long"):
        load(path)


NUMBERED = [image_record(number) for number in (0, 1, 2)]


def write_annotations(root: Path, *splits: str) -> None:
    """Write instances_SPLIT.json of 0.png, 1.png and 2.png, without pictures."""
    for split in splits:
        write_coco(root / f"annotations/instances_{split}.json", images=NUMBERED)


def write_numbered(folder: Path) -> None:
    for number in (0, 1, 2):
        write_picture(folder / f"{number}.png")


@pytest.mark.parametrize("above", ["", "images/"])
@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("val", "validation"),
        ("val", "valid"),
        ("validation", "val"),
        ("val2017", "Valid"),
        ("valid", "val2017"),
        ("train", "training"),
        ("test", "testing_2017"),
    ],
)
def test_load_boxes__coco_folder_by_any_word_for_its_split(
    tmp_path: Path, above: str, word: str, name: str
) -> None:
    write_annotations(tmp_path, word)
    for folder in {"train", "validation", "test", name}:
        if folder == name or not {word[:3], name[:3].lower()} & {folder[:3]}:
            write_numbered(tmp_path / above / folder)
    assert set(load(tmp_path).images["path"]) == {f"{above}{name}/{i}.png" for i in range(3)}


def test_load_boxes__coco_folders_of_all_splits_with_the_same_names(tmp_path: Path) -> None:
    write_annotations(tmp_path, "train", "val")
    for folder in ("test", "train", "validation"):
        write_numbered(tmp_path / folder)
    images = load(tmp_path).images
    assert {path.split("/")[0] for path in images["path"][images["split"] == "val"]} == {
        "validation"
    }
    alone = load(tmp_path / "annotations/instances_val.json")
    assert alone.images["path"].tolist() == [f"validation/{number}.png" for number in range(3)]


def test_load_boxes__coco_folder_of_another_split_is_never_taken(tmp_path: Path) -> None:
    write_annotations(tmp_path, "val")
    write_numbered(tmp_path / "test")
    write_numbered(tmp_path / "images/train2017")
    with pytest.raises(DataError, match=r"are nowhere near it; .* named as another split"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("json_name", "folders"),
    [
        ("annotations/instances_val.json", ("valid", "validation")),
        ("annotations/instances_val.json", ("val", "images/val")),
        ("annotations/instances_val.json", ("photos", "pictures")),
        ("x.json", ("test", "train")),
    ],
)
def test_load_boxes__coco_folders_that_fit_equally(
    tmp_path: Path, json_name: str, folders: tuple[str, str]
) -> None:
    path = write_coco(tmp_path / json_name, images=NUMBERED)
    for folder in folders:
        write_numbered(tmp_path / folder)
    first, second = (re.escape(str(tmp_path / folder)) for folder in folders)
    with pytest.raises(DataError, match=f"can be those in {first} or {second}; call the right"):
        load(path)
    (tmp_path / folders[1] / "2.png").unlink()
    table = load(path)
    assert set(table.images["path"]) == {f"{folders[0]}/{number}.png" for number in range(3)}


def test_load_boxes__coco_folder_by_two_names_is_one(tmp_path: Path) -> None:
    write_annotations(tmp_path, "val")
    write_numbered(tmp_path / "valid")
    (tmp_path / "validation").symlink_to(tmp_path / "valid")
    assert len(load(tmp_path).images) == 3


def test_load_boxes__roboflow_keeps_to_its_own_folder(tmp_path: Path) -> None:
    write_coco(tmp_path / "valid/_annotations.coco.json", images=NUMBERED)
    for folder in ("train", "val", "valid"):
        write_numbered(tmp_path / folder)
    assert load(tmp_path).images["path"].tolist() == [f"valid/{number}.png" for number in range(3)]


def test_load_boxes__missing_images_are_not_taken_from_a_neighbour(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "mine/x.json", images=NUMBERED)
    write_picture(tmp_path / "mine/photos/0.png")
    write_numbered(tmp_path / "theirs")
    with pytest.raises(DataError, match=r"2 of 3 annotated images are not in .*photos/1.png"):
        load(path)
