"""Classification metrics with bootstrap intervals, from log-probabilities and targets.

The (N, C) array is read once, in blocks of rows, into five numbers per image; everything else,
the resampling too, works on those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tlcli.data.table import some_names
from tlcli.errors import DataError, NonFiniteLossError
from tlcli.results.counted import counted
from tlcli.results.records import EvalReport

LogProbs = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]

NUM_BINS = 15
"""Equal-width confidence bins of the calibration error, as in Guo et al. 2017."""
CONFIDENCE_LEVEL = 0.95

_TOP_K = 5
_BLOCK_VALUES = 1 << 22
_FAST_METRICS = ("loss", "top1", "top5", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class _ImageScores:
    """What the metrics need to know of each of the N images."""

    num_classes: int
    targets: Integers
    predictions: Integers
    ranks: Integers
    """Classes ahead of the target, 0 if the prediction is right."""
    losses: Floats
    confidences: Floats
    """Probability of the predicted class."""
    bins: Integers
    """The confidence's bin, 0 to 14."""


@dataclass(frozen=True, kw_only=True)
class _ClassCounts:
    """How often each of the C classes was the target, the prediction, or both."""

    support: Floats
    predicted: Floats
    correct: Floats

    def f1(self) -> Floats:
        """F1 per class, NaN where a class was neither target nor prediction."""
        with np.errstate(invalid="ignore"):
            f1: Floats = 2 * self.correct / (self.support + self.predicted)
        return f1


def classification_report(
    log_probs: LogProbs,
    targets: Integers,
    *,
    split: str,
    classes: Sequence[str],
    seed: int = 0,
    resamples: int = 1000,
) -> EvalReport:
    """Judge predictions on one split, with a 95 % interval for every metric.

    The metrics, with sums over all images and never means of batch means:

    - `top1`, `top5`: fraction of images whose target is among the 1 or 5 most probable classes.
      With five classes or fewer `top5` is 1 by definition. Of equally probable classes the one
      with the lower index comes first.
    - `macro_f1`: mean of the F1 of the classes (Opitz & Burst 2019, "Macro F1 and Macro F1",
      their averaged F1). Classes without an image in the split are left out, and a remark
      of the report names them; images wrongly given to such a class still count as missed.
    - `loss`: mean negative log-likelihood in nats.
    - `ece`: expected calibration error, 15 bins ((m - 1) / 15, m / 15] of the confidence
      (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3).

    Intervals are percentile bootstraps over images (Efron & Tibshirani 1993, ch. 13), each
    metric computed on a resample as on the split itself. They have no width where all images
    agree (`top1` of 1, or a single image), and that of `ece` lies high when images are few,
    since the ECE of a resample is biased upwards.

    Args:
        log_probs: Natural log-probabilities of shape (N, C), from a log-softmax.
        targets: Class indices of shape (N,).
        split: Name of the split, for the report.
        classes: The C class names.
        seed: Of the resampling; the same seed gives the same intervals.
        resamples: How many bootstrap resamples to draw.

    Raises:
        DataError: If there are no images.
        NonFiniteLossError: If log-probabilities are NaN or infinite.
        ValueError: If shapes, targets or the sums of the probabilities do not fit.
    """
    scores = _score_images(log_probs, targets)
    if len(classes) != scores.num_classes:
        raise ValueError(f"{len(classes)} class names for {scores.num_classes} columns")
    every_image_once = np.ones(len(scores.targets))
    counts = _count_classes(scores, every_image_once)
    return EvalReport(
        kind="classification",
        split=split,
        num_images=len(scores.targets),
        metrics=_weighted_metrics(scores, every_image_once),
        intervals=_bootstrap(scores, seed=seed, resamples=resamples),
        per_class=_per_class(counts, classes=classes),
        remarks=_absence_remarks(counts, classes=classes, split=split),
    )


def fast_metrics(log_probs: LogProbs, targets: Integers) -> dict[str, float]:
    """Compute `loss`, `top1`, `top5` and `macro_f1` without intervals, for every epoch.

    The definitions, arguments and errors are those of `classification_report`.
    """
    scores = _score_images(log_probs, targets)
    metrics = _weighted_metrics(scores, np.ones(len(scores.targets)))
    return {name: metrics[name] for name in _FAST_METRICS}


def paired_difference(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], *, seed: int, resamples: int = 1000
) -> tuple[float, tuple[float, float]]:
    """Return by how much the first of two classifiers is more often right, on the same N images.

    Args:
        first: Which images the first got right, shape (N,).
        second: The same of the second.
        seed: Of the resampling.
        resamples: How many bootstrap resamples of images to draw.

    Returns:
        The difference of the accuracies and its 95 % percentile bootstrap interval.
    """
    gains = first.astype(np.int64) - second.astype(np.int64)
    random = np.random.Generator(np.random.Philox(seed))
    # how often the gains -1, 0 and 1 are drawn is all that a resample needs
    shares = [float((gains == value).mean()) for value in (-1, 0, 1)]
    drawn = random.multinomial(len(gains), shares, size=resamples)
    differences = (drawn[:, 2] - drawn[:, 0]) / len(gains)
    return float(gains.mean()), percentile_interval(differences.tolist())


