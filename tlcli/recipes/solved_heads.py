"""Heads on stored features: solved for every penalty, and chosen on validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.config import HeadKind, Monitor, ProbeHeadConfig
from tlcli.engine.labelled_features import LabelledFeatures
from tlcli.engine.linear_head import LinearSolution, solve_logistic
from tlcli.engine.metrics import fast_metrics
from tlcli.engine.ridge_head import solve_ridge
from tlcli.errors import ConfigError
from tlcli.models.knn_head import KnnHead
from tlcli.recipes.feature_part import FeaturePart

DEFAULT_PENALTIES: Mapping[HeadKind, tuple[float, ...]] = {
    "linear": tuple(10 ** (power / 2) for power in range(-10, 3)),
    "ridge": tuple(10 ** (power / 2) for power in range(0, 13)),
    "knn": (1, 3, 5, 10, 20, 50, 100),
}
"""scikit-learn's C for `linear`, its alpha for `ridge`, the number of neighbours for `knn`."""
PENALTY_NAMES: Mapping[HeadKind, str] = {"linear": "C", "ridge": "alpha", "knn": "neighbours"}

_SMALLER_IS_BETTER = ("loss",)
_LOG_SCALES = (-3.0, 8.0)
"""Range of the logarithm of a ridge head's scale; one-hot scores lie in about 0..1."""


@dataclass(frozen=True, kw_only=True)
class SolvedHead:
    """One head: a penalty and what came of it."""

    penalty: float
    module: nn.Module = field(repr=False)
    """Features (B, D) to logits (B, K)."""
    facts: Mapping[str, float | bool | None] = field(default_factory=dict)
    """How well it is solved: objective, gradient norm, certified gap, converged, passes."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """On the validation part."""

    @property
    def is_converged(self) -> bool:
        """Whether the solver reached its tolerance; heads in closed form always do."""
        return self.facts.get("converged") is not False


def parse_penalties(config: ProbeHeadConfig) -> tuple[float, ...]:
    """Read `--penalties`: numbers with commas, or `LOW:HIGH:COUNT` evenly spaced in logarithm.

    Raises:
        ConfigError: If it is neither, or not what the kind of head takes.
    """
    text = config.penalties
    if text is None:
        return DEFAULT_PENALTIES[config.head]
    try:
        values = _spaced(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    name = PENALTY_NAMES[config.head]
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ConfigError(
            f"--penalties '{text}' is not understood: write values of {name} above 0 such as "
            "0.01,0.1,1, or LOW:HIGH:COUNT such as 1e-5:10:13."
        )
    if config.head == "knn" and not all(value.is_integer() for value in values):
        raise ConfigError(f"--penalties '{text}': for knn these are whole numbers of neighbours.")
    return tuple(sorted(set(values)))


def _spaced(text: str) -> list[float]:
    low, high, count = text.split(":")
    if not (count.isdecimal() and 0 < float(low) < float(high) < math.inf and int(count) > 1):
        return []
    # the last digits of a logarithm would make 5.999999999999999 of 6 neighbours
    spaced = np.geomspace(float(low), float(high), int(count))
    return [float(f"{value:.12g}") for value in spaced]


def solve_heads(
    kind: HeadKind,
    features: LabelledFeatures,
    *,
    num_classes: int,
    penalties: Sequence[float],
    memory_limit: int,
    one_scale: bool = False,
) -> list[SolvedHead]:
    """Solve a head of one kind for every penalty.

    Args:
        kind: `linear` (multinomial logistic regression), `ridge`, or `knn`.
        features: Of the train part.
        num_classes: K.
        penalties: See `DEFAULT_PENALTIES`; for `knn` those above the number of rows are left out.
        memory_limit: Bytes the solver may use to keep features.
        one_scale: Scale all features alike instead of standardising each.
    """
    if kind == "knn":
        return _nearest_neighbours(features, num_classes=num_classes, neighbours=penalties)
    solve = solve_logistic if kind == "linear" else solve_ridge
    solutions = solve(
        features,
        num_classes=num_classes,
        penalties=penalties,
        memory_limit=memory_limit,
        one_scale=one_scale,
    )
    return [_as_head(solution) for solution in solutions]


def _as_head(solution: LinearSolution) -> SolvedHead:
    return SolvedHead(
        penalty=solution.penalty,
        module=linear_layer(solution.weight, solution.bias),
        facts={
            "objective": solution.objective,
            "gradient_norm": solution.gradient_norm,
            "gap": solution.gap,
            "converged": solution.converged,
            "passes": solution.passes,
        },
    )


def linear_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with given weight (K, D) and bias (K,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def _nearest_neighbours(
    features: LabelledFeatures, *, num_classes: int, neighbours: Sequence[float]
) -> list[SolvedHead]:
    blocks = list(features.blocks())
    bank = torch.cat([block for block, _ in blocks])
    targets = torch.cat([own for _, own in blocks])
    heads = [
        SolvedHead(
            penalty=count,
            module=KnnHead(
                bank=bank, targets=targets, num_classes=num_classes, neighbours=int(count)
            ),
        )
        for count in neighbours
        if count <= len(bank)
    ]
    if not heads:
        raise ConfigError(
            f"--penalties: {min(neighbours):.0f} neighbours are more than the {len(bank)} train "
            "rows."
        )
    return heads


def judge_heads(heads: Sequence[SolvedHead], part: FeaturePart) -> list[SolvedHead]:
    """Return the heads with their metrics on a part, the validation part."""
    return [
        replace(head, metrics=fast_metrics(part.log_probs(head.module), part.targets))
        for head in heads
    ]


def choose_head(heads: Sequence[SolvedHead], *, monitor: Monitor) -> SolvedHead:
    """Return the head that is best on validation; ties go to the lower loss, then the first."""
    sign = -1 if monitor in _SMALLER_IS_BETTER else 1
    return max(heads, key=lambda head: (sign * head.metrics[monitor], -head.metrics["loss"]))


def calibrated(heads: Sequence[SolvedHead], part: FeaturePart) -> list[SolvedHead]:
    """Scale ridge heads so that their softmax means probabilities; decisions stay the same.

    One temperature per head, fitted on validation (Guo et al. 2017, "On Calibration of Modern
    Neural Networks", section 4.2): least squares on one-hot targets gives scores, not logits.
    """
    return [_with_temperature(head, part) for head in heads]


def _with_temperature(head: SolvedHead, part: FeaturePart) -> SolvedHead:
    assert isinstance(head.module, nn.Linear)
    scores = torch.from_numpy(part.scores(head.module))
    targets = torch.from_numpy(part.targets)

    def loss(log_scale: float) -> float:
        return float(F.cross_entropy(scores * math.exp(log_scale), targets))

    scale = math.exp(minimize_scalar(loss, bounds=_LOG_SCALES, method="bounded").x)
    module = linear_layer(head.module.weight * scale, head.module.bias * scale)
    return replace(head, module=module, facts={**head.facts, "scale": scale})
