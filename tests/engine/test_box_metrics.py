import copy
import dataclasses
import math

import numpy as np
import pytest

from tests.engine.box_sets import draw_box_set, plain_pycocotools, twelve, without_detections
from tlcli.engine import box_bootstrap
from tlcli.engine.box_metrics import BoxEvaluation, detection_report, evaluate_boxes
from tlcli.engine.coco_engines import CocoEngine
from tlcli.engine.coco_settings import METRIC_NAMES
from tlcli.errors import DataError, NonFiniteLossError

DOCUMENT, FOUND = draw_box_set(
    seed=7, num_images=12, num_classes=4, num_truths=80, num_detections=400, crowd_share=0.05
)
EMPTY = without_detections()


@pytest.fixture(scope="module")
def evaluation() -> BoxEvaluation:
    return evaluate_boxes(DOCUMENT, FOUND, engine="pycocotools")


@pytest.mark.parametrize("engine", ["pycocotools", "fast"])
def test_evaluate_boxes__twelve_numbers_to_the_last_bit(engine: CocoEngine) -> None:
    before = copy.deepcopy(DOCUMENT)
    evaluation = evaluate_boxes(DOCUMENT, FOUND, engine=engine)
    oracle = plain_pycocotools(copy.deepcopy(DOCUMENT), FOUND.to_coco())
    assert tuple(evaluation.metrics) == METRIC_NAMES
    assert list(evaluation.metrics.values()) == twelve(oracle)
    assert before == DOCUMENT


@pytest.mark.parametrize("engine", ["pycocotools", "fast"])
def test_evaluate_boxes__no_detections_is_zero(engine: CocoEngine) -> None:
    evaluation = evaluate_boxes(DOCUMENT, EMPTY, engine=engine)
    assert set(evaluation.metrics.values()) == {0.0}
    report = detection_report(evaluation, split="val", resamples=20)
    assert report.intervals["map"] == (0.0, 0.0)
    assert report.per_class[0]["ap"] == 0.0


@pytest.mark.parametrize("engine", ["pycocotools", "fast"])
def test_evaluate_boxes__no_ground_truth_is_nan(engine: CocoEngine) -> None:
    evaluation = evaluate_boxes({**DOCUMENT, "annotations": []}, FOUND, engine=engine)
    assert all(math.isnan(value) for value in evaluation.metrics.values())
    report = detection_report(evaluation, split="val", resamples=20)
    assert all(math.isnan(low) and math.isnan(high) for low, high in report.intervals.values())
    document = report.to_json()
    assert set(document["metrics"].values()) == {None}
    assert document["per_class"][0] == {
        **{"class": "class 0", "ap": None, "ap50": None, "ar": None, "support": 0}
    }


def test_evaluate_boxes__class_without_truth_is_in_no_mean() -> None:
    boxes = [box for box in DOCUMENT["annotations"] if box["category_id"] != 3]
    evaluation = evaluate_boxes({**DOCUMENT, "annotations": boxes}, FOUND, engine="fast")
    rows = detection_report(evaluation, split="val", resamples=5).per_class
    assert rows[0]["ap"] is None
    others = [row["ap"] for row in rows[1:]]
    assert evaluation.metrics["map"] == pytest.approx(np.mean(others), abs=1e-12)


def test_evaluate_boxes__annotation_id_0_is_found_too() -> None:
    boxes = [{**box, "id": box["id"] - 1} for box in DOCUMENT["annotations"]]
    from_zero = evaluate_boxes({**DOCUMENT, "annotations": boxes}, FOUND, engine="pycocotools")
    assert from_zero.metrics == evaluate_boxes(DOCUMENT, FOUND, engine="pycocotools").metrics


def test_evaluate_boxes__no_images() -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate_boxes({**DOCUMENT, "images": [], "annotations": []}, EMPTY, engine="fast")


def test_evaluate_boxes__unknown_ids() -> None:
    strange = dataclasses.replace(FOUND, image_ids=FOUND.image_ids + 1)
    with pytest.raises(ValueError, match=r"boxes of images that the ground truth lacks: \[6, 8"):
        evaluate_boxes(DOCUMENT, strange, engine="fast")
    strange = dataclasses.replace(FOUND, category_ids=np.full(len(FOUND), 4))
    with pytest.raises(ValueError, match=r"of categories that the ground truth lacks: \[4\]"):
        evaluate_boxes(DOCUMENT, strange, engine="fast")


