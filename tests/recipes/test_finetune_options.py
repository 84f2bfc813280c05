"""Options of the training of classifiers, from the words to the numbers of a run."""

import itertools
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from toy import CollectedTalk, make_image_folder

from recipes.runs import (
    finetune,
    finetune_config,
    metrics_of,
    record_of,
    results_of,
    rows_of,
    timed_by_steps,
)
from recipes.test_finetune_resume import interrupt
from tlcli.config import TrainConfig
from tlcli.engine import loop
from tlcli.errors import ConfigError, InterruptedRunError, NonFiniteLossError
from tlcli.recipes import classifier_training, lr_search
from tlcli.recipes import finetune as recipe
from tlcli.results.counted import counted

EVERYTHING: dict[str, Any] = {
    "augment": "randaugment",
    "crop_scale": 0.4,
    "color_jitter": 0.2,
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "drop_path": 0.3,
    "head_dropout": 0.5,
    "sampler": "balanced",
    "loss": "focal",
    "focal_gamma": 1.5,
    "grad_accum_steps": 2,
    "batch_size": 3,
    "epochs": 2,
}


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """9 train images of ants, 3 of bees; 3 of each to validate on."""
    root = tmp_path / "uneven"
    for split, ants, bees in (("train", 9, 3), ("val", 3, 3)):
        make_image_folder(root / split, classes=("ant",), images_per_class=ants)
        make_image_folder(root / split, classes=("bee",), images_per_class=bees)
    return root


@pytest.mark.parametrize("at", [(0, 1), (1, 0)], ids=str)
def test_resume__equals_an_uninterrupted_run_with_every_option(
    tmp_path: Path, uneven: Path, at: tuple[int, int]
) -> None:
    finetune(tmp_path / "whole", data=uneven, **EVERYTHING)
    interrupt(tmp_path / "parts", at=at, data=uneven, **EVERYTHING)
    torch.manual_seed(99)

    finetune(tmp_path / "parts", data=uneven, resume=True, **EVERYTHING)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")
    kept = record_of(tmp_path / "whole")["config"]
    assert {name: kept[name] for name in EVERYTHING} == EVERYTHING


@pytest.mark.parametrize(
    "options",
    [
        {"augment": "strong"},
        {"augment": "randaugment"},
        {"augment": "trivialaugment"},
        {"crop_scale": 0.9},
        {"color_jitter": 0.4},
        {"random_erasing": 1.0},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"drop_path": 0.9},
        {"head_dropout": 0.9},
        {"class_weights": "balanced"},
        {"sampler": "balanced"},
        {"loss": "focal"},
        {"loss": "focal", "focal_gamma": 0.5},
    ],
    ids=str,
)
def test_run__every_option_changes_the_numbers_and_the_same_seed_repeats_them(
    tmp_path: Path, uneven: Path, options: dict[str, Any]
) -> None:
    common = {"data": uneven, "epochs": 1, "unfreeze": "layer4", "lr": 0.01, "seed": 1}
    for name, chosen in (("plain", {}), ("a", options), ("b", options)):
        finetune(tmp_path / name, **common, **chosen)

    assert results_of(tmp_path / "a") == results_of(tmp_path / "b")
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "a")]
    assert weights[0] != weights[1]


def test_run__train_loss_of_another_kind_is_said(tmp_path: Path, uneven: Path) -> None:
    said = "The train loss is measured "
    _, plain = finetune(tmp_path / "plain", data=uneven, epochs=1, unfreeze="head")
    _, mixed = finetune(
        tmp_path / "mixed",
        data=uneven,
        epochs=1,
        unfreeze="head",
        mixup=0.2,
        loss="focal",
        class_weights="balanced",
    )

    assert not [note for note in plain.notes if note.startswith(said)]
    assert (
        f"{said}on mixed images (--mixup, --cutmix) and with focal loss and with weighted classes; "
        "the val loss is plain cross-entropy on the images as they are."
    ) in mixed.notes


