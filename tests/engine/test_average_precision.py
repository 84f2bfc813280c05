import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tlcli.engine.average_precision import RankedClass

IMAGES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)
"""Few different scores, so that many are equal."""


@given(images=IMAGES)
def test_average_precision__is_sklearns_with_equal_scores_too(
    images: list[tuple[int, bool]],
) -> None:
    scores = np.array([score for score, _ in images], dtype=np.float64)
    has_class = np.array([has for _, has in images])
    once = np.ones((len(images), 1), dtype=np.uint16)

    found = RankedClass(scores, has_class).average_precision(once)

    assert found.shape == (1,)
    if has_class.any():
        assert found[0] == pytest.approx(average_precision_score(has_class, scores), abs=1e-12)
    else:
        assert np.isnan(found[0])


@settings(max_examples=60)
@given(images=IMAGES, seed=st.integers(0, 999))
def test_average_precision__of_resamples_is_that_of_their_images(
    images: list[tuple[int, bool]], seed: int
) -> None:
    scores = np.array([score for score, _ in images], dtype=np.float64)
    has_class = np.array([has for _, has in images])
    drawn = np.random.default_rng(seed).integers(len(images), size=(4, len(images)))
    weights = np.stack([np.bincount(rows, minlength=len(images)) for rows in drawn], axis=1)

    found = RankedClass(scores, has_class).average_precision(weights.astype(np.uint16))

    for value, rows in zip(found, drawn, strict=True):
        if has_class[rows].any():
            expected = average_precision_score(has_class[rows], scores[rows])
            assert value == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(value)


def test_average_precision__by_hand() -> None:
    """Hits at ranks 1, 3 and 4 of 4: the mean of 1/1, 2/3 and 3/4."""
    scores = np.array([0.1, 0.9, 0.3, 0.5])
    has_class = np.array([True, True, True, False])
    found = RankedClass(scores, has_class).average_precision(np.ones((4, 1), dtype=np.uint16))
    assert found[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
