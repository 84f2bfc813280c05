"""The way down to the minimum of one logistic regression, one evaluation after the other."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.limited_memory import LimitedMemory
from tlcli.engine.softmax_regression import ClassCurvature, Evaluation, Trial, certified_gap

_ARMIJO = 1e-4
_APPROXIMATE_WOLFE = 0.8
_SHORTEST_STEP = 1e-4
_VALUE_NOISE = {torch.float32: 3e-7, torch.float64: 1e-13}
"""Relative rounding of the objective."""
_PATIENCE = 25
"""Points without a smaller gradient after which float32 is taken to be the obstacle."""
_WEIGHTS_DONE = 0.8
"""Part of the tolerance that the weights may use up; the rest is the intercept's."""
_LOOSE_GAP = 1e-2
"""Certified relative gap that a small gradient must have as well."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An accepted point and what is known there."""

    parameters: Tensor
    """(K, r + 1) float64."""
    value: float
    gradient: Tensor
    """(K, r + 1) float64."""
    curvature: ClassCurvature
    gap: float
    """Certified bound of f - f*."""
    weight_gap: float
    """What the bound would be if the intercept were optimal."""

    @property
    def relative_gap(self) -> float:
        """Certified bound of (f - f*) / f*."""
        return self.gap / (self.value - self.gap) if self.gap < self.value else math.inf


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A direction from the current point and how far along it the trial lies."""

    direction: Tensor
    slope: float
    step: float


class LogisticDescent:
    """L-BFGS preconditioned by the spectrum of the features and the curvature among classes.

    Evaluations come from outside (`trial`, then `receive`), so that many descents share a pass.

    If the softmax p were the same for all rows, the Hessian of the weights would be the Kronecker
    product of A = mean(diag(p) - p p^T) and the covariance of the features, plus lambda. Its
    inverse with the A of the moment is the initial matrix of L-BFGS (Nocedal & Wright 2006,
    "Numerical Optimization", algorithm 7.4), scaled as their eq. 7.20 says. A step must satisfy
    the Armijo condition or, where the decrease drowns in rounding, the approximate Wolfe
    condition (Hager & Zhang 2005, "A new conjugate gradient method with guaranteed descent and an
    efficient line search", section 4). If none does, the history is dropped; if that is no help,
    or the gradient has long not become smaller, matrix products are done in float64; if that is
    no help either, the descent gives up.

    Args:
        start: Parameters (K, r + 1) to start from.
        weight_decay: lambda, the factor of ||W||^2 / 2.
        variances: (r,) float64, of the features along the coordinates.
        largest_variance: Which the features exceed along no direction.
        tolerance: Certified relative gap to reach.
        gradient_tolerance: A gradient without components above this is small enough as well, if
            the certified relative gap is at most 1e-2.
        max_passes: Evaluations after which to give up.
        history: Movements that L-BFGS remembers.
        neighbour: Descent of another weight decay over the same rows, whose history is taken over.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        weight_decay: float,
        variances: Tensor,
        largest_variance: float,
        tolerance: float,
        gradient_tolerance: float,
        max_passes: int,
        history: int,
        neighbour: "LogisticDescent | None" = None,
    ) -> None:
        self.passes = 0
        self._scale = 1.0
        self._weight_decay = weight_decay
        self._variances = variances
        self._largest_variance = largest_variance
        self._tolerance = tolerance
        self._gradient_tolerance = gradient_tolerance
        self._max_passes = max_passes
        self._memory = LimitedMemory(history, shape=start.shape, like=start)
        self._dtype = torch.float32
        self._trial = start
        self._point: Point | None = None
        self._search: _Search | None = None
        self._smallest_gap = math.inf
        self._points_since = 0
        self._gave_up = False
        if neighbour is not None:
            self._inherit(neighbour)

    @property
    def point(self) -> Point:
        """The last accepted point; there is one after the first evaluation."""
        if self._point is None:
            raise RuntimeError("no evaluation has been received yet")
        return self._point

    @property
    def relative_gap(self) -> float:
        """Certified bound of (f - f*) / f* at the last accepted point; infinite before it."""
        return math.inf if self._point is None else self._point.relative_gap

    @property
    def converged(self) -> bool:
        """Whether the certified gap is within the tolerance, or else the gradient."""
        if self._point is None:
            return False
        return self._point.relative_gap <= self._allowed_gap(self._point.gradient)

    @property
    def finished(self) -> bool:
        """Whether no further evaluation is wanted."""
        return self.converged or self._gave_up or self.passes >= self._max_passes

    def trial(self) -> Trial:
        """Return the point to be evaluated next."""
        return Trial(parameters=self._trial, weight_decay=self._weight_decay, dtype=self._dtype)

    def receive(self, evaluation: Evaluation) -> None:
        """Take the evaluation of `trial` and choose the next one."""
        self.passes += 1
        if self._search is not None:
            if not self._is_good(evaluation, self._search):
                self._shorten(evaluation, self._search)
                return
            self._remember(evaluation)
        self._accept(evaluation)
        if self.finished:
            return
        if self._dtype == torch.float32 and self._points_since > _PATIENCE:
            self._use_float64()
        else:
            self._aim()

    def _inherit(self, neighbour: "LogisticDescent") -> None:
        added = self._variances.new_full((len(self._variances) + 1,), self._weight_decay)
        added -= neighbour._weight_decay
        added[-1] = 0  # the intercept's
        self._memory = neighbour._memory.with_curvature(added)
        self._scale = neighbour._scale

    def _is_good(self, evaluation: Evaluation, search: _Search) -> bool:
        value = self.point.value
        noise = _VALUE_NOISE[self._dtype] * value
        if evaluation.value <= value + _ARMIJO * search.step * search.slope - noise:
            return True
        slope = _dot(evaluation.gradient, search.direction)
        return evaluation.value <= value + noise and slope <= -_APPROXIMATE_WOLFE * search.slope

    def _shorten(self, evaluation: Evaluation, search: _Search) -> None:
        slope = _dot(evaluation.gradient, search.direction)
        secant = -search.slope / (slope - search.slope) if slope > search.slope else 0.5
        step = search.step * min(max(secant, 0.1), 0.5)
        if step >= _SHORTEST_STEP:
            self._go(search.direction, slope=search.slope, step=step)
        elif len(self._memory):
            self._memory.clear()
            self._aim()
        elif self._dtype == torch.float32:
            self._use_float64()
        else:
            self._gave_up = True

    def _use_float64(self) -> None:
        self._dtype = torch.float64
        self._memory.clear()
        self._search = None
        self._trial = self.point.parameters

    def _remember(self, evaluation: Evaluation) -> None:
        self._memory.add(
            self._trial - self.point.parameters, evaluation.gradient - self.point.gradient
        )

    def _accept(self, evaluation: Evaluation) -> None:
        curvature = ClassCurvature.of(evaluation)
        gap, weight_gap = certified_gap(
            evaluation,
            curvature,
            weight_decay=self._weight_decay,
            largest_variance=self._largest_variance,
        )
        self._point = Point(
            parameters=self._trial,
            value=evaluation.value,
            gradient=evaluation.gradient,
            curvature=curvature,
            gap=gap,
            weight_gap=weight_gap,
        )
        self._points_since = 0 if weight_gap < self._smallest_gap else self._points_since + 1
        self._smallest_gap = min(weight_gap, self._smallest_gap)

    def _aim(self) -> None:
        point = self.point
        allowed = self._allowed_gap(point.gradient[:, :-1])
        if point.weight_gap <= _WEIGHTS_DONE * allowed * point.value:
            direction = torch.zeros_like(point.gradient)
            direction[:, -1] = point.curvature.intercept_step(point.gradient[:, -1])
        else:
            direction = -self._times_inverse_hessian(point.gradient)
        self._go(direction, slope=_dot(point.gradient, direction), step=1.0)

    def _allowed_gap(self, gradient: Tensor) -> float:
        small = bool((gradient.abs() <= self._gradient_tolerance).all())
        return max(self._tolerance, _LOOSE_GAP) if small else self._tolerance

    def _go(self, direction: Tensor, *, slope: float, step: float) -> None:
        self._search = _Search(direction=direction, slope=slope, step=step)
        self._trial = self.point.parameters + step * direction

    def _times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        if len(self._memory):
            change, product = self._memory.newest_change()
            self._scale = product / _dot(change, self._precondition(change))
        return self._memory.times_inverse(
            gradient, lambda rest: self._scale * self._precondition(rest)
        )

    def _precondition(self, gradient: Tensor) -> Tensor:
        curvature = self.point.curvature
        hessian = torch.outer(curvature.values, self._variances) + self._weight_decay
        hessian = torch.cat([hessian, curvature.values[:, None]], 1)
        return curvature.vectors @ ((curvature.vectors.T @ gradient) / hessian)


def _dot(first: Tensor, second: Tensor) -> float:
    return float(first.flatten() @ second.flatten())
