import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from tlcli.results.evaluation_files import class_labels, count_confusions, write_evaluation
from tlcli.results.records import EvalReport

CLASSES = ["ant", "bee, honey", 'c"at']
PROBS = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [1 / 3, 0, 2 / 3], [0.1, 0.2, 0.7]])
TARGETS = np.array([0, 1, 2, 0])
PATHS = ["a/1.jpg", "b, c/2.jpg", "3.jpg", "4.jpg"]


def eval_report(*, classes: list[str], top1: float, num_images: int = 4) -> EvalReport:
    rows = [{"class": name, "precision": None, "recall": 0.5, "support": 1} for name in classes]
    return EvalReport(
        kind="classification",
        split="test",
        num_images=num_images,
        metrics={"top1": top1},
        intervals={"top1": (0.0, 1.0)},
        per_class=rows,
    )


def write(folder: Path, *, titles: dict[str, str] | None = None, top1: float = 0.5) -> None:
    write_evaluation(
        folder,
        report=eval_report(classes=CLASSES, top1=top1),
        paths=PATHS,
        targets=TARGETS,
        probs=PROBS,
        classes=CLASSES,
        titles=titles or {},
    )


def test_write_evaluation__all_files(tmp_path: Path) -> None:
    write(tmp_path / "evaluation" / "test")
    assert sorted(p.name for p in (tmp_path / "evaluation" / "test").iterdir()) == [
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "metrics.json",
        "per_class.csv",
        "predictions.csv",
    ]


def test_write_evaluation__metrics_json_is_the_report(tmp_path: Path) -> None:
    write(tmp_path)
    report = eval_report(classes=CLASSES, top1=0.5)
    assert json.loads((tmp_path / "metrics.json").read_text()) == report.to_json()


def test_write_evaluation__predictions_text(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        'path,label,prediction,correct,confidence,prob/ant,"prob/bee, honey","prob/c""at"',
        "a/1.jpg,ant,ant,1,0.500000,0.500000,0.300000,0.200000",
        '"b, c/2.jpg","bee, honey",ant,0,0.400000,0.400000,0.400000,0.200000',
        '3.jpg,"c""at","c""at",1,0.666667,0.333333,0.000000,0.666667',
        '4.jpg,ant,"c""at",0,0.700000,0.100000,0.200000,0.700000',
    ]


def test_write_evaluation__confusion_matrix_matches_sklearn(tmp_path: Path) -> None:
    write(tmp_path)
    table = pd.read_csv(tmp_path / "confusion_matrix.csv", index_col="true")
    assert list(table.columns) == list(table.index) == CLASSES
    np.testing.assert_array_equal(table, confusion_matrix(TARGETS, PROBS.argmax(1)))


def test_write_evaluation__per_class_with_and_without_titles(tmp_path: Path) -> None:
    write(tmp_path)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[:2] == ["class,precision,recall,support", "ant,,0.5,1"]
    write(tmp_path, titles={"ant": "Ant of the wood"})
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[:2] == ["class,title,precision,recall,support", "ant,Ant of the wood,,0.5,1"]


def test_write_evaluation__above_100_classes_only_the_top_5(tmp_path: Path) -> None:
    classes = [f"n{i}" for i in range(101)]
    probs = np.zeros((1, 101))
    probs[0, [7, 50, 3, 99]] = [0.5, 0.2, 0.2, 0.1]
    write_evaluation(
        tmp_path,
        report=eval_report(classes=classes, top1=1.0, num_images=1),
        paths=["x.jpg"],
        targets=np.array([7]),
        probs=probs,
        classes=classes,
        titles={},
    )
    header, row = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == (
        "path,label,prediction,correct,confidence,top1/class,top1/prob,top2/class,top2/prob,"
        "top3/class,top3/prob,top4/class,top4/prob,top5/class,top5/prob"
    )
    assert row == (
        "x.jpg,n7,n7,1,0.500000,n7,0.500000,n3,0.200000,n50,0.200000,n99,0.100000,n0,0.000000"
    )


def test_write_evaluation__refuses_a_report_of_other_predictions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not of these predictions"):
        write(tmp_path / "x", top1=0.75)
    assert not (tmp_path / "x").exists()


def test_write_evaluation__refuses_shapes_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 paths and 2 classes, but probs \(4, 3\)"):
        write_evaluation(
            tmp_path,
            report=eval_report(classes=CLASSES, top1=0.5),
            paths=PATHS,
            targets=TARGETS,
            probs=PROBS,
            classes=CLASSES[:2],
            titles={},
        )


def test_count_confusions__matches_sklearn_with_absent_classes() -> None:
    rng = np.random.default_rng(0)
    targets, predictions = rng.integers(0, 7, 200), rng.integers(2, 9, 200)
    np.testing.assert_array_equal(
        count_confusions(targets, predictions, num_classes=10),
        confusion_matrix(targets, predictions, labels=range(10)),
    )


def test_class_labels__shared_titles_show_the_class() -> None:
    labels = class_labels(
        ["n1", "n2", "n3", "n4"], titles={"n1": "crane", "n2": "crane", "n3": "dog"}
    )
    assert labels == ["crane (n1)", "crane (n2)", "dog", "n4"]
