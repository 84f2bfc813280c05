"""Several models on the same images: the order, and how far each is behind the first."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.feature_runs import extract
from recipes.runs import record_of, rows_of
from tlcli.engine.metrics import paired_difference
from tlcli.recipes.leaderboard import leaderboard

COLUMNS = [
    *("model", "val/top1", "val/low", "val/high", "behind", "behind/low", "behind/high"),
    *("test/top1", "test/low", "test/high", "seconds", "parameters", "feature_dim", "run"),
]


def finished(root: Path, name: str, *, right: list[bool], has_test: bool = True) -> dict[str, Any]:
    """What `extract-features` returns of a model that got these validation images right."""
    folder = root / name / "evaluation" / "val"
    folder.mkdir(parents=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "prediction", "correct"])
        writer.writerows([f"{i}.png", "a", "b", int(one)] for i, one in enumerate(right))
    top1 = sum(right) / len(right)
    result = {"metrics": {"top1": top1}, "intervals": {"top1": [top1 - 0.1, top1 + 0.1]}}
    return {
        "run": str(root / name),
        "model": {"name": f"timm/{name}", "parameters": 1000 + len(name)},
        "features": {"dims": {"a": [2, 3], "b": [4]}, "seconds": 20.0},
        "results": {"val": result, "test": result} if has_test else {"val": result},
        "seconds": {"extract": 0.25, "total": 1.5},
    }


def test_leaderboard__best_first_and_behind_image_by_image(tmp_path: Path) -> None:
    right = {
        "poor": [True] * 4 + [False] * 6,
        "good": [False] + [True] * 8 + [False],
        "fair": [True] * 7 + [False] * 3,
    }
    summaries = [finished(tmp_path, name, right=row) for name, row in right.items()]

    board = leaderboard(summaries, seed=3, folder=tmp_path / "out")

    rows = board["leaderboard"]
    assert set(board) == {"schema_version", "leaderboard", "runs"}
    assert [row["model"] for row in rows] == ["timm/good", "timm/fair", "timm/poor"]
    assert [one["model"]["name"] for one in board["runs"]] == [row["model"] for row in rows]
    assert [row["behind"] for row in rows] == pytest.approx([0, 0.1, 0.4])
    for row, name in zip(rows, ("good", "fair", "poor"), strict=True):
        value, ends = paired_difference(np.array(right["good"]), np.array(right[name]), seed=3)
        assert (row["behind"], row["behind/low"], row["behind/high"]) == (value, *ends)
        assert (row["feature_dim"], row["seconds"]) == (10, 20 + 1.5 - 0.25)
    assert (rows[0]["behind/low"], rows[0]["behind/high"]) == (0, 0)
    assert (rows[2]["val/top1"], rows[2]["val/low"], rows[2]["val/high"]) == (0.4, 0.4 - 0.1, 0.5)
    table = rows_of(tmp_path / "out" / "leaderboard.csv")
    assert list(table[0]) == COLUMNS
    assert [row["run"] for row in table] == [str(tmp_path / n) for n in ("good", "fair", "poor")]
    assert [float(row["behind"]) for row in table] == pytest.approx([0, 0.1, 0.4])


def test_leaderboard__ties_stay_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    summaries = [
        finished(tmp_path, name, right=row)
        for name, row in [("x", [True, False]), ("y", [False, True])]
    ]
    board = leaderboard(summaries, seed=0, folder=None)
    assert [row["model"] for row in board["leaderboard"]] == ["timm/x", "timm/y"]
    assert board["leaderboard"][1]["behind"] == 0
    assert not (tmp_path / "leaderboard.csv").exists()


def test_leaderboard__without_a_test_part(tmp_path: Path) -> None:
    summaries = [finished(tmp_path, n, right=[True, False], has_test=False) for n in ("x", "y")]
    rows = leaderboard(summaries, seed=0, folder=tmp_path)["leaderboard"]
    assert [(row["test/top1"], row["test/low"], row["test/high"]) for row in rows] == [
        (None, None, None)
    ] * 2
    assert rows_of(tmp_path / "leaderboard.csv")[0]["test/top1"] == ""


def test_run__ranks_two_small_models(tmp_path: Path, photos: Path) -> None:
    summary, _ = extract(
        photos,
        tmp_path / "all",
        model="timm/test_vit,timm/test_resnet",
        head="ridge",
        penalties="0.1",
    )

    rows = summary["leaderboard"]
    tops = [record_of(Path(row["run"]))["results"]["val"]["metrics"]["top1"] for row in rows]
    assert [row["val/top1"] for row in rows] == tops == sorted(tops, reverse=True)
    assert {row["model"] for row in rows} == {"timm/test_vit", "timm/test_resnet"}
    assert [row["behind"] for row in rows] == pytest.approx([0, tops[0] - tops[1]])
    table = rows_of(tmp_path / "all" / "leaderboard.csv")
    assert list(table[0]) == COLUMNS
    assert [row["run"] for row in table] == [row["run"] for row in rows]


@pytest.mark.slow
def test_run__ranks_real_models(tmp_path: Path, noisy: Path, timm_files: dict[str, Path]) -> None:
    names = ("test_resnet", "test_efficientnet", "test_vit")
    summary, talk = extract(
        noisy,
        tmp_path / "all",
        model=",".join(f"timm/{name}" for name in names),
        weights=",".join(str(timm_files[name]) for name in names),
        penalties="0.001,0.01,0.1",
    )

    rows, runs = summary["leaderboard"], summary["runs"]
    tops = [row["val/top1"] for row in rows]
    assert tops == sorted(tops, reverse=True)
    assert len(set(tops)) > 1
    assert talk.notes[-1].startswith(
        f"Mean and std of the pixels are assumed for {', '.join(f'timm/{name}' for name in names)}:"
    )
    assert {row["model"] for row in rows} == {f"timm/{name}" for name in names}
    for row, run in zip(rows, runs, strict=True):
        name = row["model"].removeprefix("timm/")
        assert row["run"] == run["run"] == str(tmp_path / "all" / name / "head")
        record = record_of(Path(row["run"]))
        val, test = (record["results"][split] for split in ("val", "test"))
        assert (row["val/top1"], row["test/top1"]) == (
            val["metrics"]["top1"],
            test["metrics"]["top1"],
        )
        assert [row["val/low"], row["val/high"]] == val["intervals"]["top1"]
        assert row["parameters"] == record["model"]["parameters"]
        assert record["config"]["model"] == row["model"]
        assert row["behind"] == pytest.approx(tops[0] - row["val/top1"])
        assert row["behind/low"] <= row["behind"] <= row["behind/high"]
        assert math.isclose(row["seconds"], record["seconds"]["total"])
    alone, _ = extract(
        noisy,
        tmp_path / "alone",
        model="timm/test_vit",
        weights=timm_files["test_vit"],
        penalties="0.001,0.01,0.1",
    )
    same = next(run for run in runs if run["model"]["name"] == "timm/test_vit")
    assert (alone["results"], alone["best"]) == (same["results"], same["best"])
    assert len(rows_of(tmp_path / "all" / "leaderboard.csv")) == 3


def test_run__without_heads_there_is_no_order(tmp_path: Path, photos: Path) -> None:
    summary, _ = extract(
        photos, tmp_path / "s", model="timm/test_vit,timm/test_resnet", limit=3, no_head=True
    )
    assert set(summary) == {"schema_version", "runs"}
    assert [run["model"]["name"] for run in summary["runs"]] == [
        "timm/test_vit",
        "timm/test_resnet",
    ]
    assert not (tmp_path / "s" / "leaderboard.csv").exists()