def test_evaluate_boxes__not_finite() -> None:
    scores = FOUND.scores.copy()
    scores[:2] = np.nan
    with pytest.raises(NonFiniteLossError, match="2 of 400 detections have boxes or scores"):
        evaluate_boxes(DOCUMENT, dataclasses.replace(FOUND, scores=scores), engine="fast")


def test_detection_report__rows_and_intervals(evaluation: BoxEvaluation) -> None:
    report = detection_report(evaluation, split="val", seed=1, resamples=200)
    assert (report.kind, report.split, report.num_images) == ("detection", "val", 12)
    assert report.metrics == evaluation.metrics
    assert tuple(report.intervals) == METRIC_NAMES
    assert all(low <= high for low, high in report.intervals.values())
    low, high = report.intervals["mar_100"]
    assert low < report.metrics["mar_100"] < high
    aps = [row["ap"] for row in report.per_class]
    assert np.mean(aps) == pytest.approx(report.metrics["map"], abs=1e-12)
    ars = [row["ar"] for row in report.per_class]
    assert np.mean(ars) == pytest.approx(report.metrics["mar_100"], abs=1e-12)
    supports = [
        sum(b["category_id"] == 3 + 7 * k and not b["iscrowd"] for b in DOCUMENT["annotations"])
        for k in range(4)
    ]
    assert [row["support"] for row in report.per_class] == supports
    assert report.remarks == ()


def test_detection_report__rows_in_the_order_of_the_categories() -> None:
    reverse = {**DOCUMENT, "categories": DOCUMENT["categories"][::-1]}
    rows = detection_report(
        evaluate_boxes(reverse, FOUND, engine="pycocotools"), split="val", resamples=2
    ).per_class
    straight = detection_report(
        evaluate_boxes(DOCUMENT, FOUND, engine="pycocotools"), split="val", resamples=2
    ).per_class
    assert list(rows) == list(straight)[::-1]


def test_detection_report__seed_decides(evaluation: BoxEvaluation) -> None:
    def intervals(seed: int) -> dict[str, tuple[float, float]]:
        return dict(detection_report(evaluation, split="v", seed=seed, resamples=50).intervals)

    assert intervals(1) == intervals(1)
    assert intervals(1) != intervals(2)


def test_detection_report__draws_as_plain_resampling(evaluation: BoxEvaluation) -> None:
    random = np.random.Generator(np.random.Philox(5))
    drawn = [np.bincount(random.integers(12, size=12), minlength=12) for _ in range(40)]
    values = box_bootstrap.resampled_metrics(evaluation.matches, np.array(drawn, dtype=np.int32))
    report = detection_report(evaluation, split="v", seed=5, resamples=40)
    for name, pair in report.intervals.items():
        assert pair == pytest.approx(np.quantile(values[name], [0.025, 0.975]), abs=1e-12)


def test_detection_report__remarks(
    evaluation: BoxEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_bootstrap, "_MAX_STEPS", 1)
    report = detection_report(evaluation, split="val", resamples=150)
    assert report.remarks == (
        "The intervals are of 100 resamples instead of 150: there are many boxes.",
    )
    boxes = [box for box in DOCUMENT["annotations"] if box["category_id"] != 10]
    fewer = evaluate_boxes({**DOCUMENT, "annotations": boxes}, FOUND, engine="fast")
    assert detection_report(fewer, split="val", resamples=3).remarks == (
        "1 of 4 classes has no box in split 'val' and is left out of the means: 'class 1'.",
    )


def test_curves__mean_is_ap(evaluation: BoxEvaluation) -> None:
    curves = evaluation.curves()
    assert list(curves.class_names) == ["class 0", "class 1", "class 2", "class 3"]
    assert curves.precision.mean() == pytest.approx(evaluation.metrics["map"], abs=1e-12)
    assert curves.recall.mean() == pytest.approx(evaluation.metrics["mar_100"], abs=1e-12)
