"""`splits.csv`: which image was in which split, so that a resumed run draws no second one."""

from pathlib import Path

import pandas as pd

from tlcli.data.table import COLUMNS, ImageTable, some_names
from tlcli.errors import DataError
from tlcli.results.atomic import write_text
from tlcli.results.counted import counted


def write_split(table: ImageTable, path: Path) -> None:
    """Write path, label, split and group of every image, atomically.

    Write the table as it is before `limit_table`: `read_split` wants every image back.
    """
    write_text(path, table.items[list(COLUMNS)].to_csv(index=False, lineterminator="\n"))


def read_split(table: ImageTable, path: Path) -> ImageTable:
    """Give a freshly loaded table the splits that `write_split` saved.

    Raises:
        DataError: the file cannot be read, or images appeared, vanished, or changed their label,
            group or given split since.
    """
    saved = _read(path).set_index("path").sort_index()
    fresh = table.items.set_index("path").sort_index()
    appeared = sorted(set(fresh.index) - set(saved.index))
    vanished = sorted(set(saved.index) - set(fresh.index))
    if appeared or vanished:
        raise DataError(
            f"{table.spec} changed since {path} was written: {counted(len(appeared), 'image')}"
            f" appeared ({some_names(appeared)}), {len(vanished)} vanished"
            f" ({some_names(vanished)})."
        )
    _check_unchanged(fresh, saved, spec=table.spec, path=path)
    return table.with_items(fresh.assign(split=saved["split"]).reset_index())


def read_parts(path: Path) -> dict[str, list[str]]:
    """Return the images of each split by what a run of any task saved, without looking at them.

    Raises:
        DataError: The file cannot be read, or is no saved split.
    """
    saved = _frame(path)
    if not {"path", "split"} <= set(saved.columns):
        raise DataError(f"{path} is no saved split: it needs the columns path and split.")
    return {str(split): part["path"].tolist() for split, part in saved.groupby("split")}


def _frame(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the saved split {path}: {error}.") from error


def _read(path: Path) -> pd.DataFrame:
    saved = _frame(path)
    if list(saved.columns) != list(COLUMNS) or saved["path"].duplicated().any():
        raise DataError(f"{path} is no saved split: it needs the columns {','.join(COLUMNS)}.")
    return saved


def _check_unchanged(fresh: pd.DataFrame, saved: pd.DataFrame, *, spec: str, path: Path) -> None:
    given = fresh["split"].isin(["val", "test"])  # train and unsplit images may have been carved
    changes = {
        "label": fresh["label"] != saved["label"],
        "group": fresh["group"] != saved["group"],
        "split": given & (fresh["split"] != saved["split"]),
    }
    for what, changed in changes.items():
        if changed.any():
            names = [str(name) for name in fresh.index[changed]]
            raise DataError(
                f"{spec} changed since {path} was written: the {what} of"
                f" {counted(len(names), 'image')} is another: {some_names(names)}."
            )
