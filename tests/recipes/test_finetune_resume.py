"""An interrupted and resumed run equals one that was left alone, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.runs import (
    SMALL,
    finetune,
    metrics_of,
    record_of,
    results_of,
    signal_at,
)
from tlcli.engine.interrupts import StopSignals
from tlcli.errors import ConfigError, DataError, InterruptedRunError
from tlcli.recipes import finetune as recipe
from tlcli.results.counted import counted

ALL_OPTIONS: dict[str, Any] = {
    "ema": 0.9,
    "head": "mlp:8,0.3",  # dropout: random numbers in every step
    "augment": "medium",
    "clip_grad": 1.0,
    "grad_accum_steps": 2,
    "unfreeze": "layer4",
    "epochs": 2,
    "batch_size": 3,
}
SGD: dict[str, Any] = {"opt": "sgd", "lr_schedule": "step", "epochs": 2}
EPOCHS = 6
"""Enough for a signal to come before the end."""
SCHEDULED: dict[str, Any] = {"schedule": "0:head,1:layer4,2:all", "epochs": 3}


def interrupt(
    run: Path, *, at: tuple[int, int], number: signal.Signals = signal.SIGTERM, **options: Any
) -> InterruptedRunError:
    """Fine-tune with a real signal during a step (epoch, step), both counted from 0."""
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, epoch=at[0], step=at[1], number=number)
        with pytest.raises(InterruptedRunError) as caught:
            finetune(run, **options)
    return caught.value


@pytest.mark.parametrize(
    ("at", "options"),
    [
        ((0, 1), ALL_OPTIONS),
        ((1, 0), ALL_OPTIONS),
        ((1, 1), SGD),
        ((1, 0), SCHEDULED),  # the first step of a phase
        ((1, 2), SCHEDULED),  # the last step of a phase: only the validation is missing
    ],
    ids=["ema_mid_epoch", "ema_second_epoch", "sgd_momentum", "new_phase", "end_of_phase"],
)
def test_resume__equals_an_uninterrupted_run(
    tmp_path: Path, photos: Path, at: tuple[int, int], options: dict[str, Any]
) -> None:
    finetune(tmp_path / "whole", data=photos, **options)
    error = interrupt(tmp_path / "parts", at=at, data=photos, **options)
    assert record_of(tmp_path / "parts")["status"] == "interrupted"
    torch.manual_seed(99)  # nothing may depend on what was drawn before

    _, talk = finetune(tmp_path / "parts", data=photos, resume=True, **options)

    steps = f"{counted(at[0], 'epoch')} and {counted(at[1] + 1, 'step')}"
    assert str(error) == (
        f"Stopped after {steps}; saved. Go on with: "
        f"tlcli finetune --output {tmp_path / 'parts'} --resume"
    )
    assert f"Going on after {steps} of the next." in talk.notes
    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")
    assert record_of(tmp_path / "parts")["status"] == "finished"


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=lambda v: str(v)
)
def test_run__signal_decides_the_exit_code(
    tmp_path: Path, photos: Path, number: signal.Signals, exit_code: int
) -> None:
    error = interrupt(tmp_path / "run", at=(0, 1), number=number, data=photos, unfreeze="head")

    assert error.exit_code == exit_code


def test_resume__interrupted_twice(tmp_path: Path, photos: Path) -> None:
    options = {"data": photos, "unfreeze": "layer4", "epochs": 2}
    finetune(tmp_path / "whole", **options)
    interrupt(tmp_path / "parts", at=(0, 1), **options)
    interrupt(tmp_path / "parts", at=(1, 1), resume=True, **options)

    finetune(tmp_path / "parts", resume=True, **options)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


def test_resume__needs_no_weights_file(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    weights = shutil.copy(resnet_file, tmp_path / "start.safetensors")
    options = {"data": photos, "weights": weights, "unfreeze": "layer4"}
    finetune(tmp_path / "whole", **options)
    interrupt(tmp_path / "parts", at=(0, 1), **options)
    weights.unlink()

    finetune(tmp_path / "parts", resume=True, **options)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


def test_resume__interrupted_before_an_epoch_was_done(tmp_path: Path, photos: Path) -> None:
    interrupt(tmp_path / "run", at=(0, 1), data=photos, unfreeze="head")

    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert record_of(tmp_path / "run")["status"] == "interrupted"


def stopped_in_the_final_judgement(run: Path, **options: Any) -> None:
    """Fine-tune, but die when all epochs are done and nothing is judged yet."""

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "judge", die)
        with pytest.raises(KeyboardInterrupt):
            finetune(run, **options)
    assert record_of(run)["status"] == "interrupted"


@pytest.mark.parametrize("options", [{"unfreeze": "layer4"}, {**ALL_OPTIONS}], ids=["plain", "ema"])
def test_resume__only_the_final_judgement_is_missing(
    tmp_path: Path, photos: Path, options: dict[str, Any]
) -> None:
    finetune(tmp_path / "whole", data=photos, **options)
    stopped_in_the_final_judgement(tmp_path / "parts", data=photos, **options)

    finetune(tmp_path / "parts", data=photos, resume=True, **options)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


def test_resume__does_not_train_on_after_an_early_stop(tmp_path: Path, photos: Path) -> None:
    options = {
        "data": photos,
        "model": "timm/test_vit",
        "unfreeze": "head",
        "lr": 1e-30,
        "patience": 1,
        "epochs": 5,
    }
    stopped_in_the_final_judgement(tmp_path / "run", **options)

    finetune(tmp_path / "run", resume=True, **options)

    assert [row["epoch"] for row in metrics_of(tmp_path / "run")] == ["1", "2"]


def test_resume__where_nothing_is_yet_starts(tmp_path: Path, photos: Path) -> None:
    run = tmp_path / "run"

    summary, talk = finetune(run, data=photos, epochs=1, unfreeze="head", resume=True)

    assert f"{run} does not exist yet: nothing to resume, starting it." in talk.notes
    assert summary["status"] == "finished"


def test_resume__run_without_a_checkpoint(tmp_path: Path, photos: Path) -> None:
    interrupt(tmp_path / "run", at=(0, 1), data=photos, unfreeze="head")
    (tmp_path / "run" / "checkpoints" / "last.pt").unlink()

    with pytest.raises(ConfigError, match=r"run has no checkpoint.*Start it anew with --overwrite"):
        finetune(tmp_path / "run", data=photos, unfreeze="head", resume=True)


def test_resume__damaged_checkpoint(tmp_path: Path, photos: Path) -> None:
    interrupt(tmp_path / "run", at=(0, 1), data=photos, unfreeze="head")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(DataError, match=r"last\.pt cannot be read"):
        finetune(tmp_path / "run", data=photos, unfreeze="head", resume=True)


@pytest.fixture
def interrupted_run(tmp_path: Path, photos: Path) -> Path:
    """A run on its own copy of the photos, `data` beside it."""
    shutil.copytree(photos, tmp_path / "data")
    interrupt(tmp_path / "run", at=(0, 1), data=tmp_path / "data", unfreeze="head")
    return tmp_path / "run"


def test_resume__moved_data_are_named(interrupted_run: Path) -> None:
    data = interrupted_run.parent / "data"
    data.rename(data.with_name("elsewhere"))

    with pytest.raises(DataError, match=f"There is no data at '{data}'") as caught:
        finetune(interrupted_run, data=data, unfreeze="head", resume=True)
    assert caught.value.exit_code == 3


def test_resume__changed_data_are_refused(interrupted_run: Path) -> None:
    data = interrupted_run.parent / "data"
    (data / "val" / "ant" / "0.png").unlink()

    with pytest.raises(DataError, match=r"changed since .*1 vanished \('?val/ant/0\.png"):
        finetune(interrupted_run, data=data, unfreeze="head", resume=True)


def test_run__signals_have_their_usual_meaning_afterwards(tmp_path: Path, photos: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupt(tmp_path / "run", at=(0, 1), data=photos, unfreeze="head")

    assert signal.getsignal(signal.SIGTERM) is before
    assert before is not StopSignals._remember


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, "interrupted"), (signal.SIGKILL, "running")],
    ids=lambda value: str(value),
)
def test_resume__a_process_that_was_stopped_from_outside(
    tmp_path: Path, photos: Path, number: signal.Signals, status: str
) -> None:
    options = {
        "data": photos,
        "schedule": "0:head,1:blocks.4",
        "epochs": EPOCHS,
        "ema": 0.9,
        "model": "timm/test_efficientnet",
    }
    run = tmp_path / "parts"
    words = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in {**SMALL, **options, "output": run}.items()
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tlcli", "finetune", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith(f"2/{EPOCHS}"):
            process.send_signal(number)
            break
    talk = process.stderr.read()
    code = process.wait(timeout=60)
    assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert ("--resume" in talk) is (number == signal.SIGTERM)
    assert "Traceback" not in talk
    assert record_of(run)["status"] == status
    assert 1 <= len(metrics_of(run)) < EPOCHS

    finetune(run, resume=True, **options)
    finetune(tmp_path / "whole", **options)

    assert results_of(run) == results_of(tmp_path / "whole")
