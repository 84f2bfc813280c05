"""What every training writes to its run folder, whatever the task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlcli.config import OutputConfig
from tlcli.config.checks import seconds_of
from tlcli.errors import ConfigError, FrozenMovedError
from tlcli.models.unfreezing import Phase
from tlcli.recipes.talk import Talk
from tlcli.results.records import SCHEMA_VERSION, EvalReport
from tlcli.results.run_dir import RunDirectory, default_run_path

RUNS = Path("runs")
"""Where runs go that are given no --output."""
_SUMMARY = ("status", "best", "results", "frozen", "trunk_cache", "seconds")
_SUMMARY_IF_THERE = ("image_cache",)
OUT_OF_TIME = "max_time"
"""What `stopped` of `run.json` says of a training that ended for --max-time."""
_OUTPUT_OPTIONS = ("output", "overwrite", "resume")


def run_path(output: OutputConfig, *, name: str) -> Path:
    """Return the folder of a run: the given one, or a new one of that name."""
    if output.output is not None:
        return Path(output.output).expanduser()
    return default_run_path(RUNS, name)


def run_to_resume(output: OutputConfig, path: Path, *, talk: Talk) -> RunDirectory | None:
    """Return the run that `--resume` goes on with, None for a new one.

    Raises:
        ConfigError: If the run there stopped before its first checkpoint.
        DataError: If there is no run.
    """
    if not output.resume:
        return None
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


def is_finished(former: RunDirectory | None, *, max_time: str | None, talk: Talk) -> bool:
    """Say whether nothing is left to do of a run to go on with.

    Args:
        former: The run.
        max_time: The time budget that it may have from now on; a larger one than before lets a
            run go on that stopped for it.
        talk: Is told if nothing is left.
    """
    if former is None or former.read_record()["status"] != "finished":
        return False
    record = former.read_record()
    spent = record["config"].get("max_time")
    if record.get("stopped") != OUT_OF_TIME:
        talk.note(f"{former.path} is finished; there is nothing to go on with.")
        return True
    if max_time is None or _seconds(max_time) > _seconds(spent):
        return False
    talk.note(
        f"{former.path} stopped after its --max-time {spent}: give it more to go on, such as "
        f"--max-time {2 * _seconds(spent):g}s."
    )
    return True


def _seconds(max_time: str) -> float:
    return seconds_of(max_time, option="--max-time")


def keep_time_budget(folder: RunDirectory, *, max_time: str | None) -> None:
    """Let a run that goes on remember its time budget, which may differ from the one before."""
    options = folder.read_record()["config"]
    if options.get("max_time") != max_time:
        folder.update(config={**options, "max_time": max_time})
        write_options(folder, {**folder.read_config_toml(), "max_time": max_time})


def run_summary(folder: RunDirectory) -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    record = folder.read_record()
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(folder.path),
        **{key: record.get(key) for key in _SUMMARY},
        **{key: record[key] for key in _SUMMARY_IF_THERE if key in record},
    }


def write_options(folder: RunDirectory, options: Mapping[str, Any]) -> None:
    """Write `config.toml`, which stays true when the folder is moved; a copy of it is no resume.

    It holds options as they were given and their fixed defaults; what followed from others, such
    as the learning rate from the optimizer, stands in `run.json` alone. So a command that reads it
    and changes one option does what it would do with all written out.
    """
    folder.write_config_toml(
        {
            name: value
            for name, value in options.items()
            if name not in _OUTPUT_OPTIONS and value is not None
        }
    )


def phases_json(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """Return what `run.json` says of the phases."""
    return [{"start": phase.start, "trained": list(phase.trained)} for phase in phases]


def record_proof(folder: RunDirectory, proofs: list[dict[str, Any]]) -> None:
    """Write the proof; the totals are of all that was frozen in any phase, which only shrinks.

    Raises:
        FrozenMovedError: If a frozen tensor changed.
    """
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


def record_end(
    folder: RunDirectory,
    *,
    best: Mapping[str, Any],
    stopped: str | None,
    reports: Mapping[str, EvalReport],
    seconds: Mapping[str, float],
    trunk_cache: Mapping[str, Any] | None = None,
    image_cache: Mapping[str, Any] | None = None,
) -> None:
    """Write what came out, why training stopped before its last epoch, and how long it took."""
    folder.update(
        best=best,
        stopped=stopped,
        results={split: report.summary() for split, report in reports.items()},
        trunk_cache=trunk_cache or {"hits": 0, "misses": 0, "bytes": 0},
        **({"image_cache": image_cache} if image_cache else {}),
        seconds={**seconds, "total": sum(seconds.values())},
    )
