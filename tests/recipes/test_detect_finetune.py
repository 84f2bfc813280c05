"""`tlcli detect-finetune` end to end: what a run leaves behind is what was asked for."""

import contextlib
import io
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from toy import CollectedTalk, make_image_folder

from recipes.box_runs import IDS, detect, detect_config, make_box_folder
from recipes.runs import evaluate, metrics_of, record_of, results_of, rows_of
from tlcli.errors import (
    BadImageError,
    ConfigError,
    DataError,
    ModelError,
    NonFiniteLossError,
    WeightsError,
)
from tlcli.models.detectors.saved_detector import load_detector
from tlcli.recipes import detect_finetune as recipe

SCHEDULE = "0:head,1:layer4"
COUNTS = {"train": 6, "val": 4, "test": 3}
FAST: dict[str, Any] = {"model": "fcos", "epochs": 1}
"""It costs a quarter of a Faster R-CNN."""
TWELVE = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)
BODY = ["conv1.0", "conv1.3", "conv1.6", "layer1", "layer2", "layer3", "layer4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    return make_box_folder(root / "scenes", counts=COUNTS, empty=("train/2", "val/1"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, resnet_file: Path) -> Path:
    """Two epochs, one phase each, on a pretrained body with BatchNorm."""
    path = tmp_path_factory.mktemp("runs") / "scheduled"
    options = {"model": "fcos", "batch_size": 1, "lr": 2e-3}  # finds some of the boxes
    detect(path, data=data, weights=resnet_file, schedule=SCHEDULE, **options)
    return path


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """One epoch of everything from random weights."""
    path = tmp_path_factory.mktemp("runs") / "random"
    detect(path, data=data, augment="medium", num_workers=0, **FAST)
    return path


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model.safetensors")


def test_run__folder_holds_what_the_design_says_and_no_more(run: Path) -> None:
    of_split = {
        "metrics.json",
        "predictions.json",
        "ground_truth.json",
        "per_class.csv",
        "precision_recall.csv",
        "precision_recall.png",
        "gallery_best.png",
        "gallery_worst.png",
    }
    frozen = [f"checkpoints/{path.name}" for path in run.glob("checkpoints/frozen-*.pt")]
    assert len(frozen) == 1
    assert files_in(run) == {
        "run.json",
        "config.toml",
        "metrics.csv",
        "splits.csv",
        "model.safetensors",
        "model.json",
        "training_curves.png",
        "checkpoints/last.pt",
        *frozen,
        *(f"evaluation/{split}/{name}" for split in ("val", "test") for name in of_split),
    }


def test_run__record_tells_what_was_done(run: Path, data: Path) -> None:
    record = record_of(run)

    assert record["schema_version"] == 1
    assert (record["status"], record["kind"], record["command"]) == (
        "finished",
        "detection",
        "detect-finetune",
    )
    assert (record["model"]["name"], record["model"]["backbone"], record["model"]["weights"]) == (
        "fcos",
        "timm/test_resnet",
        "file",
    )
    assert re.fullmatch("[0-9a-f]{64}", record["model"]["sha256"])
    assert record["classes"] == ["bee", "ant", "cat"]  # by their numbers
    assert [(c["id"], c["name"]) for c in record["data"]["categories"]] == [
        (3, "bee"),
        (7, "ant"),
        (40, "cat"),
    ]
    assert record["data"]["spec"] == str(data)
    counts = record["data"]["counts"]
    assert {split: part["images"] for split, part in counts.items()} == COUNTS
    assert {split: part["negatives"] for split, part in counts.items()} == {
        "train": 1,
        "val": 1,
        "test": 0,
    }
    assert record["preprocessing"]["image_size"] == 64
    assert record["seed"] == 0
    assert record["trunk_cache"] == {"hits": 0, "misses": 0, "bytes": 0}
    assert record["phases"] == [
        {"start": 0, "trained": ["head"]},
        {"start": 1, "trained": ["layer4", "head"]},
    ]
    seconds = record["seconds"]
    assert set(seconds) == {"prepare", "train", "eval", "final_eval", "total"}
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"))


def test_run__metrics_have_a_row_per_epoch(run: Path) -> None:
    rows, document = rows_of(run / "metrics.csv"), record_of(run)["results"]["val"]["metrics"]
    defined = [name for name in TWELVE if document[name] is not None]

    assert list(rows[0]) == [
        *("epoch", "phase", "lr/head", "lr/backbone", "train/loss"),
        *(f"val/{name}" for name in defined),
        *("seconds/train", "seconds/eval"),
    ]
    assert {"map", "map50", "mar_100"} <= set(defined)
    assert [(row["epoch"], row["phase"]) for row in rows] == [("1", "0"), ("2", "1")]
    assert rows[0]["lr/backbone"] == ""
    assert float(rows[1]["lr/backbone"]) == pytest.approx(0.2 * float(rows[1]["lr/head"]))


def test_run__saved_model_is_that_of_the_best_epoch(run: Path) -> None:
    record, rows = record_of(run), metrics_of(run)
    best = rows[record["best"]["epoch"] - 1]

    values = [float(row["val/map"]) for row in rows]
    assert record["best"]["metric"] == "val/map"
    assert record["best"]["value"] == float(best["val/map"]) == max(values)
    found = record["results"]["val"]["metrics"]
    assert found == {
        name: float(best[f"val/{name}"]) if found[name] is not None else None for name in TWELVE
    }


def test_run__splits_are_written(run: Path) -> None:
    rows = rows_of(run / "splits.csv")

    assert sorted((row["path"], row["split"]) for row in rows) == sorted(
        (f"{split}/{number}.png", split) for split, n in COUNTS.items() for number in range(n)
    )


def test_run__config_toml_holds_what_was_given(run: Path, data: Path) -> None:
    options = tomllib.loads((run / "config.toml").read_text())

    assert options["data"] == str(data)
    assert options["schedule"] == SCHEDULE
    assert (options["lr"], options["backbone"]) == (2e-3, "timm/test_resnet")
    assert (options["image_size"], "backbone_lr" in options, "strides" in options) == (64, 0, 0)
    used = record_of(run)["config"]
    assert used["backbone_lr"] == pytest.approx(4e-4)
    assert not {"output", "overwrite", "resume", "unfreeze"} & options.keys()


@pytest.mark.parametrize("split", ["val", "test"])
def test_run__numbers_are_those_of_pycocotools(run: Path, split: str) -> None:
    folder = run / "evaluation" / split
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "ground_truth.json")
        evaluator = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    expected = {
        name: None if value == -1 else pytest.approx(value, abs=1e-12)
        for name, value in zip(TWELVE, evaluator.stats.tolist(), strict=True)
    }

    document = json.loads((folder / "metrics.json").read_text())
    assert document["metrics"] == expected
    assert document["metrics"]["mar_100"] > 0  # something was found
    assert (document["kind"], document["num_images"]) == ("detection", COUNTS[split])
    assert record_of(run)["results"][split]["metrics"] == document["metrics"]


