"""Standardised features in the coordinates in which their covariance is diagonal."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.engine.feature_moments import FeatureMoments, measure_moments
from tlcli.engine.labelled_features import LabelledFeatures

MAX_EIGENPROBLEM = 8192
"""Largest matrix whose eigenvectors are computed (a minute on two cores)."""

_KERNEL_CUTOFF = 1e-13
"""Directions with less than this part of the largest variance are rounding."""


@dataclass(frozen=True, kw_only=True)
class StandardizedRows:
    """N standardised rows and the principal directions of their features.

    Weights are sought as U of shape (K, r) in the basis V (D, r) of principal directions, so that
    W = U V^T on standardised features; then the covariance of the features is diagonal. If there
    are fewer rows than features, r < N and the rows themselves are kept in those coordinates.
    """

    moments: FeatureMoments
    num_classes: int
    """K: only classes that have rows; targets are numbered among them."""
    variances: Tensor
    """(r,) float64: variance of the rows along each direction."""
    basis: Tensor | None
    """(D, r): principal directions in the columns; None if they were not computed."""
    _features: LabelledFeatures
    _resident: Tensor | None
    _resident_targets: Tensor | None
    _rotated: bool
    _dtype: torch.dtype

    def __len__(self) -> int:
        return self.moments.num_rows

    @property
    def is_resident(self) -> bool:
        """Whether the rows lie in memory and need not be read again for every pass."""
        return self._resident is not None

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows (n, columns) and their targets (n,), numbered among the classes present."""
        if self._resident is not None and self._resident_targets is not None:
            yield self._resident, self._resident_targets
        else:
            yield from _standardized_blocks(self._features, self.moments, dtype=self._dtype)

    def weight_on_rows(self, weight: Tensor) -> Tensor:
        """Turn weights (m, r) in coordinates into weights (m, columns) for the rows of `blocks`."""
        if self._rotated or self.basis is None:
            return weight
        return weight.to(self.basis.dtype) @ self.basis.T

    def gradient_in_coordinates(self, gradient: Tensor) -> Tensor:
        """Turn a gradient (m, columns) for weights on rows into one (m, r) in coordinates."""
        if self._rotated or self.basis is None:
            return gradient
        return (gradient.to(self.basis.dtype) @ self.basis).to(gradient.dtype)

    def fold(
        self, weight: Tensor, intercept: Tensor, *, absent_bias: float
    ) -> tuple[Tensor, Tensor]:
        """Return float32 weight (num_classes, D) and bias (num_classes,) on raw features.

        Args:
            weight: (K, r), in coordinates.
            intercept: (K,).
            absent_bias: Of the classes that have no rows; their weight is 0.
        """
        if self.basis is not None:
            weight = weight.double() @ self.basis.double().T
        moments = self.moments
        weight = torch.where(moments.constant, 0.0, weight.double() / moments.scale)
        present = moments.class_counts > 0
        all_weights = weight.new_zeros(len(present), weight.shape[1])
        all_biases = weight.new_full((len(present),), absent_bias)
        all_weights[present] = weight
        all_biases[present] = intercept.double() - weight @ moments.mean.to(self._dtype).double()
        return all_weights.float(), all_biases.float()


def prepare_rows(
    features: LabelledFeatures,
    *,
    num_classes: int,
    memory_limit: int,
    dtype: torch.dtype = torch.float32,
) -> StandardizedRows:
    """Standardise features and find their principal directions.

    The directions come from the eigenvectors of the (D, D) correlation matrix or, if rows are
    fewer than features, of the (N, N) matrix of inner products (Jolliffe 2002, "Principal
    Component Analysis", section 3.5). Where both are larger than `MAX_EIGENPROBLEM` there is
    no basis: rows stay as they are and the variances are those of the columns.

    Args:
        features: Raw features; read once, and once more to be kept in memory.
        num_classes: Targets must be 0 to num_classes - 1.
        memory_limit: Bytes that the standardised rows may take; if they need more, they are read
            and standardised anew at every pass.
        dtype: Arithmetic of rows and Gram matrix.

    Raises:
        DataError: As `measure_moments`.
    """
    num_rows, dim = len(features), features.dim
    resident = num_rows * dim * dtype.itemsize <= memory_limit
    by_kernel = resident and num_rows < dim and num_rows <= MAX_EIGENPROBLEM
    by_gram = not by_kernel and dim <= MAX_EIGENPROBLEM
    moments = measure_moments(
        features, num_classes=num_classes, gram_dtype=dtype if by_gram else None
    )
    rows: Tensor | None = None
    targets: Tensor | None = None
    if resident:
        rows, targets = _load(features, moments, dtype=dtype)
    basis: Tensor | None = None
    variances = (~moments.constant).double()
    if moments.correlation is not None:
        variances, basis = torch.linalg.eigh(moments.correlation)
    elif by_kernel and rows is not None:
        variances, basis, rows = _kernel_coordinates(rows)
    return StandardizedRows(
        moments=moments,
        num_classes=int((moments.class_counts > 0).sum()),
        variances=variances.clamp(min=0),
        basis=None if basis is None else basis.to(dtype),
        _features=features,
        _resident=rows,
        _resident_targets=targets,
        _rotated=by_kernel,
        _dtype=dtype,
    )


def _standardized_blocks(
    features: LabelledFeatures, moments: FeatureMoments, *, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    mean, scale = moments.mean.to(dtype), moments.scale.to(dtype)
    number = torch.cumsum(moments.class_counts > 0, 0) - 1
    for block, targets in features.blocks():
        rows = block.to(dtype).sub(mean).div_(scale)
        yield rows, number[targets]


def _load(
    features: LabelledFeatures, moments: FeatureMoments, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    rows = moments.mean.new_empty(moments.num_rows, features.dim, dtype=dtype)
    targets = moments.class_counts.new_empty(moments.num_rows)
    first = 0
    for block, block_targets in _standardized_blocks(features, moments, dtype=dtype):
        rows[first : first + len(block)] = block
        targets[first : first + len(block)] = block_targets
        first += len(block)
    return rows, targets


def _kernel_coordinates(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return variances (r,), basis (D, r) and coordinates (N, r) of fewer rows than features."""
    exact = rows.double()
    variances, vectors = torch.linalg.eigh(exact @ exact.T / len(rows))
    kept = variances > _KERNEL_CUTOFF * variances[-1]
    variances, vectors = variances[kept], vectors[:, kept]
    lengths = (len(rows) * variances).sqrt()
    basis = exact.T @ (vectors / lengths)
    return variances, basis, (vectors * lengths).to(rows.dtype)
