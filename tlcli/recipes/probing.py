"""Heads solved on a folder of features, and the run folder that the chosen one becomes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlcli.config import ProbeHeadConfig
from tlcli.engine.cpu_memory import available_memory
from tlcli.errors import ConfigError, DataError
from tlcli.models.saved_model import save_weights, write_description
from tlcli.recipes.feature_folder import FeatureFolder
from tlcli.recipes.feature_part import FeaturePart
from tlcli.recipes.few_shot import Draw, check_enough, parse_shots, run_few_shot, write_few_shot
from tlcli.recipes.head_in_network import put_into_network
from tlcli.recipes.judging import write_judgement
from tlcli.recipes.next_command import next_after_head
from tlcli.recipes.solved_heads import (
    PENALTY_NAMES,
    SolvedHead,
    calibrated,
    choose_head,
    judge_heads,
    parse_penalties,
    solve_heads,
)
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import write_csv, write_text
from tlcli.results.counted import counted
from tlcli.results.figures import draw_penalty_path
from tlcli.results.records import SCHEMA_VERSION, EvalReport
from tlcli.results.run_dir import RunDirectory

_MEMORY_SHARE = 0.25
"""Of the machine's memory, for features that a solver keeps instead of reading them again."""
_SUMMARY_KEYS = ("status", "best", "results", "few_shot", "features", "frozen", "trunk_cache")


@dataclass(kw_only=True)
class _Watch:
    """What parts of a command took."""

    spent: dict[str, float]
    """Seconds by part."""
    started: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        """Say that a part has just ended and the next begins."""
        now = time.perf_counter()
        self.spent[part] = now - self.started
        self.started = now


@dataclass(frozen=True, kw_only=True)
class ProbeParts:
    """What heads are solved on, chosen by and reported on."""

    train: FeaturePart
    few_shot_train: FeaturePart
    """Without random views."""
    judged: Mapping[str, FeaturePart]
    """`val`, and `test` where there is one."""

    @property
    def reported(self) -> str:
        """The split that a result is quoted for."""
        return "test" if "test" in self.judged else "val"


def check_probe(config: ProbeHeadConfig) -> None:
    """Make sure that the options of the head can be read, before hours are spent.

    Raises:
        ConfigError: If not.
    """
    parse_penalties(config)
    if config.shots is not None:
        parse_shots(config.shots)


