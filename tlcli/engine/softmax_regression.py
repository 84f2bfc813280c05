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
_MAX_BLOCK_ROWS = 16384
_EPSILON = 1e-15
_TINY = 1e-60


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
        """Take in rows (N, D) and their class indices (N,)."""
        rows = rows.to(self.dtype)
        logits = torch.addmm(self.intercept, rows, self.weight).double()
        logits = logits.view(len(rows), self.num_problems, self.num_classes)
        own = targets.view(-1, 1, 1).expand(-1, self.num_problems, 1)
        probs, losses, own_residuals = _softmax(logits, own)
        self.losses += losses
        by_problem = probs.transpose(0, 1).to(self.dtype)
        self.products += by_problem.transpose(1, 2) @ by_problem
        residuals = probs.scatter_(2, own, own_residuals)
        self.residuals += residuals.sum(0)
        self.gradient += residuals.flatten(1).T.to(self.dtype) @ rows

    def evaluations(self, rows: StandardizedRows) -> list[Evaluation]:
        """Return the evaluation of every trial, after all of `rows` were added."""
        gradient = rows.gradient_in_coordinates(self.gradient / len(rows))
        gradients = gradient.view(self.num_problems, self.num_classes, gradient.shape[1])
        sums = zip(self.trials, gradients, self.losses, self.residuals, self.products, strict=True)
        return [_evaluation(*parts, num_rows=len(rows)) for parts in sums]


def evaluate(rows: StandardizedRows, trials: Sequence[Trial]) -> list[Evaluation]:
    """Evaluate all trials in one pass, those of equal arithmetic in one matrix product.

    Returns:
        One evaluation per trial, in their order.
    """
    numbers: dict[torch.dtype, list[int]] = {}
    for number, trial in enumerate(trials):
        numbers.setdefault(trial.dtype, []).append(number)
    groups = [_Sums([trials[n] for n in members], rows) for members in numbers.values()]
    max_rows = max(1, min(_MAX_BLOCK_ROWS, _MAX_LOGITS // (len(trials) * rows.num_classes)))
    for block, targets in rows.blocks(max_rows=max_rows):
        for group in groups:
            group.add(block, targets)
    made: dict[int, Evaluation] = {}
    for members, group in zip(numbers.values(), groups, strict=True):
        made.update(zip(members, group.evaluations(rows), strict=True))
    return [made[number] for number in range(len(trials))]


def _softmax(logits: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities, total losses (P,), and own probabilities minus 1; overwrites logits.

    Rows that are all but certain keep their digits: 1 - p is the sum of the other classes.

    Args:
        logits: Of shape (n, P, K).
        own: Targets of shape (n, P, 1).
    """
    logits -= logits.amax(2, keepdim=True)
    own_logits = logits.gather(2, own)
    others = logits.exp_().scatter_(2, own, 0.0).sum(2, keepdim=True)
    own_exps = own_logits.exp()
    totals = others + own_exps
    certain = own_logits == 0
    losses = torch.where(certain, others.log1p(), totals.log() - own_logits)
    probs = logits.scatter_(2, own, own_exps).div_(totals)
    return probs, losses.sum((0, 2)), -others / totals


def _evaluation(
    trial: Trial,
    gradient: Tensor,
    losses: Tensor,
    residuals: Tensor,
    products: Tensor,
    *,
    num_rows: int,
) -> Evaluation:
    weight = trial.parameters[:, :-1]
    penalty = 0.5 * trial.weight_decay * float(weight.square().sum())
    decayed = gradient + trial.weight_decay * weight
    return Evaluation(
        value=float(losses) / num_rows + penalty,
        gradient=torch.cat([decayed, residuals[:, None] / num_rows], 1),
        curvature=_laplacian(products / num_rows),
    )


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
        return cls(values=values.clamp(min=float(values[-1]) * _EPSILON + _TINY), vectors=vectors)

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
