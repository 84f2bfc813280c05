"""An interrupted and resumed training of a detector equals one that was left alone."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.box_runs import detect, make_box_folder
from recipes.runs import record_of, results_of, signal_at, timed_by_steps
from tlcli.errors import ConfigError, DataError, InterruptedRunError
from tlcli.recipes import detect_finetune as recipe
from tlcli.recipes.detection_judging import BoxJudge, judge_boxes
from tlcli.results.counted import counted

SAMPLING: dict[str, Any] = {
    "model": "fasterrcnn",  # draws the boxes that it learns from in every step
    "sampled_boxes": 8,
    "augment": "medium",
    "ema": 0.5,
    "grad_accum_steps": 2,
    "batch_size": 1,
    "epochs": 1,
}
SCHEDULED: dict[str, Any] = {
    "model": "fcos",
    "schedule": "0:head,1:all",
    "opt": "sgd",
    "batch_size": 2,
    "epochs": 2,
}
PLAIN: dict[str, Any] = {"model": "fcos", "unfreeze": "head", "batch_size": 2, "epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    return make_box_folder(root / "scenes", counts={"train": 5, "val": 2}, empty=("train/1",))


def interrupt(run: Path, *, at: tuple[int, int], **options: Any) -> InterruptedRunError:
    """Train with a real signal during a step (epoch, step), both counted from 0."""
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, epoch=at[0], step=at[1], number=signal.SIGTERM)
        with pytest.raises(InterruptedRunError) as caught:
            detect(run, **options)
    return caught.value


@pytest.mark.parametrize(
    ("at", "options"),
    [((0, 1), SAMPLING), ((1, 0), SCHEDULED)],
    ids=["mid_epoch", "new_phase"],
)
def test_resume__equals_an_uninterrupted_run(
    tmp_path: Path, data: Path, resnet_file: Path, at: tuple[int, int], options: dict[str, Any]
) -> None:
    weights = Path(shutil.copy(resnet_file, tmp_path / "start.safetensors"))
    options = {"data": data, "weights": weights if options is SCHEDULED else "none", **options}
    detect(tmp_path / "whole", **options)
    error = interrupt(tmp_path / "parts", at=at, **options)
    assert record_of(tmp_path / "parts")["status"] == "interrupted"
    assert error.exit_code == 143
    torch.manual_seed(99)  # nothing may depend on what was drawn before
    weights.unlink()  # nor is it needed any more

    _, talk = detect(tmp_path / "parts", resume=True, **options)

    steps = f"{counted(at[0], 'epoch')} and {counted(at[1] + 1, 'step')}"
    assert str(error) == (
        f"Stopped after {steps}; saved. Go on with: "
        f"tlcli detect-finetune --output {tmp_path / 'parts'} --resume"
    )
    assert f"Going on after {steps} of the next." in talk.notes
    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")
    assert record_of(tmp_path / "parts")["status"] == "finished"


def test_resume__only_the_final_judgement_is_missing(tmp_path: Path, data: Path) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    detect(tmp_path / "whole", data=data, **PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "judge_boxes", die)
        with pytest.raises(KeyboardInterrupt):
            detect(tmp_path / "parts", data=data, **PLAIN)
    assert record_of(tmp_path / "parts")["status"] == "interrupted"

    detect(tmp_path / "parts", data=data, resume=True, **PLAIN)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


def test_max_time__stops_and_goes_on_as_if_it_never_had(tmp_path: Path, data: Path) -> None:
    detect(tmp_path / "whole", data=data, **PLAIN)

    summary, talk = detect(tmp_path / "run", data=data, max_time="0.000001s", **PLAIN)

    assert summary["status"] == "finished"
    assert set(summary["results"]) == {"val"}
    assert record_of(tmp_path / "run")["stopped"] == "max_time"
    assert any(
        f"after 0 epochs and 1 step. Go on with: tlcli detect-finetune --output "
        f"{tmp_path / 'run'} --resume --max-time " in note
        for note in talk.notes
    )

    detect(tmp_path / "run", data=data, max_time="1h", resume=True, **PLAIN)

    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")
    assert record_of(tmp_path / "run")["stopped"] is None


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_max_time__signal_in_the_judgement_spoils_no_checkpoint(
    tmp_path: Path, data: Path, ema: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**PLAIN, "epochs": 2, "ema": ema, "lr": 0.05, "data": data}
    detect(tmp_path / "whole", **options)
    monkeypatch.setattr(recipe, "Training", timed_by_steps(recipe.Training))

    def signal_and_judge(*args: Any, **values: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return judge_boxes(*args, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "judge_boxes", signal_and_judge)
        with pytest.raises(InterruptedRunError, match=r"^Stopped after 1 epoch and 1 step"):
            detect(tmp_path / "parts", max_time="4s", **options)

    detect(tmp_path / "parts", max_time="1h", resume=True, **options)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


@pytest.mark.parametrize("part", ["validation", "judgement"])
def test_resume__signal_while_images_are_judged(tmp_path: Path, data: Path, part: str) -> None:
    """Between two images of the validation of an epoch, or of the judgement at the end."""
    detect(tmp_path / "whole", data=data, **PLAIN)
    metrics = BoxJudge.metrics

    def signal_and_judge(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return (metrics if part == "validation" else judge_boxes)(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        if part == "validation":
            patch.setattr(BoxJudge, "metrics", signal_and_judge)
        else:
            patch.setattr(recipe, "judge_boxes", signal_and_judge)
        with pytest.raises(
            InterruptedRunError, match=r"^Stopped after (0 epochs|1 epoch) and"
        ) as caught:
            detect(tmp_path / "parts", data=data, **PLAIN)
    assert caught.value.exit_code == 130

    detect(tmp_path / "parts", data=data, resume=True, **PLAIN)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")


def test_resume__of_nothing_starts_with_the_default_model(tmp_path: Path, data: Path) -> None:
    options = {**PLAIN, "model": None, "limit": 2}

    _, talk = detect(tmp_path / "new", data=data, resume=True, **options)

    assert f"{tmp_path / 'new'} does not exist yet: nothing to resume, starting it." in talk.notes
    assert "No --model given: using fasterrcnn." in talk.notes
    assert record_of(tmp_path / "new")["config"]["model"] == "fasterrcnn"


def test_resume__what_is_gone_or_changed_is_told(tmp_path: Path, data: Path) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own)
    run = tmp_path / "run"
    interrupt(run, at=(0, 1), data=own, **PLAIN)
    assert not (run / "metrics.csv").exists()

    text = own / "annotations" / "instances_train.json"
    before = text.read_text()
    text.write_text(before.replace('"bbox": [', '"bbox": [1', 1))
    with pytest.raises(DataError, match="changed since"):
        detect(run, data=own, resume=True, **PLAIN)
    text.write_text(before)
    own.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"There is no data at '{own}'"):
        detect(run, data=own, resume=True, **PLAIN)
    (run / "checkpoints" / "last.pt").unlink()
    with pytest.raises(ConfigError, match=r"run has no checkpoint.*Start it anew with --overwrite"):
        detect(run, data=own, resume=True, **PLAIN)
