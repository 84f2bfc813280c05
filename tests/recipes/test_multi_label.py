"""`finetune --multi-label`: from a table to a run folder, and what `evaluate` makes of it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from shapes import SHAPES, draw_shapes, make_shape_table, shape_sets, write_flags, write_labels
from sklearn.metrics import average_precision_score
from toy import make_image_folder

from recipes.runs import evaluate, finetune, metrics_of, record_of, results_of, rows_of
from recipes.test_finetune_resume import interrupt
from tlcli.errors import ConfigError, DataError, ModelError
from tlcli.models.saved_model import linear_head_of, load_network

SMALL: dict[str, Any] = {
    "multi_label": True,
    "unfreeze": "head",
    "lr": 0.01,
    "epochs": 1,
    "fold_norm": False,
}
EVERYTHING: dict[str, Any] = {
    "multi_label": True,
    "augment": "randaugment",
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "grad_accum_steps": 2,
    "batch_size": 3,
    "epochs": 2,
    "unfreeze": "layer4",
    "test_split": 0.2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A finished run with a test part; for reading only."""
    path = tmp_path_factory.mktemp("runs") / "run"
    finetune(path, data=shapes, test_split=0.2, **{**SMALL, "epochs": 2})
    return path


def test_run__says_what_it_is(run: Path, shapes: Path) -> None:
    record = record_of(run)
    labels = pd.read_csv(shapes, keep_default_na=False)["label"]

    assert (record["kind"], record["classes"]) == ("multi-label", list(SHAPES))
    assert record["data"]["images"] == {"train": 14, "val": 5, "test": 5}
    for name in SHAPES:
        counts = [record["data"]["counts"][split][name] for split in ("train", "val", "test")]
        assert sum(counts) == sum(name in text.split("|") for text in labels)
    assert (record["config"]["loss"], record["config"]["monitor"]) == ("bce", "map")
    assert record["best"]["metric"] == "val/map"
    model = json.loads((run / "model.json").read_text())
    assert model["is_multi_label"] is True
    network, description = load_network(run)
    assert description.is_multi_label
    assert network(torch.zeros(1, 3, 160, 160)).shape == (1, 3)
    row = metrics_of(run)[0]
    names = ["val/loss", "val/map", "val/micro_f1", "val/macro_f1"]
    assert [name for name in row if name.startswith("val/")] == names


def test_run__numbers_are_those_of_its_own_predictions(run: Path) -> None:
    for split, number in (("val", 5), ("test", 5)):
        folder = run / "evaluation" / split
        rows = rows_of(folder / "predictions.csv")
        result = record_of(run)["results"][split]
        labels = np.array([[name in row["labels"].split("|") for name in SHAPES] for row in rows])
        probs = np.array([[float(row[f"prob/{name}"]) for name in SHAPES] for row in rows])
        aps = [average_precision_score(labels[:, c], probs[:, c]) for c in range(3)]

        assert len(rows) == result["num_images"] == number
        assert result["metrics"]["map"] == pytest.approx(np.mean(aps))
        exact = ((probs > 0.5) == labels).all(axis=1)
        assert result["metrics"]["subset_accuracy"] == exact.mean()
        assert [int(row["correct"]) for row in rows] == exact.tolist()
        per_class = rows_of(folder / "per_class.csv")
        assert [row["class"] for row in per_class] == list(SHAPES)
        assert [float(row["ap"]) for row in per_class] == pytest.approx(aps)
        assert not (folder / "confusion_matrix.csv").exists()
        low, high = result["intervals"]["map"]
        assert low <= result["metrics"]["map"] <= high


def test_run__columns_of_zero_and_one_give_the_same_run(tmp_path: Path, run: Path) -> None:
    sets = shape_sets(24)
    flags = write_flags(tmp_path / "flags.csv", draw_shapes(tmp_path, sets), sets)
    options = {**SMALL, "epochs": 2, "test_split": 0.2, "label_column": ",".join(SHAPES)}

    finetune(tmp_path / "run", data=flags, **options)

    assert results_of(tmp_path / "run") == results_of(run)
    assert (
        record_of(tmp_path / "run")["data"]["fingerprint"] == record_of(run)["data"]["fingerprint"]
    )


