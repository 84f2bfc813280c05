"""Feature vectors with their classes, in blocks that can be read again and again."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from tlcli.errors import DataError

_BLOCK_VALUES = 1 << 24


class LabelledFeatures(Protocol):
    """N feature vectors of length D, each with a class index, wherever they lie."""

    def __len__(self) -> int:
        """Number of rows, N."""
        ...

    @property
    def dim(self) -> int:
        """Length of a feature vector, D."""
        ...

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 features (n, D) and int64 targets (n,).

        Every call yields the same blocks in the same order. Blocks of a few thousand rows are
        best: much smaller ones slow the Gram matrix down.
        """
        ...


class InMemoryFeatures:
    """Features and targets that are tensors already.

    Args:
        features: Floating-point tensor of shape (N, D), on any device.
        targets: Class indices of shape (N,).
        block_rows: Rows per block; the default makes blocks of 64 MiB.

    Raises:
        DataError: The shapes do not belong together.
    """

    def __init__(self, features: Tensor, targets: Tensor, *, block_rows: int | None = None) -> None:
        if features.ndim != 2 or targets.shape != features.shape[:1]:
            shapes = f"{tuple(features.shape)} and {tuple(targets.shape)}"
            raise DataError(f"Features and targets must be (N, D) and (N,), not {shapes}.")
        self._features = features
        self._targets = targets.to(device=features.device, dtype=torch.int64)
        self._block_rows = block_rows or max(1, _BLOCK_VALUES // max(1, features.shape[1]))

    def __len__(self) -> int:
        return len(self._features)

    @property
    def dim(self) -> int:
        """Length of a feature vector, D."""
        return self._features.shape[1]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 features (n, D) and int64 targets (n,) in order."""
        for first in range(0, len(self), self._block_rows):
            rows = slice(first, first + self._block_rows)
            yield self._features[rows].float(), self._targets[rows]
