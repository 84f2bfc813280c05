"""Files that survive a power cut, written by several processes into one folder."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from tlcli.errors import MachineError
from tlcli.results.atomic import machine_errors, replacing

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp(\.\w+)?")
"""The names that `replacing` gives; a killed process leaves its last one behind."""
_TRIES = 10


def write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """Make or replace a file in one step; when this returns, a power cut cannot undo it.

    Another process may sweep the temporary file away (`sweep`) while it is written here; then it
    is written once more.

    Args:
        path: The file; its folder must exist.
        write: Makes a file at the path that it is given.

    Raises:
        MachineError: the disk is full or the folder cannot be written to.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            with replacing(path) as temporary:
                write(temporary)
            break
        except MachineError as error:
            swept = isinstance(error.__cause__, FileNotFoundError) and path.parent.is_dir()
            if not swept or attempt == _TRIES:
                raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, as fsync does with the bytes of a file.

    Windows has no such call and does not need it.

    Raises:
        MachineError: the disk refuses.
    """
    if os.name != "posix":
        return
    with machine_errors(folder, action="write"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder.

    Raises:
        MachineError: the disk refuses.
    """
    with machine_errors(folder, action="tidy up"):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
