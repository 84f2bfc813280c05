"""Data sets described by a table file: columns for path and label, maybe for split and group."""

import csv
import difflib
import io
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlcli.data.folders import SPLIT_WORDS
from tlcli.data.label_cells import is_yes_or_no, joined_label_note, read_label_cells
from tlcli.data.raw_table import read_raw_table
from tlcli.data.table import COLUMNS, ImageTable, make_table, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

_COMPOUND = (list, tuple, dict, bytes, np.ndarray)
"""What a cell of a Parquet file can be that is no single text or number."""
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """What the columns of a table are called; None is the usual name, if it is there."""

    path: str | None = None
    label: str | None = None
    """Several with commas where images have any number of classes."""
    split: str | None = None
    group: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The names that were chosen, by what they are of."""
        return {role: name for role, name in asdict(self).items() if name is not None}

    def of(self, role: str) -> str:
        """Return the name of a column."""
        return self.given.get(role, role)


USUAL = TableColumns()
_JOINED = "\0labels"
"""Column that label columns are joined in; no file can have one of that name."""


def read_csv_table(
    path: Path, *, columns: TableColumns = USUAL, label_separator: str | None = None
) -> ImageTable:
    """Read a .csv, .tsv or .parquet file of `path,label[,split][,group]`.

    Paths are relative to the folder of the file, or absolute. Everything is text: the labels
    `001`, `None` and `NA` stay what they are; blanks around labels, splits and groups are removed.
    A split is train, val (also valid, validation) or test; empty everywhere means none. In a .csv
    the columns may be separated by semicolons or tabs, as some spreadsheets write them.

    Args:
        path: The file.
        columns: What its columns are called.
        label_separator: What stands between the labels of a cell: images have any number of
            classes, as `read_label_cells` reads them. None: every image has one class.

    Raises:
        ConfigError: a separator was chosen where the labels are columns of 0 and 1.
        DataError: the file cannot be read, a column or an image is missing, a label is empty, a
            split is unknown, or two rows of one image disagree.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")
    raw, labels = read_raw_table(path), None
    label_names: list[str] = []
    if label_separator is not None:
        label_names = _label_columns(raw, columns, path=path)
        labels = read_label_cells(raw[label_names], separator=label_separator, name=path.name)
        raw = raw.assign(**{_JOINED: labels.texts})
        columns = replace(columns, label=_JOINED)
    used = _used_columns(raw, columns, labels=label_names, path=path)
    texts = {role: _texts(raw, column=used.get(role), role=role, path=path) for role in COLUMNS}
    items = pd.DataFrame(texts)
    items["split"] = _split_words(items["split"], path=path)
    _check_filled(items, used=used, roles=("path",) if labels else ("path", "label"), path=path)
    items["path"] = _table_paths(items["path"], path=path)
    unique = items.drop_duplicates()
    _check_agreement(unique, is_multi_label=labels is not None, path=path)
    known = {*used.values(), *label_names}
    notes = _notes(raw, known=known, num_copies=len(items) - len(unique), path=path)
    if labels is None:
        notes += joined_label_note(items["label"], name=path.name)
    return make_table(
        unique,
        spec=str(path),
        root=path.parent,
        classes=labels and labels.classes,
        is_multi_label=labels is not None,
        notes=[*notes, *(labels.notes if labels else ())],
    )


def _label_columns(raw: pd.DataFrame, columns: TableColumns, *, path: Path) -> list[str]:
    """Return the columns with the labels of images that have any number of them.

    Raises:
        DataError: one is missing or named twice.
    """
    name, found = columns.of("label"), list(raw.columns)
    parts = [name] if name in found else [part.strip() for part in _comma_separated(name)]
    for part in parts:
        if part not in found:
            words = _missing_label(part, raw=raw, is_given=columns.label is not None, path=path)
            raise DataError(words)
        if parts.count(part) > 1:
            raise DataError(f"--label-column names the column '{part}' of {path} twice.")
    return parts


def _missing_label(name: str, *, raw: pd.DataFrame, is_given: bool, path: Path) -> str:
    flags = _flag_columns(raw)
    if is_given or not flags:
        return _missing_column("label", name, found=list(raw.columns), raw=raw, path=path)
    return (
        f"{path} has no column 'label', but {len(flags)} columns of 0 and 1. If those are the"
        f" classes, add --label-column {shlex.quote(_with_commas(flags))}."
    )


def _comma_separated(text: str) -> list[str]:
    """Read names with commas between them; one that has a comma itself is in double quotes."""
    return next(csv.reader([text], skipinitialspace=True), [text])


