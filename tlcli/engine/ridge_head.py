"""The ridge head: one-hot targets regressed on features, for every penalty at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.engine.labelled_features import LabelledFeatures
from tlcli.engine.linear_head import MEMORY_LIMIT, LinearSolution, check_penalties
from tlcli.engine.standardized_rows import MAX_EIGENPROBLEM, StandardizedRows, prepare_rows
from tlcli.errors import ConfigError

_MAX_BLOCK_ROWS = 4096


def solve_ridge(
    features: LabelledFeatures,
    *,
    num_classes: int,
    penalties: Sequence[float],
    memory_limit: int = MEMORY_LIMIT,
    one_scale: bool = False,
) -> list[LinearSolution]:
    """Fit ridge regression of one-hot targets on standardised features for every penalty.

    The minimum of mean(||e_i - W z_i - b||^2) + alpha / N ||W||^2, with e_i the one-hot target
    and z_i the features after scikit-learn's `StandardScaler`, is that of scikit-learn's
    `Ridge(alpha)`. With the features' eigenvectors V and variances s it is
    W = mean(e_i z_i^T) V diag(1 / (s + alpha / N)) V^T for all alpha (Hoerl & Kennard 1970, "Ridge
    Regression", eq. 2.1; Hastie, Tibshirani & Friedman 2009, section 3.4.1). `RidgeClassifier`,
    whose targets are -1 and 1, has twice these weights and the same decisions.

    All arithmetic is float64. A class without rows gets weight 0 and bias 0; as the outputs of the
    other classes have the sum 1, it is never predicted.

    Args:
        features: Rows, on the device that is to compute.
        num_classes: Targets must be 0 to num_classes - 1.
        penalties: Values of alpha, in any order.
        memory_limit: Bytes for standardised rows; if they do not fit they are read twice.
        one_scale: See `measure_moments`; z_i are then not those of `StandardScaler`.

    Returns:
        One solution per penalty, in the order given.

    Raises:
        ConfigError: A penalty is not finite and greater than 0, or there is none; or there are
            so many rows and features that no eigenvectors can be had.
        DataError: As `measure_moments`.
    """
    check_penalties(penalties)
    rows = prepare_rows(
        features,
        num_classes=num_classes,
        memory_limit=memory_limit,
        dtype=torch.float64,
        one_scale=one_scale,
    )
    if rows.basis is None:
        raise ConfigError(
            f"--head ridge needs at most {MAX_EIGENPROBLEM} features, or as many rows that fit "
            f"into memory; here are {features.dim} features of {len(features)} rows. "
            f"Use --head linear."
        )
    frequencies = rows.moments.class_counts[rows.moments.present].double() / len(rows)
    covariance = _class_covariance(rows, frequencies)
    return [_solution(penalty, rows, frequencies, covariance) for penalty in penalties]


def _class_covariance(rows: StandardizedRows, frequencies: Tensor) -> Tensor:
    """Return mean((e_i - mean(e)) x_i^T) of shape (K, r), in coordinates."""
    total = torch.zeros((), dtype=torch.float64, device=frequencies.device)
    for block, targets in rows.blocks(max_rows=_MAX_BLOCK_ROWS):
        centred = F.one_hot(targets, len(frequencies)) - frequencies
        total = total + centred.T @ block
    return rows.gradient_in_coordinates(total / len(rows))


def _solution(
    penalty: float, rows: StandardizedRows, frequencies: Tensor, covariance: Tensor
) -> LinearSolution:
    weight = covariance / (rows.variances + penalty / len(rows))
    weights, biases = rows.fold(weight, frequencies, absent_bias=0.0)
    target_variance = float((frequencies * (1 - frequencies)).sum())
    return LinearSolution(
        penalty=penalty,
        weight=weights,
        bias=biases,
        objective=target_variance - float((covariance * weight).sum()),
        gradient_norm=0.0,
        gap=0.0,
        converged=True,
        passes=1,
    )
