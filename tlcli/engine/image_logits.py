"""From batches of uint8 images to the outputs of a network: what tasks on images share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import normalize
from tlcli.engine.mixing import Mixture, mixed_images
from tlcli.engine.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class ImageLogits:
    """A network with the pixels that it wants, on a device, in some precision."""

    model: nn.Module
    """From normalised images to logits."""
    preprocessing: Preprocessing
    runtime: Runtime

    def of(self, images: Tensor, *, mixture: Mixture | None = None) -> Tensor:
        """Return float32 logits (B, C) of uint8 images (B, 3, H, W), mixed if asked to."""
        mean, std = self.preprocessing.mean, self.preprocessing.std
        inputs = normalize(self.runtime.images(images), mean=mean, std=std)
        if mixture is not None:
            inputs = mixed_images(inputs, mixture)
        with self.runtime.autocast():
            logits: Tensor = self.model(inputs)
        return logits.float()

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
