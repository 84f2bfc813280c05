import math

import numpy as np
import pytest
import torch
from feature_sets import FEATURE_SETS, blobs
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.ridge_head import solve_ridge
from tlcli.errors import ConfigError, DataError

PENALTIES = [1e-3, 1.0, 100.0, 1e5]


@pytest.mark.parametrize("memory_limit", [0, 1 << 30])
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_solve_ridge__equals_sklearn(name: str, memory_limit: int) -> None:
    features, targets = FEATURE_SETS[name]()
    num_classes = int(targets.max()) + 1
    solutions = solve_ridge(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets), block_rows=50),
        num_classes=num_classes,
        penalties=PENALTIES,
        memory_limit=memory_limit,
    )
    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    one_hot = np.eye(num_classes)[targets]
    for solution, penalty in zip(solutions, PENALTIES, strict=True):
        ridge = Ridge(alpha=penalty, solver="svd").fit(scaled, one_hot)
        weight = solution.weight.double().numpy() * scaler.scale_
        size = np.abs(ridge.coef_).max()
        np.testing.assert_allclose(weight, ridge.coef_, rtol=1e-6, atol=1e-6 * size)
        residuals = one_hot - ridge.predict(scaled)
        expected = (residuals**2).sum(1).mean() + penalty * (ridge.coef_**2).sum() / len(scaled)
        assert solution.objective == pytest.approx(expected, rel=1e-6)
        outputs = features.astype(np.float64) @ solution.weight.double().numpy().T
        np.testing.assert_allclose(
            outputs + solution.bias.double().numpy(), ridge.predict(scaled), atol=2e-4
        )
        assert (solution.penalty, solution.gap, solution.converged) == (penalty, 0.0, True)


@pytest.mark.parametrize("classes", [2, 4])
def test_solve_ridge__decides_as_ridge_classifier(classes: int) -> None:
    features, targets = blobs(classes=classes, spread=2.0)
    [solution] = solve_ridge(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=classes,
        penalties=[3.0],
    )
    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    classifier = RidgeClassifier(alpha=3.0).fit(scaled, targets)
    outputs = torch.from_numpy(features) @ solution.weight.T + solution.bias
    assert (outputs.argmax(1).numpy() == classifier.predict(scaled)).all()
    weight = solution.weight.double().numpy() * scaler.scale_
    if classes == 2:
        np.testing.assert_allclose(weight[1] - weight[0], classifier.coef_.ravel(), atol=1e-6)
    else:
        np.testing.assert_allclose(2 * weight, classifier.coef_, atol=1e-6)


def test_solve_ridge__class_without_rows_is_never_predicted() -> None:
    features, targets = blobs(classes=3)
    [solution] = solve_ridge(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets + 1)),
        num_classes=5,
        penalties=[1.0],
    )
    assert (solution.weight[[0, 4]] == 0).all()
    assert solution.bias[[0, 4]].tolist() == [0.0, 0.0]
    anywhere = 100 * torch.randn(1000, 12) * torch.from_numpy(features).std(0)
    outputs = anywhere @ solution.weight.T + solution.bias
    assert set(outputs.argmax(1).tolist()) == {1, 2, 3}


def test_solve_ridge__too_large_for_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = blobs()
    monkeypatch.setattr("tlcli.engine.standardized_rows.MAX_EIGENPROBLEM", 10)
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets))
    with pytest.raises(ConfigError, match=r"12 features of 300 rows\. Use --head linear"):
        solve_ridge(data, num_classes=4, penalties=[1.0])


@pytest.mark.parametrize("penalty", [0.0, math.inf])
def test_solve_ridge__penalty_out_of_range(penalty: float) -> None:
    features, targets = blobs()
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets))
    with pytest.raises(ConfigError, match=f"--penalties has {penalty}"):
        solve_ridge(data, num_classes=4, penalties=[penalty])


def test_solve_ridge__broken_features() -> None:
    features, targets = blobs()
    features[7, 3] = np.nan
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets))
    with pytest.raises(DataError, match=r"^1 of 300 rows have NaN"):
        solve_ridge(data, num_classes=4, penalties=[1.0])
