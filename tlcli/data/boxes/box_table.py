"""A detection data set as two tables: images, and boxes that point to them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.data.boxes.counted_notes import CountedNote, moved_notes
from tlcli.data.table import SPLITS, file_size, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

IMAGE_TYPES = {
    "path": "str",
    "split": "str",
    "image_id": "int64",
    "width": "int64",
    "height": "int64",
    "is_upright": "bool",
}
BOX_TYPES = {
    "image": "int64",
    "category": "int64",
    "x": "float64",
    "y": "float64",
    "width": "float64",
    "height": "float64",
    "area": "float64",
    "is_crowd": "bool",
    "annotation_id": "int64",
}
XYWH = ["x", "y", "width", "height"]


@dataclass(frozen=True, kw_only=True)
class Category:
    """A class as the user's files have it."""

    id: int
    """The user's number; gaps between numbers are fine."""
    name: str
    supercategory: str = ""


class Repair(NamedTuple):
    """Something in the user's files that is not taken as it is written."""

    path: str
    """The image, as in the table."""
    what: str


@dataclass(frozen=True, kw_only=True)
class BoxTable:
    """The images and boxes of a data set; `box_assembly.assemble` makes and checks it."""

    spec: str
    """What the user asked for, e.g. `coco/` or `sample:digits`."""
    root: Path
    """Absolute folder that the paths are relative to."""
    images: pd.DataFrame
    """One row per image, numbered from 0: path (posix, relative to `root`), split, image_id (the
    user's, unique within a split), width and height in pixels of the annotation frame (the
    picture that the boxes were drawn on), is_upright (whether that is the picture as EXIF turns
    it; if not, boxes lie in the stored, unturned pixels)."""
    boxes: pd.DataFrame
    """One row per box: image (row of `images`), category (class index, from 0), x, y, width,
    height and area in pixels of the annotation frame, is_crowd, annotation_id (unique within a
    split, from 1)."""
    categories: tuple[Category, ...]
    """Class i is `categories[i]`; sorted by id."""
    notes: tuple[str, ...] = ()
    """What the readers and splitters have to tell the user."""
    counted_notes: tuple[CountedNote, ...] = ()
    """The same of single images, as far as they are in the table."""
    repairs: tuple[Repair, ...] = ()
    """Every changed or dropped box, and every image whose stated size is not its upright one."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of every image that was left out because its file cannot be read."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories, by class index."""
        return tuple(category.name for category in self.categories)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images, in the order of `tlcli.data.table.SPLITS`."""
        present = set(self.images["split"])
        return tuple(split for split in SPLITS if split in present)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences to warn the user with, about the images that are in the table.

        They are `notes`, `counted_notes`, images in more than one split, and the classes that a
        split lacks.
        """
        paths = self.images["path"].to_numpy(dtype=object)
        counted_texts = (note.text(paths) for note in self.counted_notes)
        return (*self.notes, *counted_texts, *_shared_remarks(self.images), *_gap_remarks(self))

    def images_of(self, split: str) -> pd.DataFrame:
        """Return the images of one split; column `row` is their row in `images`.

        Raises:
            DataError: the table has no images in `split`.
        """
        rows = self.images[self._is_in(split)]
        return rows.rename_axis("row").reset_index()

    def boxes_of(self, split: str) -> pd.DataFrame:
        """Return the boxes of one split, crowds too; `image` is still a row of `images`.

        Raises:
            DataError: the table has no images in `split`.
        """
        return self.boxes[self._is_in(split)[self.boxes["image"]]].reset_index(drop=True)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return by split the numbers of images, boxes, crowds, negatives and boxes per class.

        Crowds are counted by themselves, not among the boxes; an image without boxes (crowds
        aside) is a negative.
        """
        return {split: self._counts_of(split) for split in self.splits}

    def repairs_of(self, split: str) -> tuple[Repair, ...]:
        """Return the repairs of the images of one split.

        An image that stands in two splits has those of both.

        Raises:
            DataError: the table has no images in `split`.
        """
        return _repairs_among(self.repairs, self.images_of(split))

    def kept(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> "BoxTable":
        """Return the data set with only these rows of `images`, renumbered, and their boxes."""
        kept = kept_rows(self.images, self.boxes, self.counted_notes, rows=rows)
        return replace(
            self,
            images=kept.images,
            boxes=kept.boxes,
            counted_notes=kept.notes,
            repairs=_repairs_among(self.repairs, kept.images),
        )

    def as_one_part(self) -> "BoxTable":
        """Return the same images as the one part `unsplit`.

        Ids of images or annotations that stand in more than one part are replaced: all of that
        kind are then numbered from 1, in the order of the rows, and a note says so.
        """
        images, boxes = self.images.assign(split="unsplit"), self.boxes
        notes = list(self.notes)
        if images["image_id"].duplicated().any():
            images = images.assign(image_id=np.arange(1, len(images) + 1))
            notes.append("Image ids stand in more than one part; images are numbered from 1.")
        if boxes["annotation_id"].duplicated().any():
            boxes = boxes.assign(annotation_id=np.arange(1, len(boxes) + 1))
            notes.append(
                "Annotation ids stand in more than one part; annotations are numbered from 1."
            )
        return replace(
            self,
            images=typed(images, IMAGE_TYPES),
            boxes=typed(boxes, BOX_TYPES),
            notes=tuple(notes),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over categories, all rows, and the size of every file in bytes.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256()
        names = [[item.id, item.name, item.supercategory] for item in self.categories]
        digest.update(json.dumps(names).encode())
        for row in self.images[list(IMAGE_TYPES)].itertuples(index=False, name=None):
            size = file_size(self.root / row[0])
            digest.update(json.dumps([*row, size]).encode() + b"\n")
        for column in BOX_TYPES:
            values = self.boxes[column].to_numpy()
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def ground_truth(self, split: str) -> dict[str, Any]:
        """Return one split as a COCO document of plain Python values, as pycocotools wants it.

        Raises:
            DataError: the table has no images in `split`.
        """
        ids = np.array([category.id for category in self.categories], dtype=np.int64)
        return {
            "info": {"description": f"{self.spec}, {split}"},
            "images": _image_records(self.images_of(split)),
            "annotations": _annotation_records(self.boxes_of(split), self.images, ids),
            "categories": [
                {"id": item.id, "name": item.name, "supercategory": item.supercategory}
                for item in self.categories
            ],
        }

    def _is_in(self, split: str) -> npt.NDArray[np.bool_]:
        if split not in self.splits:
            raise DataError(
                f"{self.spec} has no '{split}' part; it has {some_names(self.splits, most=4)}."
            )
        return (self.images["split"] == split).to_numpy(dtype=bool)

    def _counts_of(self, split: str) -> dict[str, Any]:
        boxes = self.boxes_of(split)
        single = boxes[~boxes["is_crowd"]]
        num_images = int(self._is_in(split).sum())
        tally = np.bincount(single["category"], minlength=len(self.categories))
        return {
            "images": num_images,
            "boxes": len(single),
            "crowds": len(boxes) - len(single),
            "negatives": num_images - single["image"].nunique(),
            "per_class": dict(zip(self.classes, tally.tolist(), strict=True)),
        }


def typed(frame: pd.DataFrame, types: dict[str, str]) -> pd.DataFrame:
    """Return the columns of `types`, of these types and in this order, rows numbered from 0."""
    return frame[list(types)].astype(types).reset_index(drop=True)


class KeptRows(NamedTuple):
    """Some of the images, with their boxes and notes."""

    images: pd.DataFrame
    boxes: pd.DataFrame
    notes: tuple[CountedNote, ...]


def kept_rows(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    notes: Iterable[CountedNote],
    *,
    rows: Sequence[int] | npt.NDArray[np.intp],
) -> KeptRows:
    """Return only these rows of `images`, in their order, and what belongs to them, renumbered."""
    chosen = np.sort(np.asarray(rows, dtype=np.intp))
    new_row = np.full(len(images), -1, dtype=np.int64)
    new_row[chosen] = np.arange(len(chosen))
    moved = boxes.assign(image=new_row[boxes["image"]])
    return KeptRows(
        images.iloc[chosen].reset_index(drop=True),
        moved[moved["image"] >= 0].reset_index(drop=True),
        moved_notes(notes, new_row),
    )


def check_not_empty(table: BoxTable) -> None:
    """Refuse data without any object in it.

    Raises:
        DataError: no images, or no boxes in any part.
    """
    if table.images.empty:
        raise DataError(f"No images in {table.spec}.")
    if table.boxes["is_crowd"].all():
        raise DataError(
            f"{table.spec} has {counted(len(table.images), 'image')} but no boxes (crowds do not"
            " count); a detector needs annotated objects."
        )


def check_trainable(table: BoxTable) -> None:
    """Refuse data whose train part, or the images that are not split yet, have no box.

    Raises:
        DataError: there is nothing to learn from.
    """
    counts = table.counts()
    for split in ("train", "unsplit"):
        if split in counts and not counts[split]["boxes"]:
            raise DataError(
                f"{table.spec} has no box (crowds do not count) in its"
                f" {counted(counts[split]['images'], f'{split} image')}; annotate some, or raise"
                " --limit if it is given."
            )


def check_judgeable(table: BoxTable, split: str) -> None:
    """Refuse a part on which no number can be computed.

    Raises:
        DataError: the table has no images in `split`, or they have no boxes.
    """
    if table.boxes_of(split)["is_crowd"].all():
        raise DataError(
            f"The {split} part of {table.spec} has no boxes (crowds do not count), so nothing can"
            " be measured on it; annotate some of its images, take another part, or raise --limit"
            " if it is given."
        )


def _repairs_among(repairs: Iterable[Repair], images: pd.DataFrame) -> tuple[Repair, ...]:
    paths = frozenset(images["path"])
    return tuple(repair for repair in repairs if repair.path in paths)


def _shared_remarks(images: pd.DataFrame) -> list[str]:
    spread = images.groupby("path")["split"].nunique()
    shared = spread.index[spread > 1].tolist()
    if not shared:
        return []
    verb = "is" if len(shared) == 1 else "are"
    return [
        f"{counted(len(shared), 'image')} {verb} in more than one split ({some_names(shared)});"
        " numbers on images that were trained on say little."
    ]


def _gap_remarks(table: BoxTable) -> list[str]:
    remarks = []
    for split, numbers in table.counts().items():
        absent = [name for name, number in numbers["per_class"].items() if number == 0]
        if absent:
            remarks.append(
                f"{split} has no boxes of {len(absent)} of"
                f" {counted(len(table.classes), 'class', 'classes')}: {some_names(absent)}."
            )
    return remarks


def _records(columns: dict[str, Iterable[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _image_records(images: pd.DataFrame) -> list[dict[str, Any]]:
    return _records(
        {
            "id": images["image_id"].tolist(),
            "file_name": images["path"].tolist(),
            "width": images["width"].tolist(),
            "height": images["height"].tolist(),
        }
    )


def _annotation_records(
    boxes: pd.DataFrame, images: pd.DataFrame, category_ids: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    return _records(
        {
            "id": boxes["annotation_id"].tolist(),
            "image_id": images["image_id"].to_numpy()[boxes["image"]].tolist(),
            "category_id": category_ids[boxes["category"]].tolist(),
            "bbox": boxes[XYWH].to_numpy().tolist(),
            "area": boxes["area"].tolist(),
            "iscrowd": boxes["is_crowd"].astype(int).tolist(),
        }
    )
