"""`tlcli finetune` end to end: what a run leaves behind, and that it is what was asked for."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from toy import CollectedTalk, make_image_folder, make_split_folders

from recipes.box_runs import detect_config, make_box_folder
from recipes.runs import (
    evaluate,
    finetune,
    finetune_config,
    metrics_of,
    record_of,
    results_of,
    rows_of,
)
from recipes.test_finetune_resume import interrupt
from tlcli.backbones.pretrained import create_backbone
from tlcli.engine import loop
from tlcli.engine.training_state import TrainingState
from tlcli.errors import (
    BadImageError,
    ConfigError,
    DataError,
    FrozenMovedError,
    ModelError,
    NonFiniteLossError,
)
from tlcli.models.saved_model import load_network
from tlcli.recipes import finetune as recipe
from tlcli.recipes.detection_job import prepare_detection
from tlcli.recipes.finetune_job import prepare_job, with_default_stages

SCHEDULE = "0:head,1:layer4,2:all"
BODY = ["conv1.0", "conv1.3", "conv1.6", "layer1", "layer2", "layer3", "layer4"]


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("channels_last", [True, False])
def test_prepare__gradients_keep_the_format_of_the_images(
    tmp_path: Path, photos: Path, channels_last: bool
) -> None:
    """Without it, the last BatchNorm takes a quarter of a step; see `gradient_layout`."""
    common = {"channels_last": channels_last, "weights": "none"}
    boxes = make_box_folder(tmp_path / "boxes", counts={"train": 2, "val": 2})
    config = finetune_config(None, data=photos, model="timm/test_efficientnet", **common)
    network = prepare_job(config, former=None, talk=CollectedTalk()).model.network
    detector = prepare_detection(
        detect_config(None, data=boxes, **common), former=None, talk=CollectedTalk()
    ).model.network

    for part in (network, detector):
        norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
        assert [len(norm._forward_hooks) for norm in norms] == [int(channels_last)] * len(norms)
        assert norms


@pytest.mark.parametrize(
    ("unfreeze", "is_safe"), [("all", False), ("stem", False), ("last:1", True), ("head", True)]
)
def test_prepare__network_that_cannot_be_trained_in_channels_last(
    photos: Path, unfreeze: str, is_safe: bool
) -> None:
    """PyTorch writes beyond its memory there; a 1x1 convolution with a stride sees the images."""
    options = {"model": "timm/mobileone_s0", "weights": "none", "unfreeze": unfreeze}
    talk = CollectedTalk()
    job = prepare_job(finetune_config(None, data=photos, **options), former=None, talk=talk)

    assert job.runtime.channels_last == is_safe
    weight = next(p for p in job.model.network.parameters() if p.ndim == 4 and p.shape[-1] == 3)
    assert weight.is_contiguous() != is_safe
    note = (
        "Memory format: not channels-last, in which PyTorch crashes on the CPU when "
        "'stem.conv_scale.conv' is trained."
    )
    assert (note in talk.notes) != is_safe


@pytest.mark.slow
def test_run__network_that_cannot_be_trained_in_channels_last(tmp_path: Path, photos: Path) -> None:
    options = {"model": "timm/mobileone_s0", "weights": "none", "unfreeze": "all", "epochs": 2}
    summary, _ = finetune(tmp_path / "run", data=photos, **options)

    assert summary["frozen"]["changed"] == 0
    assert len(metrics_of(tmp_path / "run")) == 2


def test_run__folder_holds_what_the_design_says_and_no_more(scheduled_run: Path) -> None:
    of_split = {
        "metrics.json",
        "predictions.csv",
        "per_class.csv",
        "confusion_matrix.csv",
        "confusion_matrix.png",
    }
    assert files_in(scheduled_run) == {
        "run.json",
        "config.toml",
        "metrics.csv",
        "splits.csv",
        "model.safetensors",
        "model.json",
        "training_curves.png",
        "checkpoints/last.pt",
        *(f"evaluation/{split}/{name}" for split in ("val", "test") for name in of_split),
    }


def test_run__with_two_threads(tmp_path: Path, photos: Path) -> None:
    """All other tests have one; two give nearly its numbers."""
    options = {"data": photos, "unfreeze": "layer4", "epochs": 1}
    finetune(tmp_path / "one", **options)
    torch.set_num_threads(2)
    try:
        finetune(tmp_path / "two", **options)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)

    one, two = (metrics_of(tmp_path / run)[0] for run in ("one", "two"))
    for name in ("train/loss", "val/loss"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4)
    assert record_of(tmp_path / "two")["status"] == "finished"


def test_run__record_tells_what_was_done(scheduled_run: Path, photos: Path) -> None:
    record = record_of(scheduled_run)

    assert record["schema_version"] == 1
    assert (record["status"], record["kind"], record["command"]) == (
        "finished",
        "classification",
        "finetune",
    )
    assert record["model"]["name"] == "timm/test_resnet"
    assert record["model"]["weights"] == "file"
    assert record["classes"] == ["ant", "bee", "cat"]
    assert record["data"]["spec"] == str(photos)
    assert record["data"]["counts"] == {
        "train": {"ant": 4, "bee": 4, "cat": 4},
        "val": {"ant": 3, "bee": 3, "cat": 3},
        "test": {"ant": 2, "bee": 2, "cat": 2},
    }
    assert record["seed"] == 0
    trunk = record["trunk_cache"]
    assert (trunk["hits"], trunk["misses"], trunk["bytes"]) == (0, 2 * (12 + 9), 0)  # two phases
    assert [phase["kept"] for phase in trunk["phases"]] == ["off"] * 3
    assert set(record["results"]) == {"val", "test"}
    assert record["results"]["test"]["num_images"] == 6
    seconds = record["seconds"]
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"))


def test_run__metrics_have_a_row_per_epoch(scheduled_run: Path) -> None:
    rows = rows_of(scheduled_run / "metrics.csv")

    assert list(rows[0]) == [
        "epoch",
        "phase",
        "lr/head",
        "lr/backbone",
        "train/loss",
        "val/loss",
        "val/top1",
        "val/top5",
        "val/macro_f1",
        "seconds/train",
        "seconds/eval",
    ]
    assert [(row["epoch"], row["phase"]) for row in rows] == [("1", "0"), ("2", "1"), ("3", "2")]
    assert rows[0]["lr/backbone"] == ""
    assert float(rows[1]["lr/backbone"]) == pytest.approx(0.1 * float(rows[1]["lr/head"]))


def test_run__schedule_trains_what_it_says(scheduled_run: Path) -> None:
    record = record_of(scheduled_run)

    trained = [["head"], ["layer4", "head"], [*BODY, "head"]]
    assert record["phases"] == [
        {"start": start, "trained": names} for start, names in enumerate(trained)
    ]
    assert [phase["trained"] for phase in record["frozen"]["phases"]] == trained


def test_run__proves_that_the_rest_did_not_move(scheduled_run: Path, resnet_file: Path) -> None:
    start = safetensors.torch.load_file(resnet_file)
    network, _ = load_network(scheduled_run)
    parameters = {name for name, _ in network.named_parameters()}

    def frozen(*opened: str) -> dict[str, int]:
        names = [name for name in start if not name.startswith(opened)]
        tensors = sum(name in parameters for name in names)
        return {"tensors": tensors, "buffers": len(names) - tensors, "changed": 0}

    proofs = record_of(scheduled_run)["frozen"]
    found = [{key: p[key] for key in ("tensors", "buffers", "changed")} for p in proofs["phases"]]
    assert found == [
        frozen("fc"),
        frozen("fc", "layer4"),
        {"tensors": 0, "buffers": 0, "changed": 0},
    ]
    assert found[0]["buffers"] > 0
    assert {key: proofs[key] for key in ("tensors", "buffers", "changed")} == found[0]


@pytest.mark.parametrize(
    "options",
    [{"unfreeze": "layer4"}, {"schedule": "0:head,1:layer4"}, {"unfreeze": "layer4", "ema": 0.9}],
    ids=str,
)
def test_run__frozen_tensors_of_the_saved_model_keep_every_bit(
    tmp_path: Path, photos: Path, resnet_file: Path, options: dict[str, Any]
) -> None:
    summary, _ = finetune(
        tmp_path / "run", data=photos, weights=resnet_file, weight_decay=0.5, lr=0.1, **options
    )

    start = safetensors.torch.load_file(resnet_file)
    end = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert summary["frozen"]["changed"] == 0
    assert end.keys() == start.keys()
    assert all(name.startswith(("layer4.", "fc.")) for name in moved)
    if "unfreeze" in options:
        assert {"layer4.0.conv1.weight", "layer4.0.bn1.running_mean"} <= moved


def test_run__saved_model_is_that_of_the_best_epoch(scheduled_run: Path) -> None:
    record, rows = record_of(scheduled_run), metrics_of(scheduled_run)
    best = rows[record["best"]["epoch"] - 1]

    top1 = [float(row["val/top1"]) for row in rows]
    assert record["best"]["metric"] == "val/top1"
    assert record["best"]["value"] == float(best["val/top1"]) == max(top1)
    assert record["results"]["val"]["metrics"]["loss"] == float(best["val/loss"])


def test_run__monitor_loss_picks_the_lowest(tmp_path: Path, photos: Path) -> None:
    summary, talk = finetune(
        tmp_path / "run", data=photos, epochs=3, monitor="loss", unfreeze="head"
    )

    losses = [float(row["val/loss"]) for row in metrics_of(tmp_path / "run")]
    assert summary["best"] == {
        "epoch": losses.index(min(losses)) + 1,
        "metric": "val/loss",
        "value": min(losses),
    }
    assert summary["results"]["val"]["metrics"]["loss"] == min(losses)
    assert talk.best_epochs[-1] == summary["best"]["epoch"]


def test_run__learns(tmp_path: Path, photos: Path) -> None:
    summary, _ = finetune(
        tmp_path / "run", data=photos, model="timm/test_vit", epochs=3, lr=3e-3, backbone_lr=1e-3
    )

    losses = [float(row["train/loss"]) for row in metrics_of(tmp_path / "run")]
    assert losses == sorted(losses, reverse=True)
    assert summary["results"]["test"]["metrics"]["top1"] == 1.0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_run__same_seed_same_numbers_whatever_the_workers(
    tmp_path: Path, scheduled_run: Path, photos: Path, resnet_file: Path, num_workers: int
) -> None:
    torch.rand(1000)  # what was drawn before must not matter
    finetune(
        tmp_path / "again",
        data=photos,
        weights=resnet_file,
        schedule=SCHEDULE,
        epochs=3,
        num_workers=num_workers,
    )

    assert results_of(tmp_path / "again") == results_of(scheduled_run)


def test_run__random_weights_come_from_the_seed(tmp_path: Path, photos: Path) -> None:
    for name, seed, drawn in (("first", 1, 0), ("again", 1, 1000), ("other", 2, 0)):
        torch.rand(drawn)
        finetune(
            tmp_path / name,
            data=photos,
            model="timm/test_vit",
            epochs=1,
            seed=seed,
            unfreeze="head",
        )

    assert results_of(tmp_path / "again") == results_of(tmp_path / "first")
    first, other = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("first", "other")
    )
    assert not torch.equal(first["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_run__another_seed_gives_other_numbers(
    tmp_path: Path, scheduled_run: Path, photos: Path, resnet_file: Path
) -> None:
    finetune(
        tmp_path / "other", data=photos, weights=resnet_file, schedule=SCHEDULE, epochs=3, seed=1
    )

    pairs = list(zip(metrics_of(tmp_path / "other"), metrics_of(scheduled_run), strict=True))
    assert all(other["train/loss"] != row["train/loss"] for other, row in pairs)


def test_run__config_toml_holds_what_was_given(scheduled_run: Path, photos: Path) -> None:
    options = tomllib.loads((scheduled_run / "config.toml").read_text())

    assert options["data"] == str(photos)
    assert options["schedule"] == SCHEDULE
    assert options["warmup_epochs"] == 0.5
    assert not {"output", "overwrite", "resume", "unfreeze"} & options.keys()
    decided = {"lr": 1e-3, "backbone_lr": pytest.approx(1e-4), "weight_decay": 0.05}
    assert not decided.keys() & options.keys()
    used = record_of(scheduled_run)["config"]
    assert {name: used[name] for name in decided} == decided


def test_run__patience_stops_when_nothing_gets_better(tmp_path: Path, photos: Path) -> None:
    still = {"lr": 1e-30, "model": "timm/test_vit", "epochs": 6}

    _, talk = finetune(tmp_path / "run", data=photos, patience=2, unfreeze="head", **still)

    assert [row["epoch"] for row in metrics_of(tmp_path / "run")] == ["1", "2", "3"]
    assert "No better epoch for 2: stopping early (--patience)." in talk.notes
    assert record_of(tmp_path / "run")["status"] == "finished"
    assert record_of(tmp_path / "run")["best"]["epoch"] == 1


def test_run__patience_waits_for_the_last_phase(tmp_path: Path, photos: Path) -> None:
    finetune(
        tmp_path / "run",
        data=photos,
        lr=1e-30,
        model="timm/test_vit",
        epochs=6,
        patience=1,
        schedule="0:head,2:blocks.5",
    )

    assert [row["phase"] for row in metrics_of(tmp_path / "run")] == ["0", "0", "1"]


def test_run__split_is_made_and_kept(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=6)

    summary, _ = finetune(
        tmp_path / "run", data=data, epochs=1, val_split=0.34, test_split=0.17, unfreeze="head"
    )

    rows = rows_of(tmp_path / "run" / "splits.csv")
    counts = record_of(tmp_path / "run")["data"]["counts"]
    assert {(row["path"], row["label"]) for row in rows} == {
        (f"{label}/{number}.png", label) for label in ("ant", "bee", "cat") for number in range(6)
    }
    for split in ("train", "val", "test"):
        assert sum(row["split"] == split for row in rows) == sum(counts[split].values())
    assert counts["val"] == {"ant": 2, "bee": 2, "cat": 2}
    assert set(summary["results"]) == {"val", "test"}


def test_run__two_classes_have_a_top5(tmp_path: Path) -> None:
    data = make_split_folders(
        tmp_path / "photos", counts={"train": 3, "val": 2}, classes=("ant", "bee")
    )

    summary, _ = finetune(tmp_path / "run", data=data, epochs=1, unfreeze="head")

    assert summary["results"]["val"]["metrics"]["top5"] == 1.0
    assert set(summary["results"]) == {"val"}


def test_run__accumulates_clips_and_smooths_together(tmp_path: Path, photos: Path) -> None:
    summary, talk = finetune(
        tmp_path / "run",
        data=photos,
        epochs=1,
        grad_accum_steps=2,
        clip_grad=0.5,
        label_smoothing=0.1,
        head="mlp:8,0.3",
        opt="sgd",
        layer_decay=0.7,
    )

    assert summary["status"] == "finished"
    assert torch.isfinite(torch.tensor(talk.epochs[0].train_loss))


def test_run__result_of_a_folder_is_its_run_json(scheduled_run: Path) -> None:
    summary, talk = finetune(scheduled_run, data="sample:digits", resume=True)

    record = record_of(scheduled_run)
    assert summary == {
        "schema_version": 1,
        "run": str(scheduled_run),
        **{
            key: record[key]
            for key in ("status", "best", "results", "frozen", "trunk_cache", "seconds")
        },
    }
    assert talk.notes == [f"{scheduled_run} is finished; there is nothing to go on with."]


def test_run__taken_output_is_refused_before_any_work(scheduled_run: Path) -> None:
    before = {name: (scheduled_run / name).read_bytes() for name in files_in(scheduled_run)}

    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        finetune(scheduled_run, data="no/such/data")

    assert {name: (scheduled_run / name).read_bytes() for name in files_in(scheduled_run)} == before


def test_run__overwrite_leaves_nothing_of_the_former_run(tmp_path: Path, photos: Path) -> None:
    finetune(tmp_path / "run", data=photos, epochs=1, unfreeze="head")
    (tmp_path / "run" / "evaluation" / "other").mkdir()

    finetune(tmp_path / "run", data=photos, epochs=1, unfreeze="head", overwrite=True, seed=3)

    assert record_of(tmp_path / "run")["seed"] == 3
    assert not (tmp_path / "run" / "evaluation" / "other").exists()


def test_run__overwrite_spares_what_is_no_run(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ConfigError, match="is not empty and not a run folder"):
        finetune(tmp_path, data=photos, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_run__without_output_gets_a_new_folder_each_time(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"finetune-test_resnet-{photos.name}"

    made = [
        recipe.run(
            finetune_config(None, data=photos, epochs=1, unfreeze="head"),
            talk=CollectedTalk(),
        )["run"]
        for _ in range(2)
    ]

    assert made == [f"runs/{name}", f"runs/{name}-2"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data": "nowhere"}, DataError, "There is no data at '.*nowhere'"),
        ({"model": "timm/no_such_net"}, ModelError, "no_such_net"),
        ({"unfreeze": "layer9"}, ConfigError, "'layer9' matches no stage .* Did you mean 'layer"),
        ({"schedule": "0:head,5:layer4"}, ConfigError, r"must be below --epochs \(2\)"),
        ({"weights": "imagenet"}, ModelError, "--weights 'imagenet' is no weight tag"),
        ({"unfreeze": "head", "backbone_lr": 1e-3}, ConfigError, "--backbone-lr has no effect"),
        ({"head": "mlp"}, ConfigError, "--head 'mlp' is not understood"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_run__mistake_is_told_and_leaves_no_folder(
    tmp_path: Path, photos: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        finetune(tmp_path / "run", **{"data": photos, **options})
    assert not (tmp_path / "run").exists()


def test_run__one_class_is_no_task(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", classes=("ant",))

    with pytest.raises(DataError, match="has one class only, 'ant'") as caught:
        finetune(tmp_path / "run", data=data)
    assert caught.value.exit_code == 3


def test_run__images_without_class_folders(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", classes=("ant",)) / "ant"

    with pytest.raises(DataError, match="has no class folders with images") as caught:
        finetune(tmp_path / "run", data=data)
    assert caught.value.exit_code == 3


@pytest.fixture
def photos_with_bad_ones(tmp_path: Path) -> Path:
    root = make_split_folders(tmp_path / "photos", counts={"train": 4, "val": 3})
    for name in ("train/bee/1.png", "val/cat/2.png"):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    return root


def test_run__corrupt_image_is_named(tmp_path: Path, photos_with_bad_ones: Path) -> None:
    with pytest.raises(BadImageError, match=r"Cannot decode .*/train/bee/1\.png") as caught:
        finetune(tmp_path / "run", data=photos_with_bad_ones, unfreeze="head")

    assert caught.value.exit_code == 3
    record = record_of(tmp_path / "run")
    assert record["status"] == "failed"
    assert "train/bee/1.png" in record["error"]


def test_run__skipped_images_are_listed_counted_and_not_replaced(
    tmp_path: Path, photos_with_bad_ones: Path
) -> None:
    run = tmp_path / "run"

    _, talk = finetune(
        run, data=photos_with_bad_ones, on_bad_image="skip", epochs=1, unfreeze="head"
    )

    skipped = {row["path"]: row["reason"] for row in rows_of(run / "skipped_images.csv")}
    assert set(skipped) == {"train/bee/1.png", "val/cat/2.png"}
    assert all("Cannot decode" in reason for reason in skipped.values())
    data = record_of(run)["data"]
    assert data["skipped"] == 2
    assert data["counts"] == {
        "train": {"ant": 4, "bee": 3, "cat": 4},
        "val": {"ant": 3, "bee": 3, "cat": 2},
    }
    judged = [row["path"] for row in rows_of(run / "evaluation" / "val" / "predictions.csv")]
    assert len(judged) == len(set(judged)) == 8
    assert not set(skipped) & {*judged, *(row["path"] for row in rows_of(run / "splits.csv"))}
    assert sum("train/bee/1.png" in warning for warning in talk.warnings) == 1


def test_run__loss_that_is_not_finite_names_the_files(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(
        NonFiniteLossError,
        match=r"^The training loss is not finite in epoch \d, step \d, on the images train/.*"
        r"Lower --lr, add --clip-grad 1 or",
    ) as caught:
        finetune(tmp_path / "run", data=photos, lr=1e30, warmup_epochs=0, model="timm/test_vit")

    assert caught.value.exit_code == 1
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert str(caught.value).count("train/") == 4  # one batch


def touching(monkeypatch: pytest.MonkeyPatch, tensor: str, *, epoch: int) -> None:
    """Change a tensor behind the back of the freezing, in the first step of an epoch."""
    step = loop._step

    def step_and_touch(task: Any, state: TrainingState, batches: Any, **others: Any) -> Any:
        result = step(task, state, batches, **others)
        if (state.epoch, state.step) == (epoch, 0):
            state.model.network.state_dict()[tensor].add_(1)
        return result

    monkeypatch.setattr(loop, "_step", step_and_touch)


@pytest.mark.parametrize(
    ("tensor", "epoch", "options"),
    [
        ("layer1.0.conv1.weight", 0, {"unfreeze": "head", "epochs": 1}),
        ("layer1.0.bn1.running_var", 0, {"unfreeze": "head", "epochs": 1}),
        # after the best epoch, whose weights are the saved ones
        ("bn1.num_batches_tracked", 1, {"unfreeze": "head", "lr": 1e-30}),
        # in the first phase, of a stage that the second one trains
        ("layer4.0.bn1.running_var", 0, {"schedule": "0:head,1:layer4"}),
    ],
    ids=["parameter", "buffer", "after_the_best", "earlier_phase"],
)
def test_run__frozen_tensor_that_moved_fails_the_run(
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensor: str,
    epoch: int,
    options: dict[str, Any],
) -> None:
    touching(monkeypatch, tensor, epoch=epoch)

    with pytest.raises(
        FrozenMovedError,
        match=f"^1 frozen tensors moved during training, the first is '{tensor}'. The result "
        "cannot be trusted",
    ) as caught:
        finetune(tmp_path / "run", data=photos, **options)

    assert caught.value.exit_code == 1
    record = record_of(tmp_path / "run")
    assert (record["status"], record["frozen"]["changed"]) == ("failed", 1)
    assert "results" not in record


def test_run__evaluation_of_a_failed_run_is_refused(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "_step", broken)
    with pytest.raises(OSError, match="No space left"):
        finetune(tmp_path / "run", data=photos)

    with pytest.raises(DataError, match=r"model\.safetensors cannot be read .*--resume"):
        evaluate(run=tmp_path / "run")


def test_dry_run__writes_nothing_and_needs_no_weights(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = finetune_config(
        tmp_path / "run", data=photos, model="timm/resnet18", weights="default", unfreeze="layer4"
    )
    talk = CollectedTalk()

    plan = recipe.dry_run(config, talk=talk)

    assert list(tmp_path.iterdir()) == []
    assert plan.classes == 3
    assert [row.stage for row in plan.rows if row.lr is not None] == ["layer4", "head"]
    assert any("are not on this machine; a run fetches them." in note for note in talk.notes)
    json.dumps(plan.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "trained", "is_told"),
    [
        ({"weights": "file"}, ["layer2", "layer3", "layer4", "head"], True),
        ({"weights": "file", "unfreeze": "all"}, None, False),
        ({"weights": "file", "schedule": "0:all"}, None, False),
        ({"weights": "file", "in_channels": 4}, None, False),
        ({"weights": "none"}, None, False),
    ],
    ids=["pretrained", "asked for", "schedule", "adapted first layer", "random"],
)
def test_dry_run__what_is_trained_where_nobody_says(
    photos: Path,
    resnet_file: Path,
    options: dict[str, Any],
    trained: list[str] | None,
    is_told: bool,
) -> None:
    if options["weights"] == "file":
        options = {**options, "weights": resnet_file}
    talk = CollectedTalk()
    plan = recipe.dry_run(finetune_config(None, data=photos, epochs=1, **options), talk=talk)

    assert [row.stage for row in plan.rows if row.lr] == (trained or [*BODY, "head"])
    told = any("No --unfreeze given: last:3 and the head are trained" in n for n in talk.notes)
    assert told is is_told


def test_run__default_stages_are_those_that_the_run_began_with(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    run, options = tmp_path / "run", {"data": photos, "weights": resnet_file, "epochs": 1}
    interrupt(run, at=(0, 1), **options)
    _, talk = finetune(run, resume=True, **options)

    (phase,) = record_of(run)["phases"]
    assert phase["trained"] == ["layer2", "layer3", "layer4", "head"]
    assert record_of(run)["config"]["unfreeze"] == "last:3"
    assert not any("No --unfreeze given" in note for note in talk.notes)  # said when it began


def test_default_stages__of_a_network_with_few_of_them(resnet_file: Path) -> None:
    """Three are all that there are before the head."""
    backbone = create_backbone("timm/test_resnet", weights=str(resnet_file))
    config = finetune_config(None)
    for count, expected in ((4, "all"), (5, "last:3")):
        short = replace(backbone, stages=backbone.stages[-count:])
        chosen = with_default_stages(config, backbone=short, former=None, talk=CollectedTalk())
        assert chosen.freezing.unfreeze == expected
