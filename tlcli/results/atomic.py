"""Files that are either the old or the new one, never half of it."""

import csv
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tlcli.errors import MachineError

TEXT_ERRORS = "surrogateescape"
"""File names that are not UTF-8 are written and read back as the bytes the disk has."""

_REMEDIES = {
    errno.ENOSPC: "Free some space or choose a folder on another disk.",
    errno.EDQUOT: "Free some of your quota or choose a folder on another disk.",
    errno.EACCES: "Change its permissions or choose another folder.",
    errno.EPERM: "Change its permissions or choose another folder.",
    errno.EROFS: "That disk is read-only: choose a folder on another one.",
    errno.ENOENT: "Make its folder first or choose another one.",
}


@contextmanager
def machine_errors(path: Path, *, action: str) -> Iterator[None]:
    """Turn an OSError of the body into a MachineError that names `path` and the reason.

    Args:
        path: The file or folder the body works on.
        action: A verb for the message, as in "Cannot write 'x'".

    Raises:
        MachineError: If the body raises an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Check the disk or choose another folder.")
        reason = error.strerror or str(error)
        raise MachineError(f"Cannot {action} '{path}': {reason}. {remedy}") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents; an existing one is fine.

    Raises:
        MachineError: If the disk refuses.
    """
    with machine_errors(path, action="make the folder"):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; it becomes `path` when the body ends well.

    The temporary name keeps the suffix of `path`, since some writers choose the format by it.
    Whatever ends the body early, an interruption included, leaves `path` as it was.

    Args:
        path: The file to make or to replace; its folder must exist.

    Yields:
        The path to write to.

    Raises:
        MachineError: If the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        with machine_errors(path, action="write"):
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        # A leftover is harmless and must not hide why the write failed.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a folder; the lock ends with the process.

    Systems without `flock` (Windows) go on unlocked.

    Raises:
        MachineError: If the folder cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with machine_errors(folder, action="lock"):
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(path: Path) -> Callable[[], None]:
    """Mark a file as in use, until what is returned is called or this process ends.

    Systems without `flock` (Windows) go on unmarked.

    Raises:
        MachineError: If the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        return lambda: None
    with machine_errors(path, action="mark as in use"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return lambda: os.close(descriptor)


def is_held(path: Path) -> bool:
    """Say whether a process, this one too, marks a file as in use."""
    try:
        import fcntl
    except ImportError:
        return False
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, as UTF-8 and with the line ends of `text`.

    Raises:
        MachineError: If the disk is full or the folder cannot be written to.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=TEXT_ERRORS, newline="")


def write_csv(path: Path, *, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a comma-separated table in one step, row by row.

    Floats get the shortest digits that read back as the same number; None is an empty cell.

    Raises:
        MachineError: If the disk is full or the folder cannot be written to.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors=TEXT_ERRORS, newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([float(x) if isinstance(x, float) else x for x in row])
