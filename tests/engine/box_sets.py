"""Drawn ground truth and detections, and the numbers that plain pycocotools has for them."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tlcli.results.coco_documents import BoxPredictions

Document = dict[str, Any]


def draw_box_set(
    *,
    seed: int,
    num_images: int,
    num_classes: int,
    num_truths: int,
    num_detections: int,
    crowd_share: float = 0.1,
    has_ties: bool = False,
) -> tuple[Document, BoxPredictions]:
    """Boxes of all COCO sizes; detections shift true ones by little or much; ids have gaps."""
    random = np.random.default_rng(seed)
    sizes = np.exp(random.uniform(np.log(4), np.log(300), size=(num_truths, 2)))
    boxes = np.concatenate((random.random((num_truths, 2)) * 300, sizes), axis=1)
    truth_images = random.integers(num_images, size=num_truths)
    truth_classes = random.integers(num_classes, size=num_truths)
    annotations = [
        {
            "id": i + 1,
            "image_id": 5 + 2 * int(truth_images[i]),
            "category_id": 3 + 7 * int(truth_classes[i]),
            "bbox": boxes[i].tolist(),
            "area": float(boxes[i, 2] * boxes[i, 3] * random.uniform(0.5, 1)),
            "iscrowd": int(random.random() < crowd_share),
        }
        for i in range(num_truths)
    ]
    document = {
        "info": {},
        "images": [{"id": 5 + 2 * i, "width": 600, "height": 600} for i in range(num_images)],
        "annotations": annotations,
        "categories": [{"id": 3 + 7 * k, "name": f"class {k}"} for k in range(num_classes)],
    }
    source = random.integers(num_truths, size=num_detections)
    shift = random.choice([0.0, 0.03, 0.1, 0.4], size=(num_detections, 1))
    moves = random.normal(size=(num_detections, 4)) * shift * np.tile(sizes[source], 2)
    found = boxes[source] + moves
    found[:, 2:] = np.maximum(found[:, 2:], 0.5)
    is_other = random.random(num_detections) < 0.2
    classes = np.where(
        is_other, random.integers(num_classes, size=num_detections), truth_classes[source]
    )
    scores = random.permutation(num_detections) / num_detections
    return document, BoxPredictions(
        image_ids=5 + 2 * truth_images[source],
        category_ids=3 + 7 * classes,
        boxes=found,
        scores=np.round(scores, 1) if has_ties else scores,
    )


def without_detections() -> BoxPredictions:
    empty = np.empty(0, dtype=np.int64)
    return BoxPredictions(
        image_ids=empty, category_ids=empty, boxes=np.empty((0, 4)), scores=np.empty(0)
    )


def plain_pycocotools(document: Document, results: list[dict[str, Any]]) -> COCOeval:
    """Evaluate as the README of pycocotools does; `stats` holds the twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def twelve(evaluator: COCOeval) -> list[float]:
    """The numbers with NaN for -1."""
    return [float("nan") if value == -1 else float(value) for value in evaluator.stats]
