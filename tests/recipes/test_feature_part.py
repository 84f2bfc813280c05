"""Features of one part, whatever the order in which a store reads its rows."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlcli.recipes.feature_part import FeaturePart, ResidentRows

FEATURES = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
TARGETS = np.arange(11, dtype=np.int64) % 4


class ShuffledRows:
    """Rows that come in another order than theirs, as from several shards."""

    def __init__(self, *, order: list[int]) -> None:
        self._order = np.array(order, dtype=np.intp)

    @property
    def dim(self) -> int:
        return 3

    def blocks(self, *, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        for start in range(0, len(self._order), size):
            positions = self._order[start : start + size]
            yield FEATURES[torch.from_numpy(positions)], positions


ORDERS = [list(range(11)), list(range(10, -1, -1)), [4, 0, 10, 2, 9, 1, 3, 8, 5, 7, 6]]


def part(order: list[int], *, block_size: int = 4) -> FeaturePart:
    return FeaturePart(rows=ShuffledRows(order=order), targets=TARGETS, block_size=block_size)


def head() -> nn.Module:
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).reshape(4, 3) / 10)
        layer.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    return layer


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_resident_rows__blocks_in_order(size: int) -> None:
    rows = ResidentRows(FEATURES)
    blocks = list(rows.blocks(size=size))

    assert rows.dim == 3
    assert torch.equal(torch.cat([block for block, _ in blocks]), FEATURES)
    assert np.concatenate([numbers for _, numbers in blocks]).tolist() == list(range(11))
    assert {len(block) for block, _ in blocks[:-1]} <= {size}


@pytest.mark.parametrize("order", ORDERS, ids=["straight", "reversed", "shuffled"])
def test_blocks__targets_stay_with_their_rows(order: list[int]) -> None:
    chosen = part(order)
    pairs = [
        (tuple(row.tolist()), int(target))
        for block, targets in chosen.blocks()
        for row, target in zip(block, targets, strict=True)
    ]

    wanted = [(tuple(row.tolist()), int(t)) for row, t in zip(FEATURES, TARGETS, strict=True)]
    assert sorted(pairs) == sorted(wanted)
    assert (len(chosen), chosen.dim) == (11, 3)
    assert all(targets.dtype == torch.int64 for _, targets in chosen.blocks())


@pytest.mark.parametrize("order", ORDERS, ids=["straight", "reversed", "shuffled"])
def test_scores__are_in_the_order_of_the_rows(order: list[int]) -> None:
    wanted = head()(FEATURES).detach().double()

    np.testing.assert_allclose(part(order).scores(head()), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        part(order).log_probs(head()), wanted.log_softmax(dim=1), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("order", ORDERS, ids=["straight", "reversed", "shuffled"])
@pytest.mark.parametrize("chosen", [[0, 3, 9], [5], list(range(11))], ids=str)
def test_subset__keeps_rows_and_targets_together(order: list[int], chosen: list[int]) -> None:
    small = part(order).subset(np.array(chosen))

    (block, targets), *more = small.blocks()
    assert not more
    assert torch.equal(block, FEATURES[chosen])
    assert targets.tolist() == TARGETS[chosen].tolist()
