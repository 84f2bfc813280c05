"""The files of one evaluation, in `RUN/evaluation/SPLIT/`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tlcli.results.atomic import make_folder, write_csv, write_text
from tlcli.results.counted import counted
from tlcli.results.figures import draw_confusion_matrix
from tlcli.results.json_text import to_json_text
from tlcli.results.records import EvalReport

Probs = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

MAX_PROB_COLUMNS = 100
"""With more classes than this `predictions.csv` holds the five most probable ones only."""

_TOP_K = 5


def write_evaluation(
    folder: Path,
    *,
    report: EvalReport,
    paths: Sequence[str],
    targets: Integers,
    probs: Probs,
    classes: Sequence[str],
    titles: Mapping[str, str],
) -> None:
    """Write everything about a classification of one split; the folder is made if need be.

    - `metrics.json`: the document of `evaluate --json`.
    - `per_class.csv`: its `per_class` rows, with a `title` column if there are titles; a number
      that is not defined is an empty cell.
    - `confusion_matrix.csv`: counts, a row per true and a column per predicted class; `.png` is
      its picture.
    - `predictions.csv`: one row per image with `path`, `label`, `prediction`, `correct` (1 or 0),
      `confidence`, and one column `prob/<class>` per class. With more than 100 classes only the
      five most probable ones are there, as `top1/class`, `top1/prob` ... `top5/prob`.
      Probabilities are rounded to 6 digits. Of equally probable classes the one with the lower
      index comes first, as in the metrics.

    Args:
        folder: Where to write.
        report: The metrics of these predictions.
        paths: The N images, as the data names them.
        targets: Class indices of shape (N,).
        probs: Probabilities of shape (N, C); float64, so that they rank as their logarithms do.
        classes: The C class names.
        titles: Human names of classes, possibly of none.

    Raises:
        MachineError: If the disk refuses.
        ValueError: If the arguments do not belong together.
    """
    predictions = probs.argmax(axis=1)
    _check_agreement(report, paths=paths, targets=targets, probs=probs, classes=classes)
    make_folder(folder)
    write_text(folder / "metrics.json", to_json_text(report.to_json()))
    _write_per_class(folder / "per_class.csv", report=report, titles=titles)
    counts = count_confusions(targets, predictions, num_classes=len(classes))
    write_csv(
        folder / "confusion_matrix.csv",
        header=["true", *classes],
        rows=([name, *row] for name, row in zip(classes, counts.tolist(), strict=True)),
    )
    images = counted(report.num_images, "image")
    draw_confusion_matrix(
        folder / "confusion_matrix.png",
        counts=counts,
        labels=class_labels(classes, titles=titles),
        title=f"{report.split}: {images}, top-1 {report.metrics['top1']:.3f}",
    )
    write_csv(
        folder / "predictions.csv",
        header=_prediction_columns(classes),
        rows=_prediction_rows(paths, targets=targets, probs=probs, classes=classes),
    )


def count_confusions(
    targets: Integers, predictions: Integers, *, num_classes: int
) -> npt.NDArray[np.int64]:
    """Count how often each class was taken for each: shape (C, C), rows true."""
    pairs = targets.astype(np.int64) * num_classes + predictions
    counts: npt.NDArray[np.int64] = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_labels(classes: Sequence[str], *, titles: Mapping[str, str]) -> list[str]:
    """Name classes for people: the title, with the class in brackets if two share a title."""
    names = [titles.get(name, name) for name in classes]
    shared = {name for name, number in Counter(names).items() if number > 1}
    return [
        f"{label} ({name})" if label in shared else label
        for name, label in zip(classes, names, strict=True)
    ]


def _check_agreement(
    report: EvalReport,
    *,
    paths: Sequence[str],
    targets: Integers,
    probs: Probs,
    classes: Sequence[str],
) -> None:
    expected = (len(paths), len(classes))
    if probs.shape != expected or targets.shape != expected[:1]:
        raise ValueError(
            f"{expected[0]} paths and {expected[1]} classes, but probs {probs.shape} "
            f"and targets {targets.shape}"
        )
    top1 = float((probs.argmax(axis=1) == targets).mean())
    if report.num_images != len(paths) or abs(report.metrics["top1"] - top1) > 1e-9:
        raise ValueError(
            f"the report ({report.num_images} images, top1 {report.metrics['top1']}) is not of "
            f"these predictions ({len(paths)} images, top1 {top1})"
        )


def _write_per_class(path: Path, *, report: EvalReport, titles: Mapping[str, str]) -> None:
    rows = [dict(row) for row in report.per_class]
    if titles:
        rows = [
            {"class": row["class"], "title": titles.get(str(row["class"]), ""), **row}
            for row in rows
        ]
    write_csv(path, header=list(rows[0]), rows=(list(row.values()) for row in rows))


def _prediction_columns(classes: Sequence[str]) -> list[str]:
    columns = ["path", "label", "prediction", "correct", "confidence"]
    if len(classes) <= MAX_PROB_COLUMNS:
        return columns + [f"prob/{name}" for name in classes]
    return columns + [f"top{k}/{part}" for k in range(1, _TOP_K + 1) for part in ("class", "prob")]


def _prediction_rows(
    paths: Sequence[str], *, targets: Integers, probs: Probs, classes: Sequence[str]
) -> Iterator[list[object]]:
    for path, target, row in zip(paths, targets, probs, strict=True):
        best = int(row.argmax())
        start = [path, classes[target], classes[best], int(best == target), f"{row[best]:.6f}"]
        if len(classes) <= MAX_PROB_COLUMNS:
            yield [*start, *(f"{p:.6f}" for p in row.tolist())]
        else:
            # A stable sort of the negated row keeps the lower index first among equals.
            order = np.argsort(-row, kind="stable")[:_TOP_K]
            yield [*start, *(cell for i in order for cell in (classes[i], f"{row[i]:.6f}"))]
