"""The images of a run: loaded, checked, split, and made into batches."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tlcli.config import DataConfig
from tlcli.config.parts import ImagesConfig
from tlcli.data.cache_folder import cache_folder
from tlcli.data.catalog import load_table
from tlcli.data.class_file import ClassName, choose_classes, read_class_file
from tlcli.data.csv_table import TableColumns
from tlcli.data.data_spec import HUB, TORCHVISION
from tlcli.data.data_spec import absolute_spec as absolute_spec
from tlcli.data.exact_copies import NO_COPIES, ExactCopies, ExactCopy, copies_in
from tlcli.data.folds import fold_table
from tlcli.data.image_check import check_images, count_converted, find_duplicates
from tlcli.data.label_sets import labels_in_words
from tlcli.data.split_file import read_split
from tlcli.data.splits import limit_table, sample_table, split_table
from tlcli.data.table import ImageTable
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import write_csv
from tlcli.results.counted import counted
from tlcli.results.picture_fonts import font_remark
from tlcli.results.run_dir import RunDirectory

B = TypeVar("B")
D = TypeVar("D", bound=DataConfig)

DUPLICATES = "duplicates.csv"
_NAMED_COPIES = 3


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images of a run and what was found while looking at them."""

    table: ImageTable
    """With the splits and the limit of the run."""
    whole: ImageTable
    """Before the limit: what `splits.csv` keeps."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of every image left out by `--on-bad-image skip`."""
    copies: ExactCopies = NO_COPIES
    """Images that equal an earlier one byte for byte."""
    class_names: tuple[ClassName, ...] | None = None
    """What `--classes` chose; None without it."""

    def to_json(self) -> dict[str, Any]:
        """Return what `run.json` says of the data."""
        return {
            "spec": absolute_spec(self.table.spec),
            "root": str(self.table.root),
            "fingerprint": self.whole.fingerprint,
            "counts": self.table.counts(),
            **({"images": self.table.sizes()} if self.table.is_multi_label else {}),
            "skipped": len(self.skipped),
            "exact_copies": len(self.copies.rows),
            "copies_across_splits": self.copies.crossing,
            "class_names": self.class_names and [list(name) for name in self.class_names],
        }


def require_parts(table: ImageTable) -> None:
    """Make sure that there are images to train on and images to choose the best epoch by.

    Raises:
        DataError: If a part is missing.
    """
    for split, remedy in (
        ("train", "Name the folder or the rows to learn from 'train'."),
        ("val", "Give --val-split above 0 or --fold, or more images per class."),
    ):
        if split not in table.splits:
            raise DataError(f"{table.spec} has no images in the part '{split}'. {remedy}")
        if not any(table.counts()[split].values()):
            raise DataError(f"No image in the part '{split}' of {table.spec} has a label.")


def with_absolute_paths(config: D) -> D:
    """Let the data options mean the same from any folder, as `config.toml` has to."""
    classes = config.classes and str(Path(config.classes).expanduser().resolve())
    return replace(config, data=absolute_spec(config.data), classes=classes)


def absolute_weights(weights: str) -> str:
    """Return `--weights` so that a file or folder is found from anywhere; tags stay as they are."""
    path = Path(weights).expanduser()
    is_path = path.exists() and (path.suffix or path.is_dir() or "/" in weights)
    return str(path.resolve()) if is_path else weights


def load_images(
    config: DataConfig,
    *,
    seed: int,
    former: RunDirectory | None = None,
    find_copies: bool = True,
    offline: bool = False,
    talk: Talk,
) -> RunImages:
    """Load the table of `--data`, leave out bad images if asked to, and split it.

    Args:
        config: The data options.
        seed: Of the split.
        former: A run to go on with: its split and its choice of classes are taken.
        find_copies: Look for images that are exact copies of others.
        offline: Download nothing.
        talk: Is told of everything found.
    """
    chosen = _chosen_classes(config) if former is None else _kept_classes(former)
    table, skipped = _load(config, classes=chosen, offline=offline, talk=talk)
    if former is not None:
        whole = read_split(table, former.splits_path)
    else:
        whole = _split(table, config, seed=seed)
    limited = limit_table(whole, limit=config.limit, seed=seed) if config.limit else whole
    items = limited.items
    copies = (
        exact_copies(table.root, list(items["path"]), list(items["split"]))
        if find_copies
        else NO_COPIES
    )
    _report(limited, talk=talk)
    warn_of_copies(copies, talk=talk)
    return RunImages(
        table=limited,
        whole=whole,
        skipped=skipped,
        copies=copies,
        class_names=chosen,
    )


def refuse_second_val(config: ImagesConfig, *, splits: Sequence[str], spec: str) -> None:
    """Refuse `--val-split` where the data says itself which images are val.

    Raises:
        ConfigError: If both are there.
    """
    if "val" in splits and config.val_split not in (0, ImagesConfig.val_split):
        raise ConfigError(
            f"--val-split {config.val_split:g} has no effect: {spec} has a val part already. Leave "
            "it out."
        )


def _split(table: ImageTable, config: DataConfig, *, seed: int) -> ImageTable:
    test = config.test_split
    if config.fold_of is None:
        refuse_second_val(config, splits=table.splits, spec=table.spec)
        return split_table(table, val_fraction=config.val_split, test_fraction=test, seed=seed)
    fold, folds = config.fold_of
    return fold_table(table, fold=fold, folds=folds, test_fraction=test, seed=seed)


def _chosen_classes(config: DataConfig) -> tuple[ClassName, ...] | None:
    return None if config.classes is None else read_class_file(Path(config.classes).expanduser())


def _kept_classes(former: RunDirectory) -> tuple[ClassName, ...] | None:
    """Return what `--classes` chose when a run began, whatever became of the file."""
    kept = former.read_record()["data"].get("class_names")
    return kept and tuple(ClassName(old, new) for old, new in kept)


