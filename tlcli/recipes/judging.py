"""A model judged on a split: metrics with intervals, and the files that show why."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tlcli.data.label_sets import LABEL_SEPARATOR, split_labels
from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.table import ImageTable, some_names
from tlcli.engine.classification import ClassificationTask, outputs_of
from tlcli.engine.loop import evaluate
from tlcli.engine.metrics import classification_report
from tlcli.engine.multi_label import MultiLabelEvaluator, MultiLabelTask
from tlcli.engine.multi_label_metrics import multi_label_report
from tlcli.engine.runtime import Runtime
from tlcli.errors import DataError
from tlcli.results.counted import counted
from tlcli.results.evaluation_files import write_evaluation
from tlcli.results.multi_label_files import write_multi_label_evaluation
from tlcli.results.records import EvalReport


class SplitReader(Protocol):
    """The images of a table, as a model takes them."""

    @property
    def table(self) -> ImageTable:
        """The images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The pixels that the model wants."""

    @property
    def runtime(self) -> Runtime:
        """Device, precision and seed."""

    def evaluation(self, split: str) -> Iterator[ImageBatch]:
        """Yield every image of a split once, in the order of its rows."""


def judge(
    model: nn.Module,
    *,
    class_names: Sequence[str],
    titles: Mapping[str, str],
    reader: SplitReader,
    split: str,
    folder: Path,
    check_stop: Callable[[], None] = lambda: None,
) -> EvalReport:
    """Evaluate a model on a split and write `metrics.json`, tables and pictures to `folder`.

    Images with any number of classes are judged on the classes of the data alone: of those that
    the data does not have it says nothing.

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
    table = reader.table
    outputs = np.array(match_classes(table.classes, model_classes=class_names))
    evaluator = plain_task(
        model,
        preprocessing=reader.preprocessing,
        runtime=reader.runtime,
        is_multi_label=table.is_multi_label,
    ).evaluator()
    evaluate(model, reader.evaluation(split), evaluator=evaluator, check_stop=check_stop)
    paths = list(table.part(split)["path"])
    if isinstance(evaluator, MultiLabelEvaluator):
        return _write_labels_judgement(
            *evaluator.predictions(),
            outputs=outputs,
            class_names=class_names,
            paths=paths,
            split=split,
            seed=reader.runtime.seed,
            folder=folder,
        )
    log_probs, rows = evaluator.predictions()
    return write_judgement(
        log_probs,
        targets=outputs[rows],
        class_names=class_names,
        titles=titles,
        paths=paths,
        split=split,
        seed=reader.runtime.seed,
        folder=folder,
    )


def plain_task(
    model: nn.Module, *, preprocessing: Preprocessing, runtime: Runtime, is_multi_label: bool
) -> ClassificationTask | MultiLabelTask:
    """Return a model as it is judged, without whatever it is trained with."""
    if is_multi_label:
        return MultiLabelTask(model, preprocessing=preprocessing, runtime=runtime)
    return ClassificationTask(model, preprocessing=preprocessing, runtime=runtime)


def _write_labels_judgement(
    logits: NDArray[np.float64],
    labels: NDArray[np.bool_],
    *,
    outputs: NDArray[np.int64],
    class_names: Sequence[str],
    paths: Sequence[str],
    split: str,
    seed: int,
    folder: Path,
) -> EvalReport:
    """Measure predictions for images with any number of classes and write everything about them.

    Args:
        logits: Of the C classes of the model for N images, shape (N, C).
        labels: Which of the D classes of the data they have, shape (N, D).
        outputs: The output of the model for each of the D classes.
        class_names: The C classes.
        paths: The N images.
        split: Which part of the data they are.
        seed: Of the bootstrap.
        folder: Made if need be.
    """
    columns = outputs.argsort()  # in the order of the model's classes
    logits, labels = logits[:, outputs[columns]], labels[:, columns]
    classes = [class_names[output] for output in outputs[columns]]
    report = multi_label_report(logits, labels, split=split, classes=classes, seed=seed)
    if unjudged := [name for name in class_names if name not in set(classes)]:
        count = f"{len(unjudged)} of {counted(len(class_names), 'class', 'classes')} of the model"
        remark = f"{count} are not in the data and were not judged: {some_names(unjudged)}."
        report = replace(report, remarks=(*report.remarks, remark))
    write_multi_label_evaluation(
        folder,
        report=report,
        paths=paths,
        labels=labels,
        probs=np.exp(-np.logaddexp(0, -logits)),
        classes=classes,
        separator=LABEL_SEPARATOR,
    )
    return report


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
        is_joined = any(set(split_labels(name)) <= known_classes for name in unknown)
        hint = " This model gives every image one class, not several." if is_joined else ""
        raise DataError(
            f"{len(unknown)} of {len(data_classes)} classes of the data are unknown to the model: "
            f"{shown}. The model's {len(model_classes)} classes begin with {known}. Rename the "
            f"folders or labels, or fine-tune a model on this data.{hint}"
        )
    return outputs_of(model_classes, wanted=data_classes)