def test_run__balanced_weights_start_at_the_loss_of_equal_classes(
    tmp_path: Path, uneven: Path
) -> None:
    """The head starts at zero and --lr is nothing: every image costs log 2 times its weight."""
    for name, options, expected in (
        ("plain", {}, math.log(2)),
        ("weights", {"class_weights": "balanced"}, math.log(2)),  # the mean weight is 1
        ("focal", {"loss": "focal"}, math.log(2) / 4),
    ):
        _, talk = finetune(
            tmp_path / name, data=uneven, epochs=1, unfreeze="head", lr=1e-30, **options
        )
        assert talk.epochs[0].train_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_dry", [False, True], ids=["run", "dry"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "vgg11", "drop_path": 0.1}, "--drop-path 0.1 has no effect on this network"),
        ({"drop_path": 0.1, "unfreeze": "head"}, "the blocks that it would skip are frozen"),
    ],
    ids=str,
)
def test_drop_path__without_effect_is_refused(
    tmp_path: Path, photos: Path, options: dict[str, Any], words: str, is_dry: bool
) -> None:
    config = finetune_config(tmp_path / "run", data=photos, **options)
    start = recipe.dry_run if is_dry else recipe.run
    with pytest.raises(ConfigError, match=words):
        start(config, talk=CollectedTalk())
    assert not (tmp_path / "run").exists()


