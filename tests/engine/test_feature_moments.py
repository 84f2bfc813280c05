import numpy as np
import pytest
import torch
from feature_sets import FEATURE_SETS, blobs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from tlcli.engine.feature_moments import measure_moments
from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.errors import DataError


@pytest.mark.parametrize("block_rows", [7, 1000])
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_measure_moments__equals_numpy(name: str, block_rows: int) -> None:
    features, targets = FEATURE_SETS[name]()
    data = InMemoryFeatures(
        torch.from_numpy(features), torch.from_numpy(targets), block_rows=block_rows
    )
    num_classes = int(targets.max()) + 2
    moments, correlation = measure_moments(
        data, num_classes=num_classes, dtype=torch.float64, with_correlation=True
    )
    scaler = StandardScaler().fit(features.astype(np.float64))
    assert correlation is not None
    assert moments.num_rows == len(features)
    np.testing.assert_allclose(moments.mean, scaler.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.scale, scaler.scale_, rtol=1e-12)
    np.testing.assert_array_equal(moments.constant, scaler.var_ == 0)
    np.testing.assert_array_equal(moments.class_counts, np.bincount(targets, minlength=num_classes))
    scaled = scaler.transform(features.astype(np.float64))
    np.testing.assert_allclose(correlation, scaled.T @ scaled / len(scaled), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    offset=st.floats(-1e4, 1e4, width=32),
    deviation=st.sampled_from([1e-2, 1.0, 100.0]),
    block_rows=st.integers(1, 50),
)
def test_measure_moments__offsets_cost_no_digits(
    offset: float, deviation: float, block_rows: int
) -> None:
    rng = np.random.default_rng(0)
    features = (offset + deviation * rng.normal(size=(50, 3))).astype(np.float32)
    targets = torch.arange(50) % 2
    data = InMemoryFeatures(torch.from_numpy(features), targets, block_rows=block_rows)
    moments, _ = measure_moments(data, num_classes=2)
    np.testing.assert_allclose(moments.scale, features.astype(np.float64).std(0), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 12345.678])
def test_measure_moments__constant_columns(value: float) -> None:
    features = torch.full((1000, 2), value)
    features[:, 1] = torch.arange(1000)
    data = InMemoryFeatures(features, torch.arange(1000) % 2, block_rows=64)
    moments, _ = measure_moments(data, num_classes=2)
    assert moments.constant.tolist() == [True, False]
    assert float(moments.scale[0]) == 1.0


def test_measure_moments__correlation_only_if_wanted() -> None:
    features, targets = blobs()
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets))
    assert measure_moments(data, num_classes=4)[1] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_measure_moments__counts_broken_rows(value: float) -> None:
    features, targets = blobs()
    features[[3, 50, 299], [0, 1, 2]] = value
    features[50, 5] = value
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets), block_rows=40)
    with pytest.raises(DataError, match=r"^3 of 300 rows have NaN or infinite features"):
        measure_moments(data, num_classes=4)


def test_measure_moments__float16_overflow_is_named() -> None:
    features = torch.tensor([[1.0], [70000.0], [2.0]]).half()
    data = InMemoryFeatures(features, torch.tensor([0, 1, 1]))
    with pytest.raises(DataError, match=r"^1 of 3 rows .* infinite in float16.*--dtype float32"):
        measure_moments(data, num_classes=2)


def test_measure_moments__features_too_large_to_square() -> None:
    features = torch.tensor([[1.0, 1e30], [2.0, -1e30], [3.0, 0.0]])
    data = InMemoryFeatures(features, torch.tensor([0, 1, 1]))
    with pytest.raises(DataError, match=r"^1 of 2 feature columns have values beyond 1e18"):
        measure_moments(data, num_classes=2)


def test_measure_moments__one_class_is_too_few() -> None:
    data = InMemoryFeatures(torch.randn(5, 2), torch.full((5,), 3))
    with pytest.raises(DataError, match="at least 2 classes; the 5 rows given have 1"):
        measure_moments(data, num_classes=4)


def test_measure_moments__no_rows() -> None:
    data = InMemoryFeatures(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="at least 2 classes; the 0 rows given have 0"):
        measure_moments(data, num_classes=4)


@pytest.mark.parametrize("target", [-1, 4])
def test_measure_moments__target_that_is_no_class(target: int) -> None:
    data = InMemoryFeatures(torch.randn(5, 2), torch.tensor([0, 1, target, target, 2]))
    with pytest.raises(DataError, match=r"^2 targets are not among 0 to 3, the 4 classes"):
        measure_moments(data, num_classes=4)


def test_measure_moments__one_scale_is_the_root_of_the_mean_variance() -> None:
    features = torch.tensor([[0.0, 0.0, 5.0], [2.0, 6.0, 5.0]])
    data = InMemoryFeatures(features, torch.tensor([0, 1]))
    moments, _ = measure_moments(data, num_classes=2, one_scale=True)
    np.testing.assert_allclose(moments.scale, [5**0.5, 5**0.5, 1.0])
