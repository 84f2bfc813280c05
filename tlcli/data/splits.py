"""Seeded, stratified parts of a table: validation and test images, and smaller samples."""

import hashlib
import heapq
import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.config.parts import MAX_SPLIT
from tlcli.data.label_sets import label_matrix
from tlcli.data.stratified_parts import stratified_parts, units_of
from tlcli.data.table import ImageTable, some_names
from tlcli.errors import ConfigError, DataError
from tlcli.results.counted import counted

# More folds come closer to the wanted fraction but balance the classes less
_MAX_FOLDS = 20


def split_table(
    table: ImageTable, *, val_fraction: float, test_fraction: float, seed: int
) -> ImageTable:
    """Carve val and test out of the images that are not split, or out of train.

    A val or test part that is there already stays as it is: `val_fraction` then has nothing to
    do, while asking for a second test part is an error. Of a class with n images
    `round(n * fraction)` are taken, at least one and never all. Each class is drawn by itself,
    so neither the other classes nor their order change its split. If images have groups, whole
    groups are taken (scikit-learn's StratifiedGroupKFold), so the fraction is met nearly.

    Images of any number of classes are split by iterative stratification (`stratified_parts`): of
    n images `round(n * fraction)`, train with every class that there is.

    Args:
        table: Any table; it is not changed.
        val_fraction: Part of the images to choose on, 0 for none.
        test_fraction: Part of the images to report on, 0 for none.
        seed: Same seed, same split.

    Raises:
        ConfigError: a fraction outside 0..0.9 (each, and both together), or test images are asked
            for where a test part exists or nothing is there to take them from.
        DataError: the groups leave no images of a class in train.
    """
    check_fractions(0.0 if "val" in table.splits else val_fraction, test_fraction)
    source = "unsplit" if "unsplit" in table.splits else "train"
    wanted = _wanted_parts(table, val_fraction=val_fraction, test_fraction=test_fraction)
    if source not in table.splits or (source == "train" and not wanted):
        return table
    rows = table.part(source)
    grouped = bool((rows["group"] != "").any())
    if table.is_multi_label:
        parts = _draw_stratified(rows, wanted, labels=table.label_matrix(source), seed=seed)
    else:
        parts = (_draw_groups if grouped else _draw_images)(rows, wanted, seed=seed)
    others = table.items[table.items["split"] != source]
    notes = _group_notes(parts, wanted) if grouped else _single_notes(table, source)
    return table.with_items(
        pd.concat([others, rows.assign(split=parts)], ignore_index=True), notes=notes
    )


def sample_table(table: ImageTable, *, limit: int, seed: int) -> ImageTable:
    """Keep at most `limit` images of each split, drawn whatever their class."""
    kept = []
    for split in table.splits:
        rows = table.part(split)
        order = seeded_generator(f"sample {split}", label="", seed=seed).permutation(len(rows))
        kept.append(rows.iloc[np.sort(order[:limit])])
    return table.with_items(pd.concat(kept, ignore_index=True))


