"""The label columns of a table whose images carry any number of classes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tlcli.data.label_sets import LABEL_SEPARATOR, join_labels
from tlcli.data.table import some_names
from tlcli.errors import ConfigError, DataError
from tlcli.results.counted import counted

LabelSets = list[list[str]]
"""The classes of each image, in any order."""

_ANSWERS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_OTHER_MARKS = (";", ",", "/")
"""What users put between labels, beside the separator that is read without being asked."""


class ImageLabels(NamedTuple):
    """What the label columns of a table say of N images."""

    texts: list[str]
    """Of each image, as `join_labels` writes it."""
    classes: tuple[str, ...]
    """Sorted by code point."""
    notes: tuple[str, ...]


def read_label_cells(cells: pd.DataFrame, *, separator: str, name: str) -> ImageLabels:
    """Read one column of separated labels, or columns of 0 and 1 that are called like the classes.

    A single column is read as 0 and 1 if it holds nothing else. Cells of Parquet files may be
    lists. Blanks around labels do not count, nor does a label that stands in a cell twice.

    Args:
        cells: The columns, a row per image.
        separator: What stands between the labels of a cell.
        name: Of the table, for messages.

    Raises:
        ConfigError: a separator was chosen and there are columns of 0 and 1.
        DataError: a cell of such a column is something else, a class has an impossible name, or
            no image has a label.
    """
    columns = [str(column) for column in cells.columns]
    if len(columns) > 1 or is_yes_or_no(cells[columns[0]]):
        if separator != LABEL_SEPARATOR:
            raise ConfigError(
                f"--label-separator '{separator}' has no effect on {name}, whose label columns"
                f" hold 0 and 1: {some_names(columns)}."
            )
        sets, classes = _sets_of_answers(cells, name=name), tuple(sorted(columns))
        notes = _single_column_notes(columns, name=name)
    else:
        sets = [_names(cell, separator=separator) for cell in cells[columns[0]]]
        classes = tuple(sorted({label for names in sets for label in names}))
        notes = _separator_notes(classes, separator=separator, name=name)
    if not any(sets):
        raise DataError(f"No image in {name} has a label; training needs some that do.")
    _check_names(classes, name=name)
    return ImageLabels(join_labels(sets, classes=classes), classes, notes)


def is_yes_or_no(column: "pd.Series[Any]") -> bool:
    """Say whether a column holds nothing but 0 and 1 (true and false), apart from gaps."""
    words = set(_words(column)) - {""}
    return bool(words) and words <= set(_ANSWERS)


def _words(column: "pd.Series[Any]") -> list[str]:
    texts = column.where(column.notna(), "").astype(str)
    return [text.strip().casefold() for text in texts]


def _sets_of_answers(cells: pd.DataFrame, *, name: str) -> LabelSets:
    answers = np.zeros(cells.shape, dtype=np.bool_)
    for number, column in enumerate(cells.columns):
        words = _words(cells[column])
        wrong = [row for row, word in enumerate(words) if word not in _ANSWERS]
        if wrong:
            raise DataError(
                f"{name} has '{cells[column].iloc[wrong[0]]}' in the label column '{column}', data"
                f" row {wrong[0] + 1}; where several columns hold the labels, each cell is 0 or 1."
            )
        answers[:, number] = [_ANSWERS[word] for word in words]
    names = np.array([str(column) for column in cells.columns], dtype=object)
    return [list(names[row]) for row in answers]


def _names(cell: Any, *, separator: str) -> list[str]:
    """Return the labels in a cell, which is a text, a list of texts, or empty."""
    if isinstance(cell, list | tuple | np.ndarray):
        parts: Iterable[object] = cell
    else:
        parts = [] if pd.isna(cell) else str(cell).split(separator)
    return [text for part in parts if (text := str(part).strip())]


def _check_names(classes: Sequence[str], *, name: str) -> None:
    broken = [label for label in classes if LABEL_SEPARATOR in label]
    if broken:
        raise DataError(
            f"{name} has classes with '{LABEL_SEPARATOR}' in their names, {some_names(broken)}: it"
            " separates labels in the files of a run. Rename them, or leave --label-separator out"
            " if it separates labels here too."
        )


def _single_column_notes(columns: Sequence[str], *, name: str) -> tuple[str, ...]:
    if len(columns) > 1:
        return ()
    return (
        f"{name}: the column '{columns[0]}' holds 0 and 1 only, so '{columns[0]}' is the one"
        " class, which an image has or has not.",
    )


def _separator_notes(classes: Sequence[str], *, separator: str, name: str) -> tuple[str, ...]:
    """Tell of names that look like several labels: parts of them are classes too, or most do."""
    notes, known = [], set(classes)
    for mark in _OTHER_MARKS:
        holding = [label for label in classes if mark in label and mark != separator]
        parts = {part.strip() for label in holding for part in label.split(mark)}
        if parts & known or len(holding) * 2 > len(classes):
            notes.append(
                f"{name}: {counted(len(holding), 'class has', 'classes have')} '{mark}' in the"
                f" name, such as {some_names(holding[:1])}. If it separates labels, add"
                f" --label-separator '{mark}'."
            )
    return tuple(notes)


def joined_label_note(labels: Iterable[str], *, name: str) -> list[str]:
    """Tell of labels of one class each that look like several with a separator between them.

    They do if a part of one is a part of another too; commas are not looked at, since many class
    names have them.
    """
    kinds = sorted(set(labels))
    for mark in (LABEL_SEPARATOR, ";"):
        parts = {label: {part.strip() for part in label.split(mark)} for label in kinds}
        holding = [label for label in kinds if mark in label]
        tally = Counter(part for found in parts.values() for part in found - {""})
        if any(tally[part] > 1 for label in holding for part in parts[label]):
            other = "" if mark == LABEL_SEPARATOR else f" --label-separator '{mark}'"
            have = counted(len(holding), "label has", "labels have")
            return [
                f"{name}: {have} '{mark}' in the name, such as '{holding[0]}'; each is one class"
                " here. If it separates classes of which an image may have several, use"
                f" `finetune --multi-label{other}`."
            ]
    return []
