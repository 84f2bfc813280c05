"""What the one training loop asks of a task."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Evaluator(Protocol):
    """An accumulator of predictions over one split."""

    def update(self, batch: Any) -> None:
        """Predict a batch and keep what the metrics need, on the device."""

    def compute(self) -> Mapping[str, float]:
        """Return the metrics of all images seen, fractions in 0..1 and losses."""


class Task(Protocol):
    """The losses a model is trained on."""

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return named scalar loss terms of one batch, means over its images."""


class Batch(Protocol):
    """A batch of any task: it knows how many images it holds and which."""

    @property
    def indices(self) -> Tensor:
        """Row numbers of the images, shape (B,)."""