def test_evaluate__own_data_gives_the_same_numbers(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    for split in ("val", "test"):
        found, _ = evaluate(run=copy, split=split, batch_size=4)
        assert found.report.kind == "multi-label"
        assert found.report.summary() == record_of(run)["results"][split]


def test_evaluate__other_data_in_another_order_of_classes(run: Path, tmp_path: Path) -> None:
    """Only two of the classes, under columns in another order: judged on those by name."""
    sets = [[name for name in names if name != "blue bar"] for names in shape_sets(12, seed=5)]
    paths = draw_shapes(tmp_path, sets)
    flags = write_flags(tmp_path / "flags.csv", paths, sets)
    labels = write_labels(tmp_path / "labels.csv", paths, sets)
    copy = shutil.copytree(run, tmp_path / "copy")

    some, talk = evaluate(run=copy, data=flags, label_column="red disc,green square")
    text, _ = evaluate(run=copy, data=labels)

    assert talk.warnings
    assert some.report.summary() == text.report.summary()
    assert [row["class"] for row in some.report.per_class] == ["green square", "red disc"]
    assert some.report.remarks == (
        "1 of 3 classes of the model are not in the data and were not judged: 'blue bar'.",
    )
    rows = rows_of(some.folder / "predictions.csv")
    aps = [
        average_precision_score(
            [name in row["labels"].split("|") for row in rows],
            [float(row[f"prob/{name}"]) for row in rows],
        )
        for name in ("green square", "red disc")
    ]
    assert some.report.metrics["map"] == pytest.approx(np.mean(aps), abs=1e-4)


def test_evaluate__classes_are_matched_by_name(tmp_path: Path, shapes: Path) -> None:
    """The model has them in the order of a file, the other table in that of the alphabet."""
    (tmp_path / "classes.txt").write_text("red disc\nblue bar\ngreen square\n")
    finetune(tmp_path / "run", data=shapes, classes=tmp_path / "classes.txt", **SMALL)

    found, _ = evaluate(run=tmp_path / "run", data=shapes)

    frame = pd.read_csv(shapes, keep_default_na=False).set_index("path")
    rows = rows_of(found.folder / "predictions.csv")
    assert list(rows[0])[4:] == ["prob/red disc", "prob/blue bar", "prob/green square"]
    for row in rows:
        assert sorted(row["labels"].split("|")) == frame.loc[row["path"], "label"].split("|")
    own, _ = evaluate(run=tmp_path / "run", split="train")
    probs = {row["path"]: row["prob/red disc"] for row in rows}
    again = rows_of(own.folder / "predictions.csv")
    assert [row["prob/red disc"] for row in again] == [probs[row["path"]] for row in again]


def test_evaluate__a_class_that_the_model_lacks(run: Path, tmp_path: Path) -> None:
    sets = [["red disc", "yellow star"], []]
    other = write_labels(tmp_path / "t.csv", draw_shapes(tmp_path, [["red disc"], []]), sets)
    with pytest.raises(DataError, match=r"1 of 2 classes of the data are unknown .*'yellow star'"):
        evaluate(run=run, data=other)


def test_evaluate__data_of_one_class_per_image_is_refused(run: Path, photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"gives every image one class.*need a \.csv"):
        evaluate(run=run, data=photos / "train")


def test_evaluate__single_label_runs_refuse_several_labels(tmp_path: Path) -> None:
    classes = ("green square", "red disc")
    folder = make_image_folder(tmp_path / "two", classes=classes, images_per_class=5)
    finetune(tmp_path / "run", data=folder, unfreeze="head", epochs=1)
    sets = [["red disc"], ["green square", "red disc"]]
    paths = draw_shapes(tmp_path, sets)
    labels = write_labels(tmp_path / "labels.csv", paths, sets)
    flags = write_flags(tmp_path / "flags.csv", paths, sets)

    with pytest.raises(DataError, match="This model gives every image one class, not several"):
        evaluate(run=tmp_path / "run", data=labels)
    with pytest.raises(DataError, match="With --multi-label they are a class each"):
        evaluate(run=tmp_path / "run", data=flags, label_column="green square,red disc")
    with pytest.raises(ConfigError, match="--label-separator ';' has no effect: the classes of"):
        evaluate(run=tmp_path / "run", data=labels, label_separator=";")


@pytest.mark.parametrize("at", [(0, 1), (1, 0)], ids=str)
def test_resume__equals_an_uninterrupted_run_with_every_option(
    tmp_path: Path, shapes: Path, at: tuple[int, int]
) -> None:
    finetune(tmp_path / "whole", data=shapes, **EVERYTHING)
    interrupt(tmp_path / "parts", at=at, data=shapes, **EVERYTHING)
    torch.manual_seed(99)

    finetune(tmp_path / "parts", data=shapes, resume=True, **EVERYTHING)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal"},
        {"loss": "focal", "focal_gamma": 0.5},
        {"class_weights": "balanced"},
        {"label_smoothing": 0.2},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"head": "mlp:8"},
    ],
    ids=str,
)
def test_run__every_option_changes_the_weights(
    tmp_path: Path, shapes: Path, options: dict[str, Any]
) -> None:
    for name, chosen in (("plain", {}), ("other", options)):
        finetune(tmp_path / name, data=shapes, **{**SMALL, **chosen})
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "other")]
    assert weights[0] != weights[1]


