import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.balanced import balanced_batches
from tlcli.errors import ConfigError

TARGETS = np.array([0] * 7 + [2] * 2 + [5] * 1)


@given(
    targets=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    epochs=st.integers(1, 6),
)
def test_balanced_batches__classes_are_equal_and_images_take_turns(
    targets: list[int], batch_size: int, seed: int, epochs: int
) -> None:
    known = np.array(targets)
    places = math.ceil(len(known) / len(set(targets)))
    shown: Counter[tuple[int, int]] = Counter()
    for epoch in range(epochs):
        batches = balanced_batches(known, batch_size=batch_size, seed=seed, epoch=epoch)
        references = [reference for batch in batches for reference in batch]
        assert Counter(known[row] for row, _ in references) == dict.fromkeys(set(targets), places)
        shown.update(references)
    assert set(shown.values()) == {1}  # no image is shown twice in the same view
    for target in set(targets):
        times = [sum(row == own for row, _ in shown) for own in np.flatnonzero(known == target)]
        assert max(times) - min(times) <= 1
        views = {view for row, view in shown if known[row] == target}
        assert views == set(range(max(times)))


def test_balanced_batches__order_is_of_seed_and_epoch() -> None:
    first, again, later, other = (
        balanced_batches(TARGETS, batch_size=4, seed=seed, epoch=epoch)
        for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first == again
    assert first != later
    assert first != other
    classes = [TARGETS[row] for batch in first for row, _ in batch]
    assert classes != sorted(classes)


def test_balanced_batches__sizes_are_those_of_plain_epochs() -> None:
    assert [len(b) for b in balanced_batches(TARGETS, batch_size=11, seed=0, epoch=0)] == [12]
    assert [len(b) for b in balanced_batches(TARGETS, batch_size=5, seed=0, epoch=0)] == [5, 5, 2]
    with pytest.raises(ConfigError, match="--batch-size 0 is below 1"):
        balanced_batches(TARGETS, batch_size=0, seed=0, epoch=0)


def test_balanced_batches__many_classes_are_no_trouble() -> None:
    targets = np.arange(200_000) % 5000
    batches = balanced_batches(targets, batch_size=64, seed=0, epoch=2)
    assert sum(map(len, batches)) == 200_000
