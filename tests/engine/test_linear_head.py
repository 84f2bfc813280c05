import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from feature_sets import FEATURE_SETS, Floats, Integers, blobs, relu_features
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tlcli.engine import linear_head
from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.linear_head import LinearSolution, solve_logistic
from tlcli.errors import ConfigError

PENALTIES = [1e-5, 1e-3, 1e-1, 1.0, 10.0]
ROUNDING = 2e-7
"""What float32 sums may add to an objective, relatively."""


def in_memory(
    features: Floats, targets: Integers, *, block_rows: int | None = None
) -> InMemoryFeatures:
    return InMemoryFeatures(
        torch.from_numpy(features), torch.from_numpy(targets), block_rows=block_rows
    )


def standardized(features: Floats) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = StandardScaler().fit_transform(features.astype(np.float64))
    return scaled


def objective(
    scaled: npt.NDArray[np.float64],
    targets: Integers,
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    penalty: float,
) -> float:
    rows = np.arange(len(targets))
    losses = -log_softmax(scaled @ weight.T + bias, axis=1)[rows, targets]
    return float(losses.mean() + (weight**2).sum() / (2 * penalty * len(targets)))


def on_standardized(
    solution: LinearSolution, features: Floats
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unfold the standardisation again."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    weight = solution.weight.double().numpy()
    return weight * scaler.scale_, solution.bias.double().numpy() + weight @ scaler.mean_


def objective_of(
    solution: LinearSolution, features: Floats, targets: Integers, penalty: float
) -> float:
    """Judge the head as it was returned: float32, on raw features."""
    weight, bias = on_standardized(solution, features)
    return objective(standardized(features), targets, weight, bias, penalty)


def oracle(features: Floats, targets: Integers, penalty: float) -> LogisticRegression:
    """The exact minimum: L-BFGS to the neighbourhood, Newton's method to the last digits."""
    scaled = standardized(features)
    model = LogisticRegression(C=penalty, tol=1e-9, max_iter=20_000, solver="newton-cholesky")
    return model.fit(scaled, targets)


def oracle_objective(features: Floats, targets: Integers, penalty: float) -> float:
    model = oracle(features, targets, penalty)
    return objective(standardized(features), targets, model.coef_, model.intercept_, penalty)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_solve_logistic__equals_sklearn(name: str) -> None:
    features, targets = FEATURE_SETS[name]()
    solutions = solve_logistic(
        in_memory(features, targets), num_classes=int(targets.max()) + 1, penalties=PENALTIES
    )
    for solution, penalty in zip(solutions, PENALTIES, strict=True):
        model = oracle(features, targets, penalty)
        minimum = objective(standardized(features), targets, model.coef_, model.intercept_, penalty)
        assert solution.converged
        assert solution.penalty == penalty
        assert solution.objective == pytest.approx(minimum, rel=1e-6)
        assert objective_of(solution, features, targets, penalty) == pytest.approx(
            minimum, rel=1e-6
        )
        weight, _ = on_standardized(solution, features)
        allowed = math.sqrt(2 * 2e-6 * minimum * penalty * len(features))
        assert np.linalg.norm(weight - model.coef_) <= allowed


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_solve_logistic__predicts_as_sklearn(name: str) -> None:
    features, targets = FEATURE_SETS[name]()
    penalties = [1e-3, 0.1, 10.0]
    solutions = solve_logistic(
        in_memory(features, targets),
        num_classes=int(targets.max()) + 1,
        penalties=penalties,
        tolerance=1e-8,
    )
    for solution, penalty in zip(solutions, penalties, strict=True):
        logits = features.astype(np.float64) @ solution.weight.double().numpy().T
        predictions = (logits + solution.bias.double().numpy()).argmax(1)
        expected = oracle(features, targets, penalty).predict(standardized(features))
        assert (predictions == expected).all()


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 10.0])
def test_solve_logistic__two_classes_are_sklearns_at_twice_c(penalty: float) -> None:
    features, targets = blobs(classes=2, spread=2.0)
    [solution] = solve_logistic(
        in_memory(features, targets), num_classes=2, penalties=[penalty], tolerance=1e-9
    )
    binary = LogisticRegression(C=2 * penalty, tol=1e-10, solver="newton-cholesky")
    binary.fit(standardized(features), targets)
    weight, bias = on_standardized(solution, features)
    np.testing.assert_allclose(weight[1] - weight[0], binary.coef_[0], atol=3e-5, rtol=1e-4)
    np.testing.assert_allclose(bias[1] - bias[0], binary.intercept_[0], atol=3e-5, rtol=1e-4)
    np.testing.assert_allclose(weight[1], -weight[0], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(8, 80),
    dim=st.integers(1, 40),
    classes=st.integers(2, 5),
    spread=st.sampled_from([0.1, 0.5, 2.0]),
    exponent=st.floats(-5, 2),
    tolerance=st.sampled_from([1e-2, 1e-4, 1e-6]),
)
def test_solve_logistic__certificate_bounds_the_true_gap(
    seed: int,
    rows: int,
    dim: int,
    classes: int,
    spread: float,
    exponent: float,
    tolerance: float,
) -> None:
    features, targets = blobs(rows, dim, classes, spread=spread, seed=seed)
    penalty = 10**exponent
    data = in_memory(features, targets)
    [solution] = solve_logistic(data, num_classes=classes, penalties=[penalty], tolerance=tolerance)
    [exact] = solve_logistic(data, num_classes=classes, penalties=[penalty], tolerance=1e-10)
    assert solution.converged
    assert solution.gap <= tolerance
    assert solution.objective <= exact.objective * (1 + solution.gap + ROUNDING)
    assert solution.objective >= exact.objective * (1 - exact.gap - ROUNDING)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), dim=st.integers(1, 60), exponent=st.floats(-5, 1))
