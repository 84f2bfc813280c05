"""Mean, deviation, class counts and correlation of labelled features, in one pass over them."""

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
    """(D,) float64: what columns are divided by, 1 for constant ones; see `one_scale`."""
    constant: Tensor
    """(D,) bool: columns that have the same value in every row, to rounding."""
    class_counts: Tensor
    """(num_classes,) int64: rows of each class."""

    @property
    def present(self) -> Tensor:
        """(num_classes,) bool: classes that have rows."""
        return self.class_counts > 0


class _Totals:
    """Sums over rows, taken relative to a provisional mean so that no digits cancel."""

    def __init__(self, first: Tensor, *, num_classes: int, dtype: torch.dtype, gram: bool) -> None:
        dim, device = first.shape[1], first.device
        self.origin = first.mean(0, dtype=torch.float64).to(dtype)
        self.sums = torch.zeros(dim, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sums)
        self.class_counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.gram = self.sums.new_zeros(dim, dim) if gram else None

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in features (N, D) and their class indices (N,)."""
        centred = features.to(self.origin.dtype) - self.origin
        self.sums += centred.sum(0, dtype=torch.float64)
        self.squares += centred.square().sum(0, dtype=torch.float64)
        self.class_counts += torch.bincount(targets, minlength=len(self.class_counts))
        if self.gram is not None:
            self.gram += centred.T @ centred

    def results(self, *, one_scale: bool) -> tuple[FeatureMoments, Tensor | None]:
        """Return the moments of all rows seen; behind them the covariance, if it was summed.

        With `one_scale` all features share one deviation, so that their directions stay.
        """
        num_rows = int(self.class_counts.sum())
        shift = self.sums / num_rows
        mean = self.origin.double() + shift
        variance = (self.squares / num_rows - shift.square()).clamp(min=0)
        constant = _is_constant(variance, mean=mean, num_rows=num_rows)
        common = variance[~constant].mean() if one_scale else variance
        scale = torch.where(constant, 1.0, common.sqrt())
        moments = FeatureMoments(
            num_rows=num_rows,
            mean=mean,
            scale=scale,
            constant=constant,
            class_counts=self.class_counts,
        )
        if self.gram is None:
            return moments, None
        covariance = self.gram / num_rows - torch.outer(shift, shift)
        return moments, covariance / torch.outer(scale, scale)


def measure_moments(
    features: LabelledFeatures,
    *,
    num_classes: int,
    dtype: torch.dtype = torch.float32,
    with_correlation: bool = False,
    one_scale: bool = False,
) -> tuple[FeatureMoments, Tensor | None]:
    """Measure features in one pass over their blocks.

    Columns are constant by the rule of scikit-learn's `StandardScaler`, which allows for the
    rounding of mean and variance (Chan, Golub & LeVeque 1983, "Algorithms for computing the
    sample variance").

    Args:
        features: Rows to measure.
        num_classes: Targets must be 0 to num_classes - 1.
        dtype: Arithmetic inside a block; blocks are added up in float64.
        with_correlation: Whether to compute the Gram matrix, which takes nearly all the time.
        one_scale: Divide all columns by the root of their mean variance, not each by its standard
            deviation with divisor N; for so few rows that these are mere chance.

    Returns:
        The moments and, if wanted, the (D, D) float64 correlation matrix of the features: the
        Gram matrix of the standardised features over N.

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
            totals = _Totals(block, num_classes=num_classes, dtype=dtype, gram=with_correlation)
        if not broken:
            totals.add(block, targets)
    if broken:
        raise DataError(
            f"{broken} of {len(features)} rows have NaN or infinite features; values beyond 65504 "
            f"become infinite in float16. Extract them again with --dtype float32, or leave these "
            f"images out."
        )
    _check_totals(totals, num_rows=len(features))
    assert totals is not None
    return totals.results(one_scale=one_scale)


def _check_targets(targets: Tensor, *, num_classes: int) -> None:
    wrong = int(((targets < 0) | (targets >= num_classes)).sum())
    if wrong:
        raise DataError(
            f"{wrong} targets are not among 0 to {num_classes - 1}, the {num_classes} classes."
        )


def _check_totals(totals: _Totals | None, *, num_rows: int) -> None:
    present = 0 if totals is None else int((totals.class_counts > 0).sum())
    if present < 2:
        raise DataError(
            f"A linear head needs rows of at least 2 classes; the {num_rows} rows given have "
            f"{present}."
        )
    if totals is not None and not bool(totals.squares.isfinite().all()):
        wide = int((~totals.squares.isfinite()).sum())
        raise DataError(
            f"{wide} of {len(totals.squares)} feature columns have values beyond 1e18, which "
            f"cannot be standardised in float32. Check the network and its weights."
        )


def _is_constant(variance: Tensor, *, mean: Tensor, num_rows: int) -> Tensor:
    epsilon = torch.finfo(torch.float64).eps
    rounding = num_rows * epsilon * variance + (num_rows * mean * epsilon).square()
    return variance <= rounding