def load_unsplit(config: DataConfig, *, seed: int, offline: bool = False, talk: Talk) -> RunImages:
    """Load a table with the splits it comes with, for evaluation only."""
    chosen = _chosen_classes(config)
    table, skipped = _load(config, classes=chosen, offline=offline, talk=talk)
    limited = sample_table(table, limit=config.limit, seed=seed) if config.limit else table
    _report(limited, talk=talk)
    return RunImages(table=limited, whole=table, skipped=skipped, class_names=chosen)


def write_skipped(images: RunImages, folder: Path) -> None:
    """List what `--on-bad-image skip` left out in `skipped_images.csv`; no file if nothing."""
    write_skipped_paths(images.skipped, folder)


def write_skipped_paths(skipped: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write path and reason of images left out to `skipped_images.csv`; no file if none."""
    if skipped:
        write_csv(folder / "skipped_images.csv", header=["path", "reason"], rows=skipped)


def _load(
    config: DataConfig, *, classes: Sequence[ClassName] | None, offline: bool, talk: Talk
) -> tuple[ImageTable, tuple[tuple[str, str], ...]]:
    columns = TableColumns(
        path=config.path_column,
        label=config.label_column,
        split=config.split_column,
        group=config.group_column,
    )
    if config.data.startswith((TORCHVISION, HUB)):
        kept = cache_folder()
        talk.note(f"{config.data} is fetched if it is not here yet, and kept in {kept}.")
    separator = config.separator
    table = load_table(config.data, columns=columns, label_separator=separator, offline=offline)
    if classes is not None:
        table = choose_classes(table, classes)
    if config.on_bad_image == "fail":
        return table, ()
    return _without_bad_images(table, talk=talk)


def _without_bad_images(
    table: ImageTable, *, talk: Talk
) -> tuple[ImageTable, tuple[tuple[str, str], ...]]:
    skipped = bad_images(table.root, list(table.items["path"]), talk=talk)
    kept = table.items[~table.items["path"].isin({path for path, _ in skipped})]
    return (table.with_items(kept) if skipped else table), skipped


def bad_images(root: Path, paths: Sequence[str], *, talk: Talk) -> tuple[tuple[str, str], ...]:
    """Decode every image once; return path and reason of those that cannot be, and tell of them."""
    talk.note(f"Looking for bad images among {len(paths)} (--on-bad-image skip).")
    checks = check_images([root / path for path in paths], threads=os.cpu_count() or 1)
    skipped = tuple(
        (path, check.problem)
        for path, check in zip(paths, checks, strict=True)
        if check.problem is not None
    )
    for _, problem in skipped:
        talk.warn(f"left out: {problem}")
    return skipped


def exact_copies(root: Path, paths: Sequence[str], splits: Sequence[str]) -> ExactCopies:
    """Return which images are exact copies of others."""
    position = {root / path: number for number, path in enumerate(paths)}
    groups = [[position[path] for path in group] for group in find_duplicates(position)]
    return copies_in(groups, paths=paths, splits=splits)


def write_copies(copies: ExactCopies, folder: Path) -> None:
    """List exact copies in `duplicates.csv`; no file if there are none."""
    path = folder / DUPLICATES
    if copies.rows:
        write_csv(path, header=list(ExactCopy._fields), rows=copies.rows)
    else:
        path.unlink(missing_ok=True)  # of images that were here before


def _report(table: ImageTable, *, talk: Talk) -> None:
    sizes = ", ".join(f"{number} {split}" for split, number in table.sizes().items())
    classes = counted(len(table.classes), "class", "classes")
    images = "image" if list(table.sizes().values())[-1:] == [1] else "images"
    talk.note(f"Data: {table.spec}: {classes}, {sizes} {images}.")
    if table.is_multi_label:
        talk.note(labels_in_words(table.items["label"]))
    for remark in table.remarks:
        talk.warn(remark)
    warn_of_letters([table.class_titles.get(name, name) for name in table.classes], talk=talk)


def warn_of_letters(names: Sequence[str], *, talk: Talk) -> None:
    """Tell of class names that figures cannot show."""
    if remark := font_remark(names):
        talk.warn(remark)


def warn_of_copies(copies: ExactCopies, *, talk: Talk) -> None:
    """Tell of images that equal others byte for byte, and name some."""
    if not copies.rows:
        return
    number, crossing = len(copies.rows), copies.crossing
    one, many = "image is an exact copy of another", "images are exact copies of others"
    where = " in the same split"
    if crossing:
        lie = counted(crossing, "of the copied pictures lies", "of the copied pictures lie")
        where = f", and {lie} in more than one split: results on val and test are flattered"
    pairs = [f"'{one.path}' equals '{one.same_as}'" for one in copies.examples(most=_NAMED_COPIES)]
    pairs += ["…"] if number > _NAMED_COPIES else []
    talk.warn(
        f"{counted(number, one, many)}{where}. {', '.join(pairs)} ({DUPLICATES} of a run folder "
        "lists all)."
    )


def tell_of_channels(table: ImageTable, *, channels: int, talk: Talk) -> None:
    """Tell how many images do not hold what they are read with: gray, or transparency."""
    paths = [table.root / path for path in table.items["path"]]
    found = count_converted(paths, channels=channels, threads=os.cpu_count() or 1)
    if found and channels == 1:
        images = counted(found, "image is stored", "images are stored")
        talk.note(f"{images} in colour or with a palette, and read as gray (luma, ITU-R 601-2).")
    elif found:
        images = counted(found, "image has", "images have")
        talk.warn(f"{images} no transparency: the fourth channel is 255 everywhere in such ones.")
