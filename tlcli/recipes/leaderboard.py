"""Several models on the same images side by side: which backbone to take."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcli.backbones.pretrained import FROM_FILE
from tlcli.engine.metrics import paired_difference
from tlcli.results.atomic import make_folder, write_csv
from tlcli.results.records import SCHEMA_VERSION

_COLUMNS = (
    "model",
    "val/top1",
    "val/low",
    "val/high",
    "behind",
    "behind/low",
    "behind/high",
    "test/top1",
    "test/low",
    "test/high",
    "seconds",
    "parameters",
    "feature_dim",
    "run",
)


def leaderboard(
    summaries: Sequence[Mapping[str, Any]], *, seed: int, folder: Path | None
) -> dict[str, Any]:
    """Rank models by validation top-1 and compare each with the best, image by image.

    Args:
        summaries: What `extract-features` returned for each model, all on the same images.
        seed: Of the bootstrap.
        folder: Where `leaderboard.csv` goes, if anywhere.

    Returns:
        What `extract-features --json` prints of several models.
    """
    ranked = sorted(summaries, key=lambda one: -one["results"]["val"]["metrics"]["top1"])
    best = _correct(ranked[0])
    rows = [_row(one, best=best, seed=seed) for one in ranked]
    if folder is not None:
        make_folder(folder)
        write_csv(
            folder / "leaderboard.csv",
            header=_COLUMNS,
            rows=([row[column] for column in _COLUMNS] for row in rows),
        )
    return {"schema_version": SCHEMA_VERSION, "leaderboard": rows, "runs": list(ranked)}


def assumed_preprocessing(summaries: Sequence[Mapping[str, Any]]) -> str | None:
    """Say of which models the preprocessing is a guess, which may decide their rank."""
    names = [one["model"]["name"] for one in summaries if one["model"]["weights"] == FROM_FILE]
    if not names:
        return None
    return (
        f"Mean and std of the pixels are assumed for {', '.join(names)}: weight files say nothing "
        "of them. Where they are others, extract that model alone with --mean and --std."
    )


def _row(one: Mapping[str, Any], *, best: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    behind, (low, high) = paired_difference(best, _correct(one), seed=seed)
    row: dict[str, Any] = {
        "model": one["model"]["name"],
        "behind": behind,
        "behind/low": low,
        "behind/high": high,
        "seconds": _seconds(one),
        "parameters": one["model"]["parameters"],
        "feature_dim": sum(math.prod(dim) for dim in one["features"]["dims"].values()),
        "run": one["run"],
    }
    for split in ("val", "test"):
        result = one["results"].get(split)
        row[f"{split}/top1"] = result["metrics"]["top1"] if result else None
        ends = result["intervals"]["top1"] if result else (None, None)
        row[f"{split}/low"], row[f"{split}/high"] = ends
    return row


def _seconds(one: Mapping[str, Any]) -> float:
    """Return what features and head cost, also where this command found the features there."""
    seconds = one["seconds"]
    return float(one["features"]["seconds"] + seconds["total"] - seconds["extract"])


def _correct(one: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which validation images a head got right, in the order of the table."""
    path = Path(one["run"]) / "evaluation" / "val" / "predictions.csv"
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return np.array([row["correct"] == "1" for row in csv.DictReader(file)])
