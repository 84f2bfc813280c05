"""Run recipes on toy data and compare what they leave behind."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import CollectedTalk

from tlcli.config import EvaluateConfig, FinetuneConfig
from tlcli.engine.runtime import Runtime
from tlcli.recipes import evaluate as evaluate_recipe
from tlcli.recipes import finetune as finetune_recipe
from tlcli.recipes.training_run import Training

SMALL: dict[str, Any] = {
    "model": "timm/test_resnet",
    "weights": "none",
    "epochs": 2,
    "batch_size": 4,
    "device": "cpu",
}


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as the command line has them: paths are texts."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}


def finetune_config(output: Path | None, **options: Any) -> FinetuneConfig:
    return FinetuneConfig.from_options(plain_options({**SMALL, "output": output, **options}))


def finetune(output: Path, **options: Any) -> tuple[dict[str, Any], CollectedTalk]:
    """Fine-tune as `tlcli finetune` would; return what `--json` prints and what was said."""
    talk = CollectedTalk()
    return finetune_recipe.run(finetune_config(output, **options), talk=talk), talk


def evaluate(**options: Any) -> tuple[evaluate_recipe.Evaluation, CollectedTalk]:
    """Evaluate as `tlcli evaluate` would; return the result and what was said."""
    talk = CollectedTalk()
    config = EvaluateConfig.from_options(plain_options({"device": "cpu", **options}))
    return evaluate_recipe.run(config, talk=talk), talk


def record_of(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "run.json").read_text())
    return values


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(run: Path) -> list[dict[str, str]]:
    """Return `metrics.csv` without what the clock decides."""
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds/")}
        for row in rows_of(run / "metrics.csv")
    ]


def results_of(run: Path) -> tuple[object, ...]:
    """Return all that must be equal in two runs that did the same."""
    record = record_of(run)
    return (
        metrics_of(run),
        (run / "model.safetensors").read_bytes(),
        (run / "splits.csv").read_bytes(),
        record["results"],
        record["best"],
        record["frozen"],
    )


def signal_at(
    monkeypatch: pytest.MonkeyPatch, *, epoch: int, step: int, number: signal.Signals
) -> None:
    """Send this process a real signal while a step is under way (both counted from 0), once."""
    seed_step: Callable[[Runtime, int, int], None] = Runtime.seed_step
    sent: list[int] = []

    def seed_and_signal(runtime: Runtime, epoch_now: int, step_now: int) -> None:
        seed_step(runtime, epoch_now, step_now)
        # the first call of a run seeds the weights, not a step
        if (epoch_now, step_now) == (epoch, step) and not sent and (epoch, step) != (0, 0):
            sent.append(1)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Runtime, "seed_step", seed_and_signal)


def timed_by_steps(training: type[Training]) -> Callable[..., Training]:
    """Return what makes trainings in which a step or a validation takes a second, all else none."""

    def make(**values: Any) -> Training:
        validate, state, validations = values.pop("validate"), values["state"], 0

        def counted_validate() -> Any:
            nonlocal validations
            validations += 1
            return validate()

        return training(
            **values,
            validate=counted_validate,
            clock=lambda: float(state.scheduler.last_epoch + validations),
        )

    return make
