"""The twelve COCO numbers of resampled images, from the matches of a single evaluation.

In a resample image i counts w_i times. A class's detections, in the order of falling scores, then
stand w_i times each in the row from which precision and recall are read, so both come from
cumulative sums of the weights. (If an image has two detections of a class with exactly equal
scores, all copies of the first are taken to come before those of the second.)

Matches never change, as no box is matched across images. Precision need only be known where
recall may grow: at matched detections.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tlcli.engine.box_matches import BoxMatches
from tlcli.engine.coco_settings import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    METRIC_NAMES,
    RECALL_THRESHOLDS,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int32]

_BLOCK_VALUES = 1 << 19
_MAX_STEPS = 20_000_000_000


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """The matched detections of one class, area range and overlap, by falling score."""

    images: Integers
    is_true: Weights
    """1 where the match counts, 0 where it is ignored."""
    surplus: Weights
    """What the match adds to the count of detections beyond its own area's: 1, 0 or -1."""
    positions: Integers
    """How many detections of that area come up to and with it."""


def affordable_resamples(matches: BoxMatches, *, resamples: int) -> int:
    """Return how many of the resamples take about two minutes at most, but at least 100."""
    per_resample = int(matches.in_range.sum()) + 8 * int(matches.matched.sum())
    return min(resamples, max(100, _MAX_STEPS // max(1, per_resample)))


def resampled_metrics(matches: BoxMatches, weights: Weights) -> dict[str, Floats]:
    """Compute the twelve COCO numbers of B resamples.

    Args:
        matches: Of one split with I images.
        weights: How often each resample has each image, shape (B, I).

    Returns:
        `map`, `map50` ... `mar_large`, each of shape (B,); NaN where a resample has no
        ground-truth box of the area range.
    """
    values: dict[str, Floats] = {}
    for area, name in enumerate(AREA_RANGES):
        num_truths = _truths_per_class(matches, weights, area=area)
        precision_BT = _mean_precision(matches, weights, num_truths, area=area)
        values["map" if name == "all" else f"map_{name}"] = precision_BT.mean(axis=1)
        if name == "all":
            values |= {"map50": precision_BT[:, 0], "map75": precision_BT[:, 5]}
        for limit in MAX_DETECTIONS if name == "all" else MAX_DETECTIONS[-1:]:
            recall = _mean_recall(matches, weights, num_truths, area=area, limit=limit)
            values[f"mar_{limit if name == 'all' else name}"] = recall
    return {name: values[name] for name in METRIC_NAMES}


def _truths_per_class(matches: BoxMatches, weights: Weights, *, area: int) -> Floats:
    counts = matches.truth_counts[:, area]
    images, classes = matches.truth_images[counts], matches.truth_classes[counts]
    return _sums_per_class(matches, weights, images=images, classes=classes)


def _sums_per_class(
    matches: BoxMatches, weights: Weights, *, images: Integers, classes: Integers
) -> Floats:
    """Sum the weights of the images of some boxes by class: shape (B, K)."""
    counts = sparse.csr_array(
        (np.ones(len(images)), (classes, images)), shape=(matches.num_classes, matches.num_images)
    )
    return np.asarray((counts @ weights.T.astype(np.float64)).T)


def _mean_over_classes(sums: Floats, num_truths: Floats) -> Floats:
    """Divide sums (B,) or (B, T) by how many classes have boxes; NaN if there are none."""
    num_classes = (num_truths > 0).sum(axis=1).astype(np.float64)
    num_classes[num_classes == 0] = np.nan
    means: Floats = sums / (num_classes if sums.ndim == 1 else num_classes[:, None])
    return means


def _mean_recall(
    matches: BoxMatches, weights: Weights, num_truths: Floats, *, area: int, limit: int
) -> Floats:
    detections, _ = np.nonzero(matches.is_true[:, area] & (matches.ranks < limit)[:, None])
    found_BK = _sums_per_class(
        matches, weights, images=matches.images[detections], classes=matches.classes[detections]
    )
    recall_BK = found_BK / np.maximum(num_truths, 1) / len(IOU_THRESHOLDS)
    return _mean_over_classes(recall_BK.sum(axis=1), num_truths)


def _mean_precision(
    matches: BoxMatches, weights: Weights, num_truths: Floats, *, area: int
) -> Floats:
    """Average precision at each overlap, mean over classes: shape (B, T)."""
    sums_BT = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    starts = np.searchsorted(matches.classes, np.arange(matches.num_classes + 1))
    has_truth = num_truths.any(axis=0)
    for k in np.flatnonzero(has_truth):
        detections = np.arange(starts[k], starts[k + 1])
        last = np.flatnonzero(matches.is_true[detections, area].any(axis=1))[-1:]
        if not last.size:
            continue
        # What comes after the last right one changes neither precision nor recall.
        detections = detections[: last[0] + 1]
        images = matches.images[detections[matches.in_range[detections, area]]]
        levels = list(_matched_detections(matches, detections, area=area))
        largest = max(1, len(images), *(len(level.images) for level in levels))
        step = max(1, _BLOCK_VALUES // largest)
        for start in range(0, len(weights), step):
            block = np.s_[start : start + step]
            sums_BT[block] += _average_precisions(
                weights[block], num_truths[block, k], images=images, levels=levels
            )
    return _mean_over_classes(sums_BT, num_truths)


def _matched_detections(
    matches: BoxMatches, detections: Integers, *, area: int
) -> Iterator[_Matched]:
    """Yield what `_average_precisions` needs of each overlap."""
    in_range = matches.in_range[detections, area]
    positions = np.cumsum(in_range)
    for overlap in range(len(IOU_THRESHOLDS)):
        matched = np.flatnonzero(matches.matched[detections, area, overlap])
        is_true = matches.is_true[detections[matched], area, overlap].astype(np.int32)
        yield _Matched(
            images=matches.images[detections[matched]],
            is_true=is_true,
            surplus=is_true - in_range[matched].astype(np.int32),
            positions=positions[matched],
        )


def _average_precisions(
    weights: Weights, num_truths: Floats, *, images: Integers, levels: list[_Matched]
) -> Floats:
    """Average precision of one class at each overlap, 0 without ground truth: shape (B, T).

    Args:
        weights: Shape (B, I).
        num_truths: Weighted number of boxes to find, shape (B,).
        images: Images of all detections of that area, by falling score.
        levels: The matched detections at each overlap.
    """
    counts = np.zeros((len(weights), len(images) + 1), dtype=np.int32)
    np.cumsum(weights.take(images, axis=1), axis=1, out=counts[:, 1:])
    averages = np.zeros((len(weights), len(levels)))
    for column, level in zip(averages.T, levels, strict=True):
        if not level.images.size:
            continue
        own = weights.take(level.images, axis=1)
        counted = counts.take(level.positions, axis=1)
        if level.surplus.any():
            counted += np.cumsum(own * level.surplus, axis=1, dtype=np.int32)
        true = np.cumsum(own * level.is_true, axis=1, dtype=np.int32)
        column[:] = _interpolated_mean(true, counted, num_truths)
    averages[num_truths == 0] = 0
    return averages


def _interpolated_mean(true: Weights, counted: Weights, num_truths: Floats) -> Floats:
    """Mean over the recall thresholds of the best precision at that or a higher recall.

    A threshold belongs to the first detection that reaches it, as in `COCOeval.accumulate`.

    Args:
        true: Right ones among the first detections, shape (B, n).
        counted: Right and wrong ones, shape (B, n).
        num_truths: Shape (B,).
    """
    precision = true / (counted + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(num_truths, 1)[:, None]
    reached = np.searchsorted(RECALL_THRESHOLDS, recall, side="right")
    newly_reached = np.diff(reached, axis=1, prepend=0)
    mean: Floats = (best * newly_reached).sum(axis=1) / len(RECALL_THRESHOLDS)
    return mean
