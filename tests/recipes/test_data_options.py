"""Options on data from the first command to the last: folds, classes, columns."""

import json
import signal
from pathlib import Path

import pytest
from toy import CollectedTalk, make_image_folder

from recipes.feature_runs import extract
from recipes.runs import evaluate, finetune, record_of, results_of, rows_of, signal_at
from tlcli.config import DataConfig
from tlcli.data.catalog import load_table
from tlcli.data.folds import fold_table
from tlcli.errors import ConfigError, DataError, InterruptedRunError
from tlcli.recipes.image_data import load_images


@pytest.fixture
def class_file(tmp_path: Path) -> Path:
    path = tmp_path / "classes.csv"
    path.write_text("cat,pet\nant\n")
    return path


@pytest.fixture
def table_file(photos: Path, tmp_path: Path) -> Path:
    """A table of `photos` with columns of other names, and without a split column."""
    rows = ["label;file;kind;patient"]
    for path in sorted(photos.glob("train/*/*.png")):
        rows.append(f"x;{path};{path.parent.name};{path.stem}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


COLUMNS = {"path_column": "file", "label_column": "kind"}


def test_finetune__chosen_classes_are_kept(photos: Path, class_file: Path, tmp_path: Path) -> None:
    summary, talk = finetune(tmp_path / "run", data=photos, classes=class_file)
    class_file.unlink()  # the run knows them by itself

    evaluation, _ = evaluate(run=tmp_path / "run")

    record = record_of(tmp_path / "run")
    assert record["classes"] == ["pet", "ant"]
    assert record["config"]["classes"] == str(class_file)
    assert record["data"]["class_names"] == [["cat", "pet"], ["ant", "ant"]]
    assert record["data"]["counts"]["train"] == {"pet": 4, "ant": 4}
    assert "--classes leaves out 9 images of 1 class: 'bee'." in talk.warnings
    assert evaluation.report.num_images == 4
    found = json.loads(json.dumps(evaluation.report.to_json()))["metrics"]
    assert found == summary["results"]["test"]["metrics"]


def test_evaluate__names_of_other_data(photos: Path, class_file: Path, tmp_path: Path) -> None:
    finetune(tmp_path / "run", data=photos, classes=class_file, epochs=1)
    other = make_image_folder(tmp_path / "other", classes=["katze", "ameise"], images_per_class=2)
    with pytest.raises(DataError, match="katze"):
        evaluate(run=tmp_path / "run", data=other)
    names = tmp_path / "names.txt"
    names.write_text("katze,pet\nameise,ant\n")

    evaluation, _ = evaluate(run=tmp_path / "run", data=other, classes=names)

    rows = rows_of(evaluation.folder / "predictions.csv")
    assert [row["label"] for row in rows] == [
        "pet" if "katze" in r["path"] else "ant" for r in rows
    ]
    assert len(rows) == 4


def test_finetune__resumed_without_the_class_file(
    photos: Path, class_file: Path, tmp_path: Path
) -> None:
    options = {"data": photos, "classes": class_file, "unfreeze": "head"}
    finetune(tmp_path / "whole", **options)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, epoch=1, step=1, number=signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            finetune(tmp_path / "stopped", **options)
    class_file.unlink()

    finetune(tmp_path / "stopped", **options, resume=True)

    assert results_of(tmp_path / "stopped") == results_of(tmp_path / "whole")


def test_finetune__fold_is_that_of_the_table(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=6)
    expected = fold_table(load_table(str(data)), fold=2, folds=3, test_fraction=0.2, seed=0)

    finetune(tmp_path / "run", data=data, fold="2/3", test_split=0.2, epochs=1)

    rows = rows_of(tmp_path / "run" / "splits.csv")
    assert {row["path"] for row in rows if row["split"] == "val"} == set(
        expected.part("val")["path"]
    )
    evaluation, _ = evaluate(run=tmp_path / "run", split="val")
    assert evaluation.report.num_images == 5


def test_finetune__fold_and_a_given_val_part(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a val part already; --fold makes its own"):
        finetune(tmp_path / "run", data=photos, fold="1/3")
    assert not (tmp_path / "run").exists()


def test_finetune__columns_by_name(table_file: Path, tmp_path: Path) -> None:
    finetune(tmp_path / "run", data=table_file, group_column="patient", **COLUMNS, epochs=1)

    rows = rows_of(tmp_path / "run" / "splits.csv")
    groups = {
        row["split"]: {r["group"] for r in rows if r["split"] == row["split"]} for row in rows
    }
    assert not groups["train"] & groups["val"]
    evaluation, _ = evaluate(run=tmp_path / "run")
    assert evaluation.report.split == "val"
    other, _ = evaluate(run=tmp_path / "run", data=table_file, **COLUMNS)
    assert other.report.num_images == 12


def test_extract_features__data_options_reach_the_head(
    table_file: Path, class_file: Path, tmp_path: Path, timm_files: dict[str, Path]
) -> None:
    weights = timm_files["test_resnet"]
    summary = extract(
        table_file,
        tmp_path / "features",
        model="timm/test_resnet",
        weights=weights,
        fold="1/2",
        classes=class_file,
        **COLUMNS,
    )

    head = tmp_path / "features" / "head"
    assert summary is not None
    assert record_of(head)["data"]["counts"] == {
        "train": {"pet": 2, "ant": 2},
        "val": {"pet": 2, "ant": 2},
    }
    finetune(
        tmp_path / "run",
        data=table_file,
        weights=weights,
        fold="1/2",
        init_head=head,
        classes=class_file,
        epochs=1,
        **COLUMNS,
    )
    assert (tmp_path / "run" / "splits.csv").read_bytes() == (head / "splits.csv").read_bytes()
    class_file.unlink()
    evaluation, _ = evaluate(run=tmp_path / "features", split="val")
    assert evaluation.report.num_images == 4


def test_load_images__sets_of_libraries_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path))
    talk = CollectedTalk()
    with pytest.raises(DataError, match="--offline forbids"):
        load_images(DataConfig(data="torchvision:CIFAR10"), seed=0, offline=True, talk=talk)
    assert talk.notes == [
        f"torchvision:CIFAR10 is fetched if it is not here yet, and kept in {tmp_path}."
    ]
