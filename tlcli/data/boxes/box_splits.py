"""Seeded val and test parts of a detection data set, smaller samples, and `splits.csv`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.splits import check_fractions
from tlcli.data.table import some_names
from tlcli.errors import ConfigError, DataError
from tlcli.results.atomic import write_text
from tlcli.results.counted import counted

_COLUMNS = ["path", "split"]
# The "class" that images without boxes are drawn by
_NEGATIVE = -1


def split_boxes(
    table: BoxTable, *, val_fraction: float, test_fraction: float, seed: int
) -> BoxTable:
    """Carve val and test out of the images that are not split, or out of train.

    A val or test part that is there already stays as it is: `val_fraction` then has nothing to
    do, while asking for a second test part is an error. Of n images `round(n * fraction)` are
    taken, at least one where there are two or more. They are chosen class by class, the rarest
    first, so that every class of two or more images is in the new part if its size allows, and
    stays in train; images without boxes count as a class of their own. (A greedy relative of
    iterative stratification: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011.)

    Args:
        table: Any table; it is not changed.
        val_fraction: Part of the images to choose on, 0 for none.
        test_fraction: Part of the images to report on, 0 for none.
        seed: Same seed, same split.

    Raises:
        ConfigError: a fraction outside 0..0.9 (each, and both together), or test images are asked
            for where a test part exists or nothing is there to take them from.
    """
    check_fractions(0.0 if "val" in table.splits else val_fraction, test_fraction)
    if test_fraction > 0 and "test" in table.splits:
        raise ConfigError(
            f"{table.spec} has a test part already; leave --test-split {test_fraction:g} out."
        )
    source = "unsplit" if "unsplit" in table.splits else "train"
    if source not in table.splits:
        if test_fraction > 0:
            raise ConfigError(f"{table.spec} has no train part to take a test part from.")
        return table
    rows = table.images_of(source)["row"].to_numpy()
    classes = _classes_by_row(table)
    asked = {"val": 0.0 if "val" in table.splits else val_fraction, "test": test_fraction}
    splits = table.images["split"].astype(object).to_numpy(copy=True)
    splits[rows] = "train"
    for split, fraction in asked.items():
        left = [row for row in rows.tolist() if splits[row] == "train"]
        if fraction > 0 and len(left) > 1:
            number = min(max(1, round(len(rows) * fraction)), len(left) - 1)
            splits[_choose(left, classes, number=number, purpose=split, seed=seed)] = split
    return _with_splits(table, splits.tolist())


def limit_boxes(table: BoxTable, *, limit: int, seed: int) -> BoxTable:
    """Keep at most `limit` images of each split, drawn at random.

    Raises:
        ConfigError: `limit` is below 1.
    """
    if limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be 1 or more.")
    kept: list[int] = []
    for split in table.splits:
        rows = table.images_of(split)["row"].to_numpy()
        order = _generator(f"limit boxes {split}", seed=seed).permutation(rows)
        kept += order[:limit].tolist()
    return table.kept(kept)


def write_box_split(table: BoxTable, path: Path) -> None:
    """Write path and split of every image, atomically; before `limit_boxes`."""
    write_text(path, table.images[_COLUMNS].to_csv(index=False, lineterminator="\n"))


def read_box_split(table: BoxTable, path: Path) -> BoxTable:
    """Give a freshly loaded table the splits that `write_box_split` saved.

    Raises:
        DataError: the file cannot be read, or images appeared, vanished, or changed their order
            or given split since.
    """
    saved, fresh = _read(path), table.images[_COLUMNS]
    appeared = sorted(set(fresh["path"]) - set(saved["path"]))
    vanished = sorted(set(saved["path"]) - set(fresh["path"]))
    if appeared or vanished:
        raise DataError(
            f"{table.spec} changed since {path} was written: {counted(len(appeared), 'image')}"
            f" appeared ({some_names(appeared)}), {len(vanished)} vanished"
            f" ({some_names(vanished)})."
        )
    if fresh["path"].tolist() != saved["path"].tolist():
        raise DataError(
            f"{table.spec} changed since {path} was written: its images come in another order."
        )
    given = fresh["split"].isin(["val", "test"])  # train and unsplit images may have been carved
    changed = fresh["path"][given & (fresh["split"] != saved["split"])]
    if len(changed):
        raise DataError(
            f"{table.spec} changed since {path} was written: the split of"
            f" {counted(len(changed), 'image')} is another: {some_names(changed)}."
        )
    return _with_splits(table, saved["split"].tolist())


def _generator(purpose: str, *, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def _with_splits(table: BoxTable, splits: list[str]) -> BoxTable:
    column = pd.Series(splits, dtype="str", index=table.images.index)
    return replace(table, images=table.images.assign(split=column))


def _classes_by_row(table: BoxTable) -> dict[int, frozenset[int]]:
    """Return the classes in each image that has any, crowds aside."""
    boxes = table.boxes[~table.boxes["is_crowd"]]
    pairs = boxes[["image", "category"]].drop_duplicates()
    found: dict[int, set[int]] = {}
    for image, category in pairs.itertuples(index=False, name=None):
        found.setdefault(image, set()).add(category)
    return {image: frozenset(classes) for image, classes in found.items()}


def _choose(
    rows: Sequence[int],
    classes: dict[int, frozenset[int]],
    *,
    number: int,
    purpose: str,
    seed: int,
) -> list[int]:
    """Return `number` of `rows`; see `split_boxes`."""
    order = _generator(f"split boxes {purpose}", seed=seed).permutation(rows).tolist()
    held = {row: classes.get(row, frozenset({_NEGATIVE})) for row in order}
    members: dict[int, list[int]] = {}
    for row in order:
        for name in held[row]:
            members.setdefault(name, []).append(row)
    left = Counter({name: len(found) for name, found in members.items()})
    taken: dict[int, None] = {}

    def take(row: int) -> None:
        if row not in taken and all(left[name] > 1 or name == _NEGATIVE for name in held[row]):
            taken[row] = None
            left.subtract(held[row])

    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        total = len(members[name])
        wanted = min(max(1, round(total * number / len(order))), total - 1)
        for row in members[name]:
            if len(taken) == number or total - left[name] >= wanted:
                break
            take(row)
    for row in order:  # what rounding left open
        if len(taken) < number:
            take(row)
    for row in order:  # a part that is never empty comes before classes that stay in train
        if len(taken) < number:
            taken.setdefault(row)
    return list(taken)


def _read(path: Path) -> pd.DataFrame:
    try:
        saved = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the saved split {path}: {error}.") from error
    if list(saved.columns) != _COLUMNS:
        raise DataError(f"{path} is no saved split: it needs the columns {','.join(_COLUMNS)}.")
    return saved
