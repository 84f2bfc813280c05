"""Data sets of other libraries, written once as image files and a table."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tlcli.data.csv_table import read_csv_table
from tlcli.data.table import COLUMNS, ImageTable
from tlcli.errors import DataError
from tlcli.results.atomic import exclusive, machine_errors, make_folder, write_csv, write_text
from tlcli.results.counted import counted


class ExportedImage(NamedTuple):
    """One row of the table."""

    path: Path
    """Absolute."""
    label: str
    split: str
    group: str = ""


def unlabelled_note(spec: str, part: str, number: int) -> str:
    """Tell of images that nobody said the class of."""
    images = counted(number, "image has no label and is", "images have no label and are")
    return f"{spec}: {images} left out of the part '{part}'."


def read_exported(
    root: Path,
    *,
    name: str,
    export: Callable[[Path], Iterable[ExportedImage | str]],
    spec: str,
) -> ImageTable:
    """Read `root/NAME.csv`, which is written on the first call, and the notes beside it.

    Args:
        root: Absolute folder of the data set; one process at a time works in it.
        name: Of the table, and of the folder beside it for images that are no files yet.
        export: Yields the rows, and sentences on what is left out, which are told whenever the
            table is read; is given that folder, empty, to write images to.
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
        read = read_csv_table(table)
    except DataError as error:
        raise DataError(f"{error} Remove {table} to export {spec} again.") from error
    return replace(read, spec=spec, notes=(*_read_notes(table), *read.notes))


def _read_notes(table: Path) -> list[str]:
    try:
        notes: list[str] = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # nothing is left out
        return []
    return notes


def _write(
    table: Path, *, folder: Path, export: Callable[[Path], Iterable[ExportedImage | str]]
) -> None:
    with machine_errors(folder, action="write"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        found = list(export(folder))
    rows = [_row(one, root=table.parent) for one in found if not isinstance(one, str)]
    notes = [one for one in found if isinstance(one, str)]
    if notes:
        write_text(table.with_suffix(".json"), json.dumps(notes, ensure_ascii=False, indent=2))
    else:
        table.with_suffix(".json").unlink(missing_ok=True)
    write_csv(table, header=COLUMNS, rows=rows)


def _row(image: ExportedImage, *, root: Path) -> tuple[str, str, str, str]:
    inside = image.path.is_relative_to(root)
    path = image.path.relative_to(root) if inside else image.path
    return path.as_posix(), image.label, image.split.replace("unsplit", ""), image.group