def limit_table(table: ImageTable, *, limit: int, seed: int) -> ImageTable:
    """Keep at most `limit` images of each split, in the classes' proportions.

    Every class keeps at least one image; the rest of the seats are dealt by Webster's method
    (highest n / (2 seats + 1) first), or by iterative stratification where images have any number
    of classes. Groups are not looked at.

    Raises:
        ConfigError: `limit` is too small to keep an image of every class of a split.
    """
    kept = []
    for split in table.splits:
        rows = table.part(split)
        if table.is_multi_label:
            kept.append(_limit_stratified(rows, classes=table.classes, limit=limit, seed=seed))
            continue
        sizes = {str(name): int(size) for name, size in rows["label"].value_counts().items()}
        if limit < len(sizes):
            raise ConfigError(
                f"--limit {limit} is smaller than the {len(sizes)} classes of {split}; give at"
                " least one image per class."
            )
        seats, chosen = _deal_seats(sizes, limit=limit), []
        for label, positions in label_positions(rows):
            order = seeded_generator(f"limit {split}", label=label, seed=seed).permutation(
                positions
            )
            chosen.append(order[: seats[label]])
        kept.append(rows.iloc[np.sort(np.concatenate(chosen))])
    return table.with_items(pd.concat(kept, ignore_index=True))


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse parts that leave too little to train on.

    Raises:
        ConfigError: a fraction outside 0..0.9, each, or both together.
    """
    options = {"--val-split": val_fraction, "--test-split": test_fraction}
    for option, value in options.items():
        if not 0 <= value <= MAX_SPLIT:
            raise ConfigError(f"{option} must be in 0..{MAX_SPLIT}, not {value:g}.")
    both = val_fraction + test_fraction
    if round(both, 9) > MAX_SPLIT:  # the sum of 0.1 and 0.8 is a bit over 0.9
        given = " and ".join(f"{option} {value:g}" for option, value in options.items())
        raise ConfigError(
            f"{given} would hold out {both:.0%} of the images; together they may take"
            f" {MAX_SPLIT:.0%} at most. Lower one of them."
        )


def _wanted_parts(
    table: ImageTable, *, val_fraction: float, test_fraction: float
) -> dict[str, float]:
    if test_fraction > 0 and "test" in table.splits:
        raise ConfigError(
            f"{table.spec} has a test part already; leave --test-split {test_fraction:g} out."
        )
    if test_fraction > 0 and not {"train", "unsplit"} & set(table.splits):
        raise ConfigError(f"{table.spec} has no train part to take a test part from.")
    asked = {"val": 0.0 if "val" in table.splits else val_fraction, "test": test_fraction}
    return {split: fraction for split, fraction in asked.items() if fraction > 0}


def label_positions(rows: pd.DataFrame) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """Return each label with the row numbers of its images, which are sorted by path."""
    found = sorted(rows.groupby("label").indices.items())
    return [(str(label), np.asarray(at, dtype=np.intp)) for label, at in found]


def seeded_generator(purpose: str, *, label: str, seed: int) -> np.random.Generator:
    """Return a generator that depends on what it is for, one label and the seed alone."""
    digest = hashlib.blake2b(f"{purpose}\0{seed}\0{label}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def grouped_rows(rows: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return the group of each row; an image without one is a group of its own."""
    alone = rows["group"] == ""
    return rows["group"].where(~alone, "\0" + rows["path"]).to_numpy()


def _draw_images(
    rows: pd.DataFrame, wanted: dict[str, float], *, seed: int
) -> npt.NDArray[np.object_]:
    """Return the new split of each row, class by class."""
    parts = np.full(len(rows), "train", dtype=object)
    for label, positions in label_positions(rows):
        order = seeded_generator("split", label=label, seed=seed).permutation(positions)
        left = len(order)
        for split, fraction in wanted.items():
            number = min(max(1, round(len(order) * fraction)), left - 1)
            parts[order[left - number : left]] = split
            left -= number
    return parts


def _draw_groups(
    rows: pd.DataFrame, wanted: dict[str, float], *, seed: int
) -> npt.NDArray[np.object_]:
    """Return the new split of each row, whole groups at a time; no group = a group of its own."""
    parts = np.full(len(rows), "train", dtype=object)
    groups = grouped_rows(rows)
    labels = rows["label"].to_numpy()
    remaining = 1.0
    for split, fraction in wanted.items():
        open_rows = np.flatnonzero(parts == "train")
        chosen = _choose_groups(
            labels[open_rows], groups[open_rows], fraction=fraction / remaining, seed=seed
        )
        parts[open_rows[chosen]] = split
        remaining -= fraction
    return parts


def _draw_stratified(
    rows: pd.DataFrame,
    wanted: dict[str, float],
    *,
    labels: npt.NDArray[np.bool_],
    seed: int,
) -> npt.NDArray[np.object_]:
    """Return the new split of each row, with every class of (N, C) labels in its share."""
    is_grouped = bool((rows["group"] != "").any())
    units = units_of(labels, groups=grouped_rows(rows) if is_grouped else None)
    if is_grouped and len(units.counts) < 2:
        raise DataError("There are too few groups to split; two or more are needed.")
    numbers, left = [], len(rows)
    for fraction in wanted.values():
        numbers.append(min(max(1, round(len(rows) * fraction)), left - 1))
        left -= numbers[-1]
    generator = seeded_generator("split labels", label="", seed=seed)
    parts = stratified_parts(units, sizes=[left, *numbers], generator=generator)
    return np.array(["train", *wanted], dtype=object)[parts[units.of_row]]


