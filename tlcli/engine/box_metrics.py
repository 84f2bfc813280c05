"""The twelve COCO numbers of a detector, with bootstrap intervals and a row per class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tlcli.data.table import some_names
from tlcli.engine.box_bootstrap import affordable_resamples, resampled_metrics
from tlcli.engine.box_matches import BoxMatches, match_boxes
from tlcli.engine.coco_engines import CocoArrays, CocoEngine, accumulate_coco
from tlcli.engine.coco_settings import AREA_RANGES, MAX_DETECTIONS, METRIC_NAMES
from tlcli.engine.metrics import CONFIDENCE_LEVEL
from tlcli.errors import DataError, NonFiniteLossError
from tlcli.results.coco_documents import BoxPredictions as BoxPredictions
from tlcli.results.coco_documents import evaluable_ground_truth
from tlcli.results.counted import counted
from tlcli.results.detection_curves import PrecisionRecall
from tlcli.results.records import EvalReport

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ALL = list(AREA_RANGES).index("all")
_WEIGHT_VALUES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class BoxEvaluation:
    """How detections compare with the ground truth of one split.

    T overlaps, R recalls, K classes by growing category id, A area ranges and M limits of
    detections per image, with the values in `coco_settings`.
    """

    image_ids: Integers
    """The I images, growing."""
    category_ids: Integers
    """The K classes, growing."""
    class_names: Mapping[int, str]
    """By category id, in the order of the ground truth's categories."""
    arrays: CocoArrays
    """`precision` (T, R, K, A, M), `recall` (T, K, A, M) and `scores` (T, R, K, A, M)."""
    matches: BoxMatches
    metrics: Mapping[str, float]
    """The twelve numbers; NaN where there is no ground truth for them."""

    def curves(self) -> PrecisionRecall:
        """Return the precision-recall curves of boxes of any area, up to 100 per image."""
        return PrecisionRecall(
            class_names=[self.class_names[i] for i in self.category_ids.tolist()],
            precision=self.arrays.precision[..., _ALL, -1],
            recall=self.arrays.recall[..., _ALL, -1],
            scores=self.arrays.scores[..., _ALL, -1],
        )


def evaluate_boxes(
    ground_truth: Mapping[str, Any], predictions: BoxPredictions, *, engine: CocoEngine
) -> BoxEvaluation:
    """Compare detections with ground truth by the rules of COCO.

    Per image and class the 100 detections of highest score count. A class without ground truth
    is left out of the means, whatever was detected of it; crowds are neither to be found nor
    wrong. Without any detection all numbers are 0 where there is ground truth.

    Args:
        ground_truth: A COCO document with all images of the split, those without boxes too.
        predictions: The detections in these images.
        engine: `pycocotools` or `fast`; the numbers are the same to the last bit.

    Raises:
        DataError: If the ground truth has no images.
        NonFiniteLossError: If boxes or scores are NaN or infinite.
        ValueError: If boxes are of images or categories that the ground truth does not have.
    """
    document = evaluable_ground_truth(ground_truth)
    image_ids = _sorted_ids(document["images"])
    category_ids = _sorted_ids(document["categories"])
    _check_ids(document, predictions, image_ids=image_ids, category_ids=category_ids)
    _check_finite(predictions)
    matches = match_boxes(document, predictions)
    arrays = accumulate_coco(document, predictions, matches=matches, engine=engine)
    return BoxEvaluation(
        image_ids=image_ids,
        category_ids=category_ids,
        class_names={category["id"]: category["name"] for category in document["categories"]},
        arrays=arrays,
        matches=matches,
        metrics=_twelve_numbers(arrays),
    )


