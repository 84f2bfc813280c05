"""The exact linear head: multinomial logistic regression for a whole path of penalties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tlcli.engine.labelled_features import LabelledFeatures
from tlcli.engine.logistic_descent import LogisticDescent
from tlcli.engine.softmax_regression import evaluate
from tlcli.engine.standardized_rows import StandardizedRows, prepare_rows
from tlcli.errors import ConfigError

MEMORY_LIMIT = 4 << 30

_MAX_ACTIVE = 4
_MAX_DESCENTS = _MAX_ACTIVE + 2
_START_GAP = 1e-2
"""Relative gap at which the next penalty starts beside this one, if rows are read from disk.

Then passes over the data are what costs: for K = 10 classes, 10,000 x 512 features and 13
penalties from 1e-5 to 10 there are 132, and 186 if penalties wait for one another. In memory,
evaluations of single penalties are what costs, and a neighbour that is solved to the end is the
best start: 128 evaluations for K = 100 on such features, 154 with this gap, 214 with no gap.
"""
_LONGEST_EXTRAPOLATION = 2.0
_FEW_PAIRS, _MANY_PAIRS = 10, 40
_HANDY_BYTES, _MOST_BYTES = 64 << 20, 512 << 20
_ABSENT_LOGIT = -20.0


@dataclass(frozen=True, kw_only=True)
class LinearSolution:
    """The linear head that one penalty leads to, for raw features, and how exact it is."""

    penalty: float
    """C of the logistic regression or alpha of the ridge regression, as in scikit-learn."""
    weight: Tensor
    """(num_classes, D) float32; standardisation is folded in."""
    bias: Tensor
    """(num_classes,) float32."""
    objective: float
    """What was minimised, a mean over rows."""
    gradient_norm: float
    """Euclidean norm of its gradient, on standardised features."""
    gap: float
    """Certified bound of (objective - minimum) / minimum, before rounding to float32."""
    converged: bool
    """Whether the tolerance that was asked for is reached."""
    passes: int
    """Evaluations of the objective."""


def solve_logistic(
    features: LabelledFeatures,
    *,
    num_classes: int,
    penalties: Sequence[float],
    tolerance: float = 1e-6,
    gradient_tolerance: float = 0.0,
    max_passes: int = 1000,
    memory_limit: int = MEMORY_LIMIT,
    one_scale: bool = False,
) -> list[LinearSolution]:
    """Fit multinomial logistic regression on standardised features for every penalty.

    The minimum of

        mean(-log p_i[y_i]) + ||W||^2 / (2 C N),  p_i = softmax(W z_i + b),

    over W (K, D) and b (K,), with z_i the features after scikit-learn's `StandardScaler`, is that
    of scikit-learn's `LogisticRegression(C=C)` for three classes or more. Two classes have two
    rows of weights here as well, w and -w, where scikit-learn has one of 2 w; so the solution for
    C is that of its binary `LogisticRegression(C=2 * C)`.

    Penalties are taken from the smallest C up, each from where the two before it point to, linear
    in log C (see `LogisticDescent` for the method). The result is the same for every run with the
    same number of threads.

    A class without rows gets weight 0 and a logit of -20 where those of the other classes have
    the sum 0: it is never predicted, and its probability is at most 2e-9.

    Args:
        features: Rows, on the device that is to compute.
        num_classes: Targets must be 0 to num_classes - 1.
        penalties: Values of C, in any order.
        tolerance: Certified relative gap between objective and minimum. Float32 sums limit how
            true the certificate itself is, to about 1e-7.
        gradient_tolerance: A gradient without components above this along any principal direction
            is accepted too, if the certified relative gap is at most 1e-2. 1e-4, the default of
            scikit-learn's `tol`, halves the time; large C are solved less exactly then.
        max_passes: Evaluations per penalty after which it is returned unconverged.
        memory_limit: Bytes for standardised rows; if they do not fit they are read at every pass.
        one_scale: See `measure_moments`; z_i are then not those of `StandardScaler`.

    Returns:
        One solution per penalty, in the order given.

    Raises:
        ConfigError: A penalty is not finite and greater than 0, or there is none.
        DataError: As `measure_moments`.
    """
    check_penalties(penalties)
    rows = prepare_rows(
        features, num_classes=num_classes, memory_limit=memory_limit, one_scale=one_scale
    )
    path = _Path(
        rows, tolerance=tolerance, gradient_tolerance=gradient_tolerance, max_passes=max_passes
    )
    solutions = path.walk(sorted(set(penalties)))
    return [solutions[penalty] for penalty in penalties]


def check_penalties(penalties: Sequence[float]) -> None:
    """Raise ConfigError unless there are penalties, all finite and greater than 0."""
    if not penalties:
        raise ConfigError("--penalties is empty. Give at least one value, such as --penalties 0.1.")
    for penalty in penalties:
        if not (math.isfinite(penalty) and penalty > 0):
            raise ConfigError(f"--penalties has {penalty}; all must be finite and greater than 0.")


class _Path:
    """Descents of several penalties over the same rows, each started from those before it."""

    def __init__(
        self,
        rows: StandardizedRows,
        *,
        tolerance: float,
        gradient_tolerance: float,
        max_passes: int,
    ) -> None:
        self._rows = rows
        self._tolerance = tolerance
        self._gradient_tolerance = gradient_tolerance
        self._max_passes = max_passes
        self._last_two: list[tuple[float, LogisticDescent]] = []
        shape = (rows.num_classes, len(rows.variances) + 1)
        self._zero = rows.variances.new_zeros(shape)
        self._history = _history_length(2 * self._zero.numel() * self._zero.itemsize)

    def walk(self, penalties: Sequence[float]) -> dict[float, LinearSolution]:
        """Solve for penalties of rising C."""
        waiting = list(reversed(penalties))
        active: dict[float, LogisticDescent] = {}
        solutions: dict[float, LinearSolution] = {}
        while waiting or active:
            if waiting and self._may_start(active):
                penalty = waiting.pop()
                active[penalty] = self._start(penalty)
            trials = [descent.trial() for descent in active.values()]
            evaluations = evaluate(self._rows, trials)
            for descent, evaluation in zip(active.values(), evaluations, strict=True):
                descent.receive(evaluation)
            for penalty in [p for p, descent in active.items() if descent.finished]:
                solutions[penalty] = self._solution(penalty, active.pop(penalty))
        return solutions

    def _may_start(self, active: dict[float, LogisticDescent]) -> bool:
        if not active:
            return True
        _, latest = self._last_two[-1]
        near = latest.finished or latest.relative_gap <= _START_GAP
        return near and self._rows.resident is None and len(active) < _MAX_ACTIVE

    def _start(self, penalty: float) -> LogisticDescent:
        descent = LogisticDescent(
            self._first_guess(penalty),
            weight_decay=1 / (penalty * len(self._rows)),
            variances=self._rows.variances,
            largest_variance=self._rows.largest_variance,
            tolerance=self._tolerance,
            gradient_tolerance=self._gradient_tolerance,
            max_passes=self._max_passes,
            history=self._history,
            neighbour=self._last_two[-1][1] if self._last_two else None,
        )
        self._last_two = [*self._last_two[-1:], (penalty, descent)]
        return descent

    def _first_guess(self, penalty: float) -> Tensor:
        if not self._last_two:
            return self._zero
        latest_penalty, latest = self._last_two[-1]
        if len(self._last_two) == 1:
            return latest.point.parameters
        before_penalty, before = self._last_two[0]
        ratio = math.log(penalty / latest_penalty) / math.log(latest_penalty / before_penalty)
        change = latest.point.parameters - before.point.parameters
        return latest.point.parameters + min(ratio, _LONGEST_EXTRAPOLATION) * change

    def _solution(self, penalty: float, descent: LogisticDescent) -> LinearSolution:
        point = descent.point
        # Rounding may have moved all classes alike, which only the penalty notices.
        parameters = point.parameters - point.parameters.mean(0)
        weight, bias = self._rows.fold(
            parameters[:, :-1], parameters[:, -1], absent_bias=_ABSENT_LOGIT
        )
        return LinearSolution(
            penalty=penalty,
            weight=weight,
            bias=bias,
            objective=point.value,
            gradient_norm=float(point.gradient.norm()),
            gap=point.relative_gap,
            converged=descent.converged,
            passes=descent.passes,
        )


def _history_length(pair_bytes: int) -> int:
    """Return how many movements to remember: many if they are small, as reading them costs."""
    handy = min(_MANY_PAIRS, max(_FEW_PAIRS, _HANDY_BYTES // pair_bytes))
    return max(1, min(handy, _MOST_BYTES // (_MAX_DESCENTS * pair_bytes)))