def probe_features(
    folder: FeatureFolder,
    config: ProbeHeadConfig,
    *,
    seed: int,
    path: Path,
    overwrite: bool,
    command: str,
    talk: Talk,
) -> dict[str, Any]:
    """Solve heads on features, choose one on validation, and write it as a run folder.

    Args:
        folder: The features.
        config: Kind of head, penalties, few-shot draws.
        seed: Of the draws and the bootstrap.
        path: Of the run folder.
        overwrite: Replace the run that is there.
        command: What `run.json` says was run.
        talk: Is told how it goes.

    Returns:
        What `--json` prints.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    parts = parts_of(folder)
    if config.shots is not None:
        shots = max(parse_shots(config.shots))
        check_enough(parts.few_shot_train.targets, shots=shots, num_classes=len(folder.classes))
    run = RunDirectory.create(path, overwrite=overwrite)
    with run.status_kept():
        write_text(run.splits_path, folder.splits)
        run.write_config_toml(_probe_options(config, seed=seed))
        run.update(**_record(folder, config, seed=seed, command=command))
        watch = _Watch(spent={"extract": _seconds_of_extraction(folder, command=command)})
        heads = _solve(folder, config, parts=parts, talk=talk)
        best = choose_head(heads, monitor=config.monitor)
        _write_penalties(run, heads, config=config)
        _warn_of_doubts(best, heads, config=config, talk=talk)
        watch.lap("head")
        reports = _report(folder, run, best, parts=parts, seed=seed)
        network, description = put_into_network(folder, best.module)
        save_weights(network, run.weights_path)
        write_description(description, run.model_json_path)
        watch.lap("evaluation")
        draws = _few_shot(folder, config, parts=parts, seed=seed, talk=talk)
        curve = write_few_shot(run.path, draws, split=parts.reported) if draws else None
        if draws:
            watch.lap("few_shot")
        run.update(
            best=_best_json(best, config),
            results={split: report.summary() for split, report in reports.items()},
            few_shot=curve,
            seconds={**watch.spent, "total": sum(watch.spent.values())},
        )
    return head_summary(folder, run)


def _best_json(best: SolvedHead, config: ProbeHeadConfig) -> dict[str, Any]:
    return {
        PENALTY_NAMES[config.head]: best.penalty,
        "metric": f"val/{config.monitor}",
        "value": best.metrics[config.monitor],
        **best.facts,
    }


def head_summary(folder: FeatureFolder, run: RunDirectory) -> dict[str, Any]:
    """Return what `extract-features --json` and `probe --json` print."""
    record = run.read_record()
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(run.path),
        "store": str(folder.path),
        "model": record["model"],
        "head": record["config"]["head"],
        **{key: record.get(key) for key in _SUMMARY_KEYS},
        "seconds": record["seconds"],
        "next": next_after_head(record, run=run.path),
    }


def parts_of(folder: FeatureFolder) -> ProbeParts:
    """Return the parts of a folder.

    Raises:
        ConfigError: If the features are whole maps.
        DataError: If there is nothing to solve a head on, or nothing to choose it by.
    """
    if folder.record["features"]["pool"] == "none":
        raise ConfigError(
            f"The features in {folder.path} are whole maps (--pool none), a head needs vectors: "
            "extract them with another --pool."
        )
    for split in ("train", "val"):
        if not (folder.items["split"] == split).any():
            raise DataError(
                f"'{folder.path}' has no features of images in the part '{split}': extract those "
                "of data that has it, or give extract-features --val-split above 0."
            )
    judged = {
        split: _part(folder, split, with_views=False)
        for split in ("val", "test")
        if (folder.items["split"] == split).any()
    }
    return ProbeParts(
        train=_part(folder, "train", with_views=True),
        few_shot_train=_part(folder, "train", with_views=False),
        judged=judged,
    )


def _part(folder: FeatureFolder, split: str, *, with_views: bool) -> FeaturePart:
    positions = folder.positions(split, with_views=with_views)
    places = folder.items[["shard", "row"]].to_numpy()[positions]
    return FeaturePart(
        rows=folder.store.rows(places, names=folder.names), targets=folder.targets(positions)
    )


def _solve(
    folder: FeatureFolder, config: ProbeHeadConfig, *, parts: ProbeParts, talk: Talk
) -> list[SolvedHead]:
    penalties = parse_penalties(config)
    heads = solve_heads(
        config.head,
        parts.train,
        num_classes=len(folder.classes),
        penalties=penalties,
        memory_limit=_memory_limit(),
    )
    if len(heads) < len(penalties):
        left_out = counted(len(penalties) - len(heads), "number")
        talk.note(
            f"Left out {left_out} of neighbours above the {counted(len(parts.train), 'train row')}."
        )
    if config.head == "ridge":
        heads = calibrated(heads, parts.judged["val"])
    return judge_heads(heads, parts.judged["val"])


def _memory_limit() -> int:
    return int(_MEMORY_SHARE * available_memory())


def _write_penalties(
    run: RunDirectory, heads: Sequence[SolvedHead], *, config: ProbeHeadConfig
) -> None:
    """Write `penalties.csv` and `.png`: what every penalty gave on validation."""
    name = PENALTY_NAMES[config.head]
    metrics, facts = list(heads[0].metrics), list(heads[0].facts)
    write_csv(
        run.path / "penalties.csv",
        header=[name, *(f"val/{metric}" for metric in metrics), *facts],
        rows=(
            [head.penalty, *(head.metrics[m] for m in metrics), *(head.facts[f] for f in facts)]
            for head in heads
        ),
    )
    draw_penalty_path(
        run.path / "penalties.png",
        penalties=[head.penalty for head in heads],
        top1=[head.metrics["top1"] for head in heads],
        loss=[head.metrics["loss"] for head in heads],
        name=name,
    )


def _warn_of_doubts(
    best: SolvedHead, heads: Sequence[SolvedHead], *, config: ProbeHeadConfig, talk: Talk
) -> None:
    name = PENALTY_NAMES[config.head]
    if not best.is_converged:
        talk.warn(
            f"The chosen head ({name} {best.penalty:.3g}) did not converge: within "
            f"{best.facts['gap']:.1e} of its optimum. Try stronger --penalties."
        )
    edges = (heads[0].penalty, heads[-1].penalty)
    if len(heads) > 1 and best.penalty in edges and config.head != "knn":
        talk.warn(
            f"The best {name} ({best.penalty:.3g}) lies at the edge of those tried, "
            f"{edges[0]:.3g} to {edges[1]:.3g}: widen --penalties."
        )


def _report(
    folder: FeatureFolder, run: RunDirectory, best: SolvedHead, *, parts: ProbeParts, seed: int
) -> dict[str, EvalReport]:
    """Judge the chosen head on the part that chose it and, this once, on the test part."""
    description = folder.description
    return {
        split: write_judgement(
            part.log_probs(best.module),
            targets=part.targets,
            class_names=folder.classes,
            titles=description.class_titles,
            paths=folder.items["path"].iloc[folder.positions(split, with_views=False)].tolist(),
            split=split,
            seed=seed,
            folder=run.evaluation_dir(split),
        )
        for split, part in parts.judged.items()
    }


def _few_shot(
    folder: FeatureFolder, config: ProbeHeadConfig, *, parts: ProbeParts, seed: int, talk: Talk
) -> list[Draw]:
    if config.shots is None:
        return []
    return run_few_shot(
        parts.few_shot_train,
        parts.judged["val"],
        parts.judged[parts.reported],
        config=config,
        penalties=parse_penalties(config),
        num_classes=len(folder.classes),
        seed=seed,
        memory_limit=_memory_limit(),
        talk=talk,
    )


def _record(
    folder: FeatureFolder, config: ProbeHeadConfig, *, seed: int, command: str
) -> dict[str, Any]:
    """Return what is known before the first head.

    The seed in `config` stays that of the extraction, which decided what was split and limited.
    """
    record = folder.record
    kept = ("model", "classes", "preprocessing", "data", "environment", "features", "frozen")
    options = {**record["config"], **vars(config)}
    cache = record["trunk_cache"]
    if command == "probe":  # computes nothing
        cache = {**cache, "hits": cache["hits"] + cache["misses"], "misses": 0}
    return {
        "kind": "classification",
        "command": command,
        "config": options,
        "store": str(folder.path.resolve()),
        "trunk_cache": cache,
        "seed": seed,
        **{key: record[key] for key in kept},
    }


def _probe_options(config: ProbeHeadConfig, *, seed: int) -> dict[str, Any]:
    """Return what `tlcli probe --config` reads: penalties that follow from the head are left."""
    options = {**vars(config), "seed": seed}
    if config.penalties is not None:
        options["penalties"] = ",".join(map(repr, parse_penalties(config)))
    return {name: value for name, value in options.items() if value is not None}


def _seconds_of_extraction(folder: FeatureFolder, *, command: str) -> float:
    """Return what this command spent on features; what they once cost stands with them."""
    return 0.0 if command == "probe" else float(folder.record["seconds"]["extract"])