def test_solve_logistic__is_never_above_sklearn(seed: int, dim: int, exponent: float) -> None:
    features, targets = relu_features(rows=50, dim=dim, classes=3, seed=seed)
    [solution] = solve_logistic(
        in_memory(features, targets), num_classes=3, penalties=[10**exponent]
    )
    theirs = LogisticRegression(C=10**exponent, tol=1e-4, max_iter=5000)
    theirs.fit(standardized(features), targets)
    their_objective = objective(
        standardized(features), targets, theirs.coef_, theirs.intercept_, 10**exponent
    )
    ours = objective_of(solution, features, targets, 10**exponent)
    assert ours <= their_objective * (1 + 1e-6)


def test_solve_logistic__gap_of_a_cut_short_run_is_true() -> None:
    features, targets = relu_features()
    for passes in (1, 2, 3, 5, 8):
        [solution] = solve_logistic(
            in_memory(features, targets), num_classes=5, penalties=[1.0], max_passes=passes
        )
        minimum = oracle_objective(features, targets, 1.0)
        assert not solution.converged
        assert solution.passes == passes
        assert solution.gap > 1e-6
        assert solution.objective <= minimum * (1 + solution.gap + ROUNDING)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_solve_logistic__streamed_is_as_resident(name: str) -> None:
    features, targets = FEATURE_SETS[name]()
    num_classes = int(targets.max()) + 1
    resident = solve_logistic(
        in_memory(features, targets), num_classes=num_classes, penalties=PENALTIES
    )
    streamed = solve_logistic(
        in_memory(features, targets, block_rows=37),
        num_classes=num_classes,
        penalties=PENALTIES,
        memory_limit=0,
    )
    for one, other in zip(resident, streamed, strict=True):
        assert other.converged
        assert other.objective == pytest.approx(one.objective, rel=1e-6)
        assert objective_of(other, features, targets, other.penalty) == pytest.approx(
            one.objective, rel=1e-6
        )


