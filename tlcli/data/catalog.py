"""From what the user gives as `--data` to a table of images."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tlcli.data.csv_table import TABLE_SUFFIXES, read_csv_table
from tlcli.data.digits import digits_folder
from tlcli.data.folders import (
    list_images,
    read_class_folders,
    read_split_folders,
    split_folders,
    sub_folders,
)
from tlcli.data.images import is_image_name
from tlcli.data.kaggle_imagenet import SOLUTION_NAME, read_kaggle_imagenet
from tlcli.data.table import ImageTable, some_names
from tlcli.errors import DataError

SAMPLES: dict[str, Callable[[], ImageTable]] = {
    "sample:digits": lambda: read_class_folders(digits_folder()),
}
UNDERSTOOD = (
    "--data understands a folder of class folders; a folder with train, val and test folders of"
    " class folders; a .csv, .tsv or .parquet table with the columns path,label[,split][,group];"
    " the Kaggle ImageNet folder; and sample:digits."
)


def load_table(spec: str) -> ImageTable:
    """Read the data set that `spec` names.

    Raises:
        DataError: nothing is there, or it is laid out in no way understood here.
    """
    if spec.startswith("sample:"):
        return replace(_load_sample(spec), spec=spec)
    path = Path(spec).expanduser()
    if not path.exists():
        raise DataError(f"There is no data at '{spec}'. {UNDERSTOOD}")
    table = _load_folder(path) if path.is_dir() else _load_file(path)
    return replace(table, spec=spec)


def _load_sample(spec: str) -> ImageTable:
    if spec in SAMPLES:
        return SAMPLES[spec]()
    names = [sample.removeprefix("sample:") for sample in SAMPLES]
    close = difflib.get_close_matches(spec.removeprefix("sample:"), names, n=1)
    hint = f" Did you mean sample:{close[0]}?" if close else ""
    raise DataError(f"No sample data called '{spec}'.{hint} There is {', '.join(SAMPLES)}.")


def _load_file(path: Path) -> ImageTable:
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_csv_table(path)
    raise DataError(f"{path} is a file of no kind understood here. {UNDERSTOOD}")


def _load_folder(path: Path) -> ImageTable:
    if (path / SOLUTION_NAME).is_file():
        return read_kaggle_imagenet(path)
    if split_folders(path):
        return read_split_folders(path)
    if any(list_images(path / name).images for name in sub_folders(path)):
        return read_class_folders(path)
    raise DataError(f"{path} has no class folders with images: {_contents(path)} {UNDERSTOOD}")


def _contents(path: Path) -> str:
    folders = sub_folders(path)
    listing = list_images(path)
    loose = [name for name in listing.images if is_image_name(name) and "/" not in name]
    told = [(folders, "folders"), (loose, "images"), (listing.others, "other files")]
    found = [f"{len(names)} {what} ({some_names(names)})" for names, what in told if names]
    return f"it holds {', '.join(found)}." if found else "it is empty."
