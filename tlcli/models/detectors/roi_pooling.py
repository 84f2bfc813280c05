"""Cutting boxes from maps: torchvision's way, decided beforehand and by all cores."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

R = TypeVar("R")


class RoIPooling(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's pooling with two differences that leave its numbers as they are.

    torchvision guesses the strides from the first image a model sees, by rounding the ratio of map
    to image, which goes wrong for very long images, and keeps the guess for all others: here they
    are given. And its operator on the CPU works in one thread: here images are shared among the
    threads. The boxes of an image touch no map but its own, so every sum keeps its order.

    Args:
        maps: Names of the maps that boxes are cut from, the finest first.
        strides: Pixels per cell of each.
        output_size: Cells per side of what is cut out.
        sampling_ratio: Points per cell and side that are averaged.
    """

    def __init__(
        self, maps: Sequence[str], *, strides: Sequence[int], output_size: int, sampling_ratio: int
    ) -> None:
        super().__init__(list(maps), output_size, sampling_ratio)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = initLevelMapper(
            int(math.log2(strides[0])),
            int(math.log2(strides[-1])),
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return what the boxes hold, shape (N, C, output_size, output_size).

        Args:
            x: Maps (B, C, H, W) by name.
            boxes: For each image (N, 4), as x0 y0 x1 y1 in pixels of the padded image.
            image_shapes: Not looked at.
        """
        maps = [x[name] for name in self.featmap_names if name in x]
        if maps[0].device.type != "cpu" or torch.get_num_threads() == 1:
            pooled: Tensor = super().forward(x, boxes, image_shapes)
            return pooled
        numbers = torch.cat([b.new_full((len(b), 1), image) for image, b in enumerate(boxes)])
        rois, levels = torch.cat([numbers, torch.cat(boxes)], dim=1), self.map_levels(boxes)
        result = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            rows = torch.where(levels == level)[0]
            cut = _align(features, rois[rows], scale, self.output_size, self.sampling_ratio)
            result[rows] = cut.to(result.dtype)
        return result


def _align(
    features: Tensor, rois: Tensor, scale: float, size: tuple[int, int], ratio: int
) -> Tensor:
    """Do what `torchvision.ops.roi_align` does; `rois` (N, 5) are sorted by image."""
    aligned: Tensor = _AlignByImage.apply(features.to(rois.dtype), rois, scale, size, ratio)
    return aligned


class _AlignByImage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rois: Tensor, scale: float, size: tuple[int, int], ratio: int
    ) -> Tensor:
        """Cut the boxes of each image from its map; see `roi_align`."""
        ctx.save_for_backward(rois)
        ctx.shape, ctx.scale, ctx.size, ctx.ratio = features.shape, scale, size, ratio

        def cut(image: int, own: Tensor) -> Tensor:
            """Return what the boxes of one image hold."""
            part: Tensor = roi_align(features[image : image + 1], own, size, scale, ratio)
            return part

        return torch.cat(_in_threads(cut, _by_image(rois, len(features))))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Add the gradients of each image's boxes up on its own map."""
        (rois,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        parts = _by_image(rois, batch)
        gradients = torch.split(gradient, [len(own) for own in parts])

        def spread(image: int, own: Tensor) -> Tensor:
            """Return the gradient on the map of one image."""
            part: Tensor = torch.ops.torchvision._roi_align_backward(
                gradients[image].contiguous(),
                own,
                ctx.scale,
                *ctx.size,
                1,
                channels,
                height,
                width,
                ctx.ratio,
                False,
            )
            return part

        return torch.cat(_in_threads(spread, parts)), None, None, None, None


def _by_image(rois: Tensor, batch: int) -> list[Tensor]:
    """Return the boxes of each image, as those of an only image."""
    counts = torch.bincount(rois[:, 0].long(), minlength=batch).tolist()
    alone = torch.cat([torch.zeros_like(rois[:, :1]), rois[:, 1:]], dim=1)
    return list(torch.split(alone, counts))


def _in_threads(work: Callable[[int, Tensor], R], parts: Sequence[Tensor]) -> list[R]:
    def quiet(image: int) -> R:
        with torch.no_grad():  # of this thread: the graph is not recorded twice
            return work(image, parts[image])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(quiet, range(len(parts))))
