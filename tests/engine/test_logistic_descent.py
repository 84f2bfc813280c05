import itertools
import math
from dataclasses import replace

import pytest
import torch
from feature_sets import FEATURE_SETS

from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.logistic_descent import LogisticDescent
from tlcli.engine.softmax_regression import Evaluation, evaluate
from tlcli.engine.standardized_rows import StandardizedRows, prepare_rows


def rows_of(name: str) -> StandardizedRows:
    features, targets = FEATURE_SETS[name]()
    return prepare_rows(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=int(targets.max()) + 1,
        memory_limit=1 << 30,
    )


def descent_on(
    rows: StandardizedRows,
    *,
    weight_decay: float = 1e-3,
    tolerance: float = 1e-6,
    gradient_tolerance: float = 0.0,
    max_passes: int = 500,
    neighbour: LogisticDescent | None = None,
    start: torch.Tensor | None = None,
) -> LogisticDescent:
    shape = (rows.num_classes, len(rows.variances) + 1)
    return LogisticDescent(
        torch.zeros(shape, dtype=torch.float64) if start is None else start,
        weight_decay=weight_decay,
        variances=rows.variances,
        largest_variance=rows.largest_variance,
        tolerance=tolerance,
        gradient_tolerance=gradient_tolerance,
        max_passes=max_passes,
        history=10,
        neighbour=neighbour,
    )


def walk(descent: LogisticDescent, rows: StandardizedRows) -> list[Evaluation]:
    evaluations = []
    while not descent.finished:
        evaluations += evaluate(rows, [descent.trial()])
        descent.receive(evaluations[-1])
    return evaluations


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_receive__accepted_values_fall_to_the_certified_minimum(name: str) -> None:
    rows = rows_of(name)
    descent = descent_on(rows)
    values = []
    while not descent.finished:
        [evaluation] = evaluate(rows, [descent.trial()])
        descent.receive(evaluation)
        values.append(descent.point.value)
    assert descent.converged
    assert descent.relative_gap <= 1e-6
    assert descent.passes == len(values)
    assert all(new <= old * (1 + 3e-7) for old, new in itertools.pairwise(values))


def test_receive__a_neighbours_history_saves_passes() -> None:
    rows = rows_of("relu")
    first = descent_on(rows, weight_decay=2e-3)
    walk(first, rows)
    start = first.point.parameters
    without = descent_on(rows, weight_decay=1e-3, start=start)
    with_history = descent_on(rows, weight_decay=1e-3, start=start, neighbour=first)
    walk(without, rows)
    walk(with_history, rows)
    assert with_history.converged
    assert with_history.passes < without.passes


def test_receive__small_gradient_needs_a_gap_as_well() -> None:
    rows = rows_of("relu")
    strict = descent_on(rows)
    loose = descent_on(rows, gradient_tolerance=1e-3)
    walk(strict, rows)
    walk(loose, rows)
    assert loose.passes < strict.passes
    assert 1e-6 < loose.relative_gap <= 1e-2
    assert float(loose.point.gradient.abs().max()) <= 1e-3


def test_receive__float64_takes_over_from_float32() -> None:
    rows = rows_of("relu")
    descent = descent_on(rows, weight_decay=1e-4, tolerance=1e-12)
    dtypes = [descent.trial().dtype]
    while not descent.finished:
        descent.receive(evaluate(rows, [descent.trial()])[0])
        dtypes.append(descent.trial().dtype)
    assert descent.converged
    assert dtypes[0] == torch.float32
    assert dtypes[-1] == torch.float64
    assert dtypes == sorted(dtypes, key=lambda dtype: dtype.itemsize)


def test_receive__gives_up_where_nothing_falls() -> None:
    rows = rows_of("relu")
    descent = descent_on(rows)
    [evaluation] = evaluate(rows, [descent.trial()])
    descent.receive(evaluation)
    while not descent.finished:
        descent.receive(replace(evaluation, value=evaluation.value + descent.passes))
    assert not descent.converged
    assert descent.passes < 60
    assert descent.relative_gap > 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_receive__values_that_are_no_numbers_are_stepped_back_from(value: float) -> None:
    rows = rows_of("relu")
    descent = descent_on(rows)
    [evaluation] = evaluate(rows, [descent.trial()])
    descent.receive(evaluation)
    far = descent.trial().parameters
    descent.receive(
        Evaluation(
            value=value,
            gradient=torch.full_like(evaluation.gradient, math.nan),
            curvature=torch.full_like(evaluation.curvature, math.nan),
        )
    )
    assert float(descent.trial().parameters.norm()) < float(far.norm())
    walk(descent, rows)
    assert descent.converged


def test_finished__after_max_passes() -> None:
    rows = rows_of("relu")
    descent = descent_on(rows, max_passes=3)
    assert len(walk(descent, rows)) == 3
    assert descent.finished
    assert not descent.converged


def test_point__needs_an_evaluation() -> None:
    descent = descent_on(rows_of("relu"))
    assert descent.relative_gap == math.inf
    assert not descent.converged
    with pytest.raises(RuntimeError, match="no evaluation"):
        _ = descent.point
