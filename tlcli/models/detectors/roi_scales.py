"""Which part of a map a box is cut from, decided by the network and not by its first image."""

import math
from collections.abc import Sequence

from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper


def pin_scales(pool: MultiScaleRoIAlign, strides: Sequence[int]) -> None:
    """Set the scales that torchvision would guess from the first image a model sees.

    It guesses by rounding the ratio of map to image, which goes wrong for very long images, and
    keeps the guess for all others.

    Args:
        pool: Of a Faster R-CNN, changed in place.
        strides: Pixels per cell of each of its maps.
    """
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(
        int(math.log2(strides[0])),
        int(math.log2(strides[-1])),
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
    )
