"""Random views of a picture, each computed from (seed, content of the file, number of the view).

No view depends on what was drawn before it, so workers, order, resuming and processes change
nothing: Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011). Torch's and Python's global generators are never touched.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from tlcli.data.auto_augment import POLICIES, PolicyName
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import crop_to_input, eval_transform, pillow_filter, to_pixels
from tlcli.errors import ConfigError

AugmentLevel = Literal["none", "flip", "light", "medium", "strong", "randaugment", "trivialaugment"]
"""`none`: the evaluation view; `flip`: mirrored half of the time; `light`: random crops of at
least half of the area, and flip; `medium`: of at least a quarter, flip and colour jitter; `strong`:
of at least 8 % (Szegedy et al. 2015), flip, more jitter and random erasing; `randaugment` and
`trivialaugment`: crops of at least a quarter, flip, and the random changes of those papers."""

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

_RATIO = (3 / 4, 4 / 3)
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)
_ADJUSTMENTS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def view_generator(*, seed: int, content_key: int, view: int) -> np.random.Generator:
    """Return the random numbers of one view of one image.

    Args:
        seed: Seed of the run, 0..2^64-1.
        content_key: `Picture.content_key` of the image: copies of a file get the same views.
        view: Number of the view, 0..2^64-1; an epoch is a view.

    Raises:
        ConfigError: a number outside its range.
    """
    for name, value in (("seed", seed), ("content key", content_key), ("view", view)):
        if not 0 <= value < 2**64:
            raise ConfigError(f"The {name} {value} does not lie in 0..2^64-1.")
    key = np.array([seed, content_key], dtype=np.uint64)
    counter = np.array([0, 0, 0, view], dtype=np.uint64)  # 2^192 blocks of numbers per view
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What random views of a picture may differ in."""

    smallest_crop: float | None = None
    """Smallest part of the area that a random crop keeps; None takes the evaluation's crop."""
    flips: bool = False
    """Mirror half of the views."""
    policy: PolicyName | None = None
    """Random changes of shape and colour."""
    jitter: float = 0.0
    """Largest change of brightness, contrast and saturation, as a share."""
    erasing: float = 0.0
    """Share of the views in which a rectangle is erased."""


AUGMENTATIONS: Mapping[AugmentLevel, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flips=True),
    "light": Augmentation(flips=True, smallest_crop=0.5),
    "medium": Augmentation(flips=True, smallest_crop=0.25, jitter=0.3),
    "strong": Augmentation(flips=True, smallest_crop=0.08, jitter=0.4, erasing=0.25),
    "randaugment": Augmentation(flips=True, smallest_crop=0.25, policy="randaugment"),
    "trivialaugment": Augmentation(flips=True, smallest_crop=0.25, policy="trivialaugment"),
}


@dataclass(frozen=True)
class TrainTransform:
    """A random view of a picture, not normalised; see `train_transform`."""

    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """Return uint8 (C, H, W) of an image; all randomness comes from `generator`."""
        wanted = self.augmentation
        if wanted.smallest_crop is None:
            view = crop_to_input(image, self.preprocessing)
        else:
            view = self._random_crop(image, generator, smallest=wanted.smallest_crop)
        if wanted.flips and generator.random() < 0.5:
            view = F.hflip(view)
        if wanted.policy is not None:
            view = POLICIES[wanted.policy](view, generator)
        if wanted.jitter:
            view = jitter_colours(view, generator, strength=wanted.jitter)
        pixels = to_pixels(view)
        if wanted.erasing and generator.random() < wanted.erasing:
            pixels = erase_part(pixels, generator, colour=self.preprocessing.mean)
        return pixels

    def _random_crop(
        self, image: Image.Image, generator: np.random.Generator, *, smallest: float
    ) -> Image.Image:
        size = (image.height, image.width)
        box = random_crop_box(size, generator, scale=(smallest, 1.0), ratio=_RATIO)
        mode = pillow_filter(self.preprocessing.interpolation)
        crop: Image.Image = F.resized_crop(image, *box, list(self.preprocessing.input_size), mode)
        return crop


