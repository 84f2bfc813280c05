"""The files of one evaluation of images with any number of classes, in `RUN/evaluation/SPLIT/`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlcli.results.atomic import make_folder, write_csv, write_text
from tlcli.results.json_text import to_json_text
from tlcli.results.precision_recall import draw_precision_recall_curves
from tlcli.results.records import EvalReport

Probs = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


def write_multi_label_evaluation(
    folder: Path,
    *,
    report: EvalReport,
    paths: Sequence[str],
    labels: Labels,
    probs: Probs,
    classes: Sequence[str],
    separator: str,
) -> None:
    """Write everything about one split; the folder is made if need be.

    - `metrics.json`: the document of `evaluate --json`.
    - `per_class.csv`: its `per_class` rows; a number that is not defined is an empty cell.
    - `precision_recall.png`: a curve per class.
    - `predictions.csv`: one row per image with `path`, `labels`, `predicted` (probability above
      0.5), `correct` (1 if those are equal, else 0), and a column `prob/<class>` per class,
      rounded to 6 digits.

    Args:
        folder: Where to write.
        report: The metrics of these predictions.
        paths: The N images, as the data names them.
        labels: Which classes they have, shape (N, C).
        probs: Of each class, shape (N, C).
        classes: The C class names.
        separator: Stands between the labels of an image.

    Raises:
        MachineError: If the disk refuses.
        ValueError: If the arguments do not belong together.
    """
    if probs.shape != (len(paths), len(classes)) or labels.shape != probs.shape:
        raise ValueError(
            f"{len(paths)} paths and {len(classes)} classes, but probs {probs.shape} and labels "
            f"{labels.shape}"
        )
    make_folder(folder)
    write_text(folder / "metrics.json", to_json_text(report.to_json()))
    write_csv(
        folder / "per_class.csv",
        header=list(report.per_class[0]),
        rows=(list(row.values()) for row in report.per_class),
    )
    draw_precision_recall_curves(
        folder / "precision_recall.png",
        labels=labels,
        scores=probs,
        report=report,
    )
    write_csv(
        folder / "predictions.csv",
        header=["path", "labels", "predicted", "correct", *(f"prob/{name}" for name in classes)],
        rows=_prediction_rows(paths, labels, probs=probs, classes=classes, separator=separator),
    )


def _prediction_rows(
    paths: Sequence[str], labels: Labels, *, probs: Probs, classes: Sequence[str], separator: str
) -> Iterator[list[object]]:
    names = np.array(classes, dtype=object)
    for path, has, row in zip(paths, labels, probs, strict=True):
        seems = row > 0.5
        texts = [separator.join(names[chosen]) for chosen in (has, seems)]
        yield [path, *texts, int((has == seems).all()), *(f"{p:.6f}" for p in row.tolist())]
