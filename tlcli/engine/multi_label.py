"""Any number of classes per image as a task: a yes or no per class, judged over whole splits."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlcli.data.loaders import ImageBatch, Inputs
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.class_losses import BinaryLossName, binary_cross_entropy, binary_focal_loss
from tlcli.engine.image_logits import ImageLogits, row_order
from tlcli.engine.mixing import MixedBatch, mixed_targets
from tlcli.engine.multi_label_metrics import fast_multi_label_metrics
from tlcli.engine.runtime import Runtime


class MultiLabelTask:
    """A classifier of images that have any number of classes (see `Task`).

    Args:
        model: From normalised images to logits, one per class.
        preprocessing: The pixels that it wants.
        runtime: Device and precision.
        loss: Of training; the metrics have the binary cross-entropy in any case.
        focal_gamma: Of the focal loss.
        label_smoothing: Of the binary cross-entropy.
        positive_weights: Weight of having each class in the loss, shape (C,); None is 1 for all.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing,
        runtime: Runtime,
        loss: BinaryLossName = "bce",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        positive_weights: Tensor | None = None,
    ) -> None:
        self.model = model
        self._images = ImageLogits(model=model, preprocessing=preprocessing, runtime=runtime)
        self.loss: BinaryLossName = loss
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing
        self.positive_weights = (
            None if positive_weights is None else positive_weights.to(runtime.device)
        )

    def losses(self, batch: ImageBatch | MixedBatch) -> Mapping[str, Tensor]:
        """Return the mean loss of a batch; that of mixed images is measured on mixed labels."""
        mixture = batch.mixture if isinstance(batch, MixedBatch) else None
        logits = self._images.of(batch.images, mixture=mixture)
        shares = self._images.targets(batch.targets).to(logits.dtype)
        if mixture is not None:
            shares = mixed_targets(shares, mixture, num_classes=logits.shape[1])
        return {"loss_cls": self._loss(logits, shares)}

    def _loss(self, logits: Tensor, shares: Tensor) -> Tensor:
        weights = self.positive_weights
        if self.loss == "focal":
            return binary_focal_loss(
                logits, shares, gamma=self.focal_gamma, positive_weights=weights
            )
        return binary_cross_entropy(
            logits, shares, label_smoothing=self.label_smoothing, positive_weights=weights
        )

    def logits(self, images: Inputs) -> Tensor:
        """Return float32 logits (B, C) of uint8 images (B, 3, H, W)."""
        return self._images.of(images)

    def evaluator(self) -> "MultiLabelEvaluator":
        """Return a fresh accumulator."""
        return MultiLabelEvaluator(self)


class MultiLabelEvaluator:
    """Logits of every image of a split, in the order of its rows."""

    def __init__(self, task: MultiLabelTask) -> None:
        self._task = task
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._indices: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        """Predict a batch."""
        self._logits.append(self._task.logits(batch.images))
        self._targets.append(batch.targets)
        self._indices.append(batch.indices)

    def predictions(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return logits (N, C) and which classes the images have (N, D), row by row of the split.

        D may be another number than C: the data need not have all classes of the model.
        """
        order = row_order(self._indices)
        logits = torch.cat(self._logits).cpu().double()[order]
        return logits.numpy(), torch.cat(self._targets)[order].numpy()

    def compute(self) -> Mapping[str, float]:
        """Return loss, map, micro_f1 and macro_f1 of the split."""
        logits, labels = self.predictions()
        return fast_multi_label_metrics(logits, labels)
