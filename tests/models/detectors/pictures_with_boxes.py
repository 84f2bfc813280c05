"""A few pictures of other sizes and their boxes, for detectors with random weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tlcli.models.detectors.detector import Detector
from tlcli.models.staged import StagedModel


def pictures() -> list[Tensor]:
    """Two pictures (3, H, W) with values in 0..1."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 80, 100, generator=generator), torch.rand(3, 96, 70, generator=generator)]


def targets() -> list[dict[str, Tensor]]:
    """Boxes of two classes in the first picture, none in the second."""
    return [
        {
            "boxes": torch.tensor([[10.0, 12.0, 60.0, 70.0], [30.0, 5.0, 50.0, 30.0]]),
            "labels": torch.tensor([1, 2]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def total_loss(model: nn.Module) -> Tensor:
    """Sum the losses of a model in train mode."""
    losses: dict[str, Tensor] = model(pictures(), targets())
    return torch.stack(list(losses.values())).sum()


def staged(detector: Detector) -> StagedModel:
    """Make a detector trainable as `detect-finetune` does."""
    return StagedModel(
        detector.network, stages=detector.stages, kept_norms=detector.norms_to_freeze
    )


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Fix random weights and sampling."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
