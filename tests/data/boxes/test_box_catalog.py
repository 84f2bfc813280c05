from pathlib import Path

import pytest
from tiny_boxes import write_coco, write_picture, write_voc, write_yolo

from tlcli.data.boxes.box_catalog import UNDERSTOOD, load_boxes
from tlcli.errors import DataError


def load(spec: str | Path) -> None:
    load_boxes(str(spec), on_bad_box="fix")


def test_load_boxes__keeps_the_users_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path / "data", {"a": [("cat", (1, 2, 3, 4))]})
    monkeypatch.chdir(tmp_path)
    table = load_boxes("data/../data/", on_bad_box="fix")
    assert table.spec == "data/../data/"
    assert table.root == tmp_path / "data"


def test_load_boxes__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "nowhere")
    assert str(caught.value).endswith(UNDERSTOOD)
    for word in ("COCO", "Roboflow", "Pascal VOC", "YOLO", "sample:digits"):
        assert word in UNDERSTOOD


def test_load_boxes__classification_data(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/2.png"):
        write_picture(tmp_path / name)
        write_picture(tmp_path / "split/train" / name)
    for path in (tmp_path, tmp_path / "split"):
        with pytest.raises(
            DataError, match="looks like classification data, which `tlcli finetune`"
        ):
            load(path)


def test_load_boxes__one_folder_too_high(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", {"a": [("cat", (1, 2, 3, 4))]})
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"no annotations, but its folder 'VOC2007' has; give"):
        load(tmp_path)


def test_load_boxes__folders_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations of a kind understood here: it has no fold"):
        load(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="it holds 'annotations'"):
        load(tmp_path)


def test_load_boxes__files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"a.csv is a file of no kind understood here"):
        load(tmp_path / "a.csv")


def test_load_boxes__unknown_sample() -> None:
    with pytest.raises(DataError, match=r"'sample:digit'\. Did you mean sample:digits\?"):
        load("sample:digit")


def test_load_boxes__sample_digits() -> None:
    table = load_boxes("sample:digits", on_bad_box="fail")
    assert table.spec == "sample:digits"
    counts = table.counts()
    assert {split: part["images"] for split, part in counts.items()} == {
        "train": 160,
        "val": 40,
        "test": 40,
    }
    assert [counts[split]["negatives"] for split in table.splits] == [8, 2, 2]
    assert table.classes == tuple("0123456789")
    assert min(counts["train"]["per_class"].values()) >= 30
    assert (table.notes, table.repairs) == ((), ())


def test_load_boxes__coco_comes_before_a_yaml_beside_it(tmp_path: Path) -> None:
    write_coco(tmp_path / "annotations/instances_val.json", folder=tmp_path / "val")
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: nowhere\n")
    assert load_boxes(str(tmp_path), on_bad_box="fix").splits == ("val",)


def test_load_boxes__one_folder_too_high_for_any_layout(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", {"a": [("cat", (1, 2, 3, 4))]})
    write_yolo(tmp_path / "coco8", {"a": "0 0.5 0.5 0.1 0.1"}, yaml="train: images\nnames: [a]\n")
    write_picture(tmp_path / "photos/1.png")
    with pytest.raises(DataError, match=r"but its folders 'VOC2007', 'coco8' have; give one\."):
        load(tmp_path)
