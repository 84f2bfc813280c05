"""Data sets laid out as folders: one folder per class, with or without split folders above."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlcli.data.images import is_image_name
from tlcli.data.table import COLUMNS, ImageTable, make_table, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names (compared in lower case) and `split` values of tables that mean a split."""

# What archives and network drives leave behind; their "images" are thumbnails
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The files below a folder, hidden ones left out, as sorted posix paths relative to it."""

    images: list[str]
    others: list[str]


@dataclass(frozen=True, kw_only=True)
class _ClassImages:
    """The images of a class in one split; as a column they take a tenth of a list's memory."""

    label: str
    split: str
    paths: "pd.Series[str]"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The class folders below one folder; `loose` images lie beside them, not in them."""

    classes: list["_ClassImages"]
    empty: list[str]
    loose: list[str]
    others: list[str]


def list_images(folder: Path) -> FolderListing:
    """List a folder and all below it, following links.

    Raises:
        DataError: a folder cannot be read, links form a loop, or a name is not valid UTF-8.
    """
    names = list(_walk(folder, prefix="", above=frozenset()))
    return FolderListing(
        images=[name for name in names if is_image_name(name)],
        others=[name for name in names if not is_image_name(name)],
    )


def sub_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders directly inside, hidden ones left out."""
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def split_folders(root: Path) -> dict[str, list[str]]:
    """Return the folders of `root` named as a split, by split; {} if `root` is not laid out so.

    A folder called `train` is a split if it has folders inside, or if nothing but split names is
    beside it; among `bus`, `car` and `train` full of photos it is a class.
    """
    names = sub_folders(root)
    found: dict[str, list[str]] = {}
    for name in names:
        if name.lower() in SPLIT_WORDS:
            found.setdefault(SPLIT_WORDS[name.lower()], []).append(name)
    named = [name for group in found.values() for name in group]
    if len(named) < len(names) and not any(sub_folders(root / name) for name in named):
        return {}
    return found


def read_class_folders(root: Path) -> ImageTable:
    """Read one folder per class; every image gets the split `unsplit`.

    The class is the name of the first-level folder; deeper folders only hold more of its images.

    Raises:
        DataError: no images, an empty class folder, or one class only.
    """
    root = _absolute(root)
    part = _read_part(root, prefix="", split="unsplit")
    _refuse_empty(part, where=str(root))
    return make_table(
        _frame(part.classes), spec=str(root), root=root, notes=_notes(part, where=str(root))
    )


def read_split_folders(root: Path) -> ImageTable:
    """Read train, val (or valid, validation) and test folders of class folders.

    Raises:
        DataError: two folders for one split, images outside class folders only, an empty class
            folder in train, or a class in val or test that train lacks.
    """
    root = _absolute(root)
    found = split_folders(root)
    classes: list[_ClassImages] = []
    notes = _unused_folders(root, found)
    for split, names in found.items():
        if len(names) > 1:
            raise DataError(f"{root} has {some_names(names)}, which all mean '{split}'; keep one.")
        part = _read_split(root, name=names[0], split=split)
        classes += part.classes
        notes += _notes(part, where=names[0])
    return make_table(_frame(classes), spec=str(root), root=root, notes=notes)


def _absolute(root: Path) -> Path:
    return Path(os.path.abspath(root))  # noqa: PTH100  (Path.absolute keeps "..")


def _frame(classes: list[_ClassImages]) -> pd.DataFrame:
    """Return the rows of all classes, put together at once: pandas is slow on thousands."""
    if not classes:
        return pd.DataFrame(columns=list(COLUMNS))
    sizes = [len(images.paths) for images in classes]
    return pd.DataFrame(
        {
            "path": pd.concat([images.paths for images in classes], ignore_index=True),
            "label": pd.Index([images.label for images in classes], dtype="str").repeat(sizes),
            "split": pd.Index([images.split for images in classes], dtype="str").repeat(sizes),
            "group": "",
        }
    )


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise DataError(f"Cannot read {folder}: {error.strerror or error}.") from error
    for entry in shown:
        if any("\ud800" <= letter <= "\udfff" for letter in entry.name):
            raise DataError(
                f"The name {os.fsencode(entry.name)!r} in {folder} is not valid UTF-8; rename it."
            )
    return sorted(shown, key=lambda entry: entry.name)


def _walk(folder: Path, *, prefix: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder} is a link to a folder above it; remove the link.")
    for entry in _entries(folder):
        if entry.is_dir():
            inside = f"{prefix}{entry.name}/"
            yield from _walk(folder / entry.name, prefix=inside, above=above | {real})
        else:
            yield prefix + entry.name


def _read_part(folder: Path, *, prefix: str, split: str) -> _Part:
    """Read the class folders of `folder`, whose paths start with `prefix` in the table."""
    part = _Part(classes=[], empty=[], loose=[], others=[])
    for entry in _entries(folder):
        if not entry.is_dir():
            (part.loose if is_image_name(entry.name) else part.others).append(entry.name)
            continue
        listing = list_images(folder / entry.name)
        inside = f"{prefix}{entry.name}/"
        if listing.images:
            paths = pd.Series([inside + image for image in listing.images], dtype="str")
            part.classes.append(_ClassImages(label=entry.name, split=split, paths=paths))
        else:
            part.empty.append(entry.name)
        part.others.extend(f"{entry.name}/{name}" for name in listing.others)
    return part


def _read_split(root: Path, *, name: str, split: str) -> _Part:
    part = _read_part(root / name, prefix=f"{name}/", split=split)
    if not part.classes:
        raise DataError(
            f"{root / name} has no images in class folders ({counted(len(part.loose), 'image')}"
            f" and {counted(len(part.empty), 'empty folder')} directly inside); put each class into"
            " its own folder."
        )
    if split == "train":
        _refuse_empty(part, where=str(root / name))
    return part


def _refuse_empty(part: _Part, *, where: str) -> None:
    if part.classes and part.empty:
        raise DataError(
            f"No images in the class folders {some_names(part.empty)} of {where}; fill or remove"
            " them."
        )


def _unused_folders(root: Path, found: dict[str, list[str]]) -> list[str]:
    used = {name for names in found.values() for name in names}
    unused = [name for name in sub_folders(root) if name not in used]
    if not unused:
        return []
    folders = counted(len(unused), "folder")
    are = "is" if len(unused) == 1 else "are"
    return [f"{folders} beside the splits of {root} {are} not used: {some_names(unused)}."]


def _notes(part: _Part, *, where: str) -> list[str]:
    outside = "outside class folders, not used"
    told = [
        (part.empty, "empty class folder", "empty class folders"),
        (part.loose, f"image {outside}", f"images {outside}"),
        (part.others, "file that is no image, not used", "files that are no images, not used"),
    ]
    return [
        f"{where}: {counted(len(names), one, many)}: {some_names(names)}."
        for names, one, many in told
        if names
    ]
