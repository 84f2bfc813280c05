"""Batches of images with their boxes, similar shapes together, whatever the number of workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tlcli.data.augment import view_generator
from tlcli.data.boxes.box_augment import BoxAugmentLevel, augment_boxes
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.images import Picture, read_image
from tlcli.data.loaders import Reference, read_batches
from tlcli.data.transforms import to_pixels
from tlcli.errors import DataError

_ASPECT_STEPS = 3
"""Shapes between 1:2 and 2:1 fall into this many groups per doubling, as in torchvision's
references."""


class BoxBatch(NamedTuple):
    """B images of possibly different sizes with their boxes."""

    images: list[Tensor]
    """uint8 (3, H, W) each."""
    targets: list[dict[str, Tensor]]
    """`boxes` float32 (N, 4), x0 y0 x1 y1 in pixels of the image, and `labels` int64 (N,): the
    class + 1."""
    indices: Tensor
    """int64 (B,), positions in the dataset."""


@dataclass(frozen=True, kw_only=True)
class BoxSample:
    """An image file and the boxes to learn from it."""

    path: Path
    width: int
    height: int
    """Pixels of the frame that the boxes lie in; the picture itself may be larger or smaller."""
    is_upright: bool
    """Whether that frame is turned as EXIF says."""
    boxes: npt.NDArray[np.float64]
    """(N, 4): x, y, width, height; crowds are not among them."""
    labels: npt.NDArray[np.int64]
    """(N,): class + 1."""


class LoadedImage(NamedTuple):
    """A decoded image with its boxes."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    position: int


def box_samples(table: BoxTable, split: str, *, for_training: bool = False) -> list[BoxSample]:
    """Return the images of a split, in the order of its rows, with what is to be learned.

    Args:
        table: Where they are.
        split: One of its splits.
        for_training: Leave out images that have crowds and no single box: as negatives they would
            teach that the objects to be seen in them are none.

    Raises:
        DataError: the table has no images in `split`.
    """
    images, boxes = table.images_of(split), table.boxes_of(split)
    crowded, boxes = boxes[boxes["is_crowd"]], boxes[~boxes["is_crowd"]]
    if for_training:
        only_crowds = set(crowded["image"]) - set(boxes["image"])
        images = images[~images["row"].isin(only_crowds)]
    values = boxes[["x", "y", "width", "height"]].to_numpy(np.float64)
    labels = boxes["category"].to_numpy(np.int64) + 1
    rows_of = boxes.groupby("image").indices
    none = np.empty(0, dtype=np.int64)
    own = [rows_of.get(row, none) for row in images["row"].tolist()]
    return [
        BoxSample(
            path=table.root / path,
            width=width,
            height=height,
            is_upright=is_upright,
            boxes=values[rows],
            labels=labels[rows],
        )
        for path, width, height, is_upright, rows in zip(
            *(images[name].tolist() for name in ("path", "width", "height", "is_upright")),
            own,
            strict=True,
        )
    ]


class BoxDataset(Dataset["LoadedImage | DataError"]):
    """Images on disk with their boxes, or the `DataError` that kept them from being read.

    Args:
        samples: N of them.
        augment: How strongly the views differ from the picture.
        seed: Of the random views.
        pictures: From the place of a sample to its picture, where they are kept; else files are
            read. Worker processes are sent it, so it has to be picklable, and small.
    """

    def __init__(
        self,
        samples: Sequence[BoxSample],
        *,
        augment: BoxAugmentLevel = "none",
        seed: int = 0,
        pictures: Callable[[int], Picture] | None = None,
    ) -> None:
        self.samples = samples
        self._pictures = pictures
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, reference: Reference) -> LoadedImage | DataError:
        """Return the item of `(index, view)`."""
        index, view = reference
        sample = self.samples[index]
        try:
            if self._pictures is not None:
                picture = self._pictures(index)
            else:
                picture = read_image(sample.path, upright=sample.is_upright)
        except DataError as error:
            return error
        boxes, labels = _in_picture(sample, size=picture.image.size)
        generator = view_generator(seed=self._seed, content_key=picture.content_key, view=view)
        pixels, boxes, labels = augment_boxes(
            to_pixels(picture.image), boxes, labels, level=self._augment, generator=generator
        )
        return LoadedImage(pixels, boxes, labels, index)


def _in_picture(sample: BoxSample, *, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes (N, 4) as x0 y0 x1 y1 in the pixels of the picture, and their labels.

    Boxes may stand over the edge by up to a pixel; what is outside of the picture is cut off.
    """
    width, height = size
    corners = sample.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    corners *= np.array([width / sample.width, height / sample.height] * 2)
    corners = corners.clip(0, np.array([width, height] * 2)).astype(np.float32)
    is_whole = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return torch.from_numpy(corners[is_whole]), torch.from_numpy(sample.labels[is_whole])


def grouped_batches(
    samples: Sequence[BoxSample], *, batch_size: int, seed: int, epoch: int
) -> list[list[Reference]]:
    """Return the batches of a training epoch: every image once, similar shapes together.

    Images of a batch are padded to one size, so tall ones are kept from wide ones. What is left
    over of each group makes the last batches; the order of the batches is random too. A single
    image left at the end joins the batch nearest in shape, which then has `batch_size + 1`:
    BatchNorm cannot train on one value per channel. With `batch_size` 1 or one image in all there
    is nothing to join.

    Args:
        samples: The images.
        batch_size: Images per batch; only the last one may have fewer.
        seed: Of the run.
        epoch: The view of every image.
    """
    generator = view_generator(seed=seed, content_key=0, view=epoch)
    groups: dict[int, list[Reference]] = {}
    batches: list[list[Reference]] = []
    for index in generator.permutation(len(samples)):
        group = groups.setdefault(_shape_group(samples[index]), [])
        group.append((int(index), epoch))
        if len(group) == batch_size:
            batches.append(group.copy())
            group.clear()
    left = [reference for _, group in sorted(groups.items()) for reference in group]
    batches += [left[i : i + batch_size] for i in range(0, len(left), batch_size)]
    if len(batches) > 1 and batch_size > 1 and len(batches[-1]) == 1:
        _join_nearest(batches.pop(), batches, samples)
    return [batches[i] for i in generator.permutation(len(batches))]


def _join_nearest(
    lone: list[Reference], batches: Sequence[list[Reference]], samples: Sequence[BoxSample]
) -> None:
    """Add `lone` to the first of the batches whose first image has the most similar shape."""
    shape = _shape_group(samples[lone[0][0]])
    nearest = min(batches, key=lambda batch: abs(_shape_group(samples[batch[0][0]]) - shape))
    nearest += lone


def _shape_group(sample: BoxSample) -> int:
    steps = np.log2(sample.width / sample.height) * _ASPECT_STEPS
    return int(np.floor(steps).clip(-_ASPECT_STEPS, _ASPECT_STEPS))


def box_batches(
    dataset: BoxDataset,
    batches: Sequence[list[Reference]],
    *,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[BoxBatch]:
    """Yield the batches in order; see `loaders.read_batches`."""
    yield from read_batches(
        dataset, batches, collate=_collate, num_workers=num_workers, pin_memory=pin_memory
    )


def _collate(items: list[LoadedImage | DataError]) -> BoxBatch | DataError:
    good = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return BoxBatch(
        images=[item.image for item in good],
        targets=[{"boxes": item.boxes, "labels": item.labels} for item in good],
        indices=torch.tensor([item.position for item in good], dtype=torch.int64),
    )
