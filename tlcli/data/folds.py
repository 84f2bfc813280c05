"""k-fold cross-validation: which images are val in the i-th of k runs."""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.data.splits import grouped_rows, label_positions, seeded_generator, split_table
from tlcli.data.stratified_parts import KEPT, stratified_folds, units_of
from tlcli.data.table import ImageTable, some_names
from tlcli.errors import ConfigError, DataError
from tlcli.results.counted import counted

_TRIALS = 20


def fold_table(
    table: ImageTable, *, fold: int, folds: int, test_fraction: float, seed: int
) -> ImageTable:
    """Make the i-th of k equal parts of the images val, and the others train.

    The test part is taken first, or is the one that the data has; it is the same in all folds. Of
    the images left every one is val in exactly one of the k folds, but for those of classes that
    have a single image (or lie in a single group): they stay in train, which needs every class.
    Each class is spread over the folds evenly, and so is the whole; groups stay together.

    Args:
        table: Without a val part; it is not changed.
        fold: Which fold is val, 1..k.
        folds: k, 2 or more.
        test_fraction: Part of the images to report on, 0 for none.
        seed: Same seed, same folds.

    Raises:
        ConfigError: the data has a val part, or fewer images (groups) than folds.
        DataError: however the groups are dealt, a fold leaves a class without train images.
    """
    if "val" in table.splits:
        raise ConfigError(
            f"{table.spec} has a val part already; --fold makes its own. Leave --fold out, or"
            " bring val and train together."
        )
    if test_fraction:
        table = split_table(table, val_fraction=0, test_fraction=test_fraction, seed=seed)
    else:
        splits = table.items["split"].replace("unsplit", "train")
        table = table.with_items(table.items.assign(split=splits))
    if "train" not in table.splits:
        raise ConfigError(f"{table.spec} has no train part for --fold to take images from.")
    rows = table.part("train")
    if table.is_multi_label:
        labels = table.label_matrix("train")
        numbers = _deal_labels(rows, labels=labels, folds=folds, seed=seed)
        notes = _label_notes(table.classes, labels, numbers)
    else:
        numbers = fold_numbers(rows, folds=folds, seed=seed)
        notes = _notes(rows["label"], numbers)
    parts = np.where(numbers == fold - 1, "val", "train")
    others = table.items[table.items["split"] != "train"]
    return table.with_items(
        pd.concat([others, rows.assign(split=parts)], ignore_index=True),
        notes=notes,
    )


