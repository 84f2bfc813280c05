"""Features of one part of the data: streamed from a store or held in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor, nn


class RowBlocks(Protocol):
    """Rows of features that can be streamed again and again."""

    @property
    def dim(self) -> int:
        """D, the length of the features."""

    def blocks(self, *, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        """Yield float32 features (n, D) and the numbers of their rows (n,)."""


class ResidentRows:
    """Rows of features in memory, shape (N, D)."""

    def __init__(self, features: Tensor) -> None:
        self._features = features

    @property
    def dim(self) -> int:
        """D, the length of the features."""
        return self._features.shape[1]

    def blocks(self, *, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        """Yield features (n, D) and the numbers of their rows (n,)."""
        for start in range(0, len(self._features), size):
            block = self._features[start : start + size]
            yield block, np.arange(start, start + len(block))


@dataclass(frozen=True, kw_only=True)
class FeaturePart:
    """Features of some rows with the class of each: what heads are solved on and judged by."""

    rows: RowBlocks
    """N rows, streamed."""
    targets: NDArray[np.int64]
    """Class index of each of the N rows."""
    block_size: int = 4096

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def dim(self) -> int:
        """D, the length of the features."""
        return self.rows.dim

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 features (n, D) and targets (n,), the same blocks every time."""
        for block, positions in self.rows.blocks(size=self.block_size):
            yield block, torch.from_numpy(self.targets[positions])

    @torch.inference_mode()
    def scores(self, module: nn.Module) -> NDArray[np.float64]:
        """Return the outputs (N, K) of a head, row by row."""
        parts, order = [], []
        for block, positions in self.rows.blocks(size=self.block_size):
            parts.append(module(block).double().numpy())
            order.append(positions)
        sorted_scores = np.empty((len(self), parts[0].shape[1]))
        sorted_scores[np.concatenate(order)] = np.concatenate(parts)
        return sorted_scores

    def log_probs(self, module: nn.Module) -> NDArray[np.float64]:
        """Return log-probabilities (N, K) of a head, row by row."""
        log_probs: NDArray[np.float64] = log_softmax(self.scores(module), axis=1)
        return log_probs

    def subset(self, chosen: NDArray[np.intp]) -> "FeaturePart":
        """Return some of the rows, held in memory."""
        wanted = np.full(len(self), -1, dtype=np.intp)
        wanted[chosen] = np.arange(len(chosen))
        kept = torch.empty((len(chosen), self.dim))
        for block, positions in self.rows.blocks(size=self.block_size):
            places = wanted[positions]
            kept[places[places >= 0]] = block[torch.from_numpy(places >= 0)]
        return FeaturePart(rows=ResidentRows(kept), targets=self.targets[chosen])
