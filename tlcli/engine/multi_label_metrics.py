"""Metrics of classifiers of any number of classes per image, with bootstrap intervals."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tlcli.data.table import some_names
from tlcli.engine.average_precision import RankedClass, Weights
from tlcli.engine.metrics import percentile_interval
from tlcli.errors import DataError, NonFiniteLossError
from tlcli.results.counted import counted
from tlcli.results.records import EvalReport

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

_FAST_METRICS = ("loss", "map", "micro_f1", "macro_f1")
_RESAMPLES_AT_ONCE = 16
_CHUNKS_AT_ONCE = 16
"""For which a class is ranked: 256 resamples, so 256 bytes for every image."""
_CLASSES_AT_ONCE = 32
"""That are counted as float64, 256 bytes for every image."""
_NAMES_SHOWN = 5


def multi_label_report(
    logits: Floats,
    labels: Labels,
    *,
    split: str,
    classes: Sequence[str],
    seed: int = 0,
    resamples: int = 1000,
) -> EvalReport:
    """Judge predictions on one split, with a 95 % interval for every metric.

    - `map`: mean of the average precisions of the classes (see `RankedClass`).
    - `micro_precision`, `micro_recall`, `micro_f1`: of all yes and no together, where a yes is a
      probability above 0.5.
    - `macro_precision`, `macro_recall`, `macro_f1`: means over the classes. The precision of a
      class that was never predicted counts as 0.
    - `subset_accuracy`: fraction of images with all classes right.
    - `hamming_loss`: fraction of all yes and no that are wrong.
    - `loss`: mean binary cross-entropy over images and classes, in nats.

    Classes that no image of the split has are left out of `map` and the macro metrics, and a
    remark of the report names them; where no image has any class those metrics are NaN. Intervals
    are percentile bootstraps over images (Efron & Tibshirani 1993, ch. 13), each metric computed
    on a resample as on the split itself; that of a class's AP is over the resamples that have it.

    Args:
        logits: Of the C classes for N images, shape (N, C).
        labels: Which classes the images have, shape (N, C).
        split: Name of the split, for the report.
        classes: The C class names.
        seed: Of the resampling; the same seed gives the same intervals.
        resamples: How many bootstrap resamples to draw.

    Raises:
        DataError: If there are no images.
        NonFiniteLossError: If logits are NaN or infinite.
        ValueError: If shapes do not fit.
    """
    scores = _Scores(logits, labels)
    if len(classes) != logits.shape[1]:
        raise ValueError(f"{len(classes)} class names for {logits.shape[1]} columns")
    once = _every_image_once(len(logits))
    [of_all] = scores.by_class([once])
    values, chunks, per_class = scores.metrics(once, of_all), [], []
    drawn = _resamples(len(logits), seed=seed, resamples=resamples)
    while some := list(islice(drawn, _CHUNKS_AT_ONCE)):
        for weights, of_classes in zip(some, scores.by_class(some), strict=True):
            chunks.append(scores.metrics(weights, of_classes))
            per_class.append(of_classes.precisions)
    samples = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in values}
    return EvalReport(
        kind="multi-label",
        split=split,
        num_images=len(logits),
        metrics={name: float(value[0]) for name, value in values.items()},
        intervals={name: _interval(sample) for name, sample in samples.items()},
        per_class=_per_class(classes, of_all, np.concatenate(per_class)),
        remarks=_absence_remarks(labels, classes=classes, split=split),
    )


def fast_multi_label_metrics(logits: Floats, labels: Labels) -> dict[str, float]:
    """Compute `loss`, `map`, `micro_f1` and `macro_f1` without intervals, for every epoch.

    The definitions, arguments and errors are those of `multi_label_report`.
    """
    scores, once = _Scores(logits, labels), _every_image_once(len(logits))
    values = scores.metrics(once, *scores.by_class([once]))
    return {name: float(values[name][0]) for name in _FAST_METRICS}


class _OfClasses(NamedTuple):
    """What is known of C classes in R resamples, each of shape (R, C)."""

    support: Floats
    """Images that have the class."""
    predicted: Floats
    """Images that seem to have it."""
    right: Floats
    """Images that rightly seem to have it."""
    precisions: Floats
    """Its average precision."""


class _Scores:
    """What the metrics need to know of N images and C classes."""

    def __init__(self, logits: Floats, labels: Labels) -> None:
        _check(logits, labels)
        self._logits, self._labels = logits, labels
        self._predicted = logits > 0  # a probability above 0.5
        wrong = self._predicted != labels
        self._wrong = wrong.mean(axis=1)
        self._is_exact = ~wrong.any(axis=1)
        self._losses = (np.logaddexp(0, logits) - logits * labels).mean(axis=1)

    def by_class(self, chunks: Sequence[Weights]) -> list[_OfClasses]:
        """Return what is known of the classes in each chunk of resamples.

        Class by class, so that no more than one ranking is in memory.
        """
        num_classes = self._labels.shape[1]
        precisions = [np.empty((chunk.shape[1], num_classes)) for chunk in chunks]
        for c in range(num_classes):
            ranked = RankedClass(self._logits[:, c], self._labels[:, c])
            for chunk, numbers in zip(chunks, precisions, strict=True):
                numbers[:, c] = ranked.average_precision(chunk)
        return [
            _OfClasses(*self._counts(chunk), numbers)
            for chunk, numbers in zip(chunks, precisions, strict=True)
        ]

    def _counts(self, weights: Weights) -> tuple[Floats, Floats, Floats]:
        """Return images that have, seem to have, and rightly seem to have each class, (R, C)."""
        rows = weights.T.astype(np.float64)  # sums of whole numbers: the same in any order
        has, seems = self._labels, self._predicted
        support, predicted, right = (
            np.concatenate(
                [rows @ block.astype(np.float64) for block in _blocks_of_classes(flags)], axis=1
            )
            for flags in (has, seems, has & seems)
        )
        return support, predicted, right

    def metrics(self, weights: Weights, of_classes: _OfClasses) -> dict[str, Floats]:
        """Return each metric in R resamples, shape (R,)."""
        support, predicted, right, precisions = of_classes
        is_there = support > 0
        micro = _precision_recall_f1(support.sum(1), predicted.sum(1), right.sum(1))
        macro = _precision_recall_f1(support, predicted, right)
        return {
            "map": _mean_where(precisions, is_there),
            **{f"micro_{name}": value for name, value in micro.items()},
            **{f"macro_{name}": _mean_where(value, is_there) for name, value in macro.items()},
            "subset_accuracy": _weighted_mean(self._is_exact, weights),
            "hamming_loss": _weighted_mean(self._wrong, weights),
            "loss": _weighted_mean(self._losses, weights),
        }


def _blocks_of_classes(flags: Labels) -> list[Labels]:
    """Return some columns at a time of what is known of N images and C classes."""
    return [flags[:, c : c + _CLASSES_AT_ONCE] for c in range(0, flags.shape[1], _CLASSES_AT_ONCE)]


def _per_class(
    classes: Sequence[str], of_all: _OfClasses, samples: Floats
) -> list[dict[str, str | float | None]]:
    """Return one row per class; what is not defined is None.

    Args:
        classes: The C names.
        of_all: What is known of them in the split itself.
        samples: Average precisions in R resamples, shape (R, C).
    """
    rows: list[dict[str, str | float | None]] = []
    for c, name in enumerate(classes):
        n, p, r, ap = (float(numbers[0, c]) for numbers in of_all)
        low, high = _interval(samples[:, c]) if n else (None, None)
        rows.append(
            {
                "class": name,
                "support": int(n),
                "ap": ap if n else None,
                "low": low,
                "high": high,
                "precision": r / p if p else None,
                "recall": r / n if n else None,
                "f1": 2 * r / (n + p) if n else None,
            }
        )
    return rows


def _check(logits: Floats, labels: Labels) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} do not fit")
    if not len(logits):
        raise DataError("There are no images to evaluate: choose a split that has some.")
    num_bad = int((~np.isfinite(logits).all(axis=1)).sum())
    if num_bad:
        raise NonFiniteLossError(
            f"The outputs for {num_bad} of {counted(len(logits), 'image')} are NaN or infinite: "
            "the weights or the arithmetic overflowed. Train with a lower --lr, or use full "
            "precision."
        )


def _every_image_once(num_images: int) -> Weights:
    return np.ones((num_images, 1), dtype=np.uint16)


def _resamples(num_images: int, *, seed: int, resamples: int) -> Iterator[Weights]:
    """Yield how often each image is in each of some resamples, until there were enough."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    random = np.random.Generator(np.random.Philox(seed))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        number = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = [random.integers(num_images, size=num_images) for _ in range(number)]
        counts = [np.bincount(rows, minlength=num_images) for rows in drawn]
        most = max(int(count.max()) for count in counts)
        yield np.stack(counts, axis=1).astype(np.uint8 if most < 256 else np.uint16)


