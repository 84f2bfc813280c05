"""The files of one evaluation of a detector, in `RUN/evaluation/SPLIT/`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.results.atomic import make_folder, write_csv, write_text
from tlcli.results.coco_documents import BoxPredictions, evaluable_ground_truth
from tlcli.results.counted import counted
from tlcli.results.detection_curves import PrecisionRecall
from tlcli.results.detection_figures import draw_precision_recall
from tlcli.results.json_text import to_json_text
from tlcli.results.records import EvalReport


def write_detection_evaluation(
    folder: Path,
    *,
    report: EvalReport,
    predictions: BoxPredictions,
    ground_truth: Mapping[str, Any],
    curves: PrecisionRecall,
) -> None:
    """Write everything about the detections in one split; the folder is made if need be.

    - `metrics.json`: the document of `evaluate --json`.
    - `per_class.csv`: its `per_class` rows; a number that is not defined is an empty cell.
    - `predictions.json`: COCO results with the user's ids, nothing rounded, and
      `ground_truth.json`: what they were compared with. `COCOeval` of the two gives the numbers
      of the report. Annotations are numbered anew only if their ids are not positive and unique.
    - `precision_recall.csv`: `class`, `iou`, `recall`, `precision`, `score_threshold`, for 10
      overlaps and 101 recalls per class that has ground truth; `.png` is its picture.

    Args:
        folder: Where to write.
        report: The metrics of these predictions.
        predictions: All of them.
        ground_truth: The COCO document of the split.
        curves: Precision over recall of these predictions.

    Raises:
        MachineError: If the disk refuses.
        ValueError: If the arguments do not belong together.
    """
    _check_agreement(report, ground_truth=ground_truth, curves=curves)
    make_folder(folder)
    write_text(folder / "metrics.json", to_json_text(report.to_json()))
    write_csv(
        folder / "per_class.csv",
        header=list(report.per_class[0]),
        rows=(list(row.values()) for row in report.per_class),
    )
    _write_compact(folder / "predictions.json", predictions.to_coco())
    _write_compact(folder / "ground_truth.json", evaluable_ground_truth(ground_truth))
    write_csv(
        folder / "precision_recall.csv",
        header=["class", "iou", "recall", "precision", "score_threshold"],
        rows=curves.rows(),
    )
    images = counted(report.num_images, "image")
    draw_precision_recall(
        folder / "precision_recall.png",
        curves=curves,
        title=f"{report.split}: {images}, mAP {report.metrics['map']:.3f}",
    )


def _check_agreement(
    report: EvalReport, *, ground_truth: Mapping[str, Any], curves: PrecisionRecall
) -> None:
    num_images, num_classes = len(ground_truth["images"]), len(ground_truth["categories"])
    reported = (report.num_images, len(report.per_class))
    if reported != (num_images, num_classes) or len(curves.class_names) != num_classes:
        raise ValueError(
            f"ground truth of {num_images} images and {num_classes} classes, but a report of "
            f"{reported[0]} and {reported[1]} and curves of {len(curves.class_names)} classes"
        )


def _write_compact(path: Path, values: object) -> None:
    write_text(path, json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n")
