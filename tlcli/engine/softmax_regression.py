"""Objective, gradient and curvature of multinomial logistic regression, in one pass over rows.

Parameters of one problem are a tensor (K, r + 1): weights in the coordinates of the rows, and the
intercept in the last column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.standardized_rows import StandardizedRows

_MAX_LOGITS = 1 << 20
_MAX_BLOCK_ROWS = 4096
_EPSILON = 1e-15


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one pass finds at one point of one problem; all float64."""

    value: float
    """Mean negative log-likelihood + weight_decay / 2 * ||W||^2."""
    gradient: Tensor
    """(K, r + 1)."""
    curvature: Tensor
    """(K, K): mean over rows of diag(p) - p p^T, the Hessian of the intercept."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A point at which one problem is to be evaluated."""

    parameters: Tensor
    """(K, r + 1) float64."""
    weight_decay: float
    """Factor of ||W||^2 / 2; the intercept has none."""
    dtype: torch.dtype
    """Of the matrix products inside a block; all else is float64."""


class _Sums:
    """Running sums of several problems that use the same arithmetic."""

    def __init__(self, trials: Sequence[Trial], rows: StandardizedRows) -> None:
        parameters = torch.stack([trial.parameters for trial in trials])
        self.trials = trials
        self.num_problems, self.num_classes = parameters.shape[:2]
        self.dtype = trials[0].dtype
        stacked = parameters.flatten(0, 1)
        self.weight = rows.weight_on_rows(stacked[:, :-1]).to(self.dtype).T.contiguous()
        self.intercept = stacked[:, -1].to(self.dtype)
        new = stacked.new_zeros
        self.losses = new(self.num_problems)
        self.gradient = new(len(stacked), len(self.weight))
        self.residuals = new(self.num_problems, self.num_classes)
        self.products = new(self.num_problems, self.num_classes, self.num_classes)

    def add(self, rows: Tensor, targets: Tensor) -> None:
        rows = rows.to(self.dtype)
        logits = torch.addmm(self.intercept, rows, self.weight).double()
        logits = logits.view(len(rows), self.num_problems, self.num_classes)
        own = targets.view(-1, 1, 1).expand(-1, self.num_problems, 1)
        log_probs = logits.log_softmax(2)
        self.losses -= log_probs.gather(2, own).sum((0, 2))
        probs = log_probs.exp_()
        by_problem = probs.transpose(0, 1).to(self.dtype)
        self.products += by_problem.transpose(1, 2) @ by_problem
        residuals = probs.scatter_add_(2, own, probs.new_full((1, 1, 1), -1.0).expand_as(own))
        self.residuals += residuals.sum(0)
        self.gradient += residuals.flatten(1).T.to(self.dtype) @ rows

    def evaluations(self, rows: StandardizedRows) -> list[Evaluation]:
        num_rows = len(rows)
        gradient = rows.gradient_in_coordinates(self.gradient / num_rows)
        gradient = gradient.view(self.num_problems, self.num_classes, -1)
        losses = (self.losses / num_rows).tolist()
        made = []
        for number, trial in enumerate(self.trials):
            weight = trial.parameters[:, :-1]
            decayed = gradient[number] + trial.weight_decay * weight
            intercept = self.residuals[number, :, None] / num_rows
            penalty = 0.5 * trial.weight_decay * float(weight.square().sum())
            made.append(
                Evaluation(
                    value=losses[number] + penalty,
                    gradient=torch.cat([decayed, intercept], 1),
                    curvature=_laplacian(self.products[number] / num_rows),
                )
            )
        return made


def evaluate(rows: StandardizedRows, trials: Sequence[Trial]) -> list[Evaluation]:
    """Evaluate all trials in one pass, those of equal arithmetic in one matrix product.

    Returns:
        One evaluation per trial, in their order.
    """
    groups: dict[torch.dtype, list[int]] = {}
    for number, trial in enumerate(trials):
        groups.setdefault(trial.dtype, []).append(number)
    sums = [_Sums([trials[n] for n in numbers], rows) for numbers in groups.values()]
    width = len(trials) * rows.num_classes
    block_rows = max(1, min(_MAX_BLOCK_ROWS, _MAX_LOGITS // width))
    for block, targets in rows.blocks():
        for part, own in zip(block.split(block_rows), targets.split(block_rows), strict=True):
            for group in sums:
                group.add(part, own)
    made: dict[int, Evaluation] = {}
    for numbers, group in zip(groups.values(), sums, strict=True):
        made.update(zip(numbers, group.evaluations(rows), strict=True))
    return [made[number] for number in range(len(trials))]


@dataclass(frozen=True, kw_only=True)
class ClassCurvature:
    """Eigenvectors of an evaluation's curvature: directions among classes, and how they bend."""

    values: Tensor
    """(K,) > 0."""
    vectors: Tensor
    """(K, K), in the columns."""

    @classmethod
    def of(cls, evaluation: Evaluation) -> "ClassCurvature":
        """Decompose the curvature of an evaluation."""
        singular = evaluation.curvature
        # Adding one number to all logits changes nothing. That direction is given the curvature
        # of an average one, so that the matrix has an inverse; no gradient lies along it.
        regular = singular + singular.diagonal().mean() / len(singular)
        values, vectors = torch.linalg.eigh(regular)
        return cls(values=values.clamp(min=float(values[-1]) * _EPSILON), vectors=vectors)

    def intercept_step(self, gradient: Tensor) -> Tensor:
        """Return the Newton step (K,) of the intercept with the weights held."""
        return -self.vectors @ ((self.vectors.T @ gradient) / self.values)


def certified_gap(
    evaluation: Evaluation,
    curvature: ClassCurvature,
    *,
    weight_decay: float,
    largest_variance: float,
) -> tuple[float, float]:
    """Bound how far above the minimum a point lies: f - f* <= gap.

    The bound is a duality gap. For probabilities q_i of every row with mean(q_i - e_i) = 0, where
    e_i is the one-hot target, the minimum is at least mean(entropy(q_i)) - ||G_q||^2 / (2 lambda)
    with G_q = mean((q_i - e_i) z_i^T) (Fenchel duality; Boyd & Vandenberghe 2004, section 5.2).
    We take q_ik = p_ik (1 + v_k - p_i.v) with v = -A^+ g_b: the softmax p moved by one Newton step
    in the intercept, whose gradient is g_b and whose Hessian is A. With d^2 = g_b^T A^+ g_b and
    log(1 + x) <= x that gives

        f - f* <= (||g_W|| + sqrt(s) d)^2 / (2 lambda) + d^2

    for s the largest variance of the rows along any direction, provided that v spans at most 1,
    which keeps q_i >= 0. At g_b = 0 this is the bound of strong convexity.

    Returns:
        The bound, infinite if v spans more, and the part of it that stays when g_b vanishes.
    """
    intercept_gradient = evaluation.gradient[:, -1]
    weight_norm = float(evaluation.gradient[:, :-1].norm())
    weight_part = weight_norm**2 / (2 * weight_decay)
    step = curvature.intercept_step(intercept_gradient)
    decrement = max(0.0, -float(intercept_gradient @ step))
    if not float(step.max() - step.min()) <= 1:
        return math.inf, weight_part
    norm = weight_norm + math.sqrt(largest_variance * decrement)
    return norm**2 / (2 * weight_decay) + decrement, weight_part


def _laplacian(products: Tensor) -> Tensor:
    """Turn mean(p p^T) into mean(diag(p) - p p^T) without cancellation where p is near 0 or 1."""
    between = (products + products.T) / 2
    between.fill_diagonal_(0)
    return between.sum(1).diag() - between
