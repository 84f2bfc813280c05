"""File names that annotations may use: relative, and inside the image folder."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tlcli.errors import DataError

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def relative_name(name: str, *, source: Path) -> str:
    """Return `name` in its shortest posix form (`./a//b.jpg` is `a/b.jpg`).

    Args:
        name: A file name as some annotation has it.
        source: The file that has it, for messages.

    Raises:
        DataError: the name is empty, absolute, or has `..` in it.
    """
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        raise DataError(
            f"{source} names the image '{name}' by an absolute path; names must be relative to"
            " the image folder."
        )
    if ".." in re.split(r"[\\/]", name):
        raise DataError(
            f"{source} names the image '{name}', which leaves the image folder by '..'; put the"
            " images below one folder."
        )
    short = str(PurePosixPath(name))
    if short == "." or any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(f"{source} has an image with the name {name!r}, which names no file.")
    return short


def refuse_escapes(folder: Path, names: Iterable[str]) -> None:
    """Follow symbolic links below `folder`, which may itself be one.

    Raises:
        DataError: a file lies, by its links, outside `folder`.
    """
    inside = os.path.realpath(folder)
    real_parents: dict[str, str] = {}
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118  (Path is slow for 100,000 names)
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent not in real_parents:
            real_parents[parent] = os.path.realpath(parent)
        # Most files are no links, and then the folder's real place is enough
        real = os.path.realpath(path) if os.path.islink(path) else real_parents[parent]  # noqa: PTH114
        if real != inside and not real.startswith(inside.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{path} leads out of the image folder {folder} by a symbolic link, to {real};"
                " copy the files instead."
            )
