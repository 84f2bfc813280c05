"""Classification as a task: cross-entropy on logits, judged over whole splits."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlcli.data.loaders import ImageBatch, Inputs
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.class_losses import LossName, cross_entropy, focal_loss
from tlcli.engine.image_logits import ImageLogits, row_order
from tlcli.engine.metrics import fast_metrics
from tlcli.engine.mixing import MixedBatch, mixed_targets
from tlcli.engine.runtime import Runtime


class ClassificationTask:
    """A classifier of images, its loss and its metrics (see `Task`).

    Args:
        model: From normalised images to logits.
        preprocessing: The pixels that it wants.
        runtime: Device and precision.
        loss: Of training; the metrics have the cross-entropy in any case.
        focal_gamma: Of the focal loss.
        label_smoothing: Of the cross-entropy.
        class_weights: Weight of each class in the loss, shape (C,); None is 1 for all.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing,
        runtime: Runtime,
        loss: LossName = "cross-entropy",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model = model
        self._images = ImageLogits(model=model, preprocessing=preprocessing, runtime=runtime)
        self.loss: LossName = loss
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else class_weights.to(runtime.device)

    def losses(self, batch: ImageBatch | MixedBatch) -> Mapping[str, Tensor]:
        """Return the mean loss of a batch; that of mixed images is measured on mixed labels."""
        targets = self._images.targets(batch.targets)
        if isinstance(batch, MixedBatch):
            logits = self._images.of(batch.images, mixture=batch.mixture)
            targets = mixed_targets(targets, batch.mixture, num_classes=logits.shape[1])
        else:
            logits = self.logits(batch.images)
        return {"loss_cls": self._loss(logits, targets)}

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = self.class_weights
        if self.loss == "focal":
            return focal_loss(logits, targets, gamma=self.focal_gamma, weights=weights)
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing, weights=weights)

    def logits(self, images: Inputs) -> Tensor:
        """Return float32 logits (B, C) of uint8 images (B, C, H, W)."""
        return self._images.of(images)

    def evaluator(self) -> "ClassificationEvaluator":
        """Return a fresh accumulator."""
        return ClassificationEvaluator(self)


class ClassificationEvaluator:
    """Log-probabilities of every image of a split, in the order of its rows."""

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._log_probs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._indices: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        """Predict a batch."""
        self._log_probs.append(self._task.logits(batch.images).log_softmax(dim=1))
        self._targets.append(batch.targets)
        self._indices.append(batch.indices)

    def predictions(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return log-probabilities (N, C) and targets (N,), row by row of the split."""
        order = row_order(self._indices)
        log_probs = torch.cat(self._log_probs).cpu().double()[order]
        return log_probs.numpy(), torch.cat(self._targets)[order].numpy()

    def compute(self) -> Mapping[str, float]:
        """Return loss, top1, top5 and macro_f1 of the split."""
        log_probs, targets = self.predictions()
        return fast_metrics(log_probs, targets)


def outputs_of(class_names: Sequence[str], *, wanted: Sequence[str]) -> list[int]:
    """Return the output of the model for each wanted class, matched by name.

    Raises:
        KeyError: With the first class that the model does not know.
    """
    position = {name: index for index, name in enumerate(class_names)}
    return [position[name] for name in wanted]
