"""`tlcli evaluate` on detectors: the same numbers again, and categories matched by name."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import make_image_folder

from recipes.box_runs import IDS, detect, make_box_folder
from recipes.runs import evaluate, record_of, rows_of
from tlcli.errors import ConfigError, DataError, WeightsError

COUNTS = {"train": 6, "val": 4, "test": 3}
EMPTY = ("train/2", "val/1")
OTHER_IDS = {"cat": 1, "ant": 5, "bee": 90}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, resnet_file: Path) -> tuple[Path, Path]:
    """A run that finds some of the boxes, and its data."""
    root = tmp_path_factory.mktemp("detected")
    data = make_box_folder(root / "scenes", counts=COUNTS, empty=EMPTY)
    options = {"schedule": "0:head,1:layer4", "batch_size": 1, "lr": 2e-3, "epochs": 2}
    detect(root / "run", data=data, model="fcos", weights=resnet_file, **options)
    return root / "run", data


def boxes_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "predictions.json").read_text())
    return found


def move_with_data(trained: tuple[Path, Path], root: Path) -> None:
    """Copy a run and its data to `run` and `scenes`, where the run then looks for them."""
    for source, name in zip(trained, ("run", "scenes"), strict=True):
        shutil.copytree(source, root / name)
    record = record_of(root / "run")
    record["config"]["data"] = str(root / "scenes")
    (root / "run" / "run.json").write_text(json.dumps(record))


def plain(document: Any) -> Any:
    return json.loads(json.dumps(document))


def test_evaluate__takes_the_test_part_where_there_is_one(trained: tuple[Path, Path]) -> None:
    run, _ = trained

    evaluation, talk = evaluate(run=run)

    assert evaluation.report.split == "test"
    assert evaluation.folder == run / "evaluation" / "test"
    found = plain(evaluation.report.to_json())
    expected = record_of(run)["results"]["test"]
    assert expected.pop("num_classes") == len(found["per_class"])
    assert {key: found[key] for key in expected} == expected
    assert found["metrics"]["mar_100"] > 0
    assert not any("flattering" in warning for warning in talk.warnings)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_evaluate__threads_change_nothing(trained: tuple[Path, Path], num_workers: int) -> None:
    run, _ = trained

    evaluation, _ = evaluate(run=run, split="train", num_workers=num_workers)

    expected = "expected.json"
    path = run.parent / expected
    if not path.exists():
        path.write_bytes((evaluation.folder / "predictions.json").read_bytes())
    assert (evaluation.folder / "predictions.json").read_bytes() == path.read_bytes()
    assert evaluation.report.num_images == COUNTS["train"]


def test_evaluate__categories_of_other_data_are_matched_by_name(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same pictures, with other category ids in another order."""
    run, _ = trained
    data = make_box_folder(tmp_path / "again", counts=COUNTS, empty=EMPTY, ids=OTHER_IDS)
    own, _ = evaluate(run=run, split="test")

    evaluation, _ = evaluate(run=run, data=data, split="test")

    assert evaluation.folder.parent == run / "evaluation"
    assert re.fullmatch(r"again-[0-9a-f]{8}-test", evaluation.folder.name)
    assert evaluation.report.metrics == pytest.approx(dict(own.report.metrics), nan_ok=True)
    other_id = {IDS[name]: number for name, number in OTHER_IDS.items()}
    expected = [{**b, "category_id": other_id[b["category_id"]]} for b in boxes_of(own.folder)]
    assert boxes_of(evaluation.folder) == expected
    assert [row["class"] for row in evaluation.report.per_class] == ["cat", "ant", "bee"]


