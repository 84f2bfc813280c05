import pytest
import torch

from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.errors import DataError


def test_in_memory_features__blocks_are_float32_and_in_order() -> None:
    features = torch.arange(20.0).view(10, 2).half()
    targets = torch.arange(10, dtype=torch.int32)
    data = InMemoryFeatures(features, targets, block_rows=4)
    for _ in range(2):
        blocks = list(data.blocks())
        assert [len(block) for block, _ in blocks] == [4, 4, 2]
        assert torch.equal(torch.cat([block for block, _ in blocks]), features.float())
        assert torch.equal(torch.cat([own for _, own in blocks]), torch.arange(10))
        assert all(b.dtype == torch.float32 and t.dtype == torch.int64 for b, t in blocks)
    assert (len(data), data.dim) == (10, 2)


@pytest.mark.parametrize(("dim", "rows"), [(1 << 12, 1 << 12), (1 << 24, 1), (1 << 25, 1)])
def test_in_memory_features__blocks_have_64_mebibytes(dim: int, rows: int) -> None:
    features = torch.zeros(1, 1).expand(2 * rows, dim)
    data = InMemoryFeatures(features, torch.zeros(2 * rows))
    assert next(iter(data.blocks()))[0].shape == (rows, dim)


def test_in_memory_features__shapes_must_fit() -> None:
    with pytest.raises(DataError, match=r"must be \(N, D\) and \(N,\), not \(3, 2\) and \(4,\)"):
        InMemoryFeatures(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))
