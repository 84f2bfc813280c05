"""Where COCO json files and their images lie: COCO 2017, Roboflow, CVAT, or one json."""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tlcli.data.boxes.box_assembly import assemble
from tlcli.data.boxes.box_repair import OnBadBox
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.coco_json import read_coco_json
from tlcli.data.boxes.image_headers import OnBadImage
from tlcli.data.boxes.image_names import refuse_escapes
from tlcli.data.boxes.raw_parts import RawPart
from tlcli.data.folders import SPLIT_WORDS, sub_folders
from tlcli.data.table import some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

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


def likely_coco_files(root: Path) -> Iterator[Path]:
    """Yield the json files in or below `root` that may hold boxes, whatever they are called."""
    yield from (path for _, path in _named_jsons(root / _ANNOTATIONS))
    beside = (root / name / ROBOFLOW_NAME for name in sub_folders(root))
    yield from (path for path in beside if path.is_file())
    yield from (path for _, path in _named_jsons(root))


def read_coco_folder(
    root: Path, files: dict[str, Path], *, on_bad_box: OnBadBox, on_bad_image: OnBadImage
) -> BoxTable:
    """Read the json of each split and find its images.

    Args:
        root: Absolute folder of all.
        files: What `find_coco_files` found.
        on_bad_box: See `box_repair.repair_boxes`.
        on_bad_image: See `box_assembly.assemble`.

    Raises:
        DataError: a json or its images are not as they should be.
    """
    parts = [_located(read_coco_json(path, split=split), root) for split, path in files.items()]
    table = assemble(parts, root=root, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    return replace(table, notes=(*_unused_notes(files), *table.notes))


def read_coco_file(path: Path, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage) -> BoxTable:
    """Read one json, all of it `unsplit`; its images lie beside it or in a folder near by.

    Raises:
        DataError: the json or its images are not as they should be.
    """
    part = read_coco_json(path, split="unsplit")
    folder = _image_folder(part, [path.parent, path.parent.parent])
    root = path.parent if folder.is_relative_to(path.parent) else path.parent.parent
    return assemble(
        [_below(part, folder, root)], root=root, on_bad_box=on_bad_box, on_bad_image=on_bad_image
    )


def _named_jsons(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield json files that may hold boxes, with the word that may mean a split."""
    for path in sorted(folder.glob("*.json")):
        if path.is_file() and not path.name.startswith(
            (".", "captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
        ):
            yield path.stem.removeprefix(_PREFIX), path


def _by_split(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word, path in files:
        split = _meaning(word)
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
    number = counted(len(unused), "other json file is", "other json files are")
    return [f"{number} not used: {some_names(unused)}."]


def _located(part: RawPart, root: Path) -> RawPart:
    own = Path(part.source).parent
    return _below(part, _image_folder(part, list(dict.fromkeys([own, root]))), root)


def _image_folder(part: RawPart, near: list[Path]) -> Path:
    """Return the folder that holds most of the first images of `part`.

    Args:
        part: Its paths are the file names of the json.
        near: Folders that hold the images or whose own folders do; a later one counts only if
            there is no image at all in or below the earlier ones.

    Raises:
        DataError: no folder holds any, or two hold as many and none has the better name.
    """
    source = Path(part.source)
    names = part.images["path"].tolist()[:_PROBED]
    best = next(filter(None, (_fullest(part, names, place) for place in near)), [])
    if names and not best:
        raise DataError(
            f"The images of {source} ({some_names(names)}) are nowhere near it; looked in"
            f" {', '.join(str(place) for place in near)} and the folders there, but those named as"
            f" another split. Put them into {near[0] / 'images'}."
        )
    different = {os.path.realpath(folder): folder for folder in best}
    if len(different) > 1:
        raise DataError(
            f"The images of {source} ({some_names(names)}) can be those in"
            f" {' or '.join(map(str, different.values()))}; call the right folder"
            f" '{_word(source) or part.split}', or take the others away."
        )
    return best[0] if best else source.parent


def _fullest(part: RawPart, names: list[str], place: Path) -> list[Path]:
    """Return the best named of the folders at `place` that hold most of `names`."""
    best: list[Path] = []
    most = 0
    for folders in _places(Path(part.source), place, split=part.split):
        hits = {folder: _count_files(folder, names) for folder in folders}
        if max(hits.values(), default=0) > most:
            most = max(hits.values())
            best = [folder for folder, number in hits.items() if number == most]
        if most == len(names):
            break
    return best


def _count_files(folder: Path, names: list[str]) -> int:
    return sum(os.path.isfile(folder / name) for name in names)  # noqa: PTH113  (odd names too)


def _places(source: Path, place: Path, *, split: str) -> Iterator[list[Path]]:
    """Yield groups of folders in which images may lie, those with better names first."""
    word = _word(source)
    meant = _meaning(word) or (None if split == "unsplit" else split)
    if source == place / ROBOFLOW_NAME:
        yield [place]
    if word:
        yield [place / word, place / "images" / word]
    if meant:
        yield _folders(place, {meant})
    yield [place / "images"]
    yield [place]
    yield _folders(place, {None, meant} if meant else {None, *SPLIT_WORDS.values()})


def _folders(place: Path, meanings: Collection[str | None]) -> list[Path]:
    """Return the folders in `place` and in its `images` whose names have one of the meanings."""
    parents = [up for up in (place, place / "images") if up.is_dir()]
    found = [up / name for up in parents for name in sub_folders(up)]
    return [folder for folder in found if _meaning(folder.name) in meanings]


def _word(source: Path) -> str:
    """Return what the name of a json says of its images: `val2017` of instances_val2017.json."""
    return "" if source.name == ROBOFLOW_NAME else source.stem.removeprefix(_PREFIX)


def _meaning(word: str) -> str | None:
    """Return the split that a word means, also with a year: `valid`, `Val2017`, `test-2`."""
    return SPLIT_WORDS.get(re.sub(r"[-_.]?\d+$", "", word).lower())


def _below(part: RawPart, folder: Path, root: Path) -> RawPart:
    """Return `part` with paths from `root` on, for images in `folder`."""
    names = part.images["path"].tolist()
    refuse_escapes(folder, names)
    start = os.path.relpath(folder, root)
    paths = names if start == "." else [f"{Path(start).as_posix()}/{name}" for name in names]
    return replace(part, images=part.images.assign(path=paths))
