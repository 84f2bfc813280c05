import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tlcli.results.multi_label_files import write_multi_label_evaluation
from tlcli.results.records import EvalReport

CLASSES = ["ant", "bee, honey", 'c"at']
LABELS = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=bool)
PROBS = np.array([[0.9, 0.2, 0.51], [0.5, 0.1, 1 / 3], [0.7, 0.4, 0.8]])
PATHS = ["a/1.jpg", "b, c/2.jpg", "3.jpg"]


def report() -> EvalReport:
    rows = [
        {"class": name, "support": 2, "ap": 1.0, "low": 0.5, "high": 1.0, "precision": None}
        for name in CLASSES
    ]
    return EvalReport(
        kind="multi-label",
        split="test",
        num_images=3,
        metrics={"map": float("nan"), "loss": 0.3},
        intervals={"map": (float("nan"), float("nan")), "loss": (0.2, 0.4)},
        per_class=rows,
    )


def write(folder: Path, *, probs: np.ndarray = PROBS) -> None:
    write_multi_label_evaluation(
        folder,
        report=report(),
        paths=PATHS,
        labels=LABELS,
        probs=probs,
        classes=CLASSES,
        separator="|",
    )


def test_write__all_files(tmp_path: Path) -> None:
    write(tmp_path / "evaluation" / "test")
    assert sorted(p.name for p in (tmp_path / "evaluation" / "test").iterdir()) == [
        "metrics.json",
        "per_class.csv",
        "precision_recall.png",
        "predictions.csv",
    ]
    document = json.loads((tmp_path / "evaluation" / "test" / "metrics.json").read_text())
    assert document["kind"] == "multi-label"
    assert document["metrics"] == {"map": None, "loss": 0.3}


def test_write__predictions_text(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "predictions.csv").read_text() == (
        'path,labels,predicted,correct,prob/ant,"prob/bee, honey","prob/c""at"\n'
        'a/1.jpg,"ant|c""at","ant|c""at",1,0.900000,0.200000,0.510000\n'
        '"b, c/2.jpg",,,1,0.500000,0.100000,0.333333\n'
        '3.jpg,"ant|bee, honey|c""at","ant|c""at",0,0.700000,0.400000,0.800000\n'
    )
    frame = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert list(frame["labels"]) == ['ant|c"at', "", 'ant|bee, honey|c"at']


def test_write__per_class_is_that_of_the_report(tmp_path: Path) -> None:
    write(tmp_path)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,support,ap,low,high,precision"
    assert lines[2] == '"bee, honey",2,1.0,0.5,1.0,'


def test_write__what_does_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 paths and 3 classes, but probs \(3, 2\)"):
        write(tmp_path, probs=PROBS[:, :2])
