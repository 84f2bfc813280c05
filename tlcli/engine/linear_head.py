"""The exact linear head: multinomial logistic regression for a whole path of penalties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tlcli.engine.labelled_features import LabelledFeatures
from tlcli.engine.logistic_descent import LogisticDescent
from tlcli.engine.softmax_regression import evaluate
from tlcli.engine.standardized_rows import prepare_rows

MEMORY_LIMIT = 4 << 30
_HISTORY_BYTES = 512 << 20
_MAX_HISTORY = 10
_ABSENT_LOGIT = -20.0


@dataclass(frozen=True, kw_only=True)
class LinearSolution:
    penalty: float
    weight: Tensor
    bias: Tensor
    objective: float
    gradient_norm: float
    gap: float
    converged: bool
    passes: int


def solve_logistic(
    features: LabelledFeatures,
    *,
    num_classes: int,
    penalties: Sequence[float],
    tolerance: float = 1e-6,
    max_passes: int = 1000,
    memory_limit: int = MEMORY_LIMIT,
    start_gap: float | None = None,
) -> list[LinearSolution]:
    rows = prepare_rows(features, num_classes=num_classes, memory_limit=memory_limit)
    path = _Path(rows, penalties=sorted(set(penalties)), tolerance=tolerance, max_passes=max_passes,
                 start_gap=tolerance if start_gap is None else start_gap)
    path.walk()
    solutions = {p: path.solution(i) for i, p in enumerate(path.penalties)}
    return [solutions[p] for p in penalties]


class _Path:
    def __init__(self, rows, *, penalties, tolerance, max_passes, start_gap):
        self.rows, self.penalties, self.tolerance, self.max_passes, self.start_gap = rows, penalties, tolerance, max_passes, start_gap
        self.descents: list[LogisticDescent] = []
        self.sweeps = 0

    def walk(self):
        active = []
        while True:
            if len(self.descents) < len(self.penalties) and (not self.descents or self.descents[-1].relative_gap <= self.start_gap or self.descents[-1].finished):
                d = self._start(len(self.descents)); self.descents.append(d); active.append(d)
            if not active: break
            for d, e in zip(active, evaluate(self.rows, [d.trial() for d in active]), strict=True):
                d.receive(e)
            self.sweeps += 1
            active = [d for d in active if not d.finished]

    def _start(self, n):
        r = len(self.rows.variances)
        K = self.rows.num_classes
        if n == 0: start = self.rows.variances.new_zeros(K, r + 1)
        else:
            start = self.descents[-1].point.parameters
            if n > 1:
                a, b, c = (math.log(p) for p in self.penalties[n-2:n+1])
                start = start + min((c-b)/(b-a), 2.0) * (start - self.descents[-2].point.parameters)
        h = max(1, min(_MAX_HISTORY, _HISTORY_BYTES // (2 * 8 * K * (r + 1))))
        return LogisticDescent(start, weight_decay=1/(self.penalties[n]*len(self.rows)), variances=self.rows.variances, tolerance=self.tolerance, max_passes=self.max_passes, history=h, scale=self.descents[-1].scale if n else 1.0)

    def solution(self, i):
        d = self.descents[i]; pt = d.point
        params = pt.parameters - pt.parameters.mean(0)
        w, b = self.rows.fold(params[:, :-1], params[:, -1], absent_bias=_ABSENT_LOGIT)
        return LinearSolution(penalty=self.penalties[i], weight=w, bias=b, objective=pt.value, gradient_norm=float(pt.gradient.norm()), gap=pt.relative_gap, converged=d.converged, passes=d.passes)
