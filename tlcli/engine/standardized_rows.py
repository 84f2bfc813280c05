"""Standardised features in the coordinates in which their covariance is diagonal."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.feature_moments import FeatureMoments, measure_moments
from tlcli.engine.labelled_features import LabelledFeatures

MAX_EIGENPROBLEM = 8192
"""Largest matrix whose eigenvectors are computed; about a minute on two cores."""

_ROTATED_ROWS_PER_CLASS = 400
"""Up to so many rows per class it is cheaper to turn all rows into coordinates once than to turn
weights and gradients at each of the few hundred passes of a fit."""

_KERNEL_CUTOFF = 1e-13
"""Directions with less than this part of the largest variance are rounding."""


@dataclass(frozen=True, kw_only=True)
class StandardizedRows:
    """N standardised rows and the principal directions of their features.

    Weights are sought as U (K, r) in the basis V (D, r) of principal directions, so that
    W = U V^T holds on standardised features; there the covariance of the features is diagonal.
    With fewer rows than features, r < N. Few rows are kept in these coordinates themselves.
    """

    moments: FeatureMoments
    variances: Tensor
    """(r,) float64: variance of the rows along each direction; 1 for columns without a basis."""
    basis: Tensor | None
    """(D, r): principal directions in the columns; None if they were not computed."""
    features: LabelledFeatures
    """Raw, to be standardised at every pass if `resident` is None."""
    resident: tuple[Tensor, Tensor] | None
    """All rows and targets as `blocks` yields them."""
    in_coordinates: bool
    """Whether rows are (n, r) in coordinates; else they are (n, D) standardised features."""
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.moments.num_rows

    @property
    def num_classes(self) -> int:
        """Number of classes that have rows, K."""
        return int(self.moments.present.sum())

    @property
    def largest_variance(self) -> float:
        """Variance that the rows exceed along no direction."""
        if self.basis is None:
            return float(self.variances.sum())
        return float(self.variances.max()) if len(self.variances) else 0.0

    def blocks(self, *, max_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows and targets (n,), n at most `max_rows`.

        Targets are numbered among the classes that have rows.
        """
        whole = [self.resident] if self.resident else self._standardized()
        for rows, targets in whole:
            yield from _parts(rows, targets, max_rows=max_rows)

    def weight_on_rows(self, weight: Tensor) -> Tensor:
        """Turn weights (m, r) in coordinates into weights (m, columns) for the rows."""
        if self.in_coordinates or self.basis is None:
            return weight
        return weight.to(self.dtype) @ self.basis.T

    def gradient_in_coordinates(self, gradient: Tensor) -> Tensor:
        """Turn a gradient (m, columns) for weights on the rows into one (m, r) in coordinates."""
        if self.in_coordinates or self.basis is None:
            return gradient
        return (gradient.to(self.dtype) @ self.basis).double()

    def fold(
        self, weight: Tensor, intercept: Tensor, *, absent_bias: float
    ) -> tuple[Tensor, Tensor]:
        """Return float32 weight (num_classes, D) and bias (num_classes,) for raw features.

        Args:
            weight: (K, r) float64, in coordinates.
            intercept: (K,) float64.
            absent_bias: Of the classes that have no rows; their weight is 0.
        """
        if self.basis is not None:
            weight = weight @ self.basis.double().T
        moments = self.moments
        weight = torch.where(moments.constant, 0.0, weight / moments.scale)
        bias = intercept - weight @ moments.mean.to(self.dtype).double()
        all_weights = weight.new_zeros(len(moments.present), weight.shape[1])
        all_biases = weight.new_full((len(moments.present),), absent_bias)
        all_weights[moments.present] = weight
        all_biases[moments.present] = bias
        return all_weights.float(), all_biases.float()

    def _standardized(self) -> Iterator[tuple[Tensor, Tensor]]:
        return _standardized_blocks(self.features, self.moments, dtype=self.dtype)


def prepare_rows(
    features: LabelledFeatures,
    *,
    num_classes: int,
    memory_limit: int,
    dtype: torch.dtype = torch.float32,
    one_scale: bool = False,
) -> StandardizedRows:
    """Standardise features and find their principal directions.

    The directions are the eigenvectors of the (D, D) correlation matrix or, where rows are fewer
    than features, come from those of the (N, N) matrix of inner products (Jolliffe 2002,
    "Principal Component Analysis", section 3.5). If both are larger than `MAX_EIGENPROBLEM`,
    there is no basis and the coordinates are the standardised features themselves.

    Args:
        features: Raw features; read once, and once more to keep them in memory.
        num_classes: Targets must be 0 to num_classes - 1.
        memory_limit: Bytes that the standardised rows may take. If they need more, they are read
            and standardised anew at every pass.
        dtype: Arithmetic of rows and Gram matrix.
        one_scale: See `measure_moments`.

    Raises:
        DataError: As `measure_moments`.
    """
    num_rows, dim = len(features), features.dim
    fits = num_rows * dim * dtype.itemsize <= memory_limit
    by_kernel = fits and num_rows < dim and num_rows <= MAX_EIGENPROBLEM
    by_gram = not by_kernel and dim <= MAX_EIGENPROBLEM
    moments, correlation = measure_moments(
        features,
        num_classes=num_classes,
        dtype=dtype,
        with_correlation=by_gram,
        one_scale=one_scale,
    )
    variances, basis = (~moments.constant).double(), None
    if correlation is not None:
        variances, basis = torch.linalg.eigh(correlation)
    resident = _load(features, moments, dtype=dtype) if fits else None
    few = num_rows <= _ROTATED_ROWS_PER_CLASS * num_classes
    in_coordinates = by_kernel or (by_gram and fits and few)
    if resident is not None and in_coordinates:
        rows, targets = resident
        if basis is None:
            variances, basis, rows = _kernel_coordinates(rows)
        else:
            rows = rows @ basis.to(dtype)
        resident = (rows, targets)
    return StandardizedRows(
        moments=moments,
        variances=variances.clamp(min=0),
        basis=None if basis is None else basis.to(dtype),
        features=features,
        resident=resident,
        in_coordinates=in_coordinates,
        dtype=dtype,
    )


def _parts(rows: Tensor, targets: Tensor, *, max_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(rows), max_rows):
        part = slice(first, first + max_rows)
        yield rows[part], targets[part]


def _standardized_blocks(
    features: LabelledFeatures, moments: FeatureMoments, *, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    mean, scale = moments.mean.to(dtype), moments.scale.to(dtype)
    number_of = moments.present.cumsum(0) - 1
    for block, targets in features.blocks():
        yield block.to(dtype).sub(mean).div_(scale), number_of[targets]


def _load(
    features: LabelledFeatures, moments: FeatureMoments, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    rows = moments.mean.new_empty(moments.num_rows, features.dim, dtype=dtype)
    targets = moments.class_counts.new_empty(moments.num_rows)
    first = 0
    for block, own in _standardized_blocks(features, moments, dtype=dtype):
        rows[first : first + len(block)] = block
        targets[first : first + len(block)] = own
        first += len(block)
    return rows, targets


def _kernel_coordinates(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return variances (r,), basis (D, r) and coordinates (N, r) of fewer rows than features."""
    exact = rows.double()
    variances, vectors = torch.linalg.eigh(exact @ exact.T / len(rows))
    kept = variances > _KERNEL_CUTOFF * variances[-1]
    variances, vectors = variances[kept], vectors[:, kept]
    lengths = (len(rows) * variances).sqrt()
    return variances, exact.T @ (vectors / lengths), (vectors * lengths).to(rows.dtype)
