"""The images and boxes of a run: loaded, checked, split, and made into batches."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcli.config import BoxDataConfig
from tlcli.data.boxes.box_augment import BoxAugmentLevel
from tlcli.data.boxes.box_batches import (
    BoxBatch,
    BoxDataset,
    BoxSample,
    box_batches,
    box_samples,
    grouped_batches,
)
from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.box_splits import limit_boxes, read_box_split, split_boxes
from tlcli.data.boxes.box_table import BoxTable, Repair, check_judgeable, check_trainable
from tlcli.data.exact_copies import NO_COPIES, ExactCopies
from tlcli.data.images import Picture
from tlcli.engine.runtime import Runtime
from tlcli.errors import DataError
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.batch_reader import in_groups
from tlcli.recipes.image_data import (
    absolute_spec,
    bad_images,
    exact_copies,
    refuse_second_val,
    warn_of_copies,
    warn_of_letters,
)
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import write_csv
from tlcli.results.counted import counted


@dataclass(frozen=True, kw_only=True)
class RunBoxes:
    """The images and boxes of a run and what was found while looking at them."""

    table: BoxTable
    """With the splits and the limit of the run."""
    whole: BoxTable
    """Before the limit: what `splits.csv` keeps."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of every image left out by `--on-bad-image skip`."""
    copies: ExactCopies = NO_COPIES
    """Images that equal an earlier one byte for byte."""

    def to_json(self) -> dict[str, Any]:
        """Return what `run.json` says of the data."""
        return {
            "spec": absolute_spec(self.table.spec),
            "root": str(self.table.root),
            "fingerprint": self.whole.fingerprint,
            "counts": self.table.counts(),
            "categories": [vars(category) for category in self.table.categories],
            "repairs": len(self.table.repairs),
            "skipped": len(self.skipped),
            "exact_copies": len(self.copies.rows),
            "copies_across_splits": self.copies.crossing,
        }


def load_run_boxes(
    config: BoxDataConfig, *, seed: int, saved_split: Path | None = None, talk: Talk
) -> RunBoxes:
    """Load the boxes of `--data`, leave out bad images if asked to, and split them.

    Args:
        config: The data options.
        seed: Of the split.
        saved_split: `splits.csv` of a run to go on with, instead of a new split.
        talk: Is told of everything found.

    Raises:
        DataError: If the data cannot be understood, or has no part to train on or to choose by.
    """
    table, skipped = _load(config, talk=talk)
    if saved_split is not None:
        whole = read_box_split(table, saved_split)
    else:
        refuse_second_val(config, splits=table.splits, spec=table.spec)
        whole = split_boxes(
            table, val_fraction=config.val_split, test_fraction=config.test_split, seed=seed
        )
        if "val" in whole.splits and "val" not in table.splits:
            talk.note(
                f"No val part: {config.val_split:.0%} of the images are held out by --seed {seed} "
                "(--val-split)."
            )
    limited = limit_boxes(whole, limit=config.limit, seed=seed) if config.limit else whole
    images = limited.images
    copies = exact_copies(limited.root, list(images["path"]), list(images["split"]))
    _report(limited, talk=talk)
    warn_of_copies(copies, talk=talk)
    return RunBoxes(table=limited, whole=whole, skipped=skipped, copies=copies)


def load_boxes_unsplit(config: BoxDataConfig, *, seed: int, talk: Talk) -> RunBoxes:
    """Load boxes with the splits they come with, for evaluation only."""
    table, skipped = _load(config, talk=talk)
    limited = limit_boxes(table, limit=config.limit, seed=seed) if config.limit else table
    _report(limited, talk=talk)
    return RunBoxes(table=limited, whole=table, skipped=skipped)


def require_box_parts(table: BoxTable) -> None:
    """Make sure that there are boxes to learn from and boxes to choose the best epoch by.

    Raises:
        DataError: If a part is missing, or has no boxes.
    """
    for split, remedy in (
        ("train", "Name the part to learn from 'train'."),
        ("val", "Give --val-split above 0, or more images."),
    ):
        if split not in table.splits:
            raise DataError(f"{table.spec} has no images in the part '{split}'. {remedy}")
    check_trainable(table)
    for split in ("val", "test"):
        if split in table.splits:
            check_judgeable(table, split)