def test_run__ground_truth_is_the_users(run: Path, data: Path) -> None:
    given = json.loads((data / "annotations" / "instances_val.json").read_text())
    written = json.loads((run / "evaluation" / "val" / "ground_truth.json").read_text())

    assert {c["id"]: c["name"] for c in written["categories"]} == {v: k for k, v in IDS.items()}
    assert {image["id"] for image in written["images"]} == {10, 13, 16, 19}
    for box in given["annotations"]:
        (same,) = (other for other in written["annotations"] if other["id"] == box["id"])
        assert all(same[key] == box[key] for key in ("bbox", "image_id", "category_id", "area"))
    assert len(written["annotations"]) == len(given["annotations"])


def test_run__predictions_have_the_users_ids_and_pixels(run: Path) -> None:
    found = json.loads((run / "evaluation" / "val" / "predictions.json").read_text())

    assert {box["category_id"] for box in found} <= {3, 7, 40}
    assert len({box["category_id"] for box in found}) > 1
    assert {box["image_id"] for box in found} <= {10, 13, 16, 19}
    for box in found:
        x, y, width, height = box["bbox"]
        assert min(x, y) >= -1e-4
        assert x + width <= 96 + 1e-4  # of the picture, not of the 64 pixels that are worked on
        assert y + height <= 72 + 1e-4
    assert max(box["bbox"][0] + box["bbox"][2] for box in found) > 90


