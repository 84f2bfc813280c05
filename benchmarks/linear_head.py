"""Seconds for a path of linear heads, with `solve_logistic` and with scikit-learn, side by side.

    python benchmarks/linear_head.py [--rows 50000 --dim 2048 --classes 10 --repeats 5]
    python benchmarks/linear_head.py --features FILE.npz

Without FILE (arrays `X` and `y`) features are made: ReLU units that share a few hundred latent
factors, with means that depend on the class. Each repeat runs one arm, then the other. Their
objectives are compared: ours must not be above theirs. Theirs get features that are standardised
already, ours do it themselves.
"""

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.linear_head import solve_logistic

_LATENT = 512


def relu_features(
    rows: int, dim: int, classes: int, *, strength: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Make features (rows, dim) with a decaying spectrum, and targets."""
    rng = np.random.default_rng(seed)
    latent = min(dim, _LATENT)
    deviations = np.arange(1, latent + 1, dtype=np.float32) ** -0.5
    mixing = rng.standard_normal((latent, dim), dtype=np.float32) * deviations[:, None]
    mixing /= np.linalg.norm(deviations)
    means = rng.standard_normal((classes, latent), dtype=np.float32)
    targets = rng.integers(0, classes, rows)
    factors = rng.standard_normal((rows, latent), dtype=np.float32) + strength * means[targets]
    features = factors @ mixing
    features += 0.1 * rng.standard_normal((rows, dim), dtype=np.float32) - 0.3
    return np.maximum(features, 0, out=features), targets


def standardized(features: np.ndarray) -> np.ndarray:
    """Standardise in float32 as scikit-learn's StandardScaler does."""
    mean = features.mean(0, dtype=np.float64)
    scale = features.std(0, dtype=np.float64)
    return ((features - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)


def theirs(
    features: np.ndarray, targets: np.ndarray, penalties: list[float], *, tolerance: float
) -> tuple[float, list[float]]:
    """Return seconds and objectives of scikit-learn's fits."""
    seconds, objectives, passes = 0.0, [], []
    for penalty in penalties:
        started = time.perf_counter()
        model = LogisticRegression(C=penalty, tol=tolerance, max_iter=10_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, targets)
        seconds += time.perf_counter() - started
        passes.append(int(model.n_iter_[0]))
        objectives.append(objective(model, features, targets, penalty))
        print(f"    C {penalty:.1e}: {passes[-1]} iterations, {seconds:.1f} s so far", flush=True)
    return seconds, objectives


def objective(
    model: LogisticRegression, features: np.ndarray, targets: np.ndarray, penalty: float
) -> float:
    """Return mean loss + ||W||^2 / (2 C N) in float64."""
    weight = torch.from_numpy(model.coef_).double()
    bias = torch.from_numpy(np.asarray(model.intercept_)).double()
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        penalty = penalty / 2
    classes = torch.from_numpy(np.searchsorted(model.classes_, targets))
    total = 0.0
    for rows, own in zip(torch.from_numpy(features).split(4096), classes.split(4096), strict=True):
        total += float(F.cross_entropy(rows.double() @ weight.T + bias, own, reduction="sum"))
    return (total + float(weight.square().sum()) / (2 * penalty)) / len(targets)


def ours(
    features: np.ndarray, targets: np.ndarray, penalties: list[float]
) -> tuple[float, list[float]]:
    """Return seconds and objectives of our path."""
    started = time.perf_counter()
    solutions = solve_logistic(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=int(targets.max()) + 1,
        penalties=penalties,
    )
    seconds = time.perf_counter() - started
    passes = [solution.passes for solution in solutions]
    gap = max(solution.gap for solution in solutions)
    print(f"    passes {passes}, {seconds:.1f} s, certified gap at most {gap:.1e}", flush=True)
    return seconds, [solution.objective for solution in solutions]


def _spread(values: list[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"min {low:.2f}  median {middle:.2f}  max {high:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--strength", type=float, default=0.2)
    parser.add_argument("--penalties", type=int, default=10, help="from 1e-5 to 10")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of scikit-learn")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _load(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if arguments.features:
        with np.load(arguments.features) as arrays:
            return arrays["X"].astype(np.float32), arrays["y"].astype(np.int64)
    return relu_features(
        arguments.rows, arguments.dim, arguments.classes, strength=arguments.strength
    )


def main() -> None:
    """Print seconds of both arms, their ratio, and how their objectives compare."""
    arguments = _arguments()
    features, targets = _load(arguments)
    scaled = standardized(features)
    penalties = np.logspace(-5, 1, arguments.penalties).tolist()
    print(f"{features.shape} features, {targets.max() + 1} classes, {len(penalties)} penalties")
    their_times, our_times = [], []
    for _ in range(arguments.repeats):
        seconds, their_objectives = theirs(
            scaled, targets, penalties, tolerance=arguments.tolerance
        )
        their_times.append(seconds)
        seconds, our_objectives = ours(features, targets, penalties)
        our_times.append(seconds)
    ratios = [t / o for t, o in zip(their_times, our_times, strict=True)]
    excess = [o / t - 1 for t, o in zip(their_objectives, our_objectives, strict=True)]
    print(f"scikit-learn, s  {_spread(their_times)}")
    print(f"       tlcli, s  {_spread(our_times)}")
    print(f"          ratio  {_spread(ratios)}")
    print("our objective over theirs, minus 1:", ", ".join(f"{e:.1e}" for e in excess))


if __name__ == "__main__":
    main()