def test_evaluate__data_with_some_of_the_classes(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = trained
    data = make_box_folder(tmp_path / "some", counts={"val": 3}, ids={"cat": 2, "ant": 1})

    evaluation, _ = evaluate(run=run, data=data)

    assert evaluation.report.split == "val"
    assert {box["category_id"] for box in boxes_of(evaluation.folder)} <= {1, 2}
    assert [row["class"] for row in evaluation.report.per_class] == ["ant", "cat"]


def test_evaluate__class_that_the_model_does_not_know(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = trained
    data = make_box_folder(
        tmp_path / "more", counts={"val": 2}, ids={"ant": 1, "bee": 2}, names={"bee": "aardvark"}
    )

    with pytest.raises(
        DataError,
        match=r"^1 of the 2 classes with boxes are unknown to the model: 'aardvark'\. It knows "
        "'bee', 'ant', 'cat'",
    ) as caught:
        evaluate(run=run, data=data)
    assert caught.value.exit_code == 3


def test_evaluate__limit_of_other_data(trained: tuple[Path, Path]) -> None:
    run, data = trained

    evaluation, _ = evaluate(run=run, data=data, split="train", limit=2)

    assert evaluation.report.num_images == 2
    assert len({box["image_id"] for box in boxes_of(evaluation.folder)}) <= 2


def test_evaluate__a_run_that_was_moved(trained: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "moved")

    evaluation, _ = evaluate(run=tmp_path / "moved")

    assert evaluation.folder == tmp_path / "moved" / "evaluation" / "test"
    found = plain(evaluation.report.to_json())["metrics"]
    assert found == record_of(trained[0])["results"]["test"]["metrics"]


def test_evaluate__annotations_that_changed_since_are_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    move_with_data(trained, tmp_path)
    evaluate(run=tmp_path / "run")
    (tmp_path / "scenes" / "val" / "0.png").rename(tmp_path / "scenes" / "val" / "9.png")
    text = tmp_path / "scenes" / "annotations" / "instances_val.json"
    text.write_text(text.read_text().replace('"0.png"', '"9.png"'))

    with pytest.raises(DataError, match=r"changed since .*1 vanished \(.*val/0\.png"):
        evaluate(run=tmp_path / "run")


def test_evaluate__boxes_that_changed_since_are_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    move_with_data(trained, tmp_path)
    text = tmp_path / "scenes" / "annotations" / "instances_test.json"
    document = json.loads(text.read_text())
    document["annotations"][0]["bbox"][2] -= 1
    text.write_text(json.dumps(document))

    with pytest.raises(DataError, match="scenes changed since the run was trained"):
        evaluate(run=tmp_path / "run")
    again, _ = evaluate(run=tmp_path / "run", data=tmp_path / "scenes")
    assert again.report.num_images == COUNTS["test"]


def test_evaluate__all_splits_of_data_whose_ids_are_those_of_each_split(
    trained: tuple[Path, Path],
) -> None:
    run, data = trained

    evaluation, _ = evaluate(run=run, data=data, split="all")

    assert evaluation.report.num_images == sum(COUNTS.values())
    truth = json.loads((evaluation.folder / "ground_truth.json").read_text())
    assert [image["id"] for image in truth["images"]] == list(range(1, 14))


def test_evaluate__a_class_without_boxes_need_not_be_known(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = trained
    data = make_box_folder(tmp_path / "data", counts={"val": 3}, seed=5)
    text = data / "annotations" / "instances_val.json"
    document = json.loads(text.read_text())
    document["categories"].append({"id": 99, "name": "unicorn"})
    text.write_text(json.dumps(document))

    evaluation, _ = evaluate(run=run, data=data)

    assert evaluation.report.num_images == 3
    document["annotations"][0]["category_id"] = 99
    text.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"1 of the \d classes .* unknown to the model: 'unicorn'"):
        evaluate(run=run, data=data)


def test_evaluate__part_without_boxes_is_told(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "data", counts={"val": 2, "test": 1}, empty=("test/0",))

    with pytest.raises(DataError, match=r"The test part of .*data has no boxes"):
        evaluate(run=trained[0], data=data)
    evaluation, _ = evaluate(run=trained[0], data=data, split="val")
    assert evaluation.report.num_images == 2


def test_evaluate__bad_images_and_boxes_of_other_data(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = trained
    data = make_box_folder(tmp_path / "bad", counts={"val": 3})
    (data / "val" / "1.png").write_bytes((data / "val" / "1.png").read_bytes()[:300])
    path = data / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [80, 60, 50, 40]  # far over the edge of 96 x 72
    path.write_text(json.dumps(document))

    with pytest.raises(DataError, match=r"box \[80, 60, 50, 40\], reaching outside the image"):
        evaluate(run=run, data=data, on_bad_box="fail", on_bad_image="skip")
    evaluation, _ = evaluate(run=run, data=data, on_bad_image="skip")

    skipped = rows_of(evaluation.folder / "skipped_images.csv")
    repairs = rows_of(evaluation.folder / "repairs.csv")
    assert [row["path"] for row in skipped] == ["val/1.png"]
    assert [row["path"] for row in repairs] == ["val/0.png"]
    assert evaluation.report.num_images == 2
    truth = json.loads((evaluation.folder / "ground_truth.json").read_text())
    assert truth["annotations"][0]["bbox"] == [80, 60, 16, 12]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"split": "all"}, ConfigError, "--split all would mix images trained on"),
        ({"limit": 3}, ConfigError, "--limit has no effect on a run folder and its data"),
        ({"limit": 0}, ConfigError, "--limit has no effect on a run folder and its data"),
        ({"mean": "0.5"}, ConfigError, "--mean has no effect on a run folder"),
        ({"on_bad_box": "drop"}, ConfigError, "--on-bad-box has no effect on a run folder"),
        ({"batch_size": 8}, ConfigError, "--batch-size 8 has no effect on a detector"),
    ],
    ids=str,
)
def test_evaluate__of_a_run_refuses_what_has_no_meaning(
    trained: tuple[Path, Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(run=trained[0], **options)


def test_evaluate__class_folders_are_no_data_for_a_detector(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=1)

    with pytest.raises(DataError, match="looks like classification data"):
        evaluate(run=trained[0], data=data)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weights": "none"}, ConfigError, "--weights none: a random head knows no classes"),
        ({"offline": True}, WeightsError, "'COCO_V1' of torchvision/fasterrcnn_mobilenet"),
        (
            {"weights": "V9", "offline": True},
            WeightsError,
            "'V9' is no file here and no weight tag",
        ),
    ],
    ids=str,
)
def test_evaluate__pretrained_detector_that_is_not_to_be_had(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    model = "fasterrcnn_mobilenet_v3_large_320_fpn"

    with pytest.raises(error, match=words):
        evaluate(model=model, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_evaluate__of_a_classification_run_still_works(scheduled_run: Path) -> None:
    evaluation, _ = evaluate(run=scheduled_run, split="test", batch_size=4)

    assert evaluation.report.kind == "classification"
    assert (
        plain(evaluation.report.metrics) == record_of(scheduled_run)["results"]["test"]["metrics"]
    )
    with pytest.raises(ConfigError, match="--on-bad-box has no effect on a run folder"):
        evaluate(run=scheduled_run, split="test", on_bad_box="drop")


def test_evaluate__on_the_images_that_it_learnt_from_is_told(trained: tuple[Path, Path]) -> None:
    run, data = trained

    _, on_test = evaluate(run=run, data=data)
    _, on_all = evaluate(run=run, data=data, split="all")

    wanted = "Of the 13 images 6 in the part that this run was trained on and 4 in the one that"
    assert not any("flattering" in warning for warning in on_test.warnings)
    assert next(w for w in on_all.warnings if "flattering" in w).startswith(wanted)