def test_run__balanced_weights_make_yes_and_no_cost_the_same(tmp_path: Path, shapes: Path) -> None:
    """The head starts at zero and --lr is nothing: each answer costs log 2 times its weight."""
    for name, options, expected in (
        ("plain", {}, lambda y: np.ones_like(y)),
        (
            "weights",
            {"class_weights": "balanced"},
            lambda y: np.where(y, (1 - y.mean(0)) / y.mean(0), 1),
        ),
        ("focal", {"loss": "focal"}, lambda y: np.full_like(y, 1 / 4)),
    ):
        _, talk = finetune(tmp_path / name, data=shapes, **{**SMALL, "lr": 1e-30, **options})
        rows = [row for row in rows_of(tmp_path / name / "splits.csv") if row["split"] == "train"]
        y = np.array([[float(name in row["label"].split("|")) for name in SHAPES] for row in rows])
        weights = expected(y).mean()
        assert talk.epochs[0].train_loss == pytest.approx(weights * math.log(2), rel=1e-5)
        assert talk.epochs[0].metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert (
        "The train loss is measured with focal loss; the val loss is plain binary cross-entropy on "
        "the images as they are."
    ) in talk.notes


def test_run__one_class_and_classes_of_a_file(tmp_path: Path, shapes: Path) -> None:
    (tmp_path / "classes.txt").write_text("red disc,x\ngreen square,x\n")
    summary, talk = finetune(
        tmp_path / "run", data=shapes, classes=tmp_path / "classes.txt", **SMALL
    )
    assert record_of(tmp_path / "run")["classes"] == ["x"]
    metrics = summary["results"]["val"]["metrics"]
    assert metrics["subset_accuracy"] == pytest.approx(1 - metrics["hamming_loss"])
    assert any("1 class, 19 train, 5 val images." in note for note in talk.notes)
    again, _ = evaluate(run=tmp_path / "run", batch_size=4)
    assert again.report.summary() == summary["results"]["val"]


def test_run__folds_hold_every_image_out_once(tmp_path: Path, shapes: Path) -> None:
    held_out: list[str] = []
    for fold in (1, 2):
        finetune(tmp_path / str(fold), data=shapes, fold=f"{fold}/2", **SMALL)
        rows = rows_of(tmp_path / str(fold) / "splits.csv")
        held_out += [row["path"] for row in rows if row["split"] == "val"]
    assert len(held_out) == len(set(held_out)) == 24


def test_run__a_part_without_any_class(tmp_path: Path) -> None:
    sets = [["red disc"], [], ["green square"], []]
    frame = pd.DataFrame({"path": draw_shapes(tmp_path, sets), "label": ["red disc", "", "x", ""]})
    frame.assign(split=["train", "val", "train", "val"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"No image in the part 'val' of .* has a label"):
        finetune(tmp_path / "run", data=tmp_path / "t.csv", **SMALL)
    assert not (tmp_path / "run").exists()


def test_run__test_part_without_any_class_is_judged_as_far_as_it_goes(tmp_path: Path) -> None:
    sets = [["red disc"], [], ["red disc"], [], [], []]
    labels = ["|".join(names) for names in sets]
    frame = pd.DataFrame({"path": draw_shapes(tmp_path, sets), "label": labels})
    splits = ["train", "train", "val", "val", "test", "test"]
    frame.assign(split=splits).to_csv(tmp_path / "t.csv", index=False)
    summary, talk = finetune(tmp_path / "run", data=tmp_path / "t.csv", **SMALL)
    metrics = summary["results"]["test"]["metrics"]
    assert metrics["map"] is None
    assert 0 <= metrics["hamming_loss"] <= 1
    assert "test has no images of 1 of 1 class: 'red disc'." in talk.warnings


def test_linear_head_of__of_any_number_of_classes_is_refused(run: Path) -> None:
    with pytest.raises(ModelError, match="has a head for any number of classes, not for one"):
        linear_head_of(run)


@pytest.mark.slow
def test_run__learns_which_shapes_are_in_a_picture(tmp_path: Path) -> None:
    """Three shapes, several in most pictures; by chance mAP is about 0.4."""
    table = make_shape_table(tmp_path, 400)
    summary, _ = finetune(
        tmp_path / "run",
        data=table,
        multi_label=True,
        test_split=0.2,
        epochs=12,
        batch_size=16,
        input_size=64,
        lr=5e-3,
        backbone_lr=5e-3,
        augment="flip",
    )
    assert summary["results"]["test"]["metrics"]["map"] >= 0.9
    assert summary["results"]["test"]["metrics"]["micro_f1"] >= 0.8
