"""What a folder or file of boxes looks like, by a few of its files; for messages to the user."""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from tlcli.data.boxes.coco_folders import likely_coco_files
from tlcli.data.boxes.pascal_voc import is_voc_folder
from tlcli.data.boxes.yolo_yaml import YAML_SUFFIXES, find_yolo_yaml, names_classes
from tlcli.data.folders import SPLIT_WORDS, sub_folders
from tlcli.data.table import SPLITS
from tlcli.errors import DataError

_PROBED = 20
"""Files of a kind that are looked into."""


def box_layout(path: Path) -> str | None:
    """Return what `path` looks like, "COCO boxes (annotations/val.json)"; None if like no boxes.

    Files are only looked into, and whatever is wrong with them is passed over.
    """
    if path.is_file():
        return _file_layout(path)
    if coco := next(filter(_mentions_boxes, islice(likely_coco_files(path), _PROBED)), None):
        return f"COCO boxes ({coco.relative_to(path).as_posix()})"
    if is_voc_folder(path):
        return "Pascal VOC boxes (Annotations)"
    with suppress(DataError):  # a yaml file that is broken, and perhaps of another tool
        if settings := find_yolo_yaml(path):
            return f"YOLO boxes ({settings.name})"
    if label := find_label_file(path):
        return f"YOLO boxes ({label.relative_to(path).as_posix()})"
    return None


def find_label_file(root: Path) -> Path | None:
    """Return a YOLO label file below a folder `labels` that has a folder `images` beside it."""
    for place in _label_places(root):
        files = (file for file in sorted((place / "labels").rglob("*.txt")) if file.is_file())
        if label := next(filter(_holds_numbers, islice(files, _PROBED)), None):
            return label
    return None


def yaml_lines(root: Path) -> list[str]:
    """Return the lines of a `data.yaml` for a folder in which `find_label_file` finds one."""
    inside = sub_folders(root / "images") if (root / "images").is_dir() else []
    folders = {name: f"images/{name}" for name in inside}
    folders |= {place.name: f"{place.name}/images" for place in _label_places(root)}
    parts = {SPLIT_WORDS[n.lower()]: f for n, f in folders.items() if n.lower() in SPLIT_WORDS}
    lines = [f"{split}: {parts[split]}" for split in SPLITS if split in parts]
    return [*(lines or ["train: images"]), "names: [cat, dog]"]


def _file_layout(path: Path) -> str | None:
    if path.suffix.lower() == ".json" and _mentions_boxes(path):
        return "COCO boxes"
    with suppress(DataError):
        if path.suffix.lower() in YAML_SUFFIXES and names_classes(path):
            return "YOLO boxes"
    return None


def _mentions_boxes(path: Path) -> bool:
    """Say whether `"bbox"` stands in a file, without reading all of it as JSON."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(b'"bbox"') >= 0
    except (OSError, ValueError):  # no file that can be read, or an empty one
        return False


def _label_places(root: Path) -> Iterator[Path]:
    """Yield `root` and its split folders, where they have both `images` and `labels`."""
    splits = [root / name for name in sub_folders(root) if name.lower() in SPLIT_WORDS]
    for place in (root, *splits):
        if (place / "images").is_dir() and (place / "labels").is_dir():
            yield place


def _holds_numbers(path: Path) -> bool:
    """Say whether the first line of a file is a class and at least four numbers."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            words = file.readline(10_000).split()
        return len([float(word) for word in words]) >= 5
    except (OSError, ValueError):
        return False
