"""Classification as a task: cross-entropy on logits, judged over whole splits."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import normalize
from tlcli.engine.metrics import fast_metrics
from tlcli.engine.runtime import Runtime


class ClassificationTask:
    """A classifier of images, its loss and its metrics (see `Task`)."""

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing,
        runtime: Runtime,
        label_smoothing: float = 0.0,
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.runtime = runtime
        self.label_smoothing = label_smoothing

    def losses(self, batch: ImageBatch) -> Mapping[str, Tensor]:
        """Return the mean cross-entropy of a batch."""
        targets = batch.targets.to(self.runtime.device, non_blocking=True)
        logits = self.logits(batch.images)
        return {"loss_cls": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (B, C) of uint8 images (B, 3, H, W)."""
        mean, std = self.preprocessing.mean, self.preprocessing.std
        inputs = normalize(self.runtime.images(images), mean=mean, std=std)
        with self.runtime.autocast():
            logits: Tensor = self.model(inputs)
        return logits.float()

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
        indices = torch.cat(self._indices)
        order = torch.argsort(indices)
        assert torch.equal(indices[order], torch.arange(len(indices))), "rows missing or repeated"
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
