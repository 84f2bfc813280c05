"""Small feature sets of the kinds that linear heads meet."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def blobs(
    rows: int = 300, dim: int = 12, classes: int = 4, *, spread: float = 1.0, seed: int = 0
) -> tuple[Floats, Integers]:
    """Gaussian clouds, every class with at least one row, columns of unlike scale and offset."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), rng.integers(classes, size=rows - classes)])
    features = rng.normal(size=(classes, dim))[targets] + spread * rng.normal(size=(rows, dim))
    features = features * 10.0 ** rng.uniform(-2, 2, dim) + rng.normal(size=dim)
    return features.astype(np.float32), targets


def relu_features(
    rows: int = 400, dim: int = 60, classes: int = 5, *, strength: float = 0.5, seed: int = 0
) -> tuple[Floats, Integers]:
    """Correlated, sparse and non-negative, as pooled activations are."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), rng.integers(classes, size=rows - classes)])
    deviations = np.arange(1, dim + 1) ** -0.7
    factors = rng.normal(size=(rows, dim)) + strength * rng.normal(size=(classes, dim))[targets]
    features = (factors * deviations) @ rng.normal(size=(dim, dim)) / np.linalg.norm(deviations)
    return np.maximum(features - 0.3, 0).astype(np.float32), targets


def imbalanced(seed: int = 0) -> tuple[Floats, Integers]:
    """One class of 300 rows, one of 40, one of 3 and one of a single row."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(4), [300, 40, 3, 1])
    features = rng.normal(size=(4, 10))[targets] + rng.normal(size=(len(targets), 10))
    order = rng.permutation(len(targets))
    return features[order].astype(np.float32), targets[order]


def with_awkward_columns(seed: int = 0) -> tuple[Floats, Integers]:
    """Constant columns, zero columns, duplicates and a column far from 0."""
    features, targets = blobs(dim=8, seed=seed)
    constant = np.full((len(features), 1), 0.1, np.float32)
    zero = np.zeros((len(features), 1), np.float32)
    far = 1000 + features[:, :1] / features[:, 0].std()
    return np.hstack([features, constant, features[:, :3], zero, far]), targets


FEATURE_SETS = {
    "blobs": blobs,
    "relu": relu_features,
    "wide": lambda: relu_features(rows=60, dim=200, classes=4),
    "separable": lambda: blobs(spread=0.2),
    "imbalanced": imbalanced,
    "awkward": with_awkward_columns,
}
