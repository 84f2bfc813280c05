import dataclasses
import json

import pytest

from tlcli.results.records import EpochReport, EvalReport


def test_to_row__columns_in_the_order_of_metrics_csv() -> None:
    report = EpochReport(
        epoch=3,
        phase=2,
        lr={"head": 0.1, "backbone": None},
        train_loss=1.25,
        metrics={"loss": 1.5, "top1": 0.75},
        seconds_train=2.0,
        seconds_eval=0.5,
        images_per_second=100.0,
    )
    assert list(report.to_row().items()) == [
        ("epoch", 3),
        ("phase", 2),
        ("lr/head", 0.1),
        ("lr/backbone", None),
        ("train/loss", 1.25),
        ("val/loss", 1.5),
        ("val/top1", 0.75),
        ("seconds/train", 2.0),
        ("seconds/eval", 0.5),
    ]


def test_to_json__is_the_document_of_evaluate() -> None:
    report = EvalReport(
        kind="classification",
        split="test",
        num_images=2,
        metrics={"top1": 0.5, "loss": float("nan")},
        intervals={"top1": (0.0, 1.0), "loss": (float("nan"), float("inf"))},
        per_class=[{"class": "ant", "precision": None, "f1": 0.5, "support": 2}],
        remarks=("said elsewhere",),
    )
    expected = (
        '{"schema_version": 1, "kind": "classification", "split": "test", "num_images": 2, '
        '"metrics": {"top1": 0.5, "loss": null}, '
        '"intervals": {"top1": [0.0, 1.0], "loss": [null, null]}, '
        '"per_class": [{"class": "ant", "precision": null, "f1": 0.5, "support": 2}]}'
    )
    assert json.dumps(report.to_json(), allow_nan=False) == expected


def test_reports__are_frozen_and_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        EvalReport("classification")  # type: ignore[misc, call-arg]
    report = EvalReport(
        kind="detection", split="val", num_images=0, metrics={}, intervals={}, per_class=[]
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.split = "test"  # type: ignore[misc]
