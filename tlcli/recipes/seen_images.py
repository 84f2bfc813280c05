"""Images that a run has learnt from already, found before they flatter what is judged on them."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tlcli.config import FinetuneConfig, options_of
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.data_spec import absolute_spec
from tlcli.data.image_check import find_duplicates
from tlcli.data.split_file import read_parts
from tlcli.data.table import ImageTable, some_names
from tlcli.errors import ConfigError
from tlcli.recipes.talk import Talk
from tlcli.results.counted import counted
from tlcli.results.run_dir import RunDirectory

_DECIDE_THE_SPLIT = (
    *("data", "classes", "path_column", "label_column", "split_column", "group_column"),
    *("on_bad_image", "fold", "val_split", "test_split", "seed"),
)
_HELD_OUT = ("val", "test")


def check_held_out(run: Path, images: ImageTable, *, config: FinetuneConfig) -> None:
    """Make sure that a head to start from was not solved on images that are to judge it.

    Args:
        run: Folder of the head.
        images: All images of the training, split.
        config: Of the training.

    Raises:
        ConfigError: If it was: its split is another.
    """
    folder = RunDirectory.open(run)
    parts = {split: set(images.paths(split)) for split in images.splits}
    held_out = set().union(*(parts.get(split, set()) for split in _HELD_OUT))
    own = parts.get("train", set())
    theirs = set(_files_of(folder, "train", data=images)) - own
    leaked = _seen(theirs, files=held_out)
    leaked -= _seen(own, files=leaked)  # copies that cross the run's own split are told of apart
    if not leaked:
        return
    record = folder.read_record()["config"]
    ours = options_of(config) | {"data": absolute_spec(config.data.data)}
    differing = [name for name in _DECIDE_THE_SPLIT if record.get(name) != ours[name]]
    theirs_has, ours_has = (_in_words(options, differing) for options in (record, ours))
    reason = f" It was split with {theirs_has}, this run is with {ours_has}." if differing else ""
    root = images.root
    names = sorted(str(p.relative_to(root) if p.is_relative_to(root) else p) for p in leaked)
    raise ConfigError(
        f"--init-head {run}: {len(leaked)} of the {counted(len(held_out), 'image')} in val and "
        f"test ({some_names(names)}) lie in its train part, which would flatter results.{reason} "
        "Split both alike, or solve a head on features of this run's own split."
    )


def _in_words(options: Mapping[str, Any], names: Iterable[str]) -> str:
    flags = {name: f"--{name.replace('_', '-')}" for name in names}
    return ", ".join(
        f"no {flag}" if options.get(name) is None else f"{flag} {options[name]}"
        for name, flag in flags.items()
    )


def warn_of_seen(
    folder: RunDirectory, split: str, *, data: ImageTable | BoxTable, talk: Talk
) -> None:
    """Warn where data that was given for a run's evaluation is what it was trained or chosen on.

    Args:
        folder: The run.
        split: The part of the data that is judged.
        data: What was given.
        talk: Is told.
    """
    if not folder.splits_path.exists():
        talk.warn(
            f"{folder.splits_path} is gone: whether the run was trained on these images is unknown."
        )
        return
    files = set(_paths(data, split))
    trained = _seen(_files_of(folder, "train", data=data), files=files)
    chose = _seen(_files_of(folder, "val", data=data), files=files) - trained
    told = [
        f"{len(found)} in {part}"
        for found, part in (
            (trained, "the part that this run was trained on"),
            (chose, "the one that chose its best epoch"),
        )
        if found
    ]
    if told:
        talk.warn(
            f"Of the {counted(len(files), 'image')} {' and '.join(told)}: as an estimate this is "
            "flattering. Leave --data out to judge the run on its own split."
        )


def warn_of_seen_weights(folder: RunDirectory, boxes: BoxTable, *, talk: Talk) -> None:
    """Warn where images are to judge a training that starts from a run which learnt from them."""
    if not folder.splits_path.exists():
        return
    files = {file for split in _HELD_OUT for file in _paths(boxes, split)}
    own = set(_paths(boxes, "train"))
    leaked = _seen(set(_files_of(folder, "train", data=boxes)) - own, files=files)
    leaked -= _seen(own, files=leaked)
    if leaked:
        seed = folder.read_record()["config"].get("seed")
        talk.warn(
            f"--weights {folder.path}: {len(leaked)} of the {counted(len(files), 'image')} in val "
            f"and test lie in its train part, which flatters the results. It was split with --seed "
            f"{seed}."
        )


def _files_of(folder: RunDirectory, split: str, *, data: ImageTable | BoxTable) -> list[Path]:
    """Return the images of a part of a run; none if it is not known where they lie."""
    kept = folder.read_record()["data"]
    root = kept.get("root") or (data.root if kept["spec"] == absolute_spec(data.spec) else None)
    if root is None:
        return []
    return [Path(root) / path for path in read_parts(folder.splits_path).get(split, ())]


def _paths(data: ImageTable | BoxTable, split: str) -> list[Path]:
    if split not in data.splits:
        return []
    if isinstance(data, ImageTable):
        return data.paths(split)
    return [data.root / path for path in data.images_of(split)["path"]]


def _seen(theirs: Iterable[Path], *, files: Collection[Path]) -> set[Path]:
    """Return those of some files that are among others, by their path or byte for byte."""
    known = set(theirs)
    same = known & set(files)
    others = [path for path in known - same if path.is_file()]
    left = [path for path in files if path not in same]
    if not others or not left:
        return same
    groups = find_duplicates([*left, *others])
    copies = (set(group) for group in groups if known & set(group))
    return same | {path for group in copies for path in group - known}
