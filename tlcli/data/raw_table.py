"""Table files as they are: cells of text under the names of the first line."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tlcli.data.table import some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

_COLUMNS_WANTED = "its first line must name the columns path,label[,split][,group]"
_ENCODING = "utf-8-sig"  # with or without a mark at the beginning
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_raw_table(path: Path) -> pd.DataFrame:
    """Read a .csv, .tsv or .parquet file without making numbers of texts.

    Raises:
        DataError: the file cannot be read, is empty or not UTF-8, or its first line does not name
            every column, each by its own name.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path).astype(object).rename(columns=str)
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(path)
        _check_first_rows(path, separator=separator)
        return pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            encoding=_ENCODING,
        )
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path)) from error
    # the errors of pandas' parser and of pyarrow are ValueErrors
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"Cannot read {path} as a table: {error}.") from error


def _separator(path: Path) -> str:
    """Return what separates the columns of a .csv: other marks if its first line has no comma."""
    with path.open(encoding=_ENCODING, newline="") as file:
        names = next(csv.reader(file), [""])
    others = [mark for mark in ";\t" if len(names) == 1 and mark in names[0]]
    return others[0] if others else ","


def _check_first_rows(path: Path, *, separator: str) -> None:
    """Refuse what pandas takes without a word: names that stand there twice, cells without one.

    Of more cells than names it tells in all rows but the first one.

    Raises:
        DataError: a column has no name of its own.
    """
    with path.open(encoding=_ENCODING, newline="") as file:
        filled = (row for row in csv.reader(file, delimiter=separator) if "".join(row).strip())
        names, cells = next(filled, []), next(filled, [])
    if not names:
        raise DataError(f"{path} is empty; {_COLUMNS_WANTED}.")
    _check_names(names, path=path)
    if len(cells) > len(names):
        raise DataError(
            f"{path} has {counted(len(cells), 'cell')} in data row 1 but names"
            f" {counted(len(names), 'column')} in its first line, {some_names(names, most=8)}. Name"
            f" every column, and end no row with a separator ('{separator}')."
        )


def _check_names(names: Sequence[str], *, path: Path) -> None:
    numbers = Counter(name.strip() for name in names if name.strip())
    repeated = [name for name, number in numbers.items() if number > 1]
    if repeated:
        number = numbers[repeated[0]]
        times = "twice" if number == 2 else f"{number} times"
        raise DataError(
            f"{path} names the column '{repeated[0]}' {times} in its first line. Give each column"
            " a name of its own, or take one out."
        )


def _not_utf8(path: Path) -> str:
    """Say where a file is not UTF-8, and what to do."""
    content = path.read_bytes()
    try:
        content.decode(_ENCODING)
        place = "a byte"  # the file has been changed since
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"the byte 0x{content[error.start]:02x} in line {line}"
    known = "UTF-16" if content.startswith(_UTF_16_MARKS) else "WINDOWS-1252"
    return (
        f"{path} is not UTF-8: {place} is no part of a letter. Save it as UTF-8, for example with"
        f" `iconv -f {known} -t UTF-8` if that is what it is in."
    )
