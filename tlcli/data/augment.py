"""Random views of a picture, each computed from (seed, content of the file, number of the view).

No view depends on what was drawn before it, so workers, order, resuming and processes change
nothing: Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011). Torch's and Python's global generators are never touched.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import crop_to_input, eval_transform, pillow_filter, to_pixels
from tlcli.errors import ConfigError

AugmentLevel = Literal["none", "flip", "light", "medium"]
"""`none`: the evaluation view; `flip`: mirrored half of the time; `light`: random crops of at
least half of the area, and flip; `medium`: of at least a quarter, flip and colour jitter."""

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

_MIN_AREA = {"light": 0.5, "medium": 0.25}
_RATIO = (3 / 4, 4 / 3)
_JITTER = 0.3
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


@dataclass(frozen=True)
class TrainTransform:
    """A random view of a picture, not normalised; see `train_transform`."""

    preprocessing: Preprocessing
    level: AugmentLevel

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """Return uint8 (3, H, W) of an RGB image; all randomness comes from `generator`."""
        if self.level == "none":
            return to_pixels(crop_to_input(image, self.preprocessing))
        if self.level == "flip":
            view = crop_to_input(image, self.preprocessing)
        else:
            view = self._random_crop(image, generator)
        if generator.random() < 0.5:
            view = F.hflip(view)
        if self.level == "medium":
            view = jitter_colours(view, generator, strength=_JITTER)
        return to_pixels(view)

    def _random_crop(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        box = random_crop_box(
            (image.height, image.width),
            generator,
            scale=(_MIN_AREA[self.level], 1.0),
            ratio=_RATIO,
        )
        mode = pillow_filter(self.preprocessing.interpolation)
        size = list(self.preprocessing.input_size)
        crop: Image.Image = F.resized_crop(image, *box, size, mode)
        return crop


def train_transform(preprocessing: Preprocessing, *, level: AugmentLevel) -> TrainTransform:
    """Return the transform of training: (RGB image, generator) -> uint8 tensor (3, H, W).

    Raises:
        ConfigError: an unknown level, interpolation or crop mode.
    """
    levels = get_args(AugmentLevel)
    if level not in levels:
        raise ConfigError(f"Unknown augmentation '{level}'; use {', '.join(levels)}.")
    eval_transform(preprocessing)  # checks the names in it
    return TrainTransform(preprocessing, level)


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

    Each factor is uniform in 1 - strength .. 1 + strength.
    """
    factors = generator.uniform(1 - strength, 1 + strength, size=len(_ADJUSTMENTS))
    for which in generator.permutation(len(_ADJUSTMENTS)):
        image = _ADJUSTMENTS[which](image, float(factors[which]))
    return image