def write_repairs(repairs: Sequence[Repair], folder: Path) -> None:
    """List in `repairs.csv` what was not taken as it is written; no file if nothing."""
    if repairs:
        write_csv(folder / "repairs.csv", header=["path", "what"], rows=repairs)


def _load(config: BoxDataConfig, *, talk: Talk) -> tuple[BoxTable, tuple[tuple[str, str], ...]]:
    table = load_boxes(config.data, on_bad_box=config.on_bad_box, on_bad_image=config.on_bad_image)
    if config.on_bad_image == "fail":
        return table, ()
    for _, problem in table.skipped:
        talk.warn(f"left out: {problem}")
    skipped = bad_images(table.root, list(table.images["path"]), talk=talk)
    is_bad = table.images["path"].isin({path for path, _ in skipped}).to_numpy()
    kept = table.kept((~is_bad).nonzero()[0]) if skipped else table
    return kept, (*table.skipped, *skipped)


def _report(table: BoxTable, *, talk: Talk) -> None:
    parts = ", ".join(
        f"{counted(part['images'], f'{split} image')} with {counted(part['boxes'], 'box', 'boxes')}"
        + (f" and {counted(part['crowds'], 'crowd')}" if part["crowds"] else "")
        for split, part in table.counts().items()
    )
    talk.note(f"Data: {table.spec}: {counted(len(table.classes), 'class', 'classes')}, {parts}.")
    for remark in table.remarks:
        talk.warn(remark)
    warn_of_letters(table.classes, talk=talk)


@dataclass(frozen=True, kw_only=True)
class BoxReader:
    """Reads splits of one table for a detector."""

    table: BoxTable
    batch_size: int
    num_workers: int
    runtime: Runtime
    talk: Talk

    def samples(self, split: str) -> list[BoxSample]:
        """Return the images of a split with their boxes, in the order of its rows."""
        return box_samples(self.table, split)

    def training_samples(self) -> list[BoxSample]:
        """Return the images to learn from: those with crowds only would teach to miss them."""
        return box_samples(self.table, "train", for_training=True)

    def training(
        self,
        *,
        augment: BoxAugmentLevel,
        grad_accum_steps: int,
        pictures: Callable[[int], Picture] | None = None,
    ) -> tuple[int, Callable[[int, int], Iterable[list[BoxBatch]]]]:
        """Return the steps of an epoch, and a function from (epoch, steps done) to the others."""
        samples, seed = self.training_samples(), self.runtime.seed
        if crowds := len(self.table.images_of("train")) - len(samples):
            one, many = "train image with crowds only is", "train images with crowds only are"
            self.talk.note(f"{counted(crowds, one, many)} left out of training.")
        dataset = BoxDataset(samples, augment=augment, seed=seed, pictures=pictures)

        def references(epoch: int) -> list[list[tuple[int, int]]]:
            """Return which images make each batch of an epoch."""
            return grouped_batches(samples, batch_size=self.batch_size, seed=seed, epoch=epoch)

        def steps(epoch: int, done: int) -> Iterator[list[BoxBatch]]:
            """Yield the batches of each step that is left after `done` ones."""
            left = references(epoch)[done * grad_accum_steps :]
            num_images = sum(len(batch) for batch in left)
            batches = self.talk.track(
                self._read(dataset, left), label=f"epoch {epoch + 1}", num_images=num_images
            )
            yield from in_groups(batches, size=grad_accum_steps)

        return math.ceil(len(references(0)) / grad_accum_steps), steps

    def _read(
        self, dataset: BoxDataset, batches: list[list[tuple[int, int]]]
    ) -> Iterator[BoxBatch]:
        with with_remedy():
            yield from box_batches(
                dataset,
                batches,
                num_workers=self.num_workers,
                pin_memory=self.runtime.device.type == "cuda",
            )


def as_one_part(boxes: RunBoxes) -> RunBoxes:
    """Return the same images as the one part `unsplit`."""
    return replace(boxes, table=boxes.table.as_one_part())
