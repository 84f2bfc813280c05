"""How much a head learns from a few images per class: the few-shot curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tlcli.config import ProbeHeadConfig
from tlcli.engine.metrics import CONFIDENCE_LEVEL, fast_metrics
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.feature_part import FeaturePart
from tlcli.recipes.solved_heads import calibrated, choose_head, judge_heads, solve_heads
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import write_csv
from tlcli.results.counted import counted
from tlcli.results.figures import CurvePoint, draw_few_shot_curve

_REPORTED = ("top1", "macro_f1", "loss")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One head from a few images per class."""

    shots: int
    repeat: int
    penalty: float
    metrics: dict[str, float]
    """On the part that is reported."""


def parse_shots(text: str) -> tuple[int, ...]:
    """Read `--shots 1,5,10`.

    Raises:
        ConfigError: If these are not whole numbers above 0.
    """
    fields = [field.strip() for field in text.split(",")]
    if not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise ConfigError(f"--shots '{text}' is not understood: write numbers such as 1,5,10.")
    return tuple(sorted({int(field) for field in fields}))


def run_few_shot(
    train: FeaturePart,
    val: FeaturePart,
    reported: FeaturePart,
    *,
    config: ProbeHeadConfig,
    penalties: Sequence[float],
    num_classes: int,
    seed: int,
    memory_limit: int,
    talk: Talk,
) -> list[Draw]:
    """Solve a head on every draw of a few train images per class.

    The penalty of each is chosen on the whole of `val`. All features are scaled alike: deviations
    of single features, estimated from a few images, cost up to 20 points of accuracy
    (docs/results.md).

    Args:
        train: Rows to draw from, plain views only.
        val: Chooses the penalty.
        reported: Measures the chosen head.
        config: Kind of head, shots and repeats.
        penalties: To choose from.
        num_classes: K.
        seed: Of the draws.
        memory_limit: Bytes the solver may use.
        talk: Is told how it goes.

    Raises:
        DataError: If a class has too few train images.
    """
    draws = []
    shots = parse_shots(config.shots or "")
    check_enough(train.targets, shots=max(shots), num_classes=num_classes)
    for count in shots:
        for repeat in range(config.repeats):
            chosen = draw_per_class(train.targets, count=count, seed=seed, repeat=repeat)
            few = train.subset(chosen)
            heads = solve_heads(
                config.head,
                few,
                num_classes=num_classes,
                penalties=penalties,
                memory_limit=memory_limit,
                one_scale=True,
            )
            heads = calibrated(heads, val) if config.head == "ridge" else heads
            best = choose_head(judge_heads(heads, val), monitor=config.monitor)
            metrics = fast_metrics(reported.log_probs(best.module), reported.targets)
            draws.append(Draw(shots=count, repeat=repeat, penalty=best.penalty, metrics=metrics))
        tops = [draw.metrics["top1"] for draw in draws if draw.shots == count]
        images = counted(count, "image")
        talk.note(f"{images} per class: top-1 {100 * np.mean(tops):.1f} %.")
    return draws


def check_enough(targets: NDArray[np.int64], *, shots: int, num_classes: int) -> None:
    """Make sure that every class has as many train images as are drawn."""
    smallest = int(np.bincount(targets, minlength=num_classes).min())
    if smallest < shots:
        remedy = f"Ask for at most {smallest}, or add images to it." if smallest else "Add some."
        raise DataError(
            f"--shots {shots}: the smallest class has {counted(smallest, 'train image')}. {remedy}"
        )


def draw_per_class(
    targets: NDArray[np.int64], *, count: int, seed: int, repeat: int
) -> NDArray[np.intp]:
    """Draw `count` rows of every class without replacement, from (seed, repeat) alone.

    The images of fewer shots are among those of more: curves differ by what is added.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, repeat))))
    order = generator.permutation(len(targets))
    ranks = _rank_within_class(targets[order])
    return np.sort(order[ranks < count])


def _rank_within_class(targets: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return for every row how many rows of its class stand before it."""
    by_class = np.argsort(targets, kind="stable")
    starts = np.cumsum(np.bincount(targets)) - np.bincount(targets)
    ranks = np.empty(len(targets), dtype=np.intp)
    ranks[by_class] = np.arange(len(targets)) - starts[targets[by_class]]
    return ranks


def curve_of(draws: Sequence[Draw], *, metric: str = "top1") -> list[CurvePoint]:
    """Return mean and 95 % interval of a metric for every number of shots.

    The interval is Student's t over the repeats: it says how much the mean depends on which images
    were drawn, for the same test images. A single repeat has none.
    """
    points = []
    for shots in sorted({draw.shots for draw in draws}):
        values = np.array([draw.metrics[metric] for draw in draws if draw.shots == shots])
        half = np.nan
        if len(values) > 1:
            quantile = scipy.stats.t.ppf(0.5 + CONFIDENCE_LEVEL / 2, len(values) - 1)
            half = quantile * values.std(ddof=1) / np.sqrt(len(values))
        mean = float(values.mean())
        points.append(
            CurvePoint(
                shots=shots,
                mean=mean,
                low=mean - float(half),
                high=mean + float(half),
                n=len(values),
            )
        )
    return points


def write_few_shot(folder: Path, draws: Sequence[Draw], *, split: str) -> list[dict[str, Any]]:
    """Write `few_shot.csv` (a row per draw) and `few_shot.png`; return the curve for `run.json`."""
    write_csv(
        folder / "few_shot.csv",
        header=["shots", "repeat", "penalty", *(f"{split}/{name}" for name in _REPORTED)],
        rows=(
            [draw.shots, draw.repeat, draw.penalty, *(draw.metrics[name] for name in _REPORTED)]
            for draw in draws
        ),
    )
    points = curve_of(draws)
    draw_few_shot_curve(folder / "few_shot.png", points=points, split=split)
    return [
        {
            "shots": point.shots,
            "split": split,
            "top1": point.mean,
            "interval": [point.low, point.high] if point.n > 1 else None,
            "repeats": point.n,
        }
        for point in points
    ]
