"""Mean, deviation, class counts and covariance of labelled features, in one pass over them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.labelled_features import LabelledFeatures
from tlcli.errors import DataError


@dataclass(frozen=True, kw_only=True)
class FeatureMoments:
    """What one pass says about N rows of D features."""

    num_rows: int
    mean: Tensor
    """(D,) float64."""
    scale: Tensor
    """(D,) float64: standard deviation with divisor N, 1 for constant columns."""
    constant: Tensor
    """(D,) bool: columns that have the same value in every row, to rounding."""
    class_counts: Tensor
    """(num_classes,) int64: rows of each class."""
    correlation: Tensor | None
    """(D, D) float64: standardised features' Gram matrix over N, if it was asked for."""


class _Totals:
    """Sums over rows, taken relative to a provisional mean so that no digits cancel."""

    def __init__(self, first: Tensor, *, num_classes: int, gram_dtype: torch.dtype | None) -> None:
        dim, device = first.shape[1], first.device
        self.origin = first.mean(0, dtype=torch.float64).float()
        self.sums = torch.zeros(dim, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sums)
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.gram_dtype = gram_dtype
        self.gram = (
            torch.zeros(dim, dim, dtype=torch.float64, device=device) if gram_dtype else None
        )

    def add(self, features: Tensor, targets: Tensor) -> None:
        centred = features - self.origin
        self.sums += centred.sum(0, dtype=torch.float64)
        self.squares += centred.square().sum(0, dtype=torch.float64)
        self.counts += torch.bincount(targets, minlength=len(self.counts))
        if self.gram is not None:
            centred = centred.to(self.gram_dtype)
            self.gram += centred.T @ centred

    def moments(self) -> FeatureMoments:
        num_rows = int(self.counts.sum())
        shift = self.sums / num_rows
        mean = self.origin.double() + shift
        variance = (self.squares / num_rows - shift.square()).clamp(min=0)
        constant = _is_constant(variance, mean=mean, num_rows=num_rows)
        scale = torch.where(constant, 1.0, variance.sqrt())
        correlation = None
        if self.gram is not None:
            covariance = self.gram / num_rows - torch.outer(shift, shift)
            correlation = covariance / torch.outer(scale, scale)
        return FeatureMoments(
            num_rows=num_rows,
            mean=mean,
            scale=scale,
            constant=constant,
            class_counts=self.counts,
            correlation=correlation,
        )


def measure_moments(
    features: LabelledFeatures, *, num_classes: int, gram_dtype: torch.dtype | None = None
) -> FeatureMoments:
    """Measure features in one pass over their blocks.

    Columns are constant by the rule of scikit-learn's `StandardScaler`, which allows for the
    rounding of the mean (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
    variance").

    Args:
        features: Rows to measure.
        num_classes: Targets must be 0 to num_classes - 1.
        gram_dtype: Arithmetic of the Gram matrix inside a block; blocks are added up in float64.
            Without it there is no `correlation`.

    Raises:
        DataError: There are rows with NaN or infinite features, values that float32 cannot
            square, targets that are no class, or fewer than two classes.
    """
    totals: _Totals | None = None
    broken = 0
    for block, targets in features.blocks():
        _check_targets(targets, num_classes=num_classes)
        if not bool(block.isfinite().all()):
            broken += int((~block.isfinite()).any(1).sum())
        if totals is None:
            totals = _Totals(block, num_classes=num_classes, gram_dtype=gram_dtype)
        if not broken:
            totals.add(block, targets)
    if broken:
        raise DataError(
            f"{broken} of {len(features)} rows have NaN or infinite features; values beyond 65504 "
            f"become infinite in float16. Extract them again with --dtype float32 or leave those "
            f"images out."
        )
    if totals is None or int((totals.counts > 0).sum()) < 2:
        present = 0 if totals is None else int((totals.counts > 0).sum())
        raise DataError(
            f"A linear head needs rows of at least 2 classes, but the {len(features)} rows given "
            f"have {present}."
        )
    if not bool(totals.squares.isfinite().all()):
        raise DataError(
            "Features of more than 1e18 cannot be standardised in float32. Check the network."
        )
    return totals.moments()


def _check_targets(targets: Tensor, *, num_classes: int) -> None:
    wrong = int(((targets < 0) | (targets >= num_classes)).sum())
    if wrong:
        raise DataError(
            f"{wrong} targets are not among 0 to {num_classes - 1}, the {num_classes} classes."
        )


def _is_constant(variance: Tensor, *, mean: Tensor, num_rows: int) -> Tensor:
    epsilon = torch.finfo(torch.float64).eps
    rounding = num_rows * epsilon * variance + (num_rows * mean * epsilon).square()
    return variance <= rounding
