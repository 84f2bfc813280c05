"""A data set as a table: one row per image with its label, split and group."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tlcli.data.label_sets import label_matrix, split_labels
from tlcli.errors import DataError
from tlcli.results.counted import counted

COLUMNS = ("path", "label", "split", "group")
SPLITS = ("train", "val", "test", "unsplit")
"""Every value the `split` column may have, in the order they are told to the user."""


def some_names(names: Iterable[str], *, most: int = 3) -> str:
    """Return `'a', 'b', 'c' and 4 more`, for messages."""
    listed = list(names)
    text = ", ".join(f"'{name}'" for name in listed[:most])
    return text if len(listed) <= most else f"{text} and {len(listed) - most} more"


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """The images of a data set; build it with `make_table`, which checks it."""

    spec: str
    """What the user asked for, e.g. `flowers/` or `sample:digits`."""
    root: Path
    """Absolute folder that the paths are relative to."""
    items: pd.DataFrame
    """Columns path (posix, relative to `root`; absolute if outside), label, split, group
    ("" = none), all text, sorted by (split, label, path). Where images have any number of
    classes, the label joins them as `join_labels` does."""
    classes: tuple[str, ...]
    """The one class index of all splits: class i of every target is `classes[i]`."""
    is_multi_label: bool = False
    """Whether images have any number of classes, none too, instead of one."""
    class_titles: Mapping[str, str] = field(default_factory=dict)
    """Human names by class; may be empty."""
    notes: tuple[str, ...] = ()
    """What the reader or splitter has to tell the user."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images, in the order of `SPLITS`."""
        present = set(self.items["split"])
        return tuple(split for split in SPLITS if split in present)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences to warn with: `notes`, classes that none or all have, groups that cross."""
        return (
            *self.notes,
            *_gap_remarks(self),
            *_constant_remarks(self),
            *_crossing_remarks(self.items),
        )

    def part(self, split: str) -> pd.DataFrame:
        """Return the rows of one split.

        Raises:
            DataError: the table has no images in `split`.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.spec} has no '{split}' part; it has {some_names(self.splits, most=4)}."
            )
        return self.items[self.items["split"] == split].reset_index(drop=True)

    def paths(self, split: str) -> list[Path]:
        """Return the absolute path of each image of a split, in the order of `part`."""
        return [self.root / path for path in self.part(split)["path"]]

    def targets(self, split: str) -> npt.NDArray[np.int64]:
        """Return the class index of each image of a split, in the order of `part`.

        Raises:
            ValueError: Images have any number of classes; see `label_matrix`.
        """
        if self.is_multi_label:
            raise ValueError("images of any number of classes have no class index")
        labels = self.part(split)["label"]
        return pd.Index(self.classes).get_indexer(pd.Index(labels)).astype(np.int64)

    def label_matrix(self, split: str) -> npt.NDArray[np.bool_]:
        """Return which of the C classes each image of a split has, shape (N, C), as in `part`.

        Raises:
            ValueError: Images have one class each; see `targets`.
        """
        if not self.is_multi_label:
            raise ValueError("images of one class each have class indices")
        return label_matrix(self.part(split)["label"], classes=self.classes)

    def sizes(self) -> dict[str, int]:
        """Return the number of images by split."""
        tally = self.items["split"].value_counts()
        return {split: int(tally[split]) for split in self.splits}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and class; absent classes count 0."""
        if self.is_multi_label:
            return {
                split: dict(
                    zip(self.classes, self.label_matrix(split).sum(axis=0).tolist(), strict=True)
                )
                for split in self.splits
            }
        tally = self.items.groupby(["split", "label"]).size().to_dict()
        return {
            split: {name: int(tally.get((split, name), 0)) for name in self.classes}
            for split in self.splits
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over path, label, split, group and file size (bytes) of every row.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256()
        for path, label, split, group in self.items[list(COLUMNS)].itertuples(index=False):
            row = [path, label, split, group, file_size(self.root / path)]
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def with_items(self, items: pd.DataFrame, *, notes: Sequence[str] = ()) -> "ImageTable":
        """Return the same data set, same classes, with other rows; sorted and checked again."""
        table = replace(self, items=_canonical(items), notes=(*self.notes, *notes))
        _check(table)
        return table


def make_table(
    items: pd.DataFrame,
    *,
    spec: str,
    root: Path,
    classes: Sequence[str] | None = None,
    is_multi_label: bool = False,
    class_titles: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> ImageTable:
    """Sort and check rows of `COLUMNS`.

    Args:
        items: One row per image; any order.
        spec: What the user asked for.
        root: Absolute folder that relative paths start from.
        classes: The class order; by default the labels sorted by code point, as
            `torchvision.datasets.ImageFolder` does ("1", "10", "2").
        is_multi_label: Whether a label joins any number of classes; `classes` is needed then.
        class_titles: Human names by class.
        notes: What the reader has to tell the user.

    Raises:
        DataError: no images, one class only, a label outside `classes`, an unknown split, or
            classes in val or test that train lacks. Where images have any number of classes, one
            class is enough, and what train lacks is only remarked upon.
    """
    table = ImageTable(
        spec=spec,
        root=root,
        items=_canonical(items),
        classes=tuple(sorted(set(items["label"]))) if classes is None else tuple(classes),
        is_multi_label=is_multi_label,
        class_titles=dict(class_titles or {}),
        notes=tuple(notes),
    )
    _check(table)
    return table


def _canonical(items: pd.DataFrame) -> pd.DataFrame:
    texts = items[list(COLUMNS)].astype(str)
    # pandas would make a Python object of every text; by bytes of UTF-8 is by code points
    keys = pa.table({name: pa.array(texts[name]) for name in ("split", "label", "path")})
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    return texts.take(order.to_numpy()).reset_index(drop=True)


def _check(table: ImageTable) -> None:
    items, classes = table.items, table.classes
    if items.empty:
        raise DataError(f"No images in {table.spec}.")
    if len(classes) < 2 and not table.is_multi_label:
        raise DataError(
            f"{table.spec} has one class only, {some_names(classes)}: a classifier needs two or"
            " more. If the class folders lie deeper, give --data the folder that holds them."
        )
    labels = set(items["label"])
    if table.is_multi_label:
        labels = {name for label in labels for name in split_labels(label)}
    strange = sorted(labels - set(classes))
    if strange:
        raise DataError(f"{table.spec} has labels that are no class: {some_names(strange)}.")
    unknown = sorted(set(items["split"]) - set(SPLITS))
    if unknown:
        raise DataError(f"Unknown split {some_names(unknown)}; use train, val or test.")
    if not table.is_multi_label:
        _check_train_has_all(table)


def _check_train_has_all(table: ImageTable) -> None:
    found = table.items.groupby("split")["label"].agg(set).to_dict()
    for split in ("val", "test"):
        extra = sorted(found.get(split, set()) - found["train"]) if "train" in found else []
        if extra:
            raise DataError(
                f"The {split} part of {table.spec} has images of {some_names(extra)}, of which"
                " train has none; add such images to train or remove them."
            )


def _gap_remarks(table: ImageTable) -> list[str]:
    remarks = []
    for split, numbers in table.counts().items():
        absent = [name for name, number in numbers.items() if number == 0]
        if absent:
            is_lost = table.is_multi_label and split == "train"
            then = " Nothing can be learnt of them; --classes leaves them out." if is_lost else ""
            remarks.append(
                f"{split} has no images of {len(absent)} of"
                f" {counted(len(numbers), 'class', 'classes')}:"
                f" {some_names(absent)}.{then}"
            )
    return remarks


def _constant_remarks(table: ImageTable) -> list[str]:
    """Tell of classes that no train image is without, of those that exclude no other."""
    if not table.is_multi_label or "train" not in table.splits:
        return []
    labels = table.label_matrix("train")
    names = [table.classes[i] for i in np.flatnonzero(labels.all(axis=0))]
    if not names or len(labels) < 2:
        return []
    classes = counted(len(names), "class", "classes")
    return [
        f"every train image has {classes}: {some_names(names)}. Nothing is there to tell such a"
        " class by; --classes leaves it out, or add images without it."
    ]


def _crossing_remarks(items: pd.DataFrame) -> list[str]:
    grouped = items[items["group"] != ""]
    spread = grouped.groupby("group")["split"].nunique()
    crossing = [str(name) for name in spread.index[spread > 1]]
    if not crossing:
        return []
    lie = counted(len(crossing), "group lies", "groups lie")
    return [f"{lie} in more than one split: {some_names(crossing)}."]


def file_size(path: Path) -> int:
    """Return the bytes of a file.

    Raises:
        DataError: it cannot be looked at.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
