"""Mixup and CutMix: batches whose images and labels are mixtures of two.

Drawn from (seed, epoch, step) alone and applied to normalised images on the device. Each image is
mixed with its neighbour in the batch, as in torchvision's `v2.MixUp` and `v2.CutMix`: the order of
a training batch is random.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.data.loaders import ImageBatch, Inputs

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How the images of one batch are mixed."""

    share: float
    """Of the own label, in 0..1; the neighbour's is the rest."""
    box: Box | None = None
    """What is pasted from the neighbour; None blends whole images."""


class MixedBatch(NamedTuple):
    """B images that are to be mixed; see `ImageBatch`."""

    images: Inputs
    targets: Tensor
    indices: Tensor
    mixture: Mixture


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Which mixtures are drawn: Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), or either.

    Shares follow Beta(alpha, alpha); an alpha of 0 turns one off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, generator: np.random.Generator, *, size: tuple[int, int]) -> Mixture:
        """Draw the mixture of a batch of images of `size` (height, width).

        Raises:
            ValueError: If both are off.
        """
        if not self.mixup and not self.cutmix:
            raise ValueError("neither mixup nor cutmix is on")
        is_cut = generator.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if is_cut else self.mixup
        share = float(generator.beta(alpha, alpha))
        if not is_cut:
            return Mixture(share=share)
        middle = int(generator.integers(size[1])), int(generator.integers(size[0]))
        return cut(share, middle=middle, size=size)


def cut(share: float, *, middle: tuple[int, int], size: tuple[int, int]) -> Mixture:
    """Return the mixture whose box keeps `share` of the area, as far as the image reaches.

    Args:
        share: Of the own image.
        middle: Column and row in the middle of the box.
        size: Height and width of the image.
    """
    height, width = size
    half = 0.5 * math.sqrt(1 - share)
    half_width, half_height = int(half * width), int(half * height)
    left, right = max(0, middle[0] - half_width), min(width, middle[0] + half_width)
    top, bottom = max(0, middle[1] - half_height), min(height, middle[1] + half_height)
    kept = 1 - (right - left) * (bottom - top) / (width * height)
    return Mixture(share=kept, box=(left, top, right, bottom))


def mixed_images(images: Tensor, mixture: Mixture) -> Tensor:
    """Mix float images (B, C, H, W), or maps of them, each with the one before it."""
    neighbours = images.roll(1, 0)
    if mixture.box is None:
        return images * mixture.share + neighbours * (1 - mixture.share)
    left, top, right, bottom = mixture.box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = neighbours[..., top:bottom, left:right]
    return mixed


def mixed_targets(targets: Tensor, mixture: Mixture, *, num_classes: int) -> Tensor:
    """Return the shares of the classes (B, C) of mixed images.

    Args:
        targets: Own classes (B,), or which of any number of classes the images have (B, C).
        mixture: How the images are mixed.
        num_classes: C.
    """
    own = (targets if targets.ndim == 2 else F.one_hot(targets, num_classes)).to(torch.float32)
    return own * mixture.share + own.roll(1, 0) * (1 - mixture.share)


def with_mixing(
    train_steps: Callable[[int, int], Iterable[Sequence[ImageBatch]]],
    *,
    mixing: Mixing,
    seed: int,
) -> Callable[[int, int], Iterator[list[MixedBatch]]]:
    """Let the batches of a training say how they are mixed.

    Args:
        train_steps: From epochs done and steps done to the remaining steps of the epoch.
        mixing: What is drawn.
        seed: Of the run.
    """

    def steps(epoch: int, done: int) -> Iterator[list[MixedBatch]]:
        """Yield the batches of each step that is left after `done` ones."""
        for step, batches in enumerate(train_steps(epoch, done), start=done):
            generator = np.random.default_rng(np.random.SeedSequence((seed, epoch, step)))
            yield [
                MixedBatch(*batch, mixing.draw(generator, size=_size(batch.images)))
                for batch in batches
            ]

    return steps


def _size(inputs: Inputs) -> tuple[int, int]:
    """Return height and width of images, or of the first value that has them."""
    if isinstance(inputs, Tensor):
        return int(inputs.shape[-2]), int(inputs.shape[-1])
    maps = [values for values in inputs if values.ndim == 4]
    return _size(maps[0]) if maps else (1, 1)
