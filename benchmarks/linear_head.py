"""Seconds for a path of linear heads, with `solve_logistic` and with scikit-learn, side by side.

    python benchmarks/linear_head.py [--rows 50000 --dim 2048 --classes 10 --repeats 5]
    python benchmarks/linear_head.py --features FILE.npz

Without FILE (arrays `X` and `y`) features are made: ReLU units that share a few hundred latent
factors, with means that depend on the class. Each repeat runs scikit-learn, then ours to the same
tolerance of the gradient, then ours to a certified relative gap of 1e-6, as `probe` does.
Objectives are compared: ours must not be above theirs. Theirs get features that are standardised
already, ours do it themselves.

Set OMP_NUM_THREADS=1 on a machine that is small or busy: NumPy's and SciPy's thread pools wait for
one another there, and scikit-learn becomes several times slower with two threads than with one.
"""

import argparse
import statistics
import time
import warnings
from functools import partial
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
    features: np.ndarray, targets: np.ndarray, penalties: list[float], *, tolerance: float
) -> tuple[float, list[float]]:
    """Return seconds and objectives of our path; `tolerance` is of the gradient, 0 for none."""
    started = time.perf_counter()
    solutions = solve_logistic(
        InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets)),
        num_classes=int(targets.max()) + 1,
        penalties=penalties,
        gradient_tolerance=tolerance,
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
    seconds: dict[str, list[float]] = {"scikit-learn": [], "tlcli": [], "tlcli, exact": []}
    objectives: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for arm, run in (
            ("scikit-learn", partial(theirs, scaled, tolerance=arguments.tolerance)),
            ("tlcli", partial(ours, features, tolerance=arguments.tolerance)),
            ("tlcli, exact", partial(ours, features, tolerance=0.0)),
        ):
            taken, objectives[arm] = run(targets=targets, penalties=penalties)
            seconds[arm].append(taken)
    for arm, times in seconds.items():
        ratios = [t / o for t, o in zip(seconds["scikit-learn"], times, strict=True)]
        pairs = zip(objectives[arm], objectives["scikit-learn"], strict=True)
        print(f"{arm:>14}, s  {_spread(times)}    times faster  {_spread(ratios)}")
        print(f"{'':14}  objective over theirs, -1:", *(f"{o / t - 1:.1e}" for o, t in pairs))


if __name__ == "__main__":
    main()
