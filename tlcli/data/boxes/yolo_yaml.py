"""The yaml file of a YOLO data set: class names, and where the images of each split lie.

Format: https://docs.ultralytics.com/datasets/detect/ ; values are taken as text, so that a class
`no` stays "no" and is not YAML's false.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tlcli.data.boxes.box_table import Category
from tlcli.errors import DataError
from tlcli.results.counted import counted

_SPLIT_KEYS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class YoloYaml:
    """What the file says, its paths made absolute."""

    path: Path
    root: Path
    """All images lie below it."""
    categories: tuple[Category, ...]
    parts: Mapping[str, tuple[Path, ...]]
    """By split: folders, text files of image names, or images."""
    notes: tuple[str, ...]


def find_yolo_yaml(root: Path) -> Path | None:
    """Return the yaml file in `root` that names classes, `data.yaml` first."""
    files = [path for path in sorted(root.glob("*")) if path.suffix in YAML_SUFFIXES]
    for path in sorted(files, key=lambda file: file.stem != "data"):
        if names_classes(path):
            return path
    return None


def names_classes(path: Path) -> bool:
    """Say whether a yaml file has `names`, as that of a YOLO data set.

    Raises:
        DataError: no valid yaml.
    """
    document = _load(path)
    return isinstance(document, dict) and "names" in document


def read_yolo_yaml(path: Path) -> YoloYaml:
    """Read the file at an absolute path.

    Raises:
        DataError: no valid yaml; names, nc or a split are missing, wrong, or outside the data
            set's folder; labels are poses (`kpt_shape`).
    """
    document = _load(path)
    if not isinstance(document, dict):
        raise DataError(f"{path} is no YOLO data file: it needs names: and train:.")
    if "kpt_shape" in document:
        raise DataError(
            f"{path} has kpt_shape: its labels are poses, a box and key points in each line; export"
            " the data set for detection, as boxes only."
        )
    notes: list[str] = []
    root = _root(document, path, notes)
    parts = {
        split: tuple(_place(text, root, path, notes) for text in _texts(document, split, path))
        for split in _SPLIT_KEYS
        if document.get(split)
    }
    if not parts:
        raise DataError(f"{path} names no images: it needs train:, and best val: too.")
    return YoloYaml(
        path=path,
        root=root,
        categories=_categories(document, path),
        parts=parts,
        notes=tuple(notes),
    )


def _load(path: Path) -> Any:
    try:
        # BaseLoader makes text, lists and dicts only, never objects
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise DataError(f"{path} is not valid YAML: {where}.") from error


def _categories(document: Mapping[str, Any], path: Path) -> tuple[Category, ...]:
    names = document.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path} needs names:, a list of classes or a table from index to class.")
    for index, name in names.items():
        if not (isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index)):
            raise DataError(f"{path} has the class index '{index}'; it must be 0, 1, 2, ...")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: class {index} has no name.")
    declared = document.get("nc")
    if declared is not None and str(declared) != str(len(names)):
        number = counted(len(names), "class", "classes")
        raise DataError(f"{path} says nc: {declared} but names {number}; correct one.")
    return tuple(
        Category(id=number, name=name)
        for number, name in sorted((int(index), name) for index, name in names.items())
    )


def _root(document: Mapping[str, Any], path: Path, notes: list[str]) -> Path:
    """Return the folder that `path:` gives, relative to the yaml file."""
    text = document.get("path") or "."
    if not isinstance(text, str):
        raise DataError(f"{path} needs a folder as path:, not {text}.")
    # As Path.resolve, but a folder that is a link keeps its name
    root = (path.parent / Path(text).expanduser()).absolute()
    root = root.resolve() if ".." in root.parts else root
    if root.is_dir():
        return root
    # Written on another machine, or relative to Ultralytics' own data folder
    places = [text for split in _SPLIT_KEYS for text in _texts(document, split, path)]
    if places and all((path.parent / place).exists() for place in places):
        notes.append(f"{path.name} gives path: {text}, which is not here; {path.parent} is taken.")
        return path.parent
    raise DataError(f"{path} gives path: {text}, and there is no folder {root}; correct it.")


def _texts(document: Mapping[str, Any], split: str, path: Path) -> list[str]:
    value = document.get(split) or []
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text:
            raise DataError(
                f"{path} has {split}: {value}; it must be a folder, a .txt file, or a list of them."
            )
    return texts


def _place(text: str, root: Path, path: Path, notes: list[str]) -> Path:
    place = (root / text).absolute()
    if not place.exists() and text.startswith("../") and (root / text[3:]).exists():
        # Roboflow writes its paths as seen from a folder beside the data
        notes.append(f"{path.name} says '{text}'; '{text[3:]}' is taken, which is there.")
        place = root / text[3:]
    place = place.resolve() if ".." in place.parts else place
    if not place.exists():
        raise DataError(f"{path} says '{text}', and there is no {place}; correct it.")
    if not (place.is_relative_to(root) or place.is_relative_to(root.resolve())):
        raise DataError(
            f"{path} says '{text}', which lies outside the data set's folder {root}; set path: to"
            " the folder that holds all images and labels."
        )
    return place if place.is_relative_to(root) else root / place.relative_to(root.resolve())
