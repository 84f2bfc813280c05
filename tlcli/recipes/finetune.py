"""`tlcli finetune`: from a pretrained network and a user's images to a run folder."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import (
    build_untrained,
    choose_weights,
    create_backbone,
    find_weights,
)
from tlcli.config import FinetuneConfig
from tlcli.data.split_file import write_split
from tlcli.engine.classification import ClassificationTask
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.loop import evaluate
from tlcli.engine.runtime import describe_environment
from tlcli.errors import ConfigError, FrozenMovedError
from tlcli.models.saved_model import write_description
from tlcli.recipes.feature_folder import find_features
from tlcli.recipes.finetune_job import (
    Job,
    first_state,
    prepare_job,
    resolved_options,
    warn_of_holes,
    with_new_head,
)
from tlcli.recipes.image_data import (
    absolute_spec,
    load_images,
    require_parts,
    write_skipped,
)
from tlcli.recipes.judging import judge
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_plan import (
    PlanReport,
    describe_plan,
    plan_training,
)
from tlcli.recipes.training_run import History, Training
from tlcli.results.figures import draw_training_curves
from tlcli.results.records import SCHEMA_VERSION, EvalReport
from tlcli.results.run_dir import RunDirectory, check_free, default_run_path

RUNS = Path("runs")
"""Where runs go that are given no --output."""


def dry_run(config: FinetuneConfig, *, talk: Talk) -> PlanReport:
    """Return what `run` would train, without weights, without a step, without writing anything."""
    config = _with_absolute_paths(config)
    name = parse_backbone_name(config.model.model)
    choice = choose_weights(name, config.model.weights)
    if choice.tag and not find_weights(name, choice.tag):
        then = (
            "and --offline forbids to fetch them" if config.model.offline else "a run fetches them"
        )
        talk.note(f"Weights {choice.tag} of {name} are not on this machine; {then}.")
    backbone = (
        create_backbone(config.model.model, weights=str(choice.path))
        if choice.path  # a file that does not fit is told now
        else build_untrained(name, weights=choice)
    )
    images = load_images(config.data, seed=config.train.seed, talk=talk)
    require_parts(images.table)
    classes = len(images.table.classes)
    model = with_new_head(backbone, config, num_classes=classes)
    plan = plan_training(model, backbone=backbone, freezing=config.freezing, train=config.train)
    warn_of_holes(plan, model=model, talk=talk)
    return describe_plan(
        plan, model=model, train=config.train, name=str(name), weights=str(choice), classes=classes
    )


def run(config: FinetuneConfig, *, talk: Talk) -> dict[str, Any]:
    """Fine-tune a network and return what `finetune --json` prints.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    config = _with_absolute_paths(config)
    former = _run_to_resume(config, talk=talk)
    if former is not None and former.read_record()["status"] == "finished":
        talk.note(f"{former.path} is finished; there is nothing to go on with.")
        return summary(former)
    path = _run_path(config)
    if former is None:
        check_free(path, overwrite=config.output.overwrite)
    job = prepare_job(config, former=former, talk=talk)
    folder = former or RunDirectory.create(path, overwrite=config.output.overwrite)
    with folder.status_kept():
        if former is None:
            _write_start(folder, job)
        _train_and_judge(folder, job, is_resumed=former is not None, talk=talk)
    return summary(folder)


def _with_absolute_paths(config: FinetuneConfig) -> FinetuneConfig:
    """Let the options mean the same from any folder, as `config.toml` has to."""
    head = config.freezing.init_head
    if head is not None:
        head = str(find_features(head).resolve())
    return replace(
        config,
        data=replace(config.data, data=absolute_spec(config.data.data)),
        freezing=replace(config.freezing, init_head=head),
    )


def summary(folder: RunDirectory) -> dict[str, Any]:
    """Return what `finetune --json` prints of a run."""
    record = folder.read_record()
    keys = ("status", "best", "results", "frozen", "trunk_cache", "seconds")
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(folder.path),
        **{key: record.get(key) for key in keys},
    }


def _run_path(config: FinetuneConfig) -> Path:
    if config.output.output is not None:
        return Path(config.output.output).expanduser()
    architecture = parse_backbone_name(config.model.model).architecture
    data = Path(config.data.data.rpartition(":")[2]).stem
    return default_run_path(RUNS, f"finetune-{architecture}-{data}")


def _run_to_resume(config: FinetuneConfig, *, talk: Talk) -> RunDirectory | None:
    if not config.output.resume:
        return None
    path = _run_path(config)
    if not path.exists():
        talk.note(f"{path} does not exist yet: nothing to resume, starting it.")
        return None
    folder = RunDirectory.open(path)
    if not folder.checkpoint_path.exists():
        raise ConfigError(
            f"--resume: {path} has no checkpoint, the run stopped before its first step. "
            "Start it anew with --overwrite."
        )
    return folder