def test_evaluate__of_a_run_gives_its_results_again(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "evaluation" / "val"
    names = sorted(name for name in files_in(folder) if not name.endswith(".png"))
    before = {name: (folder / name).read_bytes() for name in names}

    evaluation, talk = evaluate(run=tmp_path / "run", split="val", num_workers=2)

    found = json.loads(json.dumps(evaluation.report.to_json()))
    expected = record_of(run)["results"]["val"]
    assert expected.pop("num_classes") == len(found["per_class"])
    assert {key: found[key] for key in expected} == expected
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert talk.warnings[-1].startswith("val chose this model among others: as an estimate")


def test_run__frozen_tensors_keep_every_bit(run: Path, resnet_file: Path) -> None:
    start = {
        f"backbone.body.{name}": tensor
        for name, tensor in safetensors.torch.load_file(resnet_file).items()
        if not name.startswith("fc.")
    }
    end = weights_of(run)
    detector, _ = load_detector(run)
    is_parameter = {name for name, _ in detector.network.named_parameters()}

    assert start.keys() <= end.keys()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved <= {name for name in is_parameter if name.startswith("backbone.body.layer4.")}
    if record_of(run)["best"]["epoch"] == 2:
        assert "backbone.body.layer4.0.conv1.weight" in moved
    proof = record_of(run)["frozen"]
    body = [name for name in start if name in is_parameter]
    assert (proof["changed"], proof["tensors"]) == (0, len(body))
    last = proof["phases"][1]
    assert last["trained"] == ["layer4", "head"]
    assert last["tensors"] == sum("layer4" not in name for name in body)


@pytest.mark.parametrize(
    "options",
    [{"unfreeze": "last:1"}, {"unfreeze": "layer4", "ema": 0.5}],
    ids=str,
)
def test_run__statistics_of_a_pretrained_body_stand_still_in_trained_stages(
    tmp_path: Path, data: Path, resnet_file: Path, options: dict[str, Any]
) -> None:
    summary, _ = detect(tmp_path / "run", data=data, weights=resnet_file, **FAST, **options)

    start = safetensors.torch.load_file(resnet_file)
    end = weights_of(tmp_path / "run")
    moved = {
        name
        for name, tensor in start.items()
        if not name.startswith("fc.") and not torch.equal(tensor, end[f"backbone.body.{name}"])
    }
    assert summary["frozen"]["changed"] == 0
    assert "layer4.0.conv1.weight" in moved
    assert all(name.startswith("layer4.") for name in moved)
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_run__statistics_of_a_random_body_are_learned(random_run: Path) -> None:
    end = weights_of(random_run)

    means = [v for name, v in end.items() if name.endswith("running_mean")]
    assert len(means) > 5
    assert all(bool(mean.abs().sum() > 0) for mean in means)
    counters = {int(v) for name, v in end.items() if name.endswith("num_batches_tracked")}
    assert counters == {2}  # steps of the one epoch


def test_run__same_seed_same_numbers_whatever_the_workers(
    tmp_path: Path, random_run: Path, data: Path
) -> None:
    """`random_run` had none, and as many threads for detecting as there are cores."""
    torch.rand(1000)  # what was drawn before must not matter
    detect(tmp_path / "again", data=data, augment="medium", num_workers=2, **FAST)

    assert results_of(tmp_path / "again") == results_of(random_run)


def test_run__another_seed_gives_other_numbers(
    tmp_path: Path, random_run: Path, data: Path
) -> None:
    detect(tmp_path / "other", data=data, augment="medium", seed=1, **FAST)

    (row,), (other,) = metrics_of(random_run), metrics_of(tmp_path / "other")
    assert row["train/loss"] != other["train/loss"]
    start, end = weights_of(random_run), weights_of(tmp_path / "other")
    name = "backbone.body.conv1.0.weight"
    assert not torch.equal(start[name], end[name])


def test_run__ema_accumulation_and_clipping_together(tmp_path: Path, data: Path) -> None:
    summary, _ = detect(
        tmp_path / "run",
        data=data,
        model="retinanet",
        epochs=2,
        ema=0.5,
        grad_accum_steps=2,
        clip_grad=0.5,
        monitor="mar_100",
        opt="sgd",
        layer_decay=0.7,
        backbone="timm/test_efficientnet",
    )

    end = weights_of(tmp_path / "run")
    counters = {int(v) for name, v in end.items() if name.endswith("num_batches_tracked")}
    assert summary["status"] == "finished"
    assert summary["best"]["metric"] == "val/mar_100"
    assert counters <= {2, 4}  # two batches make one step; which epoch is best is chance
    assert all(bool(value.isfinite().all()) for value in end.values())
    evaluation, _ = evaluate(run=tmp_path / "run", split="val")
    assert (
        json.loads(json.dumps(evaluation.report.to_json()))["metrics"]
        == (summary["results"]["val"]["metrics"])
    )


def test_run__patience_stops_when_nothing_gets_better(tmp_path: Path, data: Path) -> None:
    options = {"model": "retinanet", "epochs": 5, "lr": 1e-30, "unfreeze": "head"}

    _, talk = detect(tmp_path / "run", data=data, patience=1, **options)

    assert [row["epoch"] for row in metrics_of(tmp_path / "run")] == ["1", "2"]
    assert "No better epoch for 1: stopping early (--patience)." in talk.notes
    assert record_of(tmp_path / "run")["best"]["epoch"] == 2  # a tie goes to the later
    # an untrained RetinaNet finds nothing: zeros, and files all the same
    folder = tmp_path / "run" / "evaluation" / "val"
    assert json.loads((folder / "predictions.json").read_text()) == []
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {value for value in metrics.values() if value is not None} == {0.0}


def test_run__finished_run_has_nothing_to_go_on_with(run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in files_in(run)}

    summary, talk = detect(run, data="sample:digits", resume=True)

    record = record_of(run)
    assert summary == {
        "schema_version": 1,
        "run": str(run),
        **{
            key: record[key]
            for key in ("status", "best", "results", "frozen", "trunk_cache", "seconds")
        },
    }
    assert talk.notes == [f"{run} is finished; there is nothing to go on with."]
    assert {name: (run / name).read_bytes() for name in files_in(run)} == before


def test_run__split_is_made_and_kept_and_the_limit_is_of_every_part(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 8})

    options = {"val_split": 0.25, "test_split": 0.25, "limit": 2, **FAST}

    summary, _ = detect(tmp_path / "run", data=data, **options)

    rows = rows_of(tmp_path / "run" / "splits.csv")
    parts = [row["split"] for row in rows]
    assert {part: parts.count(part) for part in set(parts)} == {"train": 4, "val": 2, "test": 2}
    counts = record_of(tmp_path / "run")["data"]["counts"]
    assert {split: part["images"] for split, part in counts.items()} == dict.fromkeys(COUNTS, 2)
    assert set(summary["results"]) == {"val", "test"}
    assert summary["results"]["test"]["num_images"] == 2