def _precision_recall_f1(support: Floats, predicted: Floats, right: Floats) -> dict[str, Floats]:
    """Return the three of counts; without a prediction precision is 0, without an image NaN."""
    with np.errstate(invalid="ignore"):
        recall = right / support
    is_there = support > 0
    precision = np.where(is_there, right / np.maximum(predicted, 1), np.nan)
    f1 = np.where(is_there, 2 * right / np.maximum(support + predicted, 1), np.nan)
    return {"precision": precision, "recall": recall, "f1": f1}


def _mean_where(values: Floats, is_there: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean of each row over the columns that are there; NaN where none is."""
    numbers = is_there.sum(axis=1)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(is_there, values, 0.0).sum(axis=1) / numbers
    return means


def _weighted_mean(values: npt.NDArray[Any], weights: Weights) -> Floats:
    """Return the mean over the images in each resample.

    A sum of products, as the last digits of `@` depend on the number of BLAS threads.
    """
    means: Floats = (weights * values[:, None]).sum(axis=0) / weights.sum(axis=0)
    return means


def _interval(samples: Floats) -> tuple[float, float]:
    """Return the 95 % interval over the resamples in which there is a value; NaN if in none."""
    defined = samples[~np.isnan(samples)]
    return percentile_interval(defined.tolist()) if len(defined) else (np.nan, np.nan)


def _absence_remarks(labels: Labels, *, classes: Sequence[str], split: str) -> tuple[str, ...]:
    absent = [name for name, n in zip(classes, labels.sum(axis=0), strict=True) if not n]
    if not absent:
        return ()
    have, are = ("has", "is") if len(absent) == 1 else ("have", "are")
    return (
        f"{len(absent)} of {counted(len(classes), 'class', 'classes')} {have} no image in split "
        f"'{split}' and {are} left out of map and macro metrics: "
        f"{some_names(absent, most=_NAMES_SHOWN)}.",
    )
