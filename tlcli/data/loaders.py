"""Batches of uint8 images, the same ones whatever the number of worker processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tlcli.data.augment import view_generator
from tlcli.data.images import read_image
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import ConfigError, DataError, MachineError

T = TypeVar("T")
B = TypeVar("B")

Reference = tuple[int, int]
"""Which image of a dataset, and which view of it."""


Inputs = Tensor | tuple[Tensor, ...]
"""uint8 images (B, C, H, W), not normalised; or what a frozen part made of them, each (B, ...)."""


class ImageBatch(NamedTuple):
    """B images with what is known of them."""

    images: Inputs
    targets: Tensor
    """int64 (B,), class indices; or bool (B, C), which of any number of classes they have."""
    indices: Tensor
    """int64 (B,), positions in the dataset."""


class _Item(NamedTuple):
    image: Tensor
    target: npt.NDArray[Any]
    """Of no dimension, or a row of C classes."""
    position: int


class ImageDataset(Dataset["_Item | DataError"]):
    """Images on disk as (pixels, target, position), or the `DataError` that kept them from it.

    The error is a value here, because one raised in a worker process would reach the user as a
    traceback of that process; `image_batches` raises it.

    Args:
        paths: Files, N of them.
        targets: Class index of each, N of them, or which classes they have, bool (N, C).
        transform: RGB image -> uint8 (3, H, W); with a `seed` it is called with the generator of
            the view as its second argument (`train_transform`).
        seed: Seed of the random views; None for a transform without randomness.
        channels: Of the pictures, see `read_image`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Sequence[int] | np.ndarray,
        *,
        transform: Callable[..., Tensor],
        seed: int | None = None,
        channels: int = RGB_CHANNELS,
    ) -> None:
        if len(paths) != len(targets):
            raise ValueError(f"{len(paths)} paths but {len(targets)} targets")
        # one array each: forked workers would copy the pages of a million Python objects
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        is_rows = isinstance(targets, np.ndarray) and targets.ndim == 2
        self._targets: npt.NDArray[Any] = np.asarray(
            targets, dtype=np.bool_ if is_rows else np.int64
        )
        self._transform = transform
        self._seed = seed
        self._channels = channels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, reference: Reference) -> "_Item | DataError":
        """Return the item of `(index, view)`."""
        index, view = reference
        path = Path(os.fsdecode(self._paths[index]))
        try:
            picture = read_image(path, channels=self._channels)
        except DataError as error:
            return error
        if self._seed is None:
            pixels = self._transform(picture.image)
        else:
            key = picture.content_key
            generator = view_generator(seed=self._seed, content_key=key, view=view)
            pixels = self._transform(picture.image, generator)
        return _Item(pixels, self._targets[index, ...], index)


def epoch_batches(
    num_images: int, *, batch_size: int, seed: int, epoch: int
) -> list[list[Reference]]:
    """Return the batches of a training epoch: every image once, in an order from (seed, epoch).

    The view of every image is `epoch`. A single image left at the end joins the batch before it,
    which then has `batch_size + 1`: BatchNorm cannot train on one value per channel. With
    `batch_size` 1 or one image in all there is nothing to join.

    Raises:
        ConfigError: `batch_size` is below 1, or the seed or epoch below 0.
    """
    order = view_generator(seed=seed, content_key=0, view=epoch).permutation(num_images)
    return training_batches([(int(index), epoch) for index in order], batch_size=batch_size)


def training_batches(references: list[Reference], *, batch_size: int) -> list[list[Reference]]:
    """Cut references into batches, none of which is a single image if that can be helped.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    batches = _slices(references, batch_size=batch_size)
    if len(batches) > 1 and batch_size > 1 and len(batches[-1]) == 1:
        lone = batches.pop()
        batches[-1] += lone
    return batches


def ordered_batches(num_images: int, *, batch_size: int) -> list[list[Reference]]:
    """Return batches of every image once, in order, view 0; nothing is dropped or padded.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    return _slices([(index, 0) for index in range(num_images)], batch_size=batch_size)


def image_batches(
    dataset: ImageDataset,
    batches: Sequence[list[Reference]],
    *,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[ImageBatch]:
    """Yield the batches in order; see `read_batches`."""
    yield from read_batches(
        dataset, batches, collate=_collate, num_workers=num_workers, pin_memory=pin_memory
    )


def read_batches(
    dataset: Dataset[T],
    batches: Sequence[list[Reference]],
    *,
    collate: Callable[[list[T]], B | DataError],
    num_workers: int,
    pin_memory: bool,
) -> Iterator[B]:
    """Yield the batches in order, read by `num_workers` processes of one torch thread each.

    Args:
        dataset: Is asked for references.
        batches: References of each batch.
        collate: Makes a batch of items; an error that it returns is raised here.
        num_workers: 0 reads in this process.
        pin_memory: Put tensors where a GPU copies them from without waiting.

    Raises:
        BadImageError: an image cannot be decoded.
        DataError: an image cannot be read.
        MachineError: a worker process was killed, most often for memory.
    """
    if num_workers < 0:
        raise ConfigError(f"--num-workers {num_workers} is below 0.")
    loader: DataLoader[T] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        generator=torch.Generator(),  # else the loader draws from torch's global generator
    )
    for batch in _surviving(loader):
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _slices(references: list[Reference], *, batch_size: int) -> list[list[Reference]]:
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size} is below 1.")
    return [
        references[start : start + batch_size] for start in range(0, len(references), batch_size)
    ]


def _collate(items: list[_Item | DataError]) -> ImageBatch | DataError:
    good = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return ImageBatch(
        images=torch.stack([item.image for item in good]),
        targets=torch.from_numpy(np.stack([item.target for item in good])),
        indices=torch.tensor([item.position for item in good], dtype=torch.int64),
    )


def _surviving(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Iterate a loader; the death of a worker becomes an error for the user."""
    try:
        yield from loader
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):  # not "Caught ... in DataLoader worker"
            raise MachineError(
                f"A process that reads images died ({str(error).splitlines()[0]}); memory or"
                " /dev/shm may be short: try a smaller --num-workers or --batch-size."
            ) from error
        raise
