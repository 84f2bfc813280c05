"""Random views of a picture together with its boxes, each computed from one generator.

The transforms are torchvision's (`transforms.v2`), which move boxes with their pixels.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import v2

BoxAugmentLevel = Literal["none", "flip", "light", "medium"]
"""How much a view differs; see `augment_boxes`."""

_FILL = (124, 116, 104)
"""Around a picture that was made smaller: ImageNet's mean colour."""
_SCALES = (0.75, 1.33)
_ZOOM_OUT = (1.0, 2.0)
_VISIBLE_SHARE = 0.25
"""Of a box that must be left when the frame cuts it, or it is not learned from."""
_SMALLEST_SIDE = 1.0

Sample = dict[str, Tensor]


def augment_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    level: BoxAugmentLevel,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return another view of an image, with the boxes that are still in it and their labels.

    `none` changes nothing; `flip` mirrors half of the time; `light` also enlarges or shrinks the
    picture by up to a third within its frame; `medium` is the recipe of SSD (Liu et al., "SSD:
    Single Shot MultiBox Detector", 2016): colours, zooming out, crops around boxes, and flip.

    Args:
        image: uint8 (3, H, W).
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels, inside the image.
        labels: int64 (N,).
        level: How strong.
        generator: All randomness comes from it; torch's global generator is left as it was.
    """
    if level == "none":
        return image, boxes, labels
    size = (int(image.shape[-2]), int(image.shape[-1]))
    sample = {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": labels,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        view = _VIEWS[level](sample, size)
    return view["image"].as_subclass(Tensor), view["boxes"].as_subclass(Tensor), view["labels"]


def _flipped(sample: Sample, _size: tuple[int, int]) -> Sample:
    flipped: Sample = v2.RandomHorizontalFlip()(sample)
    return flipped


def _jittered(sample: Sample, size: tuple[int, int]) -> Sample:
    frame = (size[1], size[0])  # ScaleJitter alone wants width and height
    scaled: Sample = v2.ScaleJitter(frame, scale_range=_SCALES)(_flipped(sample, size))
    fill = {tv_tensors.Image: _FILL, "others": 0}
    framed: Sample = v2.RandomCrop(size, pad_if_needed=True, fill=fill)(scaled)
    return _still_seen(framed, least=_VISIBLE_SHARE * box_area(scaled["boxes"]))


def _ssd(sample: Sample, size: tuple[int, int]) -> Sample:
    fill = {tv_tensors.Image: _FILL, "others": 0}
    recipe = v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=fill, side_range=_ZOOM_OUT),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
        ]
    )
    cropped: Sample = recipe(sample)
    return _still_seen(cropped, least=torch.zeros(len(cropped["labels"])))


def _still_seen(sample: Sample, *, least: Tensor) -> Sample:
    """Cut the boxes at the frame; leave out those without a pixel or below an area in pixels."""
    boxes = v2.functional.clamp_bounding_boxes(sample["boxes"])
    sides = boxes.as_subclass(Tensor)[:, 2:] - boxes.as_subclass(Tensor)[:, :2]
    is_seen = (sides >= _SMALLEST_SIDE).all(dim=1) & (box_area(boxes.as_subclass(Tensor)) >= least)
    return {**sample, "boxes": boxes[is_seen], "labels": sample["labels"][is_seen]}


_VIEWS: Mapping[str, Callable[[Sample, tuple[int, int]], Sample]] = {
    "flip": _flipped,
    "light": _jittered,
    "medium": _ssd,
}
