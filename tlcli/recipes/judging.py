"""A model judged on a split: metrics with intervals, and the files that show why."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tlcli.engine.classification import ClassificationTask, outputs_of
from tlcli.engine.loop import evaluate
from tlcli.engine.metrics import classification_report
from tlcli.errors import DataError
from tlcli.recipes.image_data import BatchReader
from tlcli.results.evaluation_files import write_evaluation
from tlcli.results.records import EvalReport


def judge(
    model: nn.Module,
    *,
    class_names: Sequence[str],
    titles: Mapping[str, str],
    reader: BatchReader,
    split: str,
    folder: Path,
    check_stop: Callable[[], None] = lambda: None,
) -> EvalReport:
    """Evaluate a model on a split and write `metrics.json`, tables and pictures to `folder`.

    Args:
        model: On the device of the reader's runtime.
        class_names: What its outputs mean; the classes of the data are found there by name.
        titles: Readable names of classes, possibly of none.
        reader: Of the data.
        split: A split of the data.
        folder: Made if need be.
        check_stop: Called between batches.

    Raises:
        DataError: If the data has a class that the model does not know.
    """
    outputs = np.array(match_classes(reader.table.classes, model_classes=class_names))
    task = ClassificationTask(model, preprocessing=reader.preprocessing, runtime=reader.runtime)
    evaluator = task.evaluator()
    evaluate(model, reader.evaluation(split), evaluator=evaluator, check_stop=check_stop)
    log_probs, rows = evaluator.predictions()
    return write_judgement(
        log_probs,
        targets=outputs[rows],
        class_names=class_names,
        titles=titles,
        paths=list(reader.table.part(split)["path"]),
        split=split,
        seed=reader.runtime.seed,
        folder=folder,
    )


def write_judgement(
    log_probs: NDArray[np.floating[Any]],
    *,
    targets: NDArray[np.int64],
    class_names: Sequence[str],
    titles: Mapping[str, str],
    paths: Sequence[str],
    split: str,
    seed: int,
    folder: Path,
) -> EvalReport:
    """Measure predictions and write everything about them to `folder`.

    Args:
        log_probs: Log-probabilities of shape (N, C).
        targets: Class indices of shape (N,).
        class_names: The C classes.
        titles: Readable names of classes, possibly of none.
        paths: The N images.
        split: Which part of the data they are.
        seed: Of the bootstrap.
        folder: Made if need be.
    """
    report = classification_report(log_probs, targets, split=split, classes=class_names, seed=seed)
    write_evaluation(
        folder,
        report=report,
        paths=paths,
        targets=targets,
        probs=np.exp(log_probs),
        classes=class_names,
        titles=titles,
    )
    return report


def match_classes(data_classes: Sequence[str], *, model_classes: Sequence[str]) -> list[int]:
    """Return the model's output for every class of the data, by name.

    Raises:
        DataError: If the data has a class that the model does not know.
    """
    known_classes = set(model_classes)
    unknown = [name for name in data_classes if name not in known_classes]
    if unknown:
        shown = ", ".join(f"'{name}'" for name in unknown[:5])
        known = ", ".join(f"'{name}'" for name in model_classes[:5])
        raise DataError(
            f"{len(unknown)} of {len(data_classes)} classes of the data are unknown to the model: "
            f"{shown}. The model's {len(model_classes)} classes begin with {known}. Rename the "
            "folders or labels, or fine-tune a model on this data."
        )
    return outputs_of(model_classes, wanted=data_classes)
