"""From batches of uint8 images to the outputs of a network: what tasks on images share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlcli.data.loaders import Inputs
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import normalize
from tlcli.engine.mixing import Mixture, mixed_images
from tlcli.engine.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class ImageLogits:
    """A network with the pixels that it wants, on a device, in some precision."""

    model: nn.Module
    """From normalised images, or from what crosses a boundary, to logits."""
    preprocessing: Preprocessing
    runtime: Runtime

    def of(self, images: Inputs, *, mixture: Mixture | None = None) -> Tensor:
        """Return float32 logits (B, C) of uint8 images (B, C, H, W), mixed if asked to.

        In place of images a model may take what crosses the boundary behind its frozen part.
        """
        inputs = self._inputs(images)
        if mixture is not None:
            inputs = tuple(mixed_images(values, mixture) for values in inputs)
        with self.runtime.autocast():
            logits: Tensor = self.model(*inputs)
        return logits.float()

    def _inputs(self, images: Inputs) -> tuple[Tensor, ...]:
        if isinstance(images, tuple):
            return tuple(values.to(self.runtime.device, non_blocking=True) for values in images)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return (normalize(self.runtime.images(images), mean=mean, std=std),)

    def targets(self, targets: Tensor) -> Tensor:
        """Return targets where the logits are."""
        return targets.to(self.runtime.device, non_blocking=True)


def row_order(indices: Sequence[Tensor]) -> Tensor:
    """Return the order that puts the images of some batches row by row of their split.

    Raises:
        AssertionError: A row is missing or repeated.
    """
    rows = torch.cat(list(indices))
    order = torch.argsort(rows)
    assert torch.equal(rows[order], torch.arange(len(rows))), "rows missing or repeated"
    return order
