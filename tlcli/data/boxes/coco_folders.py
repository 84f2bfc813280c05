"""Where COCO json files and their images lie: COCO 2017, Roboflow, CVAT, or one json."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tlcli.data.boxes.box_assembly import assemble
from tlcli.data.boxes.box_repair import OnBadBox
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.coco_json import read_coco_json
from tlcli.data.boxes.image_names import refuse_escapes
from tlcli.data.boxes.raw_parts import RawPart
from tlcli.data.folders import SPLIT_WORDS, sub_folders
from tlcli.data.table import some_names
from tlcli.errors import DataError

ROBOFLOW_NAME = "_annotations.coco.json"
_ANNOTATIONS = "annotations"
_PREFIX = "instances_"
# Where the images lie is decided by this many of them
_PROBED = 50


def find_coco_files(root: Path) -> dict[str, Path]:
    """Return the json file of each split below `root`, {} if there is none.

    Looked for are `annotations/instances_SPLIT*.json` (also without `instances_`), one json alone
    in `annotations` (then `unsplit`), and Roboflow's `SPLIT/_annotations.coco.json`.

    Raises:
        DataError: two files mean the same split.
    """
    found = _by_split(_named_jsons(root / _ANNOTATIONS))
    if not found:
        beside = {name: root / name / ROBOFLOW_NAME for name in sub_folders(root)}
        found = _by_split((name, path) for name, path in beside.items() if path.is_file())
    if not found and (root / ROBOFLOW_NAME).is_file():
        return {"unsplit": root / ROBOFLOW_NAME}
    return found or _only(list(_named_jsons(root / _ANNOTATIONS)))


def find_loose_coco_files(root: Path) -> dict[str, Path]:
    """Return the json files directly in `root`, by split as in `find_coco_files`.

    Raises:
        DataError: two files mean the same split.
    """
    return _by_split(_named_jsons(root)) or _only(list(_named_jsons(root)))


def read_coco_folder(root: Path, files: dict[str, Path], *, on_bad_box: OnBadBox) -> BoxTable:
    """Read the json of each split and find its images.

    Args:
        root: Absolute folder of all.
        files: What `find_coco_files` found.
        on_bad_box: See `box_repair.repair_boxes`.

    Raises:
        DataError: a json or its images are not as they should be.
    """
    parts = [_located(read_coco_json(path, split=split), root) for split, path in files.items()]
    table = assemble(parts, root=root, on_bad_box=on_bad_box)
    return replace(table, notes=(*_unused_notes(files), *table.notes))


def read_coco_file(path: Path, *, on_bad_box: OnBadBox) -> BoxTable:
    """Read one json, all of it `unsplit`; its images lie beside it or in a folder near by.

    Raises:
        DataError: the json or its images are not as they should be.
    """
    part = read_coco_json(path, split="unsplit")
    folder = _image_folder(part, [path.parent, path.parent.parent])
    root = path.parent if folder.is_relative_to(path.parent) else path.parent.parent
    return assemble([_below(part, folder, root)], root=root, on_bad_box=on_bad_box)


def _named_jsons(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield json files that may hold boxes, with the word that may mean a split."""
    for path in sorted(folder.glob("*.json")):
        word = path.stem.removeprefix(_PREFIX)
        if path.is_file() and not path.name.startswith(
            (".", "captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
        ):
            yield re.sub(r"[-_.]?\d+$", "", word), path


def _by_split(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word, path in files:
        split = SPLIT_WORDS.get(word.lower())
        if split in found:
            raise DataError(
                f"'{found[split].name}' and '{path.name}' in {path.parent} both mean '{split}';"
                " keep one, or give --data the one json that is meant."
                if found[split].parent == path.parent
                else f"{found[split]} and {path} both mean '{split}'; keep one."
            )
        if split is not None:
            found[split] = path
    return found


def _only(files: list[tuple[str, Path]]) -> dict[str, Path]:
    return {"unsplit": files[0][1]} if len(files) == 1 else {}


def _unused_notes(files: dict[str, Path]) -> list[str]:
    folders = sorted({path.parent for path in files.values()})
    beside = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    unused = [path.name for path in beside if path not in files.values()]
    if not unused:
        return []
    return [f"{len(unused)} other json files are not used: {some_names(unused)}."]


def _located(part: RawPart, root: Path) -> RawPart:
    own = Path(part.source).parent
    return _below(part, _image_folder(part, list(dict.fromkeys([own, root]))), root)


def _image_folder(part: RawPart, near: list[Path]) -> Path:
    """Return the folder that holds most of the first images of `part`.

    Args:
        part: Its paths are the file names of the json.
        near: Folders that hold the images or whose own folders do.
    """
    source = Path(part.source)
    names = part.images["path"].tolist()[:_PROBED]
    best, most = source.parent, 0
    for place in _places(source, near, split=part.split):
        hits = sum(os.path.isfile(place / name) for name in names)  # noqa: PTH113  (odd names too)
        if hits > most:
            best, most = place, hits
        if hits == len(names):
            break
    if names and not most:
        raise DataError(
            f"The images of {source} ({some_names(names)}) are nowhere near it; looked in"
            f" {', '.join(str(place) for place in near)} and the folders there. Put them into"
            f" {near[0] / 'images'}."
        )
    return best


def _places(source: Path, near: list[Path], *, split: str) -> Iterator[Path]:
    word = source.stem.removeprefix(_PREFIX)
    for name in (word, f"images/{word}", split, f"images/{split}", "images", ""):
        yield from (place / name for place in near)
    for place in near:
        yield from (place / name for name in sub_folders(place))


def _below(part: RawPart, folder: Path, root: Path) -> RawPart:
    """Return `part` with paths from `root` on, for images in `folder`."""
    names = part.images["path"].tolist()
    refuse_escapes(folder, names)
    start = os.path.relpath(folder, root)
    paths = names if start == "." else [f"{Path(start).as_posix()}/{name}" for name in names]
    return replace(part, images=part.images.assign(path=paths))