def _score_images(log_probs: LogProbs, targets: Integers) -> _ImageScores:
    _check_shapes(log_probs, targets)
    num_images, num_classes = log_probs.shape
    predictions, ranks = np.empty((2, num_images), dtype=np.int64)
    losses, confidences = np.empty((2, num_images))
    num_bad = 0
    rows = max(1, _BLOCK_VALUES // num_classes)
    for start in range(0, num_images, rows):
        block = np.s_[start : start + rows]
        values = log_probs[block].astype(np.float64)
        num_bad += int((~np.isfinite(values).all(axis=1)).sum())
        if num_bad:
            continue
        _check_sums(values)
        predictions[block] = values.argmax(axis=1)
        ranks[block] = _target_ranks(values, targets[block])
        losses[block] = -np.take_along_axis(values, targets[block, None], axis=1)[:, 0]
        confidences[block] = np.exp(values.max(axis=1))
    if num_bad:
        raise NonFiniteLossError(
            f"The outputs for {num_bad} of {counted(num_images, 'image')} are NaN or infinite: the "
            "weights or the arithmetic overflowed. Train with a lower --lr, or use full precision."
        )
    return _ImageScores(
        num_classes=num_classes,
        targets=targets,
        predictions=predictions,
        ranks=ranks,
        losses=losses,
        confidences=confidences,
        bins=_confidence_bins(confidences),
    )


def _confidence_bins(confidences: Floats) -> Integers:
    edges = np.linspace(0, 1, NUM_BINS + 1)
    # Rounding may lift exp(log p) a hair above 1, so the last bin has no upper edge.
    return np.searchsorted(edges[1:-1], confidences, side="left")


def _check_shapes(log_probs: LogProbs, targets: Integers) -> None:
    if log_probs.ndim != 2 or targets.shape != log_probs.shape[:1]:
        raise ValueError(f"log_probs {log_probs.shape} and targets {targets.shape} do not fit")
    if not len(targets):
        raise DataError("There are no images to evaluate: choose a split that has some.")
    if targets.min() < 0 or targets.max() >= log_probs.shape[1]:
        raise ValueError(
            f"targets {targets.min()}..{targets.max()} for {log_probs.shape[1]} classes"
        )


def _check_sums(values: Floats) -> None:
    """Logits passed by mistake would give plausible accuracies and a wrong loss."""
    sums = np.exp(values).sum(axis=1)
    if np.abs(sums - 1).max() > 0.01:
        raise ValueError(f"rows of exp(log_probs) must sum to 1, not {sums.min()}..{sums.max()}")


def _target_ranks(values: Floats, targets: Integers) -> Integers:
    own = np.take_along_axis(values, targets[:, None], axis=1)
    lower_index = np.arange(values.shape[1]) < targets[:, None]
    ranks: Integers = ((values > own) | ((values == own) & lower_index)).sum(axis=1)
    return ranks


def _weighted_metrics(scores: _ImageScores, weights: Floats) -> dict[str, float]:
    """Compute all metrics with image i counted `weights[i]` times; weights (N,) sum to N."""
    counts = _count_classes(scores, weights)
    num_images = weights.sum()

    # A sum of products, as the last digits of `@` depend on the number of BLAS threads.
    def mean(values: npt.NDArray[Any]) -> float:
        return float((weights * values).sum() / num_images)

    return {
        "top1": mean(scores.ranks < 1),
        "top5": mean(scores.ranks < _TOP_K),
        "macro_f1": float(counts.f1()[counts.support > 0].mean()),
        "loss": mean(scores.losses),
        "ece": float(_bin_gaps(scores, weights).sum() / num_images),
    }


def _count_classes(scores: _ImageScores, weights: Floats) -> _ClassCounts:
    def per_class(classes: Integers, values: Floats) -> Floats:
        return np.bincount(classes, values, minlength=scores.num_classes).astype(np.float64)

    return _ClassCounts(
        support=per_class(scores.targets, weights),
        predicted=per_class(scores.predictions, weights),
        correct=per_class(scores.targets, weights * (scores.ranks < 1)),
    )


def _bin_gaps(scores: _ImageScores, weights: Floats) -> Floats:
    """|number right - sum of confidences| in each bin: the terms of the ECE, times N."""
    surplus = weights * ((scores.ranks < 1) - scores.confidences)
    gaps: Floats = np.abs(np.bincount(scores.bins, surplus, minlength=NUM_BINS))
    return gaps


def _bootstrap(
    scores: _ImageScores, *, seed: int, resamples: int
) -> dict[str, tuple[float, float]]:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    num_images = len(scores.targets)
    random = np.random.Generator(np.random.Philox(seed))
    samples: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = random.integers(num_images, size=num_images)
        weights = np.bincount(drawn, minlength=num_images).astype(np.float64)
        for name, value in _weighted_metrics(scores, weights).items():
            samples.setdefault(name, []).append(value)
    return {name: percentile_interval(values) for name, values in samples.items()}


def percentile_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of resampled values."""
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _per_class(
    counts: _ClassCounts, *, classes: Sequence[str]
) -> list[dict[str, str | float | None]]:
    """One row per class; a fraction without a denominator is None, F1 too without images."""
    f1 = counts.f1()
    return [
        {
            "class": name,
            "precision": _fraction(counts.correct[i], counts.predicted[i]),
            "recall": _fraction(counts.correct[i], counts.support[i]),
            "f1": float(f1[i]) if counts.support[i] else None,
            "support": int(counts.support[i]),
        }
        for i, name in enumerate(classes)
    ]


def _fraction(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _absence_remarks(
    counts: _ClassCounts, *, classes: Sequence[str], split: str
) -> tuple[str, ...]:
    absent = [name for name, n in zip(classes, counts.support, strict=True) if not n]
    if not absent:
        return ()
    have, are = ("has", "is") if len(absent) == 1 else ("have", "are")
    return (
        f"{len(absent)} of {counted(len(classes), 'class', 'classes')} {have} no image in split "
        f"'{split}' and {are} left out of macro_f1: {some_names(absent, most=5)}.",
    )
