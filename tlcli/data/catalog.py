"""From what the user gives as `--data` to a table of images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tlcli.data.boxes.box_layouts import box_layout
from tlcli.data.csv_table import TABLE_SUFFIXES, USUAL, TableColumns, read_csv_table
from tlcli.data.data_spec import HUB, SAMPLE, TORCHVISION, load_sample
from tlcli.data.digits import digits_folder
from tlcli.data.folders import (
    list_images,
    read_class_folders,
    read_split_folders,
    split_folders,
    sub_folders,
)
from tlcli.data.hub_sets import load_hub_set
from tlcli.data.images import is_image_name
from tlcli.data.kaggle_imagenet import SOLUTION_NAME, read_kaggle_imagenet
from tlcli.data.table import ImageTable, some_names
from tlcli.data.torchvision_sets import load_torchvision_set
from tlcli.errors import ConfigError, DataError

SAMPLES: dict[str, Callable[[], ImageTable]] = {
    "sample:digits": lambda: read_class_folders(digits_folder()),
}
UNDERSTOOD = (
    "--data understands a folder of class folders; a folder with train, val and test folders of"
    " class folders; a .csv, .tsv or .parquet table with the columns path,label[,split][,group];"
    " the Kaggle ImageNet folder; torchvision:NAME; hf:NAME; and sample:digits."
)

_BOXES = "{} looks like {}; `tlcli detect-finetune` takes those."


def load_table(
    spec: str,
    *,
    columns: TableColumns = USUAL,
    label_separator: str | None = None,
    offline: bool = False,
) -> ImageTable:
    """Read the data set that `spec` names.

    Args:
        spec: A folder, a table file, or `sample:`, `torchvision:` or `hf:` and a name.
        columns: What the columns of a table are called.
        label_separator: What stands between the labels of an image that has any number of
            classes, which only tables can say; None: every image has one class.
        offline: Download nothing.

    Raises:
        ConfigError: columns are named, or images are to have any number of classes, of data that
            is no table.
        DataError: nothing is there, or it is laid out in no way understood here.
    """
    path = Path(spec).expanduser()
    is_named = spec.startswith((SAMPLE, TORCHVISION, HUB))
    if label_separator is not None and (is_named or path.is_dir()):
        raise ConfigError(
            f"{spec} gives every image one class. Images with several classes or none"
            " (--multi-label) need a .csv, .tsv or .parquet table."
        )
    if spec.startswith(HUB):
        return load_hub_set(spec, columns=columns, offline=offline)
    if not is_named and not path.exists():
        raise DataError(f"There is no data at '{spec}'. {UNDERSTOOD}")
    is_file = not is_named and not path.is_dir()
    if columns.given and not is_file:
        raise ConfigError(
            f"--{next(iter(columns.given))}-column has no effect on {spec}: only tables and hf:"
            " data sets have columns."
        )
    if spec.startswith(TORCHVISION):
        return load_torchvision_set(spec, offline=offline)
    if spec.startswith(SAMPLE):
        return replace(load_sample(spec, SAMPLES), spec=spec)
    if not is_file:
        return replace(_load_folder(path), spec=spec)
    table = _load_file(path, columns=columns, label_separator=label_separator)
    return replace(table, spec=spec)


def _load_file(path: Path, *, columns: TableColumns, label_separator: str | None) -> ImageTable:
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_csv_table(path, columns=columns, label_separator=label_separator)
    if boxes := box_layout(path):
        raise DataError(_BOXES.format(path, boxes))
    raise DataError(f"{path} is a file of no kind understood here. {UNDERSTOOD}")


def _load_folder(path: Path) -> ImageTable:
    if (path / SOLUTION_NAME).is_file():
        return read_kaggle_imagenet(path)
    try:
        return _read_folders(path)
    except DataError as error:
        if boxes := box_layout(path):
            raise DataError(_BOXES.format(path, boxes)) from error
        raise


def _read_folders(path: Path) -> ImageTable:
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
