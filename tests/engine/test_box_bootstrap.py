from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.box_sets import Document, draw_box_set, plain_pycocotools, twelve
from tlcli.engine import box_bootstrap
from tlcli.engine.box_bootstrap import affordable_resamples, resampled_metrics
from tlcli.engine.box_matches import match_boxes
from tlcli.engine.coco_settings import METRIC_NAMES
from tlcli.results.coco_documents import BoxPredictions


def repeat_images(
    document: Document, found: BoxPredictions, times: list[int]
) -> tuple[Document, list[dict[str, Any]]]:
    """Write image i `times[i]` times, each copy with an id, boxes and detections of its own."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results = []
    for image, count in zip(document["images"], times, strict=True):
        for _ in range(count):
            copy = {"image_id": len(images) + 1}
            images.append({**image, "id": len(images) + 1})
            for box in document["annotations"]:
                if box["image_id"] == image["id"]:
                    annotations.append({**box, **copy, "id": len(annotations) + 1})
            results += [{**r, **copy} for r in found.to_coco() if r["image_id"] == image["id"]]
    return {**document, "images": images, "annotations": annotations}, results


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_classes=st.integers(1, 4),
    num_truths=st.integers(1, 60),
    num_detections=st.integers(20, 300),
    crowd_share=st.sampled_from([0.0, 0.2]),
    times=st.lists(st.integers(0, 4), min_size=2, max_size=7),
)
def test_resampled_metrics__as_pycocotools_of_repeated_images(
    times: list[int], **values: Any
) -> None:
    document, found = draw_box_set(num_images=len(times), **values)
    repeated, results = repeat_images(document, found, times)
    metrics = resampled_metrics(
        match_boxes(document, found), np.array([times, [1] * len(times)], dtype=np.int32)
    )
    assert tuple(metrics) == METRIC_NAMES
    if results:
        expected = twelve(plain_pycocotools(repeated, results))
        actual = [values[0] for values in metrics.values()]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)
    expected = twelve(plain_pycocotools(document, found.to_coco()))
    actual = [values[1] for values in metrics.values()]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_resampled_metrics__every_image_once_with_ties() -> None:
    document, found = draw_box_set(
        seed=3, num_images=6, num_classes=3, num_truths=90, num_detections=900, has_ties=True
    )
    metrics = resampled_metrics(match_boxes(document, found), np.ones((1, 6), dtype=np.int32))
    expected = twelve(plain_pycocotools(document, found.to_coco()))
    actual = [values[0] for values in metrics.values()]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_resampled_metrics__blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    document, found = draw_box_set(
        seed=4, num_images=8, num_classes=3, num_truths=60, num_detections=300
    )
    matches = match_boxes(document, found)
    weights = np.random.default_rng(0).integers(0, 3, size=(50, 8)).astype(np.int32)
    whole = resampled_metrics(matches, weights)
    monkeypatch.setattr(box_bootstrap, "_BLOCK_VALUES", 700)
    for name, values in resampled_metrics(matches, weights).items():
        np.testing.assert_array_equal(values, whole[name])


def test_resampled_metrics__no_truth_in_the_resample() -> None:
    document, found = draw_box_set(
        seed=5, num_images=1, num_classes=2, num_truths=9, num_detections=30
    )
    document["images"].append({"id": 99, "width": 600, "height": 600})
    weights = np.array([[0, 2], [1, 1]], dtype=np.int32)
    metrics = resampled_metrics(match_boxes(document, found), weights)
    assert all(np.isnan(values[0]) for values in metrics.values())
    assert metrics["map"][1] > 0


def test_affordable_resamples__fewer_for_very_many_detections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document, found = draw_box_set(
        seed=6, num_images=4, num_classes=2, num_truths=30, num_detections=200
    )
    matches = match_boxes(document, found)
    assert affordable_resamples(matches, resamples=1000) == 1000
    per_resample = int(matches.in_range.sum()) + 8 * int(matches.matched.sum())
    monkeypatch.setattr(box_bootstrap, "_MAX_STEPS", 300 * per_resample)
    assert affordable_resamples(matches, resamples=1000) == 300
    monkeypatch.setattr(box_bootstrap, "_MAX_STEPS", per_resample)
    assert affordable_resamples(matches, resamples=1000) == 100
    assert affordable_resamples(matches, resamples=50) == 50