def _limit_stratified(
    rows: pd.DataFrame, *, classes: Sequence[str], limit: int, seed: int
) -> pd.DataFrame:
    """Return at most `limit` rows with every class in its share."""
    if limit >= len(rows):
        return rows
    generator = seeded_generator("limit labels", label="", seed=seed)
    units = units_of(label_matrix(rows["label"], classes=classes))
    parts = stratified_parts(units, sizes=[limit, len(rows) - limit], generator=generator)
    kept: pd.DataFrame = rows[parts == 0]
    if len(kept) > limit:
        raise ConfigError(
            f"--limit {limit} is too small to keep an image of every class of"
            f" {rows['split'].iloc[0]}; {len(kept)} is enough."
        )
    return kept


def _choose_groups(
    labels: npt.NDArray[np.object_],
    groups: npt.NDArray[np.object_],
    *,
    fraction: float,
    seed: int,
) -> npt.NDArray[np.intp]:
    """Return the rows of some whole groups, about `fraction` of all, classes balanced.

    The fraction is written as m / k, and m of k folds are taken in random order: the first fold
    always has the largest group. A fold that holds all that is left of a class is passed over.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second

    names, codes = np.unique(labels, return_inverse=True)
    largest_class = int(np.bincount(codes, minlength=len(names)).max())
    folds = min(_MAX_FOLDS, len(set(groups)), largest_class)
    if folds < 2:
        raise DataError("There are too few groups to split; two or more are needed.")
    share = Fraction(fraction).limit_denominator(folds)
    share = min(max(share, Fraction(1, folds)), Fraction(folds - 1, folds))
    generator = seeded_generator("groups", label="", seed=seed)
    random_state = int(generator.integers(2**32))
    splitter = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        # a class with fewer images than folds: the table's own remarks tell of the gap
        warnings.filterwarnings("ignore", message="The least populated class", module="sklearn")
        tests = [test for _, test in splitter.split(labels, codes, groups)]
    taken = np.zeros(len(labels), dtype=bool)
    num_taken = 0
    for fold in generator.permutation(share.denominator):
        without = ~taken
        without[tests[fold]] = False
        if num_taken < share.numerator and len(np.unique(codes[without])) == len(names):
            taken, num_taken = ~without, num_taken + 1
    if not taken.any():
        raise DataError(
            "Whichever whole groups are taken out, no train images are left of a class; use more"
            " groups, or a smaller fraction."
        )
    return np.flatnonzero(taken)


def _single_notes(table: ImageTable, source: str) -> list[str]:
    counts = sorted(table.counts()[source].items())
    single = [label for label, number in counts if number == 1]
    if not single:
        return []
    have = counted(len(single), "class has", "classes have")
    return [f"{have} a single image, which stays in train: {some_names(single)}."]


def _group_notes(parts: npt.NDArray[np.object_], wanted: dict[str, float]) -> list[str]:
    shares = {split: float((parts == split).mean()) for split in wanted}
    return [
        f"{split} has {shares[split]:.1%} of the images instead of {fraction:.1%}, because groups"
        " are kept whole."
        for split, fraction in wanted.items()
        if abs(shares[split] - fraction) > 0.01
    ]


def _deal_seats(sizes: dict[str, int], *, limit: int) -> dict[str, int]:
    """Return how many images each class keeps (Webster / Sainte-Lague, one seat to begin with)."""
    seats = dict.fromkeys(sizes, 1)
    queue = [(-size / 3, label) for label, size in sizes.items() if size > 1]
    heapq.heapify(queue)
    for _ in range(min(limit, sum(sizes.values())) - len(sizes)):
        _, label = heapq.heappop(queue)
        seats[label] += 1
        if seats[label] < sizes[label]:
            heapq.heappush(queue, (-sizes[label] / (2 * seats[label] + 1), label))
    return seats
