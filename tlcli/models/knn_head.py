"""A head without training: the nearest stored features vote."""

import torch
from torch import Tensor, nn

from tlcli.errors import ConfigError

TEMPERATURE = 0.07
"""Of Wu et al. 2018, kept by DINO."""
_BLOCK_ROWS = 65_536
"""Rows of the bank that are compared at once."""


class KnnHead(nn.Module):
    """Weighted k-nearest-neighbour classifier on cosine similarity.

    A neighbour of similarity s votes for its class with exp(s / 0.07), as in Wu et al.,
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, and DINO.
    Shares of the votes are mixed with equal shares, which weigh as much as one neighbour of the
    average weight, so that no class has probability zero; the order of classes with and without
    votes stays.

    The bank is kept in float16: that moves a similarity by about 1e-5.

    Args:
        bank: Features (N, D) of any length; they are scaled to length one.
        targets: Class index (N,) of each.
        num_classes: Classes K.
        neighbours: How many vote.

    Raises:
        ConfigError: If there are not so many features.
    """

    bank: Tensor
    targets: Tensor

    def __init__(self, *, bank: Tensor, targets: Tensor, num_classes: int, neighbours: int) -> None:
        super().__init__()
        if not 1 <= neighbours <= len(bank):
            raise ConfigError(
                f"{neighbours} neighbours cannot vote: there are {len(bank)} training images. "
                f"Use 1 to {len(bank)} neighbours."
            )
        self.num_classes = num_classes
        self.neighbours = neighbours
        self.register_buffer("bank", nn.functional.normalize(bank.float(), dim=1).half())
        self.register_buffer("targets", targets.long())

    @classmethod
    def empty(cls, *, rows: int, width: int, num_classes: int, neighbours: int) -> "KnnHead":
        """Return a head of that shape, to load a saved one into."""
        return cls(
            bank=torch.zeros(rows, width),
            targets=torch.zeros(rows, dtype=torch.int64),
            num_classes=num_classes,
            neighbours=neighbours,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return log-probabilities (B, K) for features (B, D); also right as logits."""
        with torch.autocast(features.device.type, enabled=False):
            queries = nn.functional.normalize(features.float(), dim=1)
            similarities, indices = self._nearest(queries)
        weights = (similarities / TEMPERATURE).softmax(dim=1)
        shares = weights.new_zeros(len(features), self.num_classes)
        shares.scatter_add_(1, self.targets[indices], weights)
        smoothing = 1 / (self.neighbours + 1)
        return torch.log((1 - smoothing) * shares + smoothing / self.num_classes)

    def _nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return similarities and row numbers (B, k) of the nearest rows, the bank in blocks."""
        best = queries.new_empty(len(queries), 0)
        rows = torch.empty_like(best, dtype=torch.int64)
        for start in range(0, len(self.bank), _BLOCK_ROWS):
            block = self.bank[start : start + _BLOCK_ROWS].float()
            found, places = (queries @ block.T).topk(min(self.neighbours, len(block)), dim=1)
            best = torch.cat([best, found], dim=1)
            rows = torch.cat([rows, places + start], dim=1)
            best, kept = best.topk(min(self.neighbours, best.shape[1]), dim=1)
            rows = rows.gather(1, kept)
        return best, rows