def train_transform(
    preprocessing: Preprocessing,
    *,
    level: AugmentLevel,
    crop_scale: float | None = None,
    color_jitter: float | None = None,
    random_erasing: float | None = None,
) -> TrainTransform:
    """Return the transform of training: (image, generator) -> uint8 tensor (C, H, W).

    Args:
        preprocessing: The pixels that the network wants.
        level: A named augmentation.
        crop_scale: Smallest part of the area that a random crop keeps, in place of the level's.
        color_jitter: Largest change of colours, in place of the level's; 0 is none.
        random_erasing: Share of erased views, in place of the level's; 0 is none.

    Raises:
        ConfigError: an unknown level, interpolation or crop mode.
    """
    if level not in AUGMENTATIONS:
        raise ConfigError(f"Unknown augmentation '{level}'; use {', '.join(AUGMENTATIONS)}.")
    eval_transform(preprocessing)  # checks the names in it
    named = AUGMENTATIONS[level]
    wanted = replace(
        named,
        smallest_crop=named.smallest_crop if crop_scale is None else crop_scale,
        jitter=named.jitter if color_jitter is None else color_jitter,
        erasing=named.erasing if random_erasing is None else random_erasing,
    )
    return TrainTransform(preprocessing, wanted)


def random_crop_box(
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draw a crop of random area and aspect ratio.

    The law is that of torchvision's `RandomResizedCrop.get_params` (from Szegedy et al., "Going
    deeper with convolutions", 2015): area uniform, log of the ratio uniform, ten tries, then the
    largest middle part whose ratio is allowed.

    Args:
        size: Height and width of the image in pixels.
        generator: Where the random numbers come from.
        scale: Smallest and largest part of the area.
        ratio: Smallest and largest width / height.
    """
    height, width = size
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_w, crop_h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_w <= width and 0 < crop_h <= height:
            top = int(generator.integers(0, height - crop_h + 1))
            left = int(generator.integers(0, width - crop_w + 1))
            return top, left, crop_h, crop_w
    return _middle_box(height, width, ratio=ratio)


def _middle_box(height: int, width: int, *, ratio: tuple[float, float]) -> Box:
    crop_h, crop_w = height, width
    if width / height < ratio[0]:
        crop_h = round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_w = round(height * ratio[1])
    return (height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w


def jitter_colours(
    image: Image.Image, generator: np.random.Generator, *, strength: float
) -> Image.Image:
    """Change brightness, contrast and saturation in random order, as torchvision's ColorJitter.

    Each factor is uniform in 1 - strength .. 1 + strength. Gray has no saturation to change, and
    transparency stays as it is.
    """
    factors = generator.uniform(1 - strength, 1 + strength, size=len(_ADJUSTMENTS))
    for which in generator.permutation(len(_ADJUSTMENTS)):
        image = _ADJUSTMENTS[which](image, float(factors[which]))
    return image


def erase_part(
    pixels: Tensor, generator: np.random.Generator, *, colour: tuple[float, ...]
) -> Tensor:
    """Fill a random rectangle (Zhong et al., "Random Erasing Data Augmentation", 2020).

    The law is that of torchvision's `RandomErasing`: 2 to 33 % of the area, ratio of height to
    width 0.3 to 3.3, ten tries, else nothing. It fills with 0 after normalisation, this with the
    mean before it, which is the same up to rounding.

    Args:
        pixels: uint8 (C, H, W); not changed.
        generator: Where the random numbers come from.
        colour: Of each channel, in 0..1.
    """
    height, width = pixels.shape[1:]
    for _ in range(10):
        area = height * width * generator.uniform(*_ERASED_AREA)
        aspect = math.exp(generator.uniform(math.log(_ERASED_RATIO[0]), math.log(_ERASED_RATIO[1])))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top = int(generator.integers(0, height - rows + 1))
            left = int(generator.integers(0, width - columns + 1))
            fill = torch.tensor([round(255 * value) for value in colour], dtype=torch.uint8)
            erased = pixels.clone()
            erased[:, top : top + rows, left : left + columns] = fill[:, None, None]
            return erased
    return pixels
