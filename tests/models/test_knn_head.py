import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from tlcli.errors import ConfigError
from tlcli.models import knn_head
from tlcli.models.knn_head import TEMPERATURE, KnnHead

CLASSES = 4


def clusters(rows: int, *, seed: int, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(CLASSES, (rows,), generator=generator)
    lengths = torch.rand(rows, 1, generator=generator) * 9 + 0.1
    return (centres[targets] + torch.randn(rows, width, generator=generator)) * lengths, targets


def head_on(features: torch.Tensor, targets: torch.Tensor, neighbours: int) -> KnnHead:
    return KnnHead(bank=features, targets=targets, num_classes=CLASSES, neighbours=neighbours)


@pytest.mark.parametrize("neighbours", [1, 5, 60])
def test_forward__equals_scikit_learn(neighbours: int) -> None:
    features, targets = clusters(60, seed=1)
    queries, _ = clusters(30, seed=2)
    features = torch.nn.functional.normalize(features, dim=1).half().float()  # as the bank keeps it
    oracle = KNeighborsClassifier(
        neighbours,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
    ).fit(features.double().numpy(), targets.numpy())
    shares = torch.from_numpy(oracle.predict_proba(queries.double().numpy()))
    smoothed = (shares * neighbours + 1 / CLASSES) / (neighbours + 1)
    found = head_on(features, targets, neighbours)(queries)
    # The bank's rows have length one to float16 only, which scikit-learn corrects.
    torch.testing.assert_close(found.exp().double(), smoothed, rtol=0, atol=5e-3)
    assert found.argmax(1).tolist() == shares.argmax(1).tolist()


def test_forward__two_neighbours_by_hand() -> None:
    bank = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    head = KnnHead(bank=bank, targets=torch.tensor([2, 0, 1]), num_classes=3, neighbours=2)
    (found,) = head(torch.tensor([[3.0, 3.0 * 0.75]])).exp()  # similarities 0.8 and 0.6
    votes = [math.exp(0.6 / 0.07), 0.0, math.exp(0.8 / 0.07)]
    expected = [(2 * vote / sum(votes) + 1 / 3) / 3 for vote in votes]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 30),
    neighbours=st.integers(1, 30),
    width=st.integers(1, 6),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_forward__is_a_distribution_without_zeros(
    rows: int, neighbours: int, width: int, scale: float, seed: int
) -> None:
    features, targets = clusters(rows, seed=seed, width=width)
    head = head_on(features * scale, targets, min(neighbours, rows))
    found = head(features / scale).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(rows))
    assert found.min() >= 0.99 / CLASSES / (min(neighbours, rows) + 1)
    torch.testing.assert_close(found, head(features / scale).softmax(1))


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_forward__large_banks_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = clusters(50, seed=3)
    queries, _ = clusters(9, seed=4)
    head = head_on(features, targets, 7)
    whole = head(queries)
    monkeypatch.setattr(knn_head, "_BLOCK_ROWS", block)
    torch.testing.assert_close(head(queries), whole)


def test_forward__mixed_precision_around_it_changes_nothing() -> None:
    features, targets = clusters(50, seed=3)
    head = head_on(features, targets, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features[:5])
    assert torch.equal(found, head(features[:5]))


def test_init__keeps_directions_in_float16() -> None:
    features, targets = clusters(20, seed=5)
    head = head_on(features * 1e6, targets.int(), 3)
    assert head.bank.dtype == torch.float16
    assert head.targets.dtype == torch.int64
    torch.testing.assert_close(head.bank.float().norm(dim=1), torch.ones(20), rtol=1e-3, atol=0)
    assert list(head.state_dict()) == ["bank", "targets"]
    assert not list(head.parameters())


def test_empty__takes_the_state_of_a_filled_one() -> None:
    features, targets = clusters(20, seed=6)
    head = head_on(features, targets, 3)
    other = KnnHead.empty(rows=20, width=16, num_classes=CLASSES, neighbours=3)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(features), head(features))


@pytest.mark.parametrize("neighbours", [0, -1, 21])
def test_init__more_neighbours_than_rows(neighbours: int) -> None:
    features, targets = clusters(20, seed=7)
    with pytest.raises(ConfigError) as caught:
        head_on(features, targets, neighbours)
    assert str(caught.value) == (
        f"{neighbours} neighbours cannot vote: there are 20 training images. "
        "Use 1 to 20 neighbours."
    )