def _with_commas(names: Sequence[str]) -> str:
    """Write what `_comma_separated` reads."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def _used_columns(
    raw: pd.DataFrame, columns: TableColumns, *, labels: Sequence[str], path: Path
) -> Mapping[str, str]:
    """Return the name of each column that is used, by what it is of.

    Args:
        raw: The table.
        columns: What was asked for.
        labels: Columns that were joined to the label column.
        path: Of the table.

    Raises:
        DataError: a column is missing, or one is to be two things.
    """
    found = list(raw.columns)
    free = set(found) - set(columns.given.values()) - set(labels)
    used = {
        role: columns.of(role)
        for role in COLUMNS
        if role in ("path", "label") or role in columns.given or role in free
    }
    for role, name in used.items():
        if name not in found:
            raise DataError(_missing_column(role, name, found=found, raw=raw, path=path))
    for role, name in used.items():
        others = [other for other in used if other != role and used[other] == name]
        others += ["label"] if name in labels else []
        if others and role in columns.given:
            raise DataError(
                f"--{role}-column '{name}' is the {others[0]} of {path} too; a column is one thing."
            )
    return used


def _missing_column(
    role: str, name: str, *, found: list[str], raw: pd.DataFrame, path: Path
) -> str:
    """Return what to tell of a column that is not there."""
    seen = f"it has {some_names(found, most=8)}"
    several = " With --multi-label they are a class each." if role == "label" else ""
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and set(parts) <= set(found):
        return (
            f"--{role}-column names {len(parts)} columns of {path}, {some_names(parts, most=8)};"
            f" one is needed: every image has one {role}.{several}"
        )
    if name == role and role == "label" and (flags := _flag_columns(raw)):
        return (
            f"{path} has no column 'label', but {len(flags)} columns of 0 and 1:"
            f" {some_names(flags, most=8)}. If those are classes of which an image may have"
            " several, `finetune --multi-label --label-column a,b,c` takes them; if it has one,"
            " write its name into a column 'label', or name such a column with --label-column."
        )
    if name == role:
        return (
            f"{path} has no column '{role}'; its first line must name the columns"
            f" path,label[,split][,group], {seen}. Name another column with --{role}-column."
        )
    close = difflib.get_close_matches(name, found, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"--{role}-column '{name}' is no column of {path}, {seen}.{hint}"


def _flag_columns(raw: pd.DataFrame) -> list[str]:
    """Return the columns with nothing but 0 and 1 if there are two or more, as of a multi-hot."""
    flags = [str(name) for name in raw.columns if is_yes_or_no(raw[name])]
    return flags if len(flags) > 1 else []


def _texts(raw: pd.DataFrame, *, column: str | None, role: str, path: Path) -> "pd.Series[str]":
    if column is None:
        return pd.Series("", index=raw.index, dtype=str)
    values = raw[column]
    _check_single(values, column=column, role=role, path=path)
    texts = values.where(values.notna(), "").astype(str)
    return texts if role == "path" else texts.str.strip()


def _check_single(values: "pd.Series[Any]", *, column: str, role: str, path: Path) -> None:
    """Refuse what only cells of Parquet files can be.

    Raises:
        DataError: a cell is neither a text nor a number.
    """
    kinds = [type(value) for value in values]
    strange = [row for row, kind in enumerate(kinds) if issubclass(kind, _COMPOUND)]
    if strange:
        row = strange[0]
        is_labels = role == "label" and kinds[row] is not bytes and kinds[row] is not dict
        then = " If an image may have several classes, `finetune --multi-label` takes lists."
        raise DataError(
            f"{path} has '{values.iloc[row]}' ({kinds[row].__name__}) in the column '{column}',"
            f" data row {row + 1}; an image has one {role}, a text or a number."
            + (then if is_labels else "")
        )


def _split_words(words: "pd.Series[str]", *, path: Path) -> "pd.Series[str]":
    if (words == "").all():
        return words.where(words != "", "unsplit")
    known = words.str.lower().map(SPLIT_WORDS)
    unknown = np.flatnonzero(known.isna())
    if len(unknown):
        kinds = sorted(set(words.iloc[unknown]))
        raise DataError(
            f"{path} has {counted(len(unknown), 'row')} with the split {some_names(kinds)}, the"
            f" first is data row {unknown[0] + 1}; use train, val or test in every row, or leave"
            " the column out."
        )
    return known


def _check_filled(
    items: pd.DataFrame, *, used: Mapping[str, str], roles: Sequence[str], path: Path
) -> None:
    for role in roles:
        empty = np.flatnonzero(items[role] == "")
        if len(empty):
            raise DataError(
                f"{path} has {counted(len(empty), 'row')} with an empty {used[role]}, the first is"
                f" data row {empty[0] + 1}."
            )


def _table_paths(names: "pd.Series[str]", *, path: Path) -> list[str]:
    """Return paths as `ImageTable` holds them, after looking that the files are there."""
    files = [Path(os.path.abspath(path.parent / name)) for name in names]  # noqa: PTH100
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {counted(len(files), 'file')} in {path}"
            f" {'does' if len(missing) == 1 else 'do'} not exist:"
            f" {some_names(missing)}; paths are relative to {path.parent}."
        )
    root = path.parent
    return [
        (file.relative_to(root) if file.is_relative_to(root) else file).as_posix() for file in files
    ]


def _check_agreement(unique: pd.DataFrame, *, is_multi_label: bool, path: Path) -> None:
    for column in ("label", "split", "group"):
        values = unique.groupby("path")[column].nunique()
        torn = [str(name) for name in values.index[values > 1]]
        if torn:
            is_spread = is_multi_label and column == "label"
            then = " Write all classes of an image into one row." if is_spread else ""
            raise DataError(
                f"{path} gives {counted(len(torn), 'image')} more than one {column}:"
                f" {some_names(torn)}.{then}"
            )


def _notes(raw: pd.DataFrame, *, known: Collection[str], num_copies: int, path: Path) -> list[str]:
    unused = [name for name in raw.columns if name not in known]
    are = "column {} is" if len(unused) == 1 else "columns {} are"
    notes = [f"{path.name}: the {are.format(some_names(unused))} not used."] if unused else []
    if num_copies:
        copies = counted(num_copies, "row repeats", "rows repeat")
        notes.append(f"{path.name}: {copies} another row and count once.")
    return notes
