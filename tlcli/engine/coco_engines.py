"""The COCO evaluation by pycocotools, which defines the numbers, or by a faster engine."""

import contextlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tlcli.engine.box_matches import BoxMatches
from tlcli.engine.coco_settings import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    RECALL_THRESHOLDS,
)
from tlcli.errors import ConfigError
from tlcli.results.coco_documents import BoxPredictions

CocoEngine = Literal["pycocotools", "fast"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CocoArrays:
    """What a COCO evaluation accumulates; -1 where a class has no such box.

    T overlaps, R recalls, K classes by growing category id, A area ranges, M limits.
    """

    precision: Floats
    """Shape (T, R, K, A, M)."""
    recall: Floats
    """Shape (T, K, A, M)."""
    scores: Floats
    """Shape (T, R, K, A, M): the score of the detection that reached the recall, else 0."""


def coco_engine(name: Literal["auto", "pycocotools", "fast"]) -> CocoEngine:
    """Choose the engine: `auto` is `fast` where faster-coco-eval is installed.

    Raises:
        ConfigError: If `fast` is asked for and not installed.
    """
    is_installed = importlib.util.find_spec("faster_coco_eval") is not None
    if name == "auto":
        return "fast" if is_installed else "pycocotools"
    if name == "fast" and not is_installed:
        raise ConfigError(
            "The COCO engine 'fast' needs the package faster-coco-eval, which is not installed: "
            "pip install 'tlcli[fast]', or choose 'auto' or 'pycocotools'."
        )
    return name


def accumulate_coco(
    ground_truth: Mapping[str, Any],
    predictions: BoxPredictions,
    *,
    matches: BoxMatches,
    engine: CocoEngine,
) -> CocoArrays:
    """Run one engine with the settings of the COCO challenge; both give the same bytes.

    Args:
        ground_truth: A document of `evaluable_ground_truth`.
        predictions: Of the same images and categories; may be none.
        matches: Between the two.
        engine: Whose code to run.
    """
    # pycocotools reports its progress on stdout, which belongs to our caller.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _make_evaluator(ground_truth, predictions, engine=engine)
        evaluator.evaluate()
        evaluator.accumulate()
    shape = (
        *(len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), matches.num_classes),
        *(len(AREA_RANGES), len(MAX_DETECTIONS)),
    )
    precision, recall, scores = (
        np.array(evaluator.eval[name], dtype=np.float64)
        for name in ("precision", "recall", "scores")
    )
    precision = precision.reshape(shape)
    if engine == "fast":
        _round_as_pycocotools(precision, matches)
    return CocoArrays(
        precision=precision,
        recall=recall.reshape(shape[:1] + shape[2:]),
        scores=scores.reshape(shape),
    )


def _round_as_pycocotools(precision: Floats, matches: BoxMatches) -> None:
    """Change in place the only entries in which faster-coco-eval differs, by their last bit.

    pycocotools divides by tp + fp + 2^-52, which is not tp + fp if that is 1. So where the first
    detection is right and the second wrong it has 1 / (1 + 2^-52) and not 1.
    """
    starts = np.searchsorted(matches.classes, np.arange(matches.num_classes + 1))
    is_perfect = (precision[:, 0] == 1).transpose(1, 2, 3, 0)
    for k, area, limit in np.argwhere(is_perfect.any(axis=3)).tolist():
        own = np.arange(starts[k], starts[k + 1])
        own = own[matches.ranks[own] < MAX_DETECTIONS[limit]]
        counted = matches.counted(own, area=area)
        for overlap in np.flatnonzero(is_perfect[k, area, limit]):
            second = own[np.flatnonzero(counted[:, overlap])[1:2]]
            if not matches.is_true[second, area, overlap].any():
                curve = precision[overlap, :, k, area, limit]
                curve[curve == 1] = 1 / (1 + np.spacing(1))


def _make_evaluator(
    ground_truth: Mapping[str, Any], predictions: BoxPredictions, *, engine: CocoEngine
) -> Any:
    if engine == "fast":
        from faster_coco_eval import COCO, COCOeval_faster

        index, evaluator = COCO, COCOeval_faster
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        index, evaluator = COCO, COCOeval
    found = {**ground_truth, "annotations": _result_annotations(predictions)}
    return evaluator(
        _indexed(index(), _with_fresh_annotations(ground_truth)), _indexed(index(), found), "bbox"
    )


def _indexed(index: Any, document: Mapping[str, Any]) -> Any:
    index.dataset = document
    index.createIndex()
    return index


def _with_fresh_annotations(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluators write into the annotations; polygons would only cost them time."""
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [{name: a[name] for name in names} for a in ground_truth["annotations"]]
    return {**ground_truth, "annotations": annotations}


def _result_annotations(predictions: BoxPredictions) -> list[dict[str, Any]]:
    """What COCO.loadRes makes of results, but for polygons, and for no results too."""
    results = predictions.to_coco()
    for number, result in enumerate(results, start=1):
        _, _, width, height = result["bbox"]
        result.update(id=number, area=width * height, iscrowd=0)
    return results