def test_solve_logistic__without_eigenvectors_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = relu_features()
    data = in_memory(features, targets)
    exact = solve_logistic(data, num_classes=5, penalties=PENALTIES)
    monkeypatch.setattr("tlcli.engine.standardized_rows.MAX_EIGENPROBLEM", 10)
    plain = solve_logistic(data, num_classes=5, penalties=PENALTIES)
    assert sum(s.passes for s in plain) > sum(s.passes for s in exact)
    for one, other in zip(exact, plain, strict=True):
        assert other.converged
        assert other.objective == pytest.approx(one.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", [1e3, 1e6])
def test_solve_logistic__separable_rows_and_hardly_a_penalty(penalty: float) -> None:
    features, targets = blobs(spread=0.1)
    [solution] = solve_logistic(in_memory(features, targets), num_classes=4, penalties=[penalty])
    assert solution.converged
    assert solution.objective < 1e-4
    assert solution.objective <= oracle_objective(features, targets, penalty) * (1 + 1e-6)


def test_solve_logistic__order_and_repetition_of_penalties_do_not_matter() -> None:
    features, targets = blobs()
    data = in_memory(features, targets)
    rising = solve_logistic(data, num_classes=4, penalties=[0.01, 0.1, 1.0])
    mixed = solve_logistic(data, num_classes=4, penalties=[1.0, 0.01, 0.1, 1.0])
    assert [s.penalty for s in mixed] == [1.0, 0.01, 0.1, 1.0]
    for solution in mixed:
        same = next(s for s in rising if s.penalty == solution.penalty)
        assert torch.equal(solution.weight, same.weight)
        assert torch.equal(solution.bias, same.bias)


def test_solve_logistic__two_runs_are_equal() -> None:
    features, targets = relu_features()
    first, second = (
        solve_logistic(in_memory(features, targets), num_classes=5, penalties=PENALTIES)
        for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert (one.objective, one.gap, one.passes) == (other.objective, other.gap, other.passes)


def test_solve_logistic__constant_columns_have_no_weight() -> None:
    features, targets = FEATURE_SETS["awkward"]()
    [solution] = solve_logistic(in_memory(features, targets), num_classes=4, penalties=[1.0])
    assert (solution.weight[:, 8] == 0).all()
    assert (solution.weight[:, 12] == 0).all()
    assert (solution.weight[:, :8] != 0).any(0).all()


def test_solve_logistic__only_constant_columns_leave_class_frequencies() -> None:
    features, targets = torch.ones(10, 3), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    for data in (InMemoryFeatures(features, targets), InMemoryFeatures(features[:, :1], targets)):
        [solution] = solve_logistic(data, num_classes=3, penalties=[1.0], tolerance=1e-12)
        assert (solution.weight == 0).all()
        torch.testing.assert_close(
            solution.bias.softmax(0), torch.tensor([0.6, 0.3, 0.1]), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("memory_limit", [0, 1 << 30])
def test_solve_logistic__class_without_rows_is_never_predicted(memory_limit: int) -> None:
    features, targets = blobs(classes=3)
    spread_out = np.array([1, 3, 4])[targets]
    [solution] = solve_logistic(
        in_memory(features, spread_out),
        num_classes=6,
        penalties=[1.0],
        memory_limit=memory_limit,
    )
    [compact] = solve_logistic(
        in_memory(features, targets), num_classes=3, penalties=[1.0], memory_limit=memory_limit
    )
    assert solution.weight.shape == (6, 12)
    assert torch.equal(solution.weight[[1, 3, 4]], compact.weight)
    assert torch.equal(solution.bias[[1, 3, 4]], compact.bias)
    assert (solution.weight[[0, 2, 5]] == 0).all()
    anywhere = 100 * torch.randn(1000, 12) * torch.from_numpy(features).std(0)
    probs = (anywhere @ solution.weight.T + solution.bias).softmax(1)
    assert float(probs[:, [0, 2, 5]].max()) < 1e-8


def test_solve_logistic__float16_features_are_read_as_they_are() -> None:
    features, targets = relu_features()
    half = torch.from_numpy(features).half()
    wide = InMemoryFeatures(half.float(), torch.from_numpy(targets))
    [one] = solve_logistic(
        InMemoryFeatures(half, torch.from_numpy(targets)), num_classes=5, penalties=[0.1]
    )
    [other] = solve_logistic(wide, num_classes=5, penalties=[0.1])
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan, math.inf])
def test_solve_logistic__penalty_out_of_range(penalty: float) -> None:
    features, targets = blobs()
    with pytest.raises(ConfigError, match=rf"--penalties has {penalty}; all must be finite"):
        solve_logistic(in_memory(features, targets), num_classes=4, penalties=[1.0, penalty])


def test_solve_logistic__no_penalties() -> None:
    features, targets = blobs()
    with pytest.raises(ConfigError, match="--penalties is empty"):
        solve_logistic(in_memory(features, targets), num_classes=4, penalties=[])


def test_solve_logistic__small_gradient_is_enough_if_asked_for() -> None:
    features, targets = relu_features()
    data = in_memory(features, targets)
    exact = solve_logistic(data, num_classes=5, penalties=PENALTIES)
    quick = solve_logistic(data, num_classes=5, penalties=PENALTIES, gradient_tolerance=1e-4)
    assert sum(s.passes for s in quick) < sum(s.passes for s in exact)
    for one, other in zip(exact, quick, strict=True):
        assert other.converged
        assert other.gap <= 1e-2
        assert other.gap <= 1e-6 or other.gradient_norm <= 1e-4 * math.sqrt(5 * 61)
        assert other.objective <= one.objective * (1 + other.gap + ROUNDING)


def test_solve_logistic__history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = relu_features()
    monkeypatch.setattr(linear_head, "_MOST_BYTES", 1)
    [solution] = solve_logistic(in_memory(features, targets), num_classes=5, penalties=[1.0])
    assert solution.converged
