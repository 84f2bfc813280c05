import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.engine.box_sets import draw_box_set
from tlcli.engine.box_metrics import BoxEvaluation, detection_report, evaluate_boxes
from tlcli.results.detection_files import write_detection_evaluation
from tlcli.results.records import EvalReport

DOCUMENT, FOUND = draw_box_set(
    seed=3, num_images=8, num_classes=3, num_truths=50, num_detections=250
)
DOCUMENT["annotations"] = [box for box in DOCUMENT["annotations"] if box["category_id"] != 10]
DOCUMENT["annotations"] = [{**box, "id": box["id"] - 1} for box in DOCUMENT["annotations"]]


@pytest.fixture(scope="module")
def evaluation() -> BoxEvaluation:
    return evaluate_boxes(DOCUMENT, FOUND, engine="pycocotools")


@pytest.fixture(scope="module")
def report(evaluation: BoxEvaluation) -> EvalReport:
    return detection_report(evaluation, split="test", resamples=10)


@pytest.fixture
def folder(tmp_path: Path, evaluation: BoxEvaluation, report: EvalReport) -> Path:
    write_detection_evaluation(
        tmp_path / "test",
        report=report,
        predictions=FOUND,
        ground_truth=DOCUMENT,
        curves=evaluation.curves(),
    )
    return tmp_path / "test"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_write_detection_evaluation__files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "ground_truth.json",
        "metrics.json",
        "per_class.csv",
        "precision_recall.csv",
        "precision_recall.png",
        "predictions.json",
    ]
    with Image.open(folder / "precision_recall.png") as image:
        image.load()
        assert image.format == "PNG"


def test_write_detection_evaluation__pycocotools_reads_the_same_numbers(
    folder: Path, report: EvalReport
) -> None:
    truth = COCO(str(folder / "ground_truth.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    np.testing.assert_allclose(evaluator.stats, list(report.metrics.values()), rtol=0, atol=1e-12)


def test_write_detection_evaluation__metrics_and_classes(folder: Path, report: EvalReport) -> None:
    document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert document["kind"] == "detection"
    assert document["metrics"] == report.metrics
    rows = read_csv(folder / "per_class.csv")
    assert list(rows[0]) == ["class", "ap", "ap50", "ar", "support"]
    assert rows[1] == {"class": "class 1", "ap": "", "ap50": "", "ar": "", "support": "0"}
    assert float(rows[0]["ap"]) == report.per_class[0]["ap"]


def test_write_detection_evaluation__precision_recall(
    folder: Path, evaluation: BoxEvaluation, report: EvalReport
) -> None:
    rows = read_csv(folder / "precision_recall.csv")
    assert len(rows) == 2 * 10 * 101
    assert {row["class"] for row in rows} == {"class 0", "class 2"}
    half = [row for row in rows if row["class"] == "class 2" and row["iou"] == "0.5"]
    precision = [float(row["precision"]) for row in half]
    assert np.mean(precision) == pytest.approx(report.per_class[2]["ap50"], abs=1e-12)
    highest = evaluation.arrays.recall[0, 2, 0, -1]
    for row in half:
        assert (row["score_threshold"] == "") == (float(row["recall"]) > highest)
    scores = [float(row["score_threshold"]) for row in half if row["score_threshold"]]
    assert scores == sorted(scores, reverse=True)
    assert set(scores) <= set(FOUND.scores.tolist())


def test_write_detection_evaluation__other_report(
    tmp_path: Path, evaluation: BoxEvaluation, report: EvalReport
) -> None:
    fewer = {**DOCUMENT, "images": DOCUMENT["images"][:-1]}
    with pytest.raises(ValueError, match="ground truth of 7 images and 3 classes, but a report"):
        write_detection_evaluation(
            tmp_path,
            report=report,
            predictions=FOUND,
            ground_truth=fewer,
            curves=evaluation.curves(),
        )
