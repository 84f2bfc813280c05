"""`tlcli detect-finetune`: from a pretrained network and a user's boxes to a run folder."""

import shlex
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tlcli.config import DetectFinetuneConfig, options_of
from tlcli.data.boxes.box_splits import write_box_split
from tlcli.engine.cpu_memory import available_cores
from tlcli.engine.detection import DetectionTask
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.runtime import describe_environment
from tlcli.errors import InterruptedRunError
from tlcli.models.detectors.saved_detector import write_detector_description
from tlcli.recipes.box_data import load_run_boxes, require_box_parts, write_repairs
from tlcli.recipes.detection_job import (
    DetectionJob,
    backbone_of,
    detection_threads,
    name_of,
    planned,
    prepare_detection,
    resolved_options,
    runtime_of,
    untrained_detector,
    with_model,
)
from tlcli.recipes.detection_judging import BoxJudge, judge_boxes
from tlcli.recipes.finetune_job import first_state
from tlcli.recipes.image_data import (
    absolute_spec,
    absolute_weights,
    write_copies,
    write_skipped_paths,
)
from tlcli.recipes.kept_pictures import KeptPictures, keep_pictures
from tlcli.recipes.run_records import (
    is_finished,
    keep_time_budget,
    phases_json,
    record_end,
    record_proof,
    run_path,
    run_summary,
    run_to_resume,
    write_options,
)
from tlcli.recipes.talk import Talk
from tlcli.recipes.time_estimate import with_estimate
from tlcli.recipes.training_plan import PlanReport, describe_plan
from tlcli.recipes.training_run import Training
from tlcli.results.figures import draw_training_curves
from tlcli.results.records import EvalReport
from tlcli.results.run_dir import RunDirectory, check_free

_NOTHING_FOUND = (
    "val {} is 0 in every epoch: no detection matches a box. Train longer, try another --lr, or "
    "see in the gallery whether the boxes are where they should be."
)
_FASTER = "Shorter: --unfreeze head, a smaller --image-size, fewer --epochs, or a GPU."


def dry_run(config: DetectFinetuneConfig, *, talk: Talk) -> PlanReport:
    """Return what `run` would train, without a download, without a step, without writing."""
    config = replace(config, model=with_model(config.model, talk=talk))
    runtime_of(config)  # a device that is not there is told now
    boxes = load_run_boxes(config.data, seed=config.train.seed, talk=talk)
    require_box_parts(boxes.table)
    classes = boxes.table.classes
    detector = untrained_detector(config.model, classes=classes, talk=talk)
    model, plan = planned(detector, config, talk=talk)
    name = f"{detector.name} on {detector.backbone}" if detector.backbone else detector.name
    return describe_plan(
        plan,
        model=model,
        train=config.train,
        name=name,
        weights=config.model.weights,
        classes=len(classes),
    )


