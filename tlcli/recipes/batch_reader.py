"""Batches of the images of a run, as one model wants them."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt

from tlcli.data.augment import TrainTransform
from tlcli.data.balanced import balanced_batches
from tlcli.data.loaders import (
    ImageBatch,
    ImageDataset,
    Reference,
    epoch_batches,
    image_batches,
    ordered_batches,
)
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.table import ImageTable
from tlcli.data.transforms import eval_transform
from tlcli.engine.runtime import Runtime
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.talk import Talk

B = TypeVar("B")

_GPU_WORKERS = 8


def default_workers(num_workers: int | None, *, runtime: Runtime) -> int:
    """Return how many processes read images.

    On the CPU a worker takes from the model what it gives, so there the default is none.
    """
    if num_workers is not None:
        return num_workers
    return 0 if runtime.device.type == "cpu" else min(_GPU_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class BatchReader:
    """Reads splits of one table as one model wants them."""

    table: ImageTable
    preprocessing: Preprocessing
    batch_size: int
    num_workers: int
    runtime: Runtime
    talk: Talk

    def evaluation(self, split: str) -> Iterator[ImageBatch]:
        """Yield every image of a split once, in the order of its rows."""
        paths = self.table.paths(split)
        dataset = ImageDataset(
            paths,
            self.targets(split),
            transform=eval_transform(self.preprocessing),
            channels=self.preprocessing.channels,
        )
        batches = ordered_batches(len(paths), batch_size=self.batch_size)
        yield from self.talk.track(self._read(dataset, batches), label=split, num_images=len(paths))

    def train_references(
        self, epoch: int, *, is_balanced: bool = False, views: int = 0
    ) -> list[list[Reference]]:
        """Return which views of which train images make each batch of an epoch.

        Args:
            epoch: Epochs done before it.
            is_balanced: Show every class equally often, instead of every image once.
            views: Of each image, one after the other and again; 0 never shows one again.
        """
        size, seed = self.batch_size, self.runtime.seed
        if is_balanced:
            batches = balanced_batches(
                self.table.targets("train"), batch_size=size, seed=seed, epoch=epoch
            )
        else:
            count = len(self.table.part("train"))
            batches = epoch_batches(count, batch_size=size, seed=seed, epoch=epoch)
        if not views:
            return batches
        return [[(index, view % views) for index, view in batch] for batch in batches]

    def training(
        self,
        *,
        transform: TrainTransform,
        grad_accum_steps: int,
        is_balanced: bool = False,
        views: int = 0,
        view_seed: int,
    ) -> tuple[int, Callable[[int, int], Iterable[list[ImageBatch]]]]:
        """Return the steps of an epoch, and a function from (epoch, steps done) to the others.

        Args:
            transform: Makes the views of train images.
            grad_accum_steps: Batches per step.
            is_balanced: See `train_references`.
            views: See `train_references`.
            view_seed: Of the random views, which are not those of another seed of the run.
        """
        dataset = ImageDataset(
            self.table.paths("train"),
            self.targets("train"),
            transform=transform,
            seed=view_seed,
            channels=self.preprocessing.channels,
        )

        def references(epoch: int) -> list[list[Reference]]:
            """Return the batches of an epoch."""
            return self.train_references(epoch, is_balanced=is_balanced, views=views)

        def steps(epoch: int, done: int) -> Iterator[list[ImageBatch]]:
            """Yield the batches of each step that is left after `done` ones."""
            left = references(epoch)[done * grad_accum_steps :]
            num_images = sum(len(batch) for batch in left)
            batches = self.talk.track(
                self._read(dataset, left), label=f"epoch {epoch + 1}", num_images=num_images
            )
            yield from in_groups(batches, size=grad_accum_steps)

        return math.ceil(len(references(0)) / grad_accum_steps), steps

    def targets(self, split: str) -> npt.NDArray[Any]:
        """Return class indices (N,), or which classes the images have (N, C)."""
        is_multi_label = self.table.is_multi_label
        return self.table.label_matrix(split) if is_multi_label else self.table.targets(split)

    def _read(self, dataset: ImageDataset, batches: list[list[Reference]]) -> Iterator[ImageBatch]:
        with with_remedy():
            yield from image_batches(
                dataset,
                batches,
                num_workers=self.num_workers,
                pin_memory=self.runtime.device.type == "cuda",
            )


def in_groups(batches: Iterable[B], *, size: int) -> Iterator[list[B]]:
    """Yield lists of `size` batches, the last one possibly shorter."""
    group: list[B] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
