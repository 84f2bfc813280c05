"""Data sets of other libraries, written once as image files and a table."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tlcli.data.csv_table import read_csv_table
from tlcli.data.table import COLUMNS, ImageTable
from tlcli.errors import DataError
from tlcli.results.atomic import exclusive, machine_errors, make_folder, write_csv


class ExportedImage(NamedTuple):
    """One row of the table."""

    path: Path
    """Absolute."""
    label: str
    split: str
    group: str = ""


def read_exported(
    root: Path, *, name: str, export: Callable[[Path], Iterable[ExportedImage]], spec: str
) -> ImageTable:
    """Read `root/NAME.csv`, which is written on the first call.

    Args:
        root: Absolute folder of the data set; one process at a time works in it.
        name: Of the table, and of the folder beside it for images that are no files yet.
        export: Yields the rows; is given that folder, empty, to write images to.
        spec: What the user asked for.

    Raises:
        DataError: files of the table are gone, or what `export` raises.
        MachineError: the folder cannot be written.
    """
    table = root / f"{name}.csv"
    make_folder(root)
    with exclusive(root):
        if not table.is_file():  # it is written last, so a folder without it was interrupted
            try:
                _write(table, folder=root / name, export=export)
            except BaseException:
                shutil.rmtree(root / name, ignore_errors=True)
                raise
    try:
        return replace(read_csv_table(table), spec=spec)
    except DataError as error:
        raise DataError(f"{error} Remove {table} to export {spec} again.") from error


def _write(table: Path, *, folder: Path, export: Callable[[Path], Iterable[ExportedImage]]) -> None:
    with machine_errors(folder, action="write"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        images = list(export(folder))
    rows = [_row(image, root=table.parent) for image in images]
    write_csv(table, header=COLUMNS, rows=rows)


def _row(image: ExportedImage, *, root: Path) -> tuple[str, str, str, str]:
    inside = image.path.is_relative_to(root)
    path = image.path.relative_to(root) if inside else image.path
    return path.as_posix(), image.label, image.split.replace("unsplit", ""), image.group