def run(config: DetectFinetuneConfig, *, talk: Talk) -> dict[str, Any]:
    """Fine-tune a detector and return what `detect-finetune --json` prints.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    given = replace(
        config,
        data=replace(config.data, data=absolute_spec(config.data.data)),
        model=replace(config.model, weights=absolute_weights(config.model.weights)),
    )
    config = replace(given, model=with_model(given.model, talk=talk))
    path = run_path(config.output, name=_default_name(config))
    former = run_to_resume(config.output, path, talk=talk)
    budget = config.train.max_time
    if former is not None and is_finished(former, max_time=budget, talk=talk):
        return run_summary(former)
    if former is None:
        check_free(path, overwrite=config.output.overwrite)
    job = prepare_detection(config, former=former, talk=talk)
    folder = former or RunDirectory.create(path, overwrite=config.output.overwrite)
    with folder.status_kept():
        if former is None:
            _write_start(folder, job, given=given)
        else:
            keep_time_budget(folder, max_time=budget)
        _train_and_judge(folder, job, is_resumed=former is not None, talk=talk)
    return run_summary(folder)


def _default_name(config: DetectFinetuneConfig) -> str:
    body = (backbone_of(config.model) or "").rpartition("/")[2]
    model = name_of(config.model).rpartition("/")[2]
    data = Path(config.data.data.rpartition(":")[2]).stem
    return "-".join(part for part in ("detect", model, body, data) if part)


def _write_start(folder: RunDirectory, job: DetectionJob, *, given: DetectFinetuneConfig) -> None:
    """Write all that is known before the first step; `given` lacks what followed from it."""
    write_box_split(job.boxes.whole, folder.splits_path)
    write_detector_description(job.description, folder.model_json_path)
    write_options(folder, options_of(given))
    write_skipped_paths(job.boxes.skipped, folder.path)
    write_copies(job.boxes.copies, folder.path)
    write_repairs(job.boxes.table.repairs, folder.path)
    folder.update(
        kind="detection",
        command="detect-finetune",
        config=resolved_options(job),
        model=job.detector.record(),
        classes=list(job.boxes.table.classes),
        preprocessing=vars(job.detector.build),
        data=job.boxes.to_json(),
        environment=describe_environment(job.runtime),
        seed=job.config.train.seed,
        phases=phases_json(job.plan.phases),
    )


def _train_and_judge(
    folder: RunDirectory, job: DetectionJob, *, is_resumed: bool, talk: Talk
) -> None:
    monitor = job.config.train.monitor
    with StopSignals() as signals, ExitStack() as at_end:
        judge = BoxJudge(
            reader=job.reader,
            class_names=job.boxes.table.classes,
            threads=detection_threads(None, build=job.detector.build, runtime=job.runtime),
            check_stop=signals.check,
        )
        again = f"tlcli detect-finetune --output {shlex.quote(str(folder.path))} --resume"
        kept = _kept_pictures(
            job,
            signals=signals,
            then=f"Go on with: {again}" if is_resumed else "Start the run anew with --overwrite.",
            talk=talk,
        )
        if kept:
            at_end.callback(kept.rows.release)
        training = _training(folder, job, judge=judge, pictures=kept, talk=talk)
        history = training.go_on() if is_resumed else training.start()
        history.seconds_spent += kept.seconds if kept else 0.0
        try:
            with training.saved_if_stopped(history, signals):
                training.train(history, signals=signals)
            if history.best_value == 0:
                talk.warn(_NOTHING_FOUND.format(monitor))
            record_proof(folder, training.finish(history))
            if rows := folder.read_metrics():
                draw_training_curves(
                    folder.path / "training_curves.png", rows=rows, metric=f"val/{monitor}"
                )
            started = time.perf_counter()
            reports = _judge_best(folder, judge, model=training.state.judged)
        except StopRequested as error:
            raise training.interrupted(signals) from error
    record_end(
        folder,
        best=history.best_json(monitor),
        stopped=history.stopped,
        reports=reports,
        image_cache=kept.record() if kept else None,
        seconds={
            "prepare": job.seconds_prepare,
            **({"pictures": kept.seconds} if kept else {}),
            "train": history.seconds_train,
            "eval": history.seconds_eval,
            "final_eval": time.perf_counter() - started,
        },
    )


def _judge_best(
    folder: RunDirectory, judge: BoxJudge, *, model: nn.Module
) -> dict[str, EvalReport]:
    """Judge the best epoch on the part that chose it and on the one that was kept for the end."""
    return {
        split: judge_boxes(judge, model, split=split, folder=folder.evaluation_dir(split))
        for split in ("val", "test")
        if split in judge.reader.table.splits
    }


def _kept_pictures(
    job: DetectionJob, *, signals: StopSignals, then: str, talk: Talk
) -> KeptPictures | None:
    """Keep train pictures if that is asked for; `then` is what to do after a stop.

    Raises:
        InterruptedRunError: If it is asked to stop.
    """
    try:
        return keep_pictures(
            job.reader.training_samples(),
            root=job.boxes.table.root,
            config=job.config.cache,
            build=job.detector.build,
            augment=job.config.train.augment,
            threads=job.reader.num_workers or available_cores(),
            check_stop=signals.check,
            talk=talk,
        )
    except StopRequested as error:
        found = {"disk": "; those that are on disk already are found again"}
        raise InterruptedRunError(
            "Stopped while train pictures were decoded"
            f"{found.get(job.config.cache.image_cache, '')}. {then}",
            signal_number=signals.received or 0,
        ) from error


def _training(
    folder: RunDirectory,
    job: DetectionJob,
    *,
    judge: BoxJudge,
    pictures: KeptPictures | None,
    talk: Talk,
) -> Training:
    """Put the model, the optimizer and the data together."""
    train = job.config.train
    steps_per_epoch, train_steps = job.reader.training(
        augment=train.augment,
        grad_accum_steps=train.grad_accum_steps,
        pictures=pictures.read if pictures else None,
    )
    state = first_state(
        job.model, job.plan, train=train, runtime=job.runtime, steps_per_epoch=steps_per_epoch
    )
    samples, root = job.reader.training_samples(), job.boxes.table.root
    return Training(
        command="detect-finetune",
        task=DetectionTask(state.model, runtime=job.runtime),
        state=state,
        run=folder,
        runtime=job.runtime,
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        patience=train.patience,
        max_seconds=train.max_seconds,
        monitor=train.monitor,
        clip_grad=train.clip_grad,
        train_steps=with_estimate(
            train_steps,
            steps_per_epoch=steps_per_epoch,
            epochs=train.epochs,
            phase_starts=[phase.start for phase in job.plan.phases],
            remedy=_FASTER,
            talk=talk,
        ),
        validate=lambda: judge.metrics(state.judged, "val"),
        file_of=lambda index: samples[index].path.relative_to(root).as_posix(),
        talk=talk,
    )
