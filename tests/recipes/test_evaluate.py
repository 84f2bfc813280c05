"""`tlcli evaluate`: the same numbers again, and labels matched by name."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from sklearn import metrics
from timm.data import create_transform, resolve_data_config
from toy import CLASSES, make_image_folder, make_split_folders

from recipes.runs import evaluate, finetune, record_of, rows_of
from tlcli.data.catalog import load_table
from tlcli.errors import ConfigError, DataError, ModelError

LITE0 = "timm/tf_efficientnet_lite0"
SQUEEZENET = "torchvision/squeezenet1_1"


def prediction_rows(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of `predictions.csv` by class folder and file name."""
    return {"/".join(r["path"].split("/")[-2:]): r for r in rows_of(folder / "predictions.csv")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run whose predictions differ between images, and its photos."""
    root = tmp_path_factory.mktemp("evaluated")
    data = make_split_folders(root / "photos", counts={"train": 4, "val": 3, "test": 2})
    finetune(root / "run", data=data, model="timm/test_vit", lr=1e-3, batch_size=4)
    return root / "run", data


@pytest.mark.parametrize("split", ["val", "test"])
def test_run__of_a_run_gives_its_results_again(trained: tuple[Path, Path], split: str) -> None:
    run, _ = trained
    before = {p.name: p.read_bytes() for p in (run / "evaluation" / split).iterdir()}

    evaluation, _ = evaluate(run=run, split=split, batch_size=4)

    results = record_of(run)["results"][split]
    found = json.loads(json.dumps(evaluation.report.to_json()))
    assert results.pop("num_classes") == len(found["per_class"])
    assert {key: found[key] for key in ("num_images", "metrics", "intervals")} == results
    assert evaluation.folder == run / "evaluation" / split
    after = {p.name: p.read_bytes() for p in evaluation.folder.iterdir()}
    assert {k: v for k, v in after.items() if not k.endswith(".png")} == {
        k: v for k, v in before.items() if not k.endswith(".png")
    }


def test_run__batch_size_changes_nothing_but_the_last_bits(trained: tuple[Path, Path]) -> None:
    run, _ = trained

    evaluation, _ = evaluate(run=run, split="test", batch_size=5)

    expected = record_of(run)["results"]["test"]["metrics"]
    assert dict(evaluation.report.metrics) == pytest.approx(expected, rel=1e-5)


def test_run__takes_the_test_part_where_there_is_one(trained: tuple[Path, Path]) -> None:
    evaluation, talk = evaluate(run=trained[0])

    assert evaluation.report.split == "test"
    assert talk.warnings == []


def test_run__val_is_called_flattering(trained: tuple[Path, Path]) -> None:
    _, talk = evaluate(run=trained[0], split="val")

    assert talk.warnings == ["val chose this model among others: as an estimate it is flattering."]


def test_run__equals_timm_on_its_own(trained: tuple[Path, Path]) -> None:
    """Network, preprocessing and metrics by timm and scikit-learn alone."""
    run, data = trained
    network = timm.create_model("test_vit", num_classes=3)
    network.load_state_dict(safetensors.torch.load_file(run / "model.safetensors"))
    network.eval()
    prepare = create_transform(**resolve_data_config({}, model=network))
    paths = sorted((data / "test").glob("*/*.png"))
    with torch.inference_mode():
        images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
        probs = network(images).softmax(dim=1).double().numpy()
    targets = [CLASSES.index(path.parent.name) for path in paths]

    evaluation, _ = evaluate(run=run, split="test")

    found = evaluation.report.metrics
    predicted = probs.argmax(axis=1)
    nll = -np.log(probs[np.arange(len(targets)), targets]).mean()
    assert found["top1"] == metrics.accuracy_score(targets, predicted)
    assert found["macro_f1"] == pytest.approx(
        metrics.f1_score(targets, predicted, average="macro", zero_division=0)
    )
    assert found["loss"] == pytest.approx(nll, rel=1e-5)
    rows = rows_of(evaluation.folder / "predictions.csv")
    written = [[float(row[f"prob/{name}"]) for name in CLASSES] for row in rows]
    np.testing.assert_allclose(written, probs, atol=2e-6)


def test_run__other_data_with_some_of_the_classes_in_another_order(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    run, data = trained
    evaluate(run=run, split="test", batch_size=4)
    own = prediction_rows(run / "evaluation" / "test")
    table = tmp_path / "some.csv"
    lines = [
        f"{data}/test/{name}/{number}.png,{name}" for name in ("cat", "ant") for number in (1, 0)
    ]
    table.write_text("\n".join(["path,label", *lines]) + "\n")

    evaluation, _ = evaluate(run=run, data=table, batch_size=4)

    found = prediction_rows(evaluation.folder)
    assert evaluation.folder.parent == run / "evaluation"
    assert re.fullmatch(r"some-[0-9a-f]{8}-unsplit", evaluation.folder.name)
    assert set(found) == {"cat/0.png", "cat/1.png", "ant/0.png", "ant/1.png"}
    for name, row in found.items():
        assert row["label"] == name.partition("/")[0]
        for column in ("prediction", "correct"):
            assert row[column] == own[name][column]
        for label in CLASSES:
            assert float(row[f"prob/{label}"]) == pytest.approx(
                float(own[name][f"prob/{label}"]), abs=2e-6
            )
    right = [row["prediction"] == row["label"] for row in found.values()]
    assert evaluation.report.metrics["top1"] == sum(right) / 4
    support = {row["class"]: row["support"] for row in evaluation.report.per_class}
    assert support == {"ant": 2, "bee": 0, "cat": 2}
    assert any("bee" in remark for remark in evaluation.report.remarks)


def test_run__a_class_in_front_of_the_others_shifts_no_label(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    run, _ = trained
    data = make_image_folder(tmp_path / "more", classes=("aardvark", *CLASSES), images_per_class=1)

    with pytest.raises(
        DataError,
        match=r"^1 of 4 classes of the data are unknown to the model: 'aardvark'\. The model's 3 "
        "classes begin with 'ant', 'bee', 'cat'",
    ) as caught:
        evaluate(run=run, data=data)
    assert caught.value.exit_code == 3


def test_run__limit_and_all_splits_of_other_data(trained: tuple[Path, Path]) -> None:
    run, data = trained

    everything, _ = evaluate(run=run, data=data, split="all")
    some, _ = evaluate(run=run, data=data, split="train", limit=5)

    assert everything.report.num_images == 3 * (4 + 3 + 2)
    assert some.report.num_images == 5


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"split": "all"}, ConfigError, "--split all would mix images trained on"),
        ({"limit": 3}, ConfigError, "--limit has no effect on a run folder and its data"),
    ],
)
def test_run__of_a_run_refuses_what_has_no_meaning(
    trained: tuple[Path, Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(run=trained[0], **options)


def test_run__split_that_is_not_there(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=1)

    with pytest.raises(DataError, match="has no 'test' part; it has 'unsplit'"):
        evaluate(run=trained[0], data=data, split="test")


def test_run__of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run folder") as caught:
        evaluate(run=tmp_path)
    assert caught.value.exit_code == 3


def test_run__of_a_run_that_was_moved(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    shutil.copytree(trained[0], tmp_path / "moved")

    evaluation, _ = evaluate(run=tmp_path / "moved")

    assert evaluation.folder == tmp_path / "moved" / "evaluation" / "test"


def test_run__of_a_run_whose_images_changed(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 2, "val": 1})
    finetune(tmp_path / "run", data=data, epochs=1, unfreeze="head")
    first = next((data / "val").rglob("*.*"))
    first.write_bytes(first.read_bytes() + b"\0")

    with pytest.raises(DataError, match="photos changed since the run was trained"):
        evaluate(run=tmp_path / "run")
    evaluate(run=tmp_path / "run", data=data)


def test_run__of_a_run_whose_data_were_moved(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 2, "val": 1})
    finetune(tmp_path / "run", data=data, epochs=1, unfreeze="head")
    data.rename(tmp_path / "elsewhere")

    with pytest.raises(DataError, match=f"There is no data at '{data}'"):
        evaluate(run=tmp_path / "run")
    evaluation, _ = evaluate(run=tmp_path / "run", data=tmp_path / "elsewhere", split="val")
    assert evaluation.report.metrics["loss"] == pytest.approx(
        record_of(tmp_path / "run")["results"]["val"]["metrics"]["loss"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": LITE0, "weights": "none"}, ConfigError, "a random head knows no classes"),
        ({"model": "timm/no_such"}, ModelError, "no_such"),
    ],
)
def test_run__pretrained_model_that_knows_nothing(
    tmp_path: Path, photos: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(data=photos, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_run__pretrained_model_on_foreign_labels(
    tmp_path: Path, photos: Path, shared_weights: Path
) -> None:
    weights = shared_weights / "timm_tf_efficientnet_lite0.safetensors"

    with pytest.raises(DataError, match="3 of 3 classes of the data are unknown to the model"):
        evaluate(model=LITE0, weights=weights, data=photos, output=tmp_path / "out")


def test_run__pretrained_model_as_it_is(
    tmp_path: Path, shared_data: Path, shared_weights: Path
) -> None:
    source = load_table(str(shared_data / "imagenet_kaggle_mini"))
    some = source.items.iloc[::40]
    lines = [f"{source.root / row.path},{row.label}" for row in some.itertuples()]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *lines]) + "\n")

    evaluation, _ = evaluate(
        model=LITE0,
        weights=shared_weights / "timm_tf_efficientnet_lite0.safetensors",
        data=tmp_path / "some.csv",
        output=tmp_path / "out",
    )

    record = record_of(tmp_path / "out")
    results = record["results"]["unsplit"]
    assert evaluation.report.num_images == 25
    assert evaluation.report.metrics["top1"] >= 0.8
    assert (record["status"], record["command"]) == ("finished", "evaluate")
    assert results["metrics"] == evaluation.report.metrics
    assert evaluation.folder == tmp_path / "out" / "evaluation" / "unsplit"


def lite0_by_timm(file: Path) -> tuple[torch.nn.Module, Any]:
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(safetensors.torch.load_file(file))
    return network.eval(), create_transform(**resolve_data_config({}, model=network))


def squeezenet_by_torchvision(file: Path) -> tuple[torch.nn.Module, Any]:
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(safetensors.torch.load_file(file))
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    return network.eval(), weights.transforms()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "file", "build", "top1"),
    [
        (LITE0, "timm_tf_efficientnet_lite0.safetensors", lite0_by_timm, 0.871),
        (SQUEEZENET, "torchvision_squeezenet1_1.safetensors", squeezenet_by_torchvision, 0.607),
    ],
    ids=["lite0", "squeezenet"],
)
def test_run__pretrained_models_equal_their_own_library(
    tmp_path: Path,
    shared_data: Path,
    shared_weights: Path,
    model: str,
    file: str,
    build: Callable[[Path], tuple[torch.nn.Module, Any]],
    top1: float,
) -> None:
    """The thousand predictions that the source's network and transform make in a plain loop."""
    data = shared_data / "imagenet_kaggle_mini"

    evaluation, _ = evaluate(
        model=model, weights=shared_weights / file, data=data, output=tmp_path / "out"
    )

    network, prepare = build(shared_weights / file)
    rows = rows_of(evaluation.folder / "predictions.csv")
    predicted: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(rows), 50):
            images = [Image.open(data / row["path"]) for row in rows[start : start + 50]]
            batch = torch.stack([prepare(image.convert("RGB")) for image in images])
            predicted += network(batch).argmax(dim=1).tolist()
    classes = [row["class"] for row in evaluation.report.per_class]
    assert len(rows) == evaluation.report.num_images == 1000
    differing = [
        row["path"]
        for row, output in zip(rows, predicted, strict=True)
        if row["prediction"] != classes[output]
    ]
    assert differing == []
    assert evaluation.report.metrics["top1"] == top1