STILL: dict[str, Any] = {**FAST, "unfreeze": "head", "lr": 1e-30, "weight_decay": 0.0}
"""Training that moves nothing."""


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ({"ant": 1, "bee": 2}, {}),
        (IDS, {"bee": "wasp", "ant": "moth", "cat": "fly"}),
        ({"ant": 3, "bee": 7, "cat": 40}, {}),
    ],
    ids=["fewer", "other_names", "another_order"],
)
def test_run__weights_of_a_run_for_other_classes(
    tmp_path: Path, random_run: Path, ids: dict[str, int], names: dict[str, str]
) -> None:
    counts = {"train": 2, "val": 1}
    data = make_box_folder(tmp_path / "others", counts=counts, ids=ids, names=names)

    _, talk = detect(tmp_path / "run", data=data, weights=random_run, **STILL)

    start, end = weights_of(random_run), weights_of(tmp_path / "run")
    head = {f"head.classification_head.cls_logits.{kind}" for kind in ("weight", "bias")}
    assert start.keys() == end.keys()
    assert any("backbone.fpn" in name for name in start)
    assert {name for name in start if not same_tensor(start[name], end[name])} <= head
    weight = "head.classification_head.cls_logits.weight"
    assert end[weight].shape[0] == len(ids) + 1
    assert not same_tensor(start[weight], end[weight])
    said = "\n".join(talk.notes)
    assert f"class head of 3 classes replaced by a new one for {len(ids)}; all else is" in said
    assert "replaced (class head, new): 2" in said
    assert all(f"\n  {name}" in said for name in head)
    record = record_of(tmp_path / "run")
    assert record["model"]["stages"][-2:] == ["fpn", "head"]
    assert record["frozen"]["changed"] == 0