def fold_numbers(rows: pd.DataFrame, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the fold (0..k-1) of each row in which it is val, -1 for those that never are.

    Raises:
        ConfigError: there are fewer images or groups than folds.
        DataError: however the groups are dealt, a fold leaves a class without train images.
    """
    if (rows["group"] != "").any():
        return _deal_groups(rows, folds=folds, seed=seed)
    return _deal_images(rows, folds=folds, seed=seed)


def _deal_images(rows: pd.DataFrame, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal each class in random order, going on where the class before it stopped."""
    numbers = np.full(len(rows), KEPT, dtype=np.int64)
    dealt = 0
    for label, positions in label_positions(rows):
        if len(positions) > 1:
            order = seeded_generator("fold", label=label, seed=seed).permutation(positions)
            numbers[order] = (dealt + np.arange(len(order))) % folds
            dealt += len(order)
    if dealt < folds:
        raise ConfigError(
            f"--fold: {folds} folds need {folds} images of classes with two or more, there are"
            f" {dealt}."
        )
    return numbers


def _deal_groups(rows: pd.DataFrame, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal whole groups (scikit-learn's StratifiedGroupKFold) so that train keeps every class."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second

    groups, labels = grouped_rows(rows), rows["label"].to_numpy()
    open_rows = np.flatnonzero(~np.isin(groups, _only_groups(labels, groups)))
    _, codes = np.unique(labels[open_rows], return_inverse=True)
    num_groups = len(set(groups[open_rows]))
    if num_groups < folds or folds > np.bincount(codes).max():
        raise ConfigError(
            f"--fold: {folds} folds need {folds} groups, and a class of {folds} images, beside the"
            f" groups that hold all of a class; there are {num_groups} groups."
        )
    generator = seeded_generator("fold groups", label="", seed=seed)
    for _ in range(_TRIALS):
        numbers = np.full(len(rows), KEPT, dtype=np.int64)
        splitter = StratifiedGroupKFold(
            folds, shuffle=True, random_state=int(generator.integers(2**32))
        )
        with warnings.catch_warnings():
            # a class with fewer images than folds, which is looked at below
            warnings.filterwarnings("ignore", message="The least populated", module="sklearn")
            for number, (_, val) in enumerate(splitter.split(codes, codes, groups[open_rows])):
                numbers[open_rows[val]] = number
        if _train_is_whole(labels, numbers, folds=folds):
            return numbers
    raise DataError(
        f"--fold: however whole groups are dealt to {folds} folds, one of them is empty or holds"
        " all that is left of a class; use fewer folds or more groups."
    )


def _deal_labels(
    rows: pd.DataFrame, *, labels: npt.NDArray[np.bool_], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Deal images of any number of classes, or groups of them, with every class in its share.

    Raises:
        ConfigError: there are fewer images or groups than folds.
        DataError: one of the folds is empty.
    """
    is_grouped = bool((rows["group"] != "").any())
    units = units_of(labels, groups=grouped_rows(rows) if is_grouped else None)
    generator = seeded_generator("fold labels", label="", seed=seed)
    numbers = stratified_folds(units, folds=folds, generator=generator)
    what, num_dealt = "groups" if is_grouped else "images", int((numbers != KEPT).sum())
    if num_dealt < folds:
        raise ConfigError(
            f"--fold: {folds} folds need {folds} {what} beside those that hold all there is of a"
            f" class; there are {num_dealt}."
        )
    if len(set(numbers[numbers != KEPT])) < folds:
        raise DataError(f"--fold: there are too few {what} for {folds} folds; use fewer.")
    return numbers[units.of_row]


def _label_notes(
    classes: Sequence[str], labels: npt.NDArray[np.bool_], numbers: npt.NDArray[np.int64]
) -> list[str]:
    """Tell of images that stay in train, and of the classes that they alone have."""
    is_kept = numbers == KEPT
    if not is_kept.any():
        return []
    alone = labels.any(axis=0) & ~labels[~is_kept].any(axis=0)
    names = [name for name, is_alone in zip(classes, alone, strict=True) if is_alone]
    why = f": all there is of {some_names(names)}." if names else ", for their classes' sake."
    images = counted(int(is_kept.sum()), "image stays", "images stay")
    return [f"{images} in train in every fold{why}"]


def _only_groups(labels: npt.NDArray[np.object_], groups: npt.NDArray[np.object_]) -> list[str]:
    """Return the groups that hold all images of a class."""
    members = pd.DataFrame({"label": labels, "group": groups}).groupby("label")["group"].agg(set)
    return sorted({group for found in members if len(found) == 1 for group in found})


def _train_is_whole(
    labels: npt.NDArray[np.object_], numbers: npt.NDArray[np.int64], *, folds: int
) -> bool:
    """Say whether no fold is empty and each leaves train images of every class."""
    if len(set(numbers[numbers != KEPT])) < folds:
        return False
    spread = pd.DataFrame({"label": labels, "fold": numbers}).groupby("label")["fold"].nunique()
    kept = set(labels[numbers == KEPT])
    return all(count > 1 or label in kept for label, count in spread.items())


def _notes(labels: "pd.Series[str]", numbers: npt.NDArray[np.int64]) -> list[str]:
    is_kept = numbers == KEPT
    if not is_kept.any():
        return []
    names = sorted(set(labels[is_kept]) - set(labels[~is_kept]))
    images = counted(int(is_kept.sum()), "image stays", "images stay")
    return [
        f"{images} in train in every fold, as all there is of a class would leave it:"
        f" {some_names(names)}."
    ]