@pytest.mark.slow
def test_finetune__head_on_real_photos(
    tmp_path: Path, shared_data: Path, shared_weights: Path
) -> None:
    summary, _ = finetune(
        tmp_path / "run",
        data=shared_data / "hymenoptera",
        model=LITE0,
        weights=shared_weights / "timm_tf_efficientnet_lite0.safetensors",
        unfreeze="head",
        epochs=5,
        batch_size=16,
    )

    assert summary["results"]["val"]["metrics"]["top1"] >= 0.93
    assert summary["frozen"]["changed"] == 0


def test_run__lists_the_images_it_left_out(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    photos = tmp_path / "more"
    shutil.copytree(data / "test", photos)
    broken = next(photos.glob("ant/*.png"))
    broken.write_bytes(b"no picture")

    evaluation, _ = evaluate(run=run, data=photos, on_bad_image="skip")

    with (evaluation.folder / "skipped_images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"ant/{broken.name}"]
    assert "Cannot decode" in rows[0]["reason"]
    assert evaluation.report.num_images == len(list(photos.glob("*/*.png"))) - 1


def test_run__seed_0_is_a_seed(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    record = record_of(run)
    record["config"]["seed"] = 5
    (run / "run.json").write_text(json.dumps(record))

    own, zero, five = (
        evaluate(run=run, **seed)[0].report.intervals for seed in ({}, {"seed": 0}, {"seed": 5})
    )

    assert own == five != zero


def test_run__on_the_images_that_it_learnt_from_is_told(
    tmp_path: Path, timm_files: dict[str, Path]
) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=12)
    weights = timm_files["test_vit"]
    options = {"model": "timm/test_vit", "weights": weights, "unfreeze": "head", "epochs": 1}
    finetune(tmp_path / "run", data=data, **options)
    splits = [row["split"] for row in rows_of(tmp_path / "run" / "splits.csv")]
    copy, other = tmp_path / "copy", make_image_folder(tmp_path / "other", seed=9)
    for number, file in enumerate(sorted(data.glob("*/*.png"))):
        target = copy / file.parent.name / f"p{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    shutil.copytree(other, copy, dirs_exist_ok=True)
    new = len(list(other.glob("*/*.png")))

    for given, total in ((data, 36), (copy, 36 + new)):
        _, talk = evaluate(run=tmp_path / "run", data=given)
        assert talk.warnings[-1] == (
            f"Of the {total} images {splits.count('train')} in the part that this run was trained "
            f"on and {splits.count('val')} in the one that chose its best epoch: as an estimate "
            "this is flattering. Leave --data out to judge the run on its own split."
        )
    assert evaluate(run=tmp_path / "run", data=other)[1].warnings == []


def test_run__test_part_of_its_own_data_is_new_to_it(trained: tuple[Path, Path]) -> None:
    run, data = trained

    assert evaluate(run=run, data=data)[1].warnings == []
    (warning,) = evaluate(run=run, data=data, split="train")[1].warnings
    assert warning.startswith("Of the 12 images 12 in the part that this run was trained on: as")


def test_run__without_its_split_does_not_know_what_it_saw(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "splits.csv").unlink()

    _, talk = evaluate(run=run, data=trained[1])

    assert talk.warnings == [
        f"{run / 'splits.csv'} is gone: whether the run was trained on these images is unknown."
    ]