def test_drop_path__of_blocks_that_are_opened_later(tmp_path: Path, photos: Path) -> None:
    summary, _ = finetune(
        tmp_path / "run", data=photos, drop_path=0.5, schedule="0:head,1:layer4", epochs=2
    )
    assert summary["frozen"]["changed"] == 0


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step and every validation cost one second, and all else nothing."""
    monkeypatch.setattr(
        classifier_training, "Training", timed_by_steps(classifier_training.Training)
    )


TIMED: dict[str, Any] = {
    "unfreeze": "layer4",
    "epochs": 4,
    "lr": 0.01,
    "views": 4,
}
"""Three steps an epoch: four seconds by `ticking`."""


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(
    ("budget", "epochs", "steps"),
    [
        ("1s", 0, 1),
        ("2s", 0, 2),
        ("3s", 1, 0),  # spent in the last step: the epoch is judged
        ("4s", 1, 0),
        ("5s", 1, 1),
        ("8s", 2, 0),
        ("15s", 4, 0),
    ],
)
def test_max_time__stops_and_goes_on_as_if_it_never_had(
    tmp_path: Path, photos: Path, budget: str, epochs: int, steps: int
) -> None:
    run = tmp_path / "run"
    finetune(tmp_path / "whole", data=photos, **TIMED)

    summary, talk = finetune(run, data=photos, max_time=budget, **TIMED)

    record = record_of(run)
    done = f"{counted(epochs, 'epoch')} and {counted(steps, 'step')}"
    is_whole = epochs == 4
    assert (summary["status"], record["stopped"]) == ("finished", None if is_whole else "max_time")
    assert any(f"(--max-time) after {done}." in note for note in talk.notes) is not is_whole
    assert any("No epoch was finished" in text for text in talk.warnings) is (epochs == 0)
    assert record["best"]["epoch"] <= max(epochs, 1)
    assert set(record["results"]) == {"val", "test"}
    rows = metrics_of(run) if epochs else []
    assert rows == metrics_of(tmp_path / "whole")[:epochs]  # the learning rate is not squeezed

    _, talk = finetune(run, data=photos, max_time="1h", resume=True, **TIMED)

    assert results_of(run) == results_of(tmp_path / "whole")
    assert record_of(run)["stopped"] is None
    if not is_whole:
        assert f"Going on after {done} of the next." in talk.notes
        assert record_of(run)["config"]["max_time"] == "1h"
        assert 'max_time = "1h"' in (run / "config.toml").read_text()


@pytest.mark.usefixtures("ticking")
def test_max_time__best_epoch_is_kept(tmp_path: Path, photos: Path) -> None:
    """What was trained after the last whole epoch is not in the model that is judged."""
    finetune(tmp_path / "short", data=photos, max_time="4s", **TIMED)
    finetune(tmp_path / "longer", data=photos, max_time="6s", **TIMED)

    short, longer = (record_of(tmp_path / name) for name in ("short", "longer"))
    assert short["best"] == longer["best"]
    assert short["results"] == longer["results"]


@pytest.mark.usefixtures("ticking")
def test_max_time__same_budget_again_is_nothing_to_go_on_with(tmp_path: Path, photos: Path) -> None:
    run = tmp_path / "run"
    first, _ = finetune(run, data=photos, max_time="5s", **TIMED)
    before = (run / "run.json").read_bytes()

    again, talk = finetune(run, data=photos, max_time="5s", resume=True, **TIMED)

    assert again == first
    assert (run / "run.json").read_bytes() == before
    assert talk.notes == [
        f"{run} stopped after its --max-time 5s: give it more to go on, such as --max-time 10s."
    ]


@pytest.mark.usefixtures("ticking")
def test_max_time__counts_all_sittings(tmp_path: Path, photos: Path) -> None:
    run = tmp_path / "run"
    interrupt(run, at=(1, 0), data=photos, max_time="6s", **TIMED)

    finetune(run, data=photos, max_time="6s", resume=True, **TIMED)

    assert record_of(run)["stopped"] == "max_time"
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1"]


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("options", [{}, {"ema": 0.5}], ids=["plain", "ema"])
def test_max_time__signal_in_the_judgement_spoils_no_checkpoint(
    tmp_path: Path, photos: Path, options: dict[str, Any]
) -> None:
    run, options = tmp_path / "run", {**TIMED, **options}
    finetune(tmp_path / "whole", data=photos, **options)
    judge = recipe.judge

    def signal_and_judge(*args: Any, **values: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return judge(*args, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "judge", signal_and_judge)
        with pytest.raises(InterruptedRunError, match=r"^Stopped after 1 epoch and 1 step;"):
            finetune(run, data=photos, max_time="5s", **options)
    assert torch.load(run / "checkpoints" / "last.pt")["extra"]["is_out_of_time"] is False

    finetune(run, data=photos, max_time="1h", resume=True, **options)

    assert results_of(run) == results_of(tmp_path / "whole")


@pytest.mark.usefixtures("ticking")
def test_max_time__counts_the_judgement_of_the_start(tmp_path: Path, photos: Path) -> None:
    finetune(tmp_path / "start", data=photos, unfreeze="head", epochs=1)

    start = tmp_path / "start"
    _, talk = finetune(tmp_path / "run", data=photos, init_head=start, max_time="1s", **TIMED)

    assert any("(--max-time) after 0 epochs and 0 steps." in note for note in talk.notes)
    assert record_of(tmp_path / "run")["stopped"] == "max_time"
    assert record_of(tmp_path / "run")["best"]["epoch"] == 0
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.slow
def test_max_time__counts_the_search_of_lr_auto(tmp_path: Path, photos: Path) -> None:
    """It takes far more than the budget, and is not cut short."""
    options = {"data": photos, "lr": "auto", "max_time": "0.01s", **AUTO}

    _, talk = finetune(tmp_path / "run", **options)

    assert any("(--max-time) after 0 epochs and 0 steps." in note for note in talk.notes)
    record = record_of(tmp_path / "run")
    assert (record["stopped"], record["best"]["epoch"]) == ("max_time", 1)
    assert record["lr_range"]["steps"] > 10


@pytest.mark.parametrize("kept", ["off", "ram", "disk"])
def test_max_time__by_the_real_clock(tmp_path: Path, photos: Path, kept: str) -> None:
    """The frozen part is computed before the first step, and takes more than there is."""
    _, talk = finetune(
        tmp_path / "run", data=photos, max_time="0.000001s", trunk_cache=kept, **TIMED
    )

    record = record_of(tmp_path / "run")
    assert record["stopped"] == "max_time"
    assert record["trunk_cache"]["seconds"]["tail"] == 0
    assert any("after 0 epochs and 0 steps. Go on with: tlcli" in note for note in talk.notes)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("kept", ["ram", "disk"])
def test_max_time__ends_while_the_frozen_part_is_computed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    finetune(tmp_path / "whole", data=photos, trunk_cache="off", **TIMED)
    run, options = tmp_path / "run", {"data": photos, "trunk_cache": kept, **TIMED}
    options["cache_dtype"] = "float32"
    training, readings = classifier_training.Training, itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(
            classifier_training,
            "Training",
            lambda **values: training(**values, clock=lambda: float(next(readings))),
        )
        _, talk = finetune(run, max_time="2s", **options)
    assert any("(--max-time) after 0 epochs and 0 steps." in note for note in talk.notes)

    finetune(run, max_time="1h", resume=True, **options)

    assert results_of(run) == results_of(tmp_path / "whole")


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("budget", ["3s", "4s", "5s"])
def test_max_time__saves_no_weights_that_are_not_finite(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, budget: str
) -> None:
    """Nor where the time is up while the next values are computed."""
    monkeypatch.setattr(loop, "FINITE_CHECK_STEPS", 1000)
    options = {**TIMED, "lr": 1e30, "trunk_cache": "off", "warmup_epochs": 0, "batch_size": 2}
    with pytest.raises(NonFiniteLossError, match="is not finite in epoch 1, step "):
        finetune(tmp_path / "run", data=photos, max_time=budget, **options)

    tensors = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["model"].values()
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_stopped__says_patience(tmp_path: Path, photos: Path) -> None:
    finetune(tmp_path / "run", data=photos, lr=1e-30, epochs=5, patience=1, model="timm/test_vit")
    assert record_of(tmp_path / "run")["stopped"] == "patience"


AUTO: dict[str, Any] = {"schedule": "0:layer4,1:all", "epochs": 2, "batch_size": 6}


@pytest.fixture(scope="module")
def auto_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    path = tmp_path_factory.mktemp("auto") / "run"
    finetune(path, data=photos, lr="auto", mixup=0.2, **AUTO)
    return path


@pytest.mark.slow
def test_lr_auto__trains_as_with_the_rate_that_it_found(
    tmp_path: Path, photos: Path, auto_run: Path
) -> None:
    record = record_of(auto_run)
    found = record["lr_range"]["lr"]

    finetune(tmp_path / "given", data=photos, lr=found, mixup=0.2, **AUTO)

    assert results_of(tmp_path / "given") == results_of(auto_run)
    assert record["config"]["lr"] == found != TrainConfig().head_lr
    assert 'lr = "auto"\n' in (auto_run / "config.toml").read_text()
    rows = rows_of(auto_run / "lr_range.csv")
    assert list(rows[0]) == ["step", "lr", "loss", "smoothed"]
    assert len(rows) == record["lr_range"]["steps"] <= 100
    assert float(rows[0]["lr"]) == pytest.approx(1e-6)
    with Image.open(auto_run / "lr_range.png") as picture:
        assert min(picture.size) > 300
    assert "lr_range" not in record_of(tmp_path / "given")


@pytest.mark.slow
def test_lr_auto__is_said_and_repeatable(tmp_path: Path, photos: Path, auto_run: Path) -> None:
    _, talk = finetune(tmp_path / "again", data=photos, lr="auto", mixup=0.2, **AUTO)

    found = record_of(auto_run)["lr_range"]["lr"]
    assert f"--lr auto: {found:g}, where the loss falls fastest." in talk.notes
    assert (tmp_path / "again" / "lr_range.csv").read_bytes() == (
        auto_run / "lr_range.csv"
    ).read_bytes()


@pytest.mark.slow
def test_lr_auto__resume_does_not_look_again(
    tmp_path: Path, photos: Path, auto_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "parts", at=(1, 0), data=photos, lr="auto", mixup=0.2, **AUTO)
    found = record_of(auto_run)["lr_range"]["lr"]
    monkeypatch.setattr(lr_search, "try_rates", None)

    finetune(tmp_path / "parts", data=photos, lr=found, mixup=0.2, resume=True, **AUTO)

    assert results_of(tmp_path / "parts") == results_of(auto_run)


def test_lr_auto__signal_while_it_looks(tmp_path: Path, photos: Path) -> None:
    error = interrupt(tmp_path / "run", at=(0, 3), data=photos, lr="auto", **AUTO)

    assert str(error) == (
        "Stopped while learning rates were tried, before the first step. Start the run anew with "
        "--overwrite."
    )
    assert error.exit_code == 143
    assert record_of(tmp_path / "run")["status"] == "interrupted"


def test_lr_auto__loss_that_is_not_finite_from_the_start_names_images(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    state = safetensors.torch.load_file(resnet_file)
    for tensor in (tensor for tensor in state.values() if tensor.ndim == 4):
        tensor.fill_(3e38)  # of which two are more than float32 holds
    safetensors.torch.save_file(state, tmp_path / "huge.safetensors")

    weights = tmp_path / "huge.safetensors"
    with pytest.raises(
        NonFiniteLossError, match=r"not finite in epoch 1, step 1, on the images train/\w+/\d.png"
    ):
        finetune(tmp_path / "run", data=photos, lr="auto", weights=weights, **AUTO)

    assert record_of(tmp_path / "run")["status"] == "failed"


def test_lr_auto__nothing_to_learn_is_told_and_the_default_used(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", classes=("ant",), images_per_class=8)
    shutil.copytree(data / "ant", data / "bee")  # the same pictures with other labels

    _, talk = finetune(
        tmp_path / "run", data=data, lr="auto", unfreeze="head", epochs=1, augment="none"
    )

    assert any("no learning rate lowered the loss" in text for text in talk.warnings)
    assert record_of(tmp_path / "run")["lr_range"]["lr"] is None
    assert record_of(tmp_path / "run")["config"]["lr"] == 1e-3


@pytest.mark.slow
def test_lr_auto__rate_of_the_backbone_that_is_given_stays(tmp_path: Path, photos: Path) -> None:
    finetune(tmp_path / "run", data=photos, lr="auto", backbone_lr=1e-5, **AUTO)

    rows = metrics_of(tmp_path / "run")
    share = float(rows[0]["lr/backbone"]) / float(rows[0]["lr/head"])
    assert share == pytest.approx(1e-5 / record_of(tmp_path / "run")["config"]["lr"])


def test_lr_auto__dry_run_says_that_it_is_to_be_found(photos: Path) -> None:
    talk = CollectedTalk()
    plan = recipe.dry_run(finetune_config(None, data=photos, lr="auto"), talk=talk)

    assert plan.rows[-1].lr == 1e-3
    assert any(note.startswith("--lr auto: the rates below are") for note in talk.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "timm/test_vit"}, "timm/test_vit has no layers that keep statistics, such as"),
        ({"unfreeze": "head"}, r"what is trained \(head\) has no layers that keep statistics"),
    ],
)
def test_freeze_norm__without_effect_is_refused(
    tmp_path: Path, photos: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^--freeze-norm has no effect: {words}"):
        finetune(tmp_path / "run", data=photos, freeze_norm=True, **options)
    with pytest.raises(ConfigError, match=f"^--freeze-norm has no effect: {words}"):
        recipe.dry_run(
            finetune_config(None, data=photos, freeze_norm=True, **options), talk=CollectedTalk()
        )
    assert not (tmp_path / "run").exists()


def test_freeze_norm__of_a_stage_that_joins_later_is_fine(photos: Path) -> None:
    config = finetune_config(None, data=photos, freeze_norm=True, schedule="0:head,1:layer4")
    plan = recipe.dry_run(config, talk=CollectedTalk())

    assert {row.stage: row.batch_norm for row in plan.rows}["layer4"] == "eval"


def test_dry_run__tells_what_a_weights_file_was_wrapped_in(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    state = {
        f"model.{key}": value for key, value in safetensors.torch.load_file(resnet_file).items()
    }
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "last.ckpt.pth")
    talk = CollectedTalk()

    recipe.dry_run(
        finetune_config(None, data=photos, weights=tmp_path / "last.ckpt.pth"), talk=talk
    )

    assert [note for note in talk.notes if note.startswith("Weights: ")][:2] == [
        "Weights: took 'state_dict' of the file, not: epoch",
        f"Weights: took the {len(state)} tensors below 'model.'",
    ]
