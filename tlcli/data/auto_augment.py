"""RandAugment and TrivialAugment with random numbers that come from a generator of ours.

The operations, their ranges and the way they are drawn are those of torchvision's
`transforms.v2.RandAugment` and `TrivialAugmentWide`, which draw from torch's global generator: in
threads and worker processes their views would depend on what was drawn before.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

PolicyName = Literal["randaugment", "trivialaugment"]
Change = Callable[[Image.Image, float], Image.Image]

STRENGTHS = 31
"""Steps from no change to the strongest one, as in both papers."""
RANDAUGMENT_STRENGTH = 9
RANDAUGMENT_CHANGES = 2


@dataclass(frozen=True)
class _Operation:
    change: Change
    largest: float = 0.0
    """What the strongest step means to `change`; 0 where there is one strength only."""
    smallest: float = 0.0
    """What the weakest step means to it."""
    is_signed: bool = False
    is_of_size: bool = False
    """Whether `largest` is a share of the width or height."""


def rand_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply two random changes of strength 9 (Cubuk et al., "RandAugment", 2020)."""
    for _ in range(RANDAUGMENT_CHANGES):
        image = change_picture(
            image,
            _drawn_name(generator),
            policy="randaugment",
            strength=RANDAUGMENT_STRENGTH,
            is_negative=_is_negative(generator),
        )
    return image


def trivial_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply one random change of random strength (Müller & Hutter, "TrivialAugment", 2021)."""
    return change_picture(
        image,
        _drawn_name(generator),
        policy="trivialaugment",
        strength=int(generator.integers(STRENGTHS)),
        is_negative=_is_negative(generator),
    )


def change_picture(
    image: Image.Image, name: str, *, policy: PolicyName, strength: int, is_negative: bool
) -> Image.Image:
    """Apply one operation.

    Args:
        image: Gray, RGB or RGBA. What has no colour is left alone by `Color`; transparency moves
            with the picture, but colours change without it.
        name: Of the operation, as torchvision calls it.
        policy: How far its strongest step goes.
        strength: 0..30.
        is_negative: Turn, shift or fade the other way, where there are two.
    """
    operation = OPERATIONS[policy][name]
    side = 1 if not operation.is_of_size else _side(image, name)
    # in float32 as torchvision: a colour may lie just between two values
    steps = torch.linspace(operation.smallest, operation.largest * side, STRENGTHS)
    value = float(steps[strength])
    if operation.is_signed and is_negative:
        value = -value
    return operation.change(image, value)


def _side(image: Image.Image, name: str) -> int:
    return image.width if name.endswith("X") else image.height


def _drawn_name(generator: np.random.Generator) -> str:
    names = tuple(OPERATIONS["randaugment"])
    return names[int(generator.integers(len(names)))]


def _is_negative(generator: np.random.Generator) -> bool:
    return bool(generator.random() < 0.5)


def _sheared(image: Image.Image, *, x: float = 0.0, y: float = 0.0) -> Image.Image:
    """Shear by a slope around the upper left corner, as the papers' own code does."""
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    sheared: Image.Image = F.affine(
        image, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0]
    )
    return sheared


def _moved(image: Image.Image, *, x: float = 0.0, y: float = 0.0) -> Image.Image:
    moved: Image.Image = F.affine(
        image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0]
    )
    return moved


def _posterized(image: Image.Image, bits_less: float) -> Image.Image:
    posterized: Image.Image = F.posterize(image, bits=round(8 - bits_less))
    return posterized


def _of_colours(change: Change) -> Change:
    """Return a change that leaves transparency alone; Pillow's would change or refuse it."""

    def changed(image: Image.Image, value: float) -> Image.Image:
        """Change the colours of an image, its fourth channel apart."""
        if image.mode != "RGBA":
            return change(image, value)
        picture = change(image.convert("RGB"), value)
        picture.putalpha(image.getchannel("A"))
        return picture

    return changed


def _operations(
    *, shear: float, shift: float, is_share: bool, turn: float, colour: float, bits: float
) -> dict[str, _Operation]:
    return {
        "Identity": _Operation(lambda image, _: image),
        "ShearX": _Operation(lambda image, v: _sheared(image, x=v), shear, is_signed=True),
        "ShearY": _Operation(lambda image, v: _sheared(image, y=v), shear, is_signed=True),
        "TranslateX": _Operation(
            lambda image, v: _moved(image, x=v), shift, is_signed=True, is_of_size=is_share
        ),
        "TranslateY": _Operation(
            lambda image, v: _moved(image, y=v), shift, is_signed=True, is_of_size=is_share
        ),
        "Rotate": _Operation(lambda image, v: F.rotate(image, angle=v), turn, is_signed=True),
        "Brightness": _Operation(
            lambda image, v: F.adjust_brightness(image, 1 + v), colour, is_signed=True
        ),
        "Color": _Operation(
            lambda image, v: F.adjust_saturation(image, 1 + v), colour, is_signed=True
        ),
        "Contrast": _Operation(
            lambda image, v: F.adjust_contrast(image, 1 + v), colour, is_signed=True
        ),
        "Sharpness": _Operation(
            lambda image, v: F.adjust_sharpness(image, 1 + v), colour, is_signed=True
        ),
        "Posterize": _Operation(_of_colours(_posterized), bits),
        "Solarize": _Operation(
            _of_colours(lambda image, v: F.solarize(image, threshold=255.0 * v)), 0.0, smallest=1.0
        ),
        "AutoContrast": _Operation(_of_colours(lambda image, _: F.autocontrast(image))),
        "Equalize": _Operation(_of_colours(lambda image, _: F.equalize(image))),
    }


OPERATIONS: Mapping[PolicyName, Mapping[str, _Operation]] = {
    "randaugment": _operations(
        shear=0.3, shift=150 / 331, is_share=True, turn=30.0, colour=0.9, bits=4.0
    ),
    "trivialaugment": _operations(
        shear=0.99, shift=32.0, is_share=False, turn=135.0, colour=0.99, bits=6.0
    ),
}
POLICIES: Mapping[PolicyName, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "randaugment": rand_augment,
    "trivialaugment": trivial_augment,
}
