"""Metrics of classifiers of any number of classes per image, with bootstrap intervals."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tlcli.engine.average_precision import RankedClass, Weights
from tlcli.engine.metrics import percentile_interval
from tlcli.errors import DataError, NonFiniteLossError
from tlcli.results.counted import counted
from tlcli.results.records import EvalReport

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

_FAST_METRICS = ("loss", "map", "micro_f1", "macro_f1")
_RESAMPLES_AT_ONCE = 16
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
    values, precisions = scores.metrics(_every_image_once(len(logits)))
    chunks = [
        scores.metrics(weights)
        for weights in _resamples(len(logits), seed=seed, resamples=resamples)
    ]
    samples = {name: np.concatenate([chunk[name] for chunk, _ in chunks]) for name in values}
    per_class = np.concatenate([aps for _, aps in chunks])
    return EvalReport(
        kind="multi-label",
        split=split,
        num_images=len(logits),
        metrics={name: float(value[0]) for name, value in values.items()},
        intervals={name: _interval(sample) for name, sample in samples.items()},
        per_class=scores.per_class(classes, precisions[0], per_class),
        remarks=_absence_remarks(labels, classes=classes, split=split),
    )


def fast_multi_label_metrics(logits: Floats, labels: Labels) -> dict[str, float]:
    """Compute `loss`, `map`, `micro_f1` and `macro_f1` without intervals, for every epoch.

    The definitions, arguments and errors are those of `multi_label_report`.
    """
    values, _ = _Scores(logits, labels).metrics(_every_image_once(len(logits)))
    return {name: float(values[name][0]) for name in _FAST_METRICS}


class _Scores:
    """What the metrics need to know of N images and C classes."""

    def __init__(self, logits: Floats, labels: Labels) -> None:
        _check(logits, labels)
        self._labels = labels
        self._predicted = logits > 0  # a probability above 0.5
        wrong = self._predicted != labels
        self._wrong = wrong.mean(axis=1)
        self._is_exact = ~wrong.any(axis=1)
        self._losses = (np.logaddexp(0, logits) - logits * labels).mean(axis=1)
        self._ranked = [RankedClass(logits[:, c], labels[:, c]) for c in range(logits.shape[1])]

    def metrics(self, weights: Weights) -> tuple[dict[str, Floats], Floats]:
        """Return each metric in R resamples, shape (R,), and the classes' APs, shape (R, C)."""
        support, predicted, right = self._counts(weights)
        precisions = np.stack([ranked.average_precision(weights) for ranked in self._ranked], 1)
        is_there = support > 0
        micro = _precision_recall_f1(support.sum(1), predicted.sum(1), right.sum(1))
        macro = _precision_recall_f1(support, predicted, right)
        values = {
            "map": _mean_where(precisions, is_there),
            **{f"micro_{name}": value for name, value in micro.items()},
            **{f"macro_{name}": _mean_where(value, is_there) for name, value in macro.items()},
            "subset_accuracy": _weighted_mean(self._is_exact, weights),
            "hamming_loss": _weighted_mean(self._wrong, weights),
            "loss": _weighted_mean(self._losses, weights),
        }
        return values, precisions

    def _counts(self, weights: Weights) -> tuple[Floats, Floats, Floats]:
        """Return images that have, seem to have, and rightly seem to have each class, (R, C)."""
        rows = weights.T.astype(np.float64)  # sums of whole numbers: the same in any order
        has, seems = self._labels, self._predicted
        support, predicted, right = (rows @ x.astype(np.float64) for x in (has, seems, has & seems))
        return support, predicted, right

    def per_class(
        self, classes: Sequence[str], precisions: Floats, samples: Floats
    ) -> list[dict[str, str | float | None]]:
        """Return one row per class; what is not defined is None.

        Args:
            classes: The C names.
            precisions: Average precision of each, shape (C,).
            samples: The same in R resamples, shape (R, C).
        """
        support, predicted, right = self._counts(_every_image_once(len(self._labels)))
        rows: list[dict[str, str | float | None]] = []
        for c, name in enumerate(classes):
            n, p, r = (float(counts[0, c]) for counts in (support, predicted, right))
            low, high = _interval(samples[:, c]) if n else (None, None)
            rows.append(
                {
                    "class": name,
                    "support": int(n),
                    "ap": float(precisions[c]) if n else None,
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
            f"The outputs for {num_bad} of {len(logits)} images are NaN or infinite: the weights "
            "or the arithmetic overflowed. Train with a lower --lr, or use full precision."
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
        yield np.stack(counts, axis=1).astype(np.uint16)


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
    names = ", ".join(absent[:_NAMES_SHOWN]) + (", ..." if len(absent) > _NAMES_SHOWN else "")
    have = "has" if len(absent) == 1 else "have"
    return (
        f"{len(absent)} of {counted(len(classes), 'class', 'classes')} {have} no image in split "
        f"'{split}' and {'is' if len(absent) == 1 else 'are'} left out of map and macro metrics: "
        f"{names}.",
    )
