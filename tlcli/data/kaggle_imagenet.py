"""The ImageNet folder as Kaggle ships it (ImageNet Object Localization Challenge)."""

import os
from pathlib import Path

import pandas as pd

from tlcli.data.folders import list_images, sub_folders
from tlcli.data.table import COLUMNS, ImageTable, make_table, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

SOLUTION_NAME = "LOC_val_solution.csv"
MAPPING_NAME = "LOC_synset_mapping.txt"
_IMAGES = "ILSVRC/Data/CLS-LOC"


def read_kaggle_imagenet(root: Path) -> ImageTable:
    """Read the flat val folder with its solution file, and the train folder if it is there.

    The classes are the WordNet ids in the order of `LOC_synset_mapping.txt`, which is the order of
    the outputs of ImageNet weights; their titles come from there too.

    Raises:
        DataError: a file is missing or malformed, or images and solution do not fit together.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100  (Path.absolute keeps "..")
    titles = _read_titles(root / MAPPING_NAME)
    rows = _val_rows(root, titles=titles)
    notes = []
    if (root / _IMAGES / "train").is_dir():
        rows += _train_rows(root, titles=titles)
    if (root / _IMAGES / "test").is_dir():
        notes.append(f"{_IMAGES}/test has no labels and is not used.")
    return make_table(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        spec=str(root),
        root=root,
        classes=tuple(titles),
        class_titles=titles,
        notes=notes,
    )


def _read_titles(path: Path) -> dict[str, str]:
    """Return `{"n01440764": "tench, Tinca tinca", ...}` in the order of the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}, which names the classes: {error}.") from error
    pairs = [line.strip().partition(" ") for line in lines if line.strip()]
    titles = {synset: title.strip() for synset, _, title in pairs}
    if len(titles) < len(pairs):
        raise DataError(f"{path} names a class twice.")
    return titles


def _read_solution(path: Path) -> dict[str, str]:
    """Return the synset of each ImageId: the first word of its PredictionString."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    if not {"ImageId", "PredictionString"} <= set(table.columns):
        raise DataError(f"{path} lacks the columns ImageId,PredictionString.")
    twice = sorted(set(table["ImageId"][table["ImageId"].duplicated()]))
    if twice:
        raise DataError(f"{path} names images twice: {some_names(twice)}.")
    first_words = [f"{text} ".split(" ", 1)[0] for text in table["PredictionString"]]
    return dict(zip(table["ImageId"], first_words, strict=True))


def _val_rows(root: Path, *, titles: dict[str, str]) -> list[tuple[str, str, str, str]]:
    solution = _read_solution(root / SOLUTION_NAME)
    unknown = sorted(set(solution.values()) - set(titles))
    if unknown:
        raise DataError(
            f"{SOLUTION_NAME} has classes that {MAPPING_NAME} lacks: {some_names(unknown)}."
        )
    files = {Path(name).stem: name for name in list_images(root / _IMAGES / "val").images}
    without_file = sorted(set(solution) - set(files))
    without_label = sorted(set(files) - set(solution))
    if without_file or without_label:
        raise DataError(
            f"{root / _IMAGES / 'val'} and {SOLUTION_NAME} do not fit:"
            f" {counted(len(without_file), 'image')} without a file ({some_names(without_file)}),"
            f" {counted(len(without_label), 'file')} without a label ({some_names(without_label)})."
        )
    return [(f"{_IMAGES}/val/{files[i]}", synset, "val", "") for i, synset in solution.items()]


def _train_rows(root: Path, *, titles: dict[str, str]) -> list[tuple[str, str, str, str]]:
    train = root / _IMAGES / "train"
    synsets = sub_folders(train)
    unknown = [name for name in synsets if name not in titles]
    if unknown:
        raise DataError(f"{train} has folders that {MAPPING_NAME} lacks: {some_names(unknown)}.")
    return [
        (f"{_IMAGES}/train/{synset}/{name}", synset, "train", "")
        for synset in synsets
        for name in list_images(train / synset).images
    ]