def detection_report(
    evaluation: BoxEvaluation, *, split: str, seed: int = 0, resamples: int = 1000
) -> EvalReport:
    """Report the twelve COCO numbers of one split, each with a 95 % interval.

    - `map`: mean over classes and the overlaps 0.50, 0.55 ... 0.95 of the average precision,
      interpolated at 101 recalls (Lin et al. 2014, "Microsoft COCO", and its evaluation code);
      `map50` and `map75` at one overlap; `map_small`, `map_medium` and `map_large` of boxes up to
      32^2, 96^2 and more square pixels.
    - `mar_1`, `mar_10` and `mar_100`: mean over classes and overlaps of the recall with that many
      detections per image; `mar_small`, `mar_medium` and `mar_large` by area with 100.

    Rows of classes have `ap` (as `map`), `ap50`, `ar` (as `mar_100`) and `support`, the number of
    boxes that are no crowds; the first three are None without such boxes.

    Intervals are percentile bootstraps over images (Efron & Tibshirani 1993, ch. 13), images
    without boxes included. Each number is computed on a resample as on the split itself; a
    resample in which it has no ground truth is left out of its interval. A number without ground
    truth in the split is NaN with an interval of NaN.

    Args:
        evaluation: Of that split.
        split: Its name, for the report.
        seed: Of the resampling; the same seed gives the same intervals.
        resamples: How many bootstrap resamples to draw; fewer, and a remark, for predictions so
            many that they would take more than about two minutes.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    drawn = affordable_resamples(evaluation.matches, resamples=resamples)
    return EvalReport(
        kind="detection",
        split=split,
        num_images=len(evaluation.image_ids),
        metrics=dict(evaluation.metrics),
        intervals=_bootstrap(evaluation.matches, seed=seed, resamples=drawn),
        per_class=_per_class(evaluation),
        remarks=(
            *_absence_remarks(evaluation, split=split),
            *_resample_remarks(drawn, asked=resamples),
        ),
    )


def _sorted_ids(entries: list[dict[str, Any]]) -> Integers:
    return np.unique(np.array([entry["id"] for entry in entries], dtype=np.int64))


def _check_ids(
    document: Mapping[str, Any],
    predictions: BoxPredictions,
    *,
    image_ids: Integers,
    category_ids: Integers,
) -> None:
    if not len(image_ids):
        raise DataError("There are no images to evaluate: choose a split that has some.")
    for name, known, found in (
        ("images", image_ids, predictions.image_ids),
        ("categories", category_ids, predictions.category_ids),
    ):
        if len(known) != len(document[name]):
            raise ValueError(f"{name} of the ground truth share ids")
        key = "image_id" if name == "images" else "category_id"
        truth = np.array([box[key] for box in document["annotations"]], dtype=np.int64)
        unknown = np.setdiff1d(np.concatenate((truth, found)), known)
        if len(unknown):
            raise ValueError(f"boxes of {name} that the ground truth lacks: {unknown[:5].tolist()}")


def _check_finite(predictions: BoxPredictions) -> None:
    is_finite = np.isfinite(predictions.boxes).all(axis=1) & np.isfinite(predictions.scores)
    if not is_finite.all():
        raise NonFiniteLossError(
            f"{int((~is_finite).sum())} of {len(predictions)} detections have boxes or scores "
            "that are NaN or infinite: the weights or the arithmetic overflowed. Train with a "
            "lower --lr, or use full precision."
        )


def _twelve_numbers(arrays: CocoArrays) -> dict[str, float]:
    """The means of `COCOeval.summarize`, in its order."""
    precision, recall = arrays.precision[..., -1], arrays.recall
    selections = [
        *(precision[..., _ALL], precision[0, ..., _ALL], precision[5, ..., _ALL]),
        *(precision[..., area] for area in range(len(AREA_RANGES)) if area != _ALL),
        *(recall[..., _ALL, limit] for limit in range(len(MAX_DETECTIONS))),
        *(recall[..., area, -1] for area in range(len(AREA_RANGES)) if area != _ALL),
    ]
    return {name: _mean(part) for name, part in zip(METRIC_NAMES, selections, strict=True)}


def _mean(values: Floats) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else float("nan")


def _bootstrap(matches: BoxMatches, *, seed: int, resamples: int) -> dict[str, tuple[float, float]]:
    random = np.random.Generator(np.random.Philox(seed))
    samples: dict[str, list[Floats]] = {name: [] for name in METRIC_NAMES}
    rows = max(1, _WEIGHT_VALUES // matches.num_images)
    for start in range(0, resamples, rows):
        weights = np.empty((min(rows, resamples - start), matches.num_images), dtype=np.int32)
        for row in weights:
            drawn = random.integers(matches.num_images, size=matches.num_images)
            row[:] = np.bincount(drawn, minlength=matches.num_images)
        for name, values in resampled_metrics(matches, weights).items():
            samples[name].append(values)
    return {name: _percentile_interval(np.concatenate(parts)) for name, parts in samples.items()}


def _percentile_interval(values: Floats) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _per_class(evaluation: BoxEvaluation) -> list[dict[str, str | float | None]]:
    """One row per class in the order of the ground truth's categories."""
    precision = evaluation.arrays.precision[..., _ALL, -1]
    recall = evaluation.arrays.recall[..., _ALL, -1]
    support = _support(evaluation.matches)
    rows = []
    for category_id, name in evaluation.class_names.items():
        k = int(np.searchsorted(evaluation.category_ids, category_id))
        parts = {"ap": precision[:, :, k], "ap50": precision[0, :, k], "ar": recall[:, k]}
        rows.append(
            {
                "class": name,
                **{key: _mean(part) if support[k] else None for key, part in parts.items()},
                "support": int(support[k]),
            }
        )
    return rows


def _support(matches: BoxMatches) -> Integers:
    """Boxes per class that are no crowds, of whatever area."""
    return np.bincount(
        matches.truth_classes[matches.truth_counts[:, _ALL]], minlength=matches.num_classes
    )


def _absence_remarks(evaluation: BoxEvaluation, *, split: str) -> tuple[str, ...]:
    absent = [str(row["class"]) for row in _per_class(evaluation) if not row["support"]]
    if not absent:
        return ()
    have, are = ("has", "is") if len(absent) == 1 else ("have", "are")
    classes = counted(len(evaluation.class_names), "class", "classes")
    return (
        f"{len(absent)} of {classes} {have} no box in split '{split}' and {are} left out of the "
        f"means: {some_names(absent, most=5)}.",
    )


def _resample_remarks(drawn: int, *, asked: int) -> tuple[str, ...]:
    if drawn == asked:
        return ()
    return (f"The intervals are of {drawn} resamples instead of {asked}: there are many boxes.",)
