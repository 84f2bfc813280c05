import math

import numpy as np
import pytest
import torch
from feature_sets import FEATURE_SETS, blobs, relu_features
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tlcli.engine import softmax_regression
from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.softmax_regression import ClassCurvature, Trial, certified_gap, evaluate
from tlcli.engine.standardized_rows import StandardizedRows, prepare_rows


def rows_of(name: str, *, memory_limit: int = 1 << 30) -> StandardizedRows:
    features, targets = FEATURE_SETS[name]()
    return prepare_rows(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=int(targets.max()) + 1,
        memory_limit=memory_limit,
    )


def random_parameters(rows: StandardizedRows, *, size: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows.num_classes, len(rows.variances) + 1)
    return size * torch.randn(shape, dtype=torch.float64, generator=generator)


def coordinates(rows: StandardizedRows) -> tuple[Tensor, Tensor]:
    """All rows in coordinates, and their targets, in float64."""
    blocks = list(rows.blocks(max_rows=10**6))
    whole = torch.cat([block for block, _ in blocks]).double()
    if not rows.in_coordinates and rows.basis is not None:
        whole = whole @ rows.basis.double()
    return whole, torch.cat([targets for _, targets in blocks])


def objective(parameters: Tensor, rows: StandardizedRows, weight_decay: float) -> Tensor:
    """Written down anew, for autograd."""
    whole, targets = coordinates(rows)
    logits = whole @ parameters[:, :-1].T + parameters[:, -1]
    return F.cross_entropy(logits, targets) + weight_decay / 2 * parameters[:, :-1].square().sum()


@pytest.mark.parametrize("memory_limit", [0, 1 << 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_evaluate__equals_autograd(
    name: str, dtype: torch.dtype, memory_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_regression, "_MAX_BLOCK_ROWS", 41)
    rows = rows_of(name, memory_limit=memory_limit)
    parameters = random_parameters(rows).requires_grad_()
    expected = objective(parameters, rows, 0.1)
    [gradient] = torch.autograd.grad(expected, parameters)
    trial = Trial(parameters=parameters.detach(), weight_decay=0.1, dtype=dtype)
    [evaluation] = evaluate(rows, [trial])
    assert evaluation.value == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(evaluation.gradient, gradient, rtol=1e-4, atol=2e-6)


def test_evaluate__curvature_is_the_hessian_of_the_intercept() -> None:
    rows = rows_of("imbalanced")
    parameters = random_parameters(rows)
    [evaluation] = evaluate(
        rows, [Trial(parameters=parameters, weight_decay=0.1, dtype=torch.float64)]
    )

    def of_intercept(intercept: Tensor) -> Tensor:
        return objective(torch.cat([parameters[:, :-1], intercept[:, None]], 1), rows, 0.1)

    hessian = torch.autograd.functional.hessian(of_intercept, parameters[:, -1])
    torch.testing.assert_close(evaluation.curvature, hessian, rtol=1e-9, atol=1e-12)


def test_evaluate__many_problems_at_once_are_as_each_alone() -> None:
    rows = rows_of("relu", memory_limit=0)
    trials = [
        Trial(parameters=random_parameters(rows, seed=n), weight_decay=10.0**-n, dtype=dtype)
        for n, dtype in enumerate([torch.float32, torch.float64, torch.float32, torch.float64])
    ]
    for trial, together in zip(trials, evaluate(rows, trials), strict=True):
        [alone] = evaluate(rows, [trial])
        assert together.value == pytest.approx(alone.value, rel=1e-7)
        torch.testing.assert_close(together.gradient, alone.gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.curvature, alone.curvature, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [10.0, 30.0, 50.0, 200.0])
def test_evaluate__certain_rows_keep_their_digits(margin: float) -> None:
    features = torch.tensor([[-1.0], [1.0]]).repeat(4, 1)
    rows = prepare_rows(
        InMemoryFeatures(features, torch.tensor([0, 1]).repeat(4)),
        num_classes=2,
        memory_limit=1 << 30,
    )
    sign = 1.0 if rows.basis is None else float(rows.basis[0, 0])
    parameters = torch.tensor([[-sign * margin / 2, 0.0], [sign * margin / 2, 0.0]]).double()
    [evaluation] = evaluate(
        rows, [Trial(parameters=parameters, weight_decay=1e-300, dtype=torch.float64)]
    )
    assert evaluation.value == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)
    probability = math.exp(-margin) / (1 + math.exp(-margin))
    assert float(evaluation.gradient[0, 0]) == pytest.approx(sign * probability, rel=1e-9)
    assert float(evaluation.curvature[0, 0]) == pytest.approx(probability, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    exponent=st.floats(-6, 1),
    off_centre=st.sampled_from([0.0, 0.01, 0.5, 5.0]),
    wide=st.booleans(),
)
def test_certified_gap__is_a_bound_anywhere(
    seed: int, size: float, exponent: float, off_centre: float, wide: bool
) -> None:
    features, targets = (
        relu_features(20, 30, 3, seed=seed) if wide else blobs(40, 5, 3, spread=2.0, seed=seed)
    )
    rows = prepare_rows(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=3,
        memory_limit=1 << 30,
        dtype=torch.float64,
    )
    decay = 10**exponent
    parameters = random_parameters(rows, size=size, seed=seed)
    parameters[0, -1] += off_centre
    trial = Trial(parameters=parameters, weight_decay=decay, dtype=torch.float64)
    [evaluation] = evaluate(rows, [trial])
    curvature = ClassCurvature.of(evaluation)
    gap, weight_part = certified_gap(
        evaluation, curvature, weight_decay=decay, largest_variance=rows.largest_variance
    )
    assert evaluation.value - newton_minimum(rows, decay) <= gap + 1e-9
    assert weight_part <= gap


def newton_minimum(rows: StandardizedRows, decay: float) -> float:
    """Damped Newton's method on all parameters, with autograd's Hessian."""
    current = torch.zeros(rows.num_classes, len(rows.variances) + 1, dtype=torch.float64)
    value = float(objective(current, rows, decay))
    for _ in range(60):
        leaf = current.clone().requires_grad_()
        [gradient] = torch.autograd.grad(objective(leaf, rows, decay), leaf)
        hessian = torch.autograd.functional.hessian(lambda p: objective(p, rows, decay), current)
        matrix = hessian.reshape(current.numel(), -1)
        direction = (torch.linalg.pinv(matrix, hermitian=True) @ gradient.flatten()).view_as(
            current
        )
        step = 1.0
        while float(objective(current - step * direction, rows, decay)) > value and step > 1e-8:
            step /= 2
        current = current - step * direction
        new = float(objective(current, rows, decay))
        if value - new <= 1e-13 * value:
            break
        value = new
    return value


def test_class_curvature__intercept_step_is_newtons() -> None:
    rows = rows_of("imbalanced")
    parameters = random_parameters(rows)
    for _ in range(15):
        [evaluation] = evaluate(
            rows, [Trial(parameters=parameters, weight_decay=1.0, dtype=torch.float64)]
        )
        gradient = evaluation.gradient[:, -1]
        parameters[:, -1] += ClassCurvature.of(evaluation).intercept_step(gradient)
    assert float(gradient.abs().max()) < 1e-12
    singular = np.linalg.matrix_rank(evaluation.curvature.numpy(), tol=1e-12)
    assert singular == 3
