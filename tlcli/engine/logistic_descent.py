"""The way down to the minimum of one logistic regression, one evaluation after the other."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.softmax_regression import ClassCurvature, Evaluation, Trial, certified_gap

_ARMIJO = 1e-4
_APPROXIMATE_WOLFE = 0.8
_SHORTEST_STEP = 1e-4
_POLISH = 0.8
_PATIENCE = 25
"""Points without a smaller gap after which the arithmetic is taken to be the limit."""
_VALUE_NOISE = {torch.float32: 3e-7, torch.float64: 1e-14}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Movement between two accepted points and what it did to the gradient."""

    moved: Tensor
    turned: Tensor
    product: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """An accepted point and all that is known there."""

    parameters: Tensor
    value: float
    gradient: Tensor
    curvature: ClassCurvature
    gap: float
    """Certified bound of f - f*."""
    weight_gap: float
    """The bound if the intercept were optimal."""

    @property
    def relative_gap(self) -> float:
        """Certified bound of (f - f*) / f*."""
        return self.gap / (self.value - self.gap) if self.gap < self.value else math.inf


class LogisticDescent:
    """L-BFGS preconditioned by the spectrum of the features and the curvature among classes.

    Evaluations come from outside (`trial`, then `receive`), so that many descents share a pass.

    With softmax probabilities that do not depend on the row, the Hessian of the weights would be
    A (x) S + lambda, with A = mean(diag(p) - p p^T) and S the covariance of the features. Its
    inverse, at the A of the moment, is the initial matrix of L-BFGS (Nocedal & Wright 2006,
    algorithm 7.4) and is scaled as eq. 7.20 says. Steps satisfy the Armijo condition, or the
    approximate Wolfe condition where the decrease drowns in rounding (Hager & Zhang 2005,
    "A new conjugate gradient method with guaranteed descent and an efficient line search", eq.
    4.1). If no step does, the history is dropped; if that does not help, float64 takes over.

    Args:
        start: Parameters (K, r + 1) to start from.
        weight_decay: lambda, the factor of ||W||^2 / 2.
        variances: (r,), along the coordinates.
        tolerance: Certified relative gap to reach.
        max_passes: Evaluations after which to give up.
        history: Steps that L-BFGS remembers.
        scale: Factor of the preconditioner until there is a history.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        weight_decay: float,
        variances: Tensor,
        tolerance: float,
        max_passes: int,
        history: int,
        scale: float = 1.0,
    ) -> None:
        self._weight_decay = weight_decay
        self._variances = variances
        self._largest_variance = float(variances.max()) if len(variances) else 0.0
        self._tolerance = tolerance
        self._max_passes = max_passes
        self._dtype = torch.float32
        self._scale = scale
        self._history: deque[_Step] = deque(maxlen=history)
        self._trial = start
        self._point: Point | None = None
        self._direction: Tensor | None = None
        self._step = 1.0
        self._smallest_gap = math.inf
        self._points_since = 0
        self._gave_up = False
        self.passes = 0

    @property
    def point(self) -> Point:
        """The last accepted point."""
        if self._point is None:
            raise RuntimeError("no evaluation was received yet")
        return self._point

    @property
    def relative_gap(self) -> float:
        """Certified bound of (f - f*) / f* at the last accepted point; infinite before it."""
        return math.inf if self._point is None else self._point.relative_gap

    @property
    def scale(self) -> float:
        """Factor that the preconditioner has been found to need."""
        return self._scale

    @property
    def converged(self) -> bool:
        """Whether the certified gap is within the tolerance."""
        return self.relative_gap <= self._tolerance

    @property
    def finished(self) -> bool:
        """Whether no further evaluation is wanted."""
        return self.converged or self._gave_up or self.passes >= self._max_passes

    def trial(self) -> Trial:
        """Return the point to be evaluated next."""
        return Trial(
            parameters=self._trial, weight_decay=self._weight_decay, dtype=self._dtype
        )

    def receive(self, evaluation: Evaluation) -> None:
        """Take the evaluation of `trial` and decide on the next one."""
        self.passes += 1
        if self._direction is not None and not self._is_good(evaluation):
            self._shorten(evaluation)
            return
        if self._direction is not None:
            self._remember(evaluation)
        self._accept(evaluation)
        if self._is_stuck():
            self._change_arithmetic()
        elif not self.converged:
            self._aim()

    def _is_good(self, evaluation: Evaluation) -> bool:
        if not math.isfinite(evaluation.value):
            return False
        old = self.point
        noise = _VALUE_NOISE[self._dtype] * abs(old.value)
        slope = _dot(old.gradient, self._direction)
        if evaluation.value <= old.value + _ARMIJO * self._step * slope - noise:
            return True
        new_slope = _dot(evaluation.gradient, self._direction)
        return evaluation.value <= old.value + noise and new_slope <= -_APPROXIMATE_WOLFE * slope

    def _shorten(self, evaluation: Evaluation) -> None:
        slope = _dot(self.point.gradient, self._direction)
        new_slope = _dot(evaluation.gradient, self._direction)
        secant = -slope / (new_slope - slope) if new_slope > slope else 0.5
        self._step *= min(max(secant, 0.1), 0.5) if math.isfinite(secant) else 0.1
        if self._step >= _SHORTEST_STEP:
            self._go(self._step)
        elif self._history:
            self._history.clear()
            self._aim()
        else:
            self._change_arithmetic()

    def _change_arithmetic(self) -> None:
        if self._dtype == torch.float64:
            self._gave_up = True
        self._dtype = torch.float64
        self._history.clear()
        self._points_since = 0
        self._direction = None
        self._trial = self.point.parameters

    def _remember(self, evaluation: Evaluation) -> None:
        moved = self._trial - self.point.parameters
        turned = evaluation.gradient - self.point.gradient
        product = _dot(moved, turned)
        if product > 1e-10 * float(moved.norm() * turned.norm()):
            self._history.append(_Step(moved=moved, turned=turned, product=product))

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

    def _is_stuck(self) -> bool:
        self._points_since += 1
        if self.point.weight_gap < self._smallest_gap:
            self._smallest_gap = self.point.weight_gap
            self._points_since = 0
        return self._points_since > _PATIENCE

    def _aim(self) -> None:
        point = self.point
        if point.weight_gap <= _POLISH * self._tolerance * point.value:
            # What is left is the intercept's part, and a Newton step removes it.
            direction = torch.zeros_like(point.gradient)
            direction[:, -1] = point.curvature.intercept_step(point.gradient[:, -1])
        else:
            direction = -self._times_inverse_hessian(point.gradient)
        self._direction = direction
        self._go(1.0)

    def _go(self, step: float) -> None:
        self._step = step
        self._trial = self.point.parameters + step * self._direction

    def _times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        rest = gradient.clone()
        factors = []
        for step in reversed(self._history):
            factors.append(_dot(step.moved, rest) / step.product)
            rest -= factors[-1] * step.turned
        if self._history:
            last = self._history[-1]
            self._scale = last.product / _dot(last.turned, self._precondition(last.turned))
        result = self._scale * self._precondition(rest)
        for step, factor in zip(self._history, reversed(factors), strict=True):
            result += (factor - _dot(step.turned, result) / step.product) * step.moved
        return result

    def _precondition(self, gradient: Tensor) -> Tensor:
        curvature = self.point.curvature
        hessian = torch.outer(curvature.values, self._variances) + self._weight_decay
        hessian = torch.cat([hessian, curvature.values[:, None]], 1)
        return curvature.vectors @ ((curvature.vectors.T @ gradient) / hessian)


def _dot(first: Tensor, second: Tensor) -> float:
    return float(first.flatten() @ second.flatten())