def same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two are the same but for the steps of `STILL`, which show where a value is 0."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-20)


def test_run__weights_of_a_run_bring_their_model(run: Path, tmp_path: Path, data: Path) -> None:
    _, talk = detect(
        tmp_path / "next",
        data=data,
        weights=run,
        model=None,
        backbone=None,
        unfreeze="head",
        epochs=1,
        limit=3,
    )

    assert f"No --model given: using fcos on timm/test_resnet, as {run} does." in talk.notes
    config = record_of(tmp_path / "next")["config"]
    assert (config["model"], config["backbone"]) == ("fcos", "timm/test_resnet")


def test_run__weights_of_a_run_for_the_same_classes_keep_the_head(
    tmp_path: Path, run: Path, data: Path
) -> None:
    detect(tmp_path / "again", data=data, weights=run, **STILL)

    start, end = weights_of(run), weights_of(tmp_path / "again")
    assert start.keys() == end.keys()
    assert all(torch.equal(start[key], end[key]) for key in start)
    expected = record_of(run)["results"]["val"]["metrics"]
    assert record_of(tmp_path / "again")["results"]["val"]["metrics"] == expected


def test_run__corrupt_image_is_named_or_left_out(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 4, "val": 3})
    for name in ("train/1.png", "val/2.png"):
        content = (data / name).read_bytes()
        (data / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(
        BadImageError, match=r"Cannot decode .*/train/1\.png.*--on-bad-image skip"
    ) as caught:
        detect(tmp_path / "run", data=data, **FAST)
    assert caught.value.exit_code == 3
    assert record_of(tmp_path / "run")["status"] == "failed"

    detect(tmp_path / "skipped", data=data, on_bad_image="skip", **FAST)

    skipped = {
        row["path"]: row["reason"] for row in rows_of(tmp_path / "skipped/skipped_images.csv")
    }
    assert set(skipped) == {"train/1.png", "val/2.png"}
    found = record_of(tmp_path / "skipped")["data"]
    assert found["skipped"] == 2
    assert {split: part["images"] for split, part in found["counts"].items()} == {
        "train": 3,
        "val": 2,
    }
    judged = json.loads((tmp_path / "skipped/evaluation/val/ground_truth.json").read_text())
    assert len(judged["images"]) == 2


def test_run__loss_that_is_not_finite_names_the_files(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        NonFiniteLossError,
        match=r"^The training loss is not finite in epoch \d, step \d, on the images train/.*"
        r"Lower --lr, add --clip-grad 1 or",
    ) as caught:
        detect(
            tmp_path / "run",
            data=data,
            **{**FAST, "epochs": 2},
            lr=1e30,
            clip_grad=0.0,
            warmup_epochs=0,
        )

    assert caught.value.exit_code == 1
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert str(caught.value).count("train/") == 3  # one batch


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data": "nowhere"}, DataError, "There is no data at '.*nowhere'"),
        (
            {"model": "fasterrcn", "backbone": None},
            ModelError,
            "No detector is called 'fasterrcn'.*'fasterrcnn'",
        ),
        ({"backbone": "timm/no_such"}, ModelError, "no_such"),
        (
            {"model": "resnet50", "backbone": None},
            ModelError,
            "is a backbone: --model fasterrcnn --backbone resnet50",
        ),
        ({"weights": "/tmp"}, WeightsError, "--weights /tmp is a folder without a model.json"),
        ({"unfreeze": "layer9"}, ConfigError, "'layer9' matches no stage .* Did you mean 'layer"),
        ({"schedule": "0:head,5:layer4"}, ConfigError, r"must be below --epochs \(1\)"),
        ({"weights": "imagenet"}, WeightsError, "--weights 'imagenet' is no weight tag"),
        ({"unfreeze": "head", "backbone_lr": 1e-3}, ConfigError, "--backbone-lr has no effect"),
        ({"model": "ssdlite320_mobilenet_v3_large"}, ConfigError, "--backbone .* has no effect"),
        ({"sampled_boxes": 9}, ConfigError, "--sampled-boxes has no effect on fcos"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_run__mistake_is_told_and_leaves_no_folder(
    tmp_path: Path, data: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        detect(tmp_path / "run", **{"data": data, **FAST, **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_run__part_without_boxes_is_told_before_training(tmp_path: Path, split: str) -> None:
    counts = {"train": 2, "val": 2, "test": 2}
    data = make_box_folder(tmp_path / "data", counts=counts, empty=(f"{split}/0", f"{split}/1"))

    for work in (recipe.run, recipe.dry_run):
        with pytest.raises(
            DataError, match=rf"has no box.* {split} images|{split} part of .* has no boxes"
        ):
            work(detect_config(tmp_path / "run", data=data, **FAST), talk=CollectedTalk())
    assert not (tmp_path / "run").exists()


def test_run__images_with_crowds_only_are_not_learned_as_empty(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "data", counts={"train": 4, "val": 2}, empty=("train/0",))
    text = data / "annotations" / "instances_train.json"
    document = json.loads(text.read_text())
    first = document["annotations"][0]["image_id"]
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] == first)
    text.write_text(json.dumps(document))

    _, talk = detect(tmp_path / "run", data=data, unfreeze="head", **FAST)

    assert "1 train image with crowds only is left out of training." in talk.notes


def test_run__nothing_found_in_any_epoch_is_told(tmp_path: Path, data: Path) -> None:
    _, talk = detect(tmp_path / "run", data=data, unfreeze="head", lr=1e-9, limit=2, **FAST)

    assert record_of(tmp_path / "run")["best"]["value"] == 0
    assert any(w.startswith("val map is 0 in every epoch: no detection") for w in talk.warnings)


def test_run__config_keeps_the_tag_of_the_backbone(tmp_path: Path, data: Path) -> None:
    detect(tmp_path / "run", data=data, backbone="timm/test_resnet.r160_in1k", limit=2, **FAST)

    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["backbone"] == "timm/test_resnet.r160_in1k"


def test_run__class_folders_belong_to_finetune(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos")

    with pytest.raises(DataError, match="`tlcli finetune` takes") as caught:
        detect(tmp_path / "run", data=data)
    assert caught.value.exit_code == 3


def test_run__taken_output_is_refused_before_any_work(run: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        detect(run, data="no/such/data")


def test_run__without_output_is_called_after_what_it_is(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "detect-fcos-test_resnet-scenes").mkdir(parents=True)
    config = detect_config(None, data=data, limit=2, **FAST)

    summary = recipe.run(config, talk=CollectedTalk())

    assert summary["run"] == "runs/detect-fcos-test_resnet-scenes-2"


@pytest.mark.parametrize(("weights", "mode"), [("none", "train"), ("file", "eval")])
def test_dry_run__writes_nothing_and_names_stages(
    tmp_path: Path,
    data: Path,
    resnet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    mode: str,
) -> None:
    """BatchNorm of a pretrained body stands still even where it is trained."""
    monkeypatch.chdir(tmp_path)
    given = resnet_file if weights == "file" else weights
    config = detect_config(
        tmp_path / "run", data=data, weights=given, unfreeze="last:2", model="retinanet"
    )

    plan = recipe.dry_run(config, talk=CollectedTalk())

    assert list(tmp_path.iterdir()) == []
    assert (plan.model, plan.classes) == ("retinanet on timm/test_resnet", 3)
    assert [row.stage for row in plan.rows] == [*BODY, "head"]
    modes = {row.stage: row.batch_norm for row in plan.rows}
    trained = [row.stage for row in plan.rows if row.trained_from == 0]
    assert trained[-1] == "head"
    assert "layer4" in trained
    assert {modes[name] for name in BODY if name not in trained} <= {"eval", "-"}
    assert {modes[name] for name in trained[:-1]} == {mode}
    rows = {row.stage: row for row in plan.rows}
    assert rows["head"].lr == pytest.approx(5e-4)
    assert rows["layer4"].lr == pytest.approx(1e-4)
    json.dumps(plan.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "imagenet"}, "--weights 'imagenet' is no weight tag of timm/test_resnet"),
        (
            {"model": "ssdlite320_mobilenet_v3_large", "backbone": None, "weights": "V7"},
            "--weights 'V7' is no file here and no weight tag of torchvision/ssdlite320",
        ),
    ],
)
def test_dry_run__weights_that_nobody_published(
    tmp_path: Path, data: Path, options: dict[str, Any], words: str
) -> None:
    config = detect_config(
        tmp_path / "run", data=data, **{"image_size": None, "epochs": 1, **options}
    )

    with pytest.raises(WeightsError, match=words):
        recipe.dry_run(config, talk=CollectedTalk())


def test_dry_run__of_published_weights_needs_none_of_them(tmp_path: Path, data: Path) -> None:
    config = detect_config(
        tmp_path / "run",
        data=data,
        model="fasterrcnn_mobilenet_v3_large_320_fpn",
        backbone=None,
        weights="default",
        image_size=None,
        unfreeze="fpn",
    )

    talk = CollectedTalk()
    plan = recipe.dry_run(config, talk=talk)

    assert talk.notes[-1] == (
        "Weights COCO_V1 of torchvision/fasterrcnn_mobilenet_v3_large_320_fpn are not on this "
        "machine; a run fetches them."
    )
    trained = [row.stage for row in plan.rows if row.lr is not None]
    assert trained == ["fpn", "head"]
    assert {row.batch_norm for row in plan.rows} == {"eval", "-"}
    assert not (tmp_path / "run").exists()


def test_run__weights_that_learnt_from_held_out_images_are_told(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 10})
    options = {"data": data, "unfreeze": "head", **FAST}
    detect(tmp_path / "first", seed=0, **options)
    split = {row["path"]: row["split"] for row in rows_of(tmp_path / "first" / "splits.csv")}

    _, same = detect(tmp_path / "same", seed=0, weights=tmp_path / "first", **options)
    _, other = detect(tmp_path / "other", seed=1, weights=tmp_path / "first", **options)

    assert not any("flatters" in text for text in same.warnings)
    rows = rows_of(tmp_path / "other" / "splits.csv")
    held_out = [row["path"] for row in rows if row["split"] == "val"]
    leaked = sum(split[path] == "train" for path in held_out)
    assert leaked
    assert (
        f"--weights {tmp_path / 'first'}: {leaked} of the {len(held_out)} images in val and test "
        "lie in its train part, which flatters the results. It was split with --seed 0."
    ) in other.warnings
