"""Data sets described by a table file with the columns path, label and maybe split and group."""

import os
from pathlib import Path

import pandas as pd

from tlcli.data.folders import SPLIT_WORDS
from tlcli.data.table import COLUMNS, ImageTable, make_table, some_names
from tlcli.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})


def read_csv_table(path: Path) -> ImageTable:
    """Read a .csv, .tsv or .parquet file of `path,label[,split][,group]`.

    Paths are relative to the folder of the file, or absolute. Everything is text: the labels
    `001`, `None` and `NA` stay what they are; blanks around labels, splits and groups are removed.
    A split is train, val (also valid, validation) or test; empty everywhere means none.

    Raises:
        DataError: the file cannot be read, a column or an image is missing, a label is empty, a
            split is unknown, or two rows of one image disagree.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")
    raw = _read(path)
    _check_columns(raw, path=path)
    items = pd.DataFrame({name: _texts(raw, column=name) for name in COLUMNS})
    items["split"] = _split_words(items["split"], path=path)
    _check_filled(items, path=path)
    items["path"] = _table_paths(items["path"], path=path)
    unique = items.drop_duplicates()
    _check_agreement(unique, path=path)
    notes = _notes(raw, num_copies=len(items) - len(unique), path=path)
    return make_table(unique, spec=str(path), root=path.parent, notes=notes)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path).astype(object)
        return pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:  # pandas' parser and pyarrow errors are ValueErrors
        raise DataError(f"Cannot read {path} as a table: {error}.") from error


def _check_columns(raw: pd.DataFrame, *, path: Path) -> None:
    missing = [name for name in ("path", "label") if name not in raw.columns]
    if missing:
        raise DataError(
            f"{path} has no column {some_names(missing)}; its first line must name the columns"
            f" path,label[,split][,group], it has {some_names(map(str, raw.columns), most=6)}."
        )


def _texts(raw: pd.DataFrame, *, column: str) -> "pd.Series[str]":
    if column not in raw.columns:
        return pd.Series("", index=raw.index, dtype=str)
    values = raw[column]
    texts = values.where(values.notna(), "").astype(str)
    return texts if column == "path" else texts.str.strip()


def _split_words(words: "pd.Series[str]", *, path: Path) -> "pd.Series[str]":
    if (words == "").all():
        return words.where(words != "", "unsplit")
    known = words.str.lower().map(SPLIT_WORDS)
    unknown = sorted(set(words[known.isna()]))
    if unknown:
        raise DataError(
            f"{path} has rows with the split {some_names(unknown)}; use train, val or test in"
            " every row, or leave the column out."
        )
    return known


def _check_filled(items: pd.DataFrame, *, path: Path) -> None:
    for column in ("path", "label"):
        empty = items.index[items[column] == ""]
        if len(empty):
            raise DataError(
                f"{path} has {len(empty)} rows with an empty {column}, the first is data row"
                f" {int(empty[0]) + 1}."
            )


def _table_paths(names: "pd.Series[str]", *, path: Path) -> list[str]:
    """Return paths as `ImageTable` holds them, after looking that the files are there."""
    files = [Path(os.path.abspath(path.parent / name)) for name in names]  # noqa: PTH100
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(files)} files in {path} do not exist:"
            f" {some_names(missing)}; paths are relative to {path.parent}."
        )
    root = path.parent
    return [
        (file.relative_to(root) if file.is_relative_to(root) else file).as_posix() for file in files
    ]


def _check_agreement(unique: pd.DataFrame, *, path: Path) -> None:
    for column in ("label", "split", "group"):
        values = unique.groupby("path")[column].nunique()
        torn = [str(name) for name in values.index[values > 1]]
        if torn:
            raise DataError(
                f"{path} gives {len(torn)} images more than one {column}: {some_names(torn)}."
            )


def _notes(raw: pd.DataFrame, *, num_copies: int, path: Path) -> list[str]:
    unused = [str(name) for name in raw.columns if name not in COLUMNS]
    notes = [f"{path.name}: the columns {some_names(unused)} are not used."] if unused else []
    if num_copies:
        notes.append(f"{path.name}: {num_copies} rows repeat another row and count once.")
    return notes