def _write_start(folder: RunDirectory, job: Job) -> None:
    """Write all that is known before the first step."""
    write_split(job.images.whole, folder.splits_path)
    write_description(job.description, folder.model_json_path)
    options = resolved_options(job)
    # What the folder says stays true when it is moved, and a copy of it is no resume.
    kept = {k: v for k, v in options.items() if k not in ("output", "overwrite", "resume")}
    folder.write_config_toml({key: value for key, value in kept.items() if value is not None})
    write_skipped(job.images, folder.path)
    folder.update(
        kind="classification",
        command="finetune",
        config=options,
        model=job.backbone.record(),
        classes=list(job.images.table.classes),
        preprocessing=job.backbone.preprocessing.to_json(),
        data=job.images.to_json(),
        environment=describe_environment(job.runtime),
        seed=job.config.train.seed,
        phases=[{"start": p.start, "trained": list(p.trained)} for p in job.plan.phases],
    )


def _train_and_judge(folder: RunDirectory, job: Job, *, is_resumed: bool, talk: Talk) -> None:
    with StopSignals() as signals:
        training = _training(folder, job, signals=signals, talk=talk)
        history = training.go_on() if is_resumed else training.start()
        try:
            if job.config.freezing.init_head:
                training.judge_start(history)
            training.train(history, check_stop=signals.check)
            _record_proof(folder, training.finish(history))
            draw_training_curves(folder.path / "training_curves.png", rows=folder.read_metrics())
            started = time.perf_counter()
            reports = _judge_best(folder, job, model=training.state.judged, signals=signals)
        except StopRequested as error:
            raise training.interrupted(history, signal_number=signals.received or 0) from error
    seconds_final = time.perf_counter() - started
    _write_end(folder, job, history=history, reports=reports, seconds_final=seconds_final)


def _judge_best(
    folder: RunDirectory, job: Job, *, model: nn.Module, signals: StopSignals
) -> dict[str, EvalReport]:
    """Judge the best epoch on the part that chose it and on the one that was kept for the end."""
    return {
        split: judge(
            model,
            class_names=job.images.table.classes,
            titles=job.images.table.class_titles,
            reader=job.reader,
            split=split,
            folder=folder.evaluation_dir(split),
            check_stop=signals.check,
        )
        for split in ("val", "test")
        if split in job.images.table.splits
    }


def _record_proof(folder: RunDirectory, proofs: list[dict[str, Any]]) -> None:
    """Write the proof; the totals are of all that was frozen in any phase, which only shrinks."""
    first = proofs[0]
    names = sorted({name for proof in proofs for name in proof["changed_names"]})
    folder.update(
        frozen={
            "tensors": first["tensors"],
            "buffers": first["buffers"],
            "changed": len(names),
            "phases": proofs,
        }
    )
    if names:
        raise FrozenMovedError(
            f"{len(names)} frozen tensors moved during training, the first is '{names[0]}'. "
            "The result cannot be trusted; please report this with the model's name."
        )


def _write_end(
    folder: RunDirectory,
    job: Job,
    *,
    history: History,
    reports: dict[str, EvalReport],
    seconds_final: float,
) -> None:
    seconds = {
        "prepare": job.seconds_prepare,
        "train": history.seconds_train,
        "eval": history.seconds_eval,
        "final_eval": seconds_final,
    }
    folder.update(
        best=history.best_json(job.config.train.monitor),
        results={split: report.summary() for split, report in reports.items()},
        trunk_cache={"hits": 0, "misses": 0, "bytes": 0},
        seconds={**seconds, "total": sum(seconds.values())},
    )


def _training(folder: RunDirectory, job: Job, *, signals: StopSignals, talk: Talk) -> Training:
    """Put the model, the optimizer and the data together."""
    train = job.config.train
    steps_per_epoch, train_steps = job.reader.training(
        augment=train.augment, grad_accum_steps=train.grad_accum_steps
    )
    state = first_state(job, steps_per_epoch=steps_per_epoch)
    judged = ClassificationTask(
        state.judged, preprocessing=job.backbone.preprocessing, runtime=job.runtime
    )
    paths = job.images.table.part("train")["path"]
    return Training(
        task=ClassificationTask(
            state.model,
            preprocessing=job.backbone.preprocessing,
            runtime=job.runtime,
            label_smoothing=train.label_smoothing,
        ),
        state=state,
        run=folder,
        runtime=job.runtime,
        epochs=train.epochs,
        patience=train.patience,
        monitor=train.monitor,
        clip_grad=train.clip_grad,
        train_steps=train_steps,
        validate=lambda: evaluate(
            judged.model,
            job.reader.evaluation("val"),
            evaluator=judged.evaluator(),
            check_stop=signals.check,
        ).compute(),
        file_of=lambda index: str(paths[index]),
        talk=talk,
    )
