import importlib.util
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.box_sets import draw_box_set, plain_pycocotools, without_detections
from tlcli.engine.box_matches import match_boxes
from tlcli.engine.coco_engines import CocoArrays, CocoEngine, accumulate_coco, coco_engine
from tlcli.engine.coco_settings import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    RECALL_THRESHOLDS,
)
from tlcli.errors import ConfigError
from tlcli.results.coco_documents import BoxPredictions

NAMES = ("precision", "recall", "scores")


def run(document: dict[str, Any], found: BoxPredictions, engine: CocoEngine) -> CocoArrays:
    return accumulate_coco(document, found, matches=match_boxes(document, found), engine=engine)


def assert_same_bytes(first: CocoArrays, second: CocoArrays) -> None:
    for name in NAMES:
        one, two = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one, two, err_msg=name)
        assert one.tobytes() == two.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 8),
    num_classes=st.integers(1, 5),
    num_truths=st.integers(1, 60),
    num_detections=st.integers(1, 400),
    crowd_share=st.sampled_from([0.0, 0.2, 1.0]),
    has_ties=st.booleans(),
)
def test_accumulate_coco__engines_give_the_same_bytes(**values: Any) -> None:
    document, found = draw_box_set(**values)
    arrays = {engine: run(document, found, engine) for engine in ("pycocotools", "fast")}
    assert_same_bytes(arrays["pycocotools"], arrays["fast"])
    oracle = plain_pycocotools(document, found.to_coco()).eval
    for name in NAMES:
        assert getattr(arrays["fast"], name).tobytes() == oracle[name].tobytes()


@pytest.mark.parametrize("has_ties", [False, True])
def test_accumulate_coco__more_than_100_detections_per_image(has_ties: bool) -> None:
    document, found = draw_box_set(
        seed=1, num_images=2, num_classes=2, num_truths=80, num_detections=1500, has_ties=has_ties
    )
    assert_same_bytes(run(document, found, "pycocotools"), run(document, found, "fast"))


def test_accumulate_coco__classes_without_detections_and_without_truth() -> None:
    document, found = draw_box_set(
        seed=2, num_images=6, num_classes=40, num_truths=30, num_detections=60
    )
    first, second = run(document, found, "pycocotools"), run(document, found, "fast")
    assert_same_bytes(first, second)
    all_areas = first.recall[0, :, 0, -1]
    assert {-1.0, 0.0} < set(all_areas.tolist())


def test_accumulate_coco__no_detections_at_all() -> None:
    document, _ = draw_box_set(seed=3, num_images=3, num_classes=2, num_truths=9, num_detections=1)
    first = run(document, without_detections(), "pycocotools")
    assert_same_bytes(first, run(document, without_detections(), "fast"))
    assert first.precision.max() == 0


def test_accumulate_coco__first_right_and_second_wrong_is_a_hair_below_one() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    document, _ = draw_box_set(seed=0, num_images=1, num_classes=1, num_truths=1, num_detections=1)
    document["annotations"] = [
        {"id": 1, "image_id": 5, "category_id": 3, "bbox": box, "area": 2500.0, "iscrowd": 0}
    ]
    found = BoxPredictions(
        image_ids=np.array([5, 5]),
        category_ids=np.array([3, 3]),
        boxes=np.array([box, [300.0, 300.0, 9.0, 9.0]]),
        scores=np.array([0.9, 0.8]),
    )
    for engine in ("pycocotools", "fast"):
        assert run(document, found, engine).precision[0, 0, 0, 0, -1] == 1 - 2.0**-52


def test_accumulate_coco__writes_nothing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    document, found = draw_box_set(
        seed=4, num_images=2, num_classes=2, num_truths=5, num_detections=9
    )
    for engine in ("pycocotools", "fast"):
        run(document, found, engine)
    assert capsys.readouterr() == ("", "")


def test_settings__are_those_of_pycocotools() -> None:
    document, found = draw_box_set(
        seed=5, num_images=1, num_classes=1, num_truths=1, num_detections=1
    )
    params = plain_pycocotools(document, found.to_coco()).params
    np.testing.assert_array_equal(IOU_THRESHOLDS, params.iouThrs)
    np.testing.assert_array_equal(RECALL_THRESHOLDS, params.recThrs)
    assert list(MAX_DETECTIONS) == params.maxDets
    assert [list(limits) for limits in AREA_RANGES.values()] == params.areaRng
    assert list(AREA_RANGES) == params.areaRngLbl


def test_coco_engine__auto_is_fast_where_installed() -> None:
    assert coco_engine("auto") == "fast"
    assert coco_engine("pycocotools") == "pycocotools"


def test_coco_engine__not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    assert coco_engine("auto") == "pycocotools"
    with pytest.raises(ConfigError, match=r"pip install 'tlcli\[fast\]'"):
        coco_engine("fast")
