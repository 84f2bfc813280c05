"""What every training writes to its run folder, whatever the task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlcli.config import OutputConfig
from tlcli.errors import ConfigError, FrozenMovedError
from tlcli.models.unfreezing import Phase
from tlcli.recipes.talk import Talk
from tlcli.results.records import SCHEMA_VERSION, EvalReport
from tlcli.results.run_dir import RunDirectory, default_run_path

RUNS = Path("runs")
"""Where runs go that are given no --output."""
_SUMMARY = ("status", "best", "results", "frozen", "trunk_cache", "seconds")
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


def is_finished(former: RunDirectory | None, *, talk: Talk) -> bool:
    """Say whether nothing is left to do of a run to go on with."""
    if former is None or former.read_record()["status"] != "finished":
        return False
    talk.note(f"{former.path} is finished; there is nothing to go on with.")
    return True


def run_summary(folder: RunDirectory) -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    record = folder.read_record()
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(folder.path),
        **{key: record.get(key) for key in _SUMMARY},
    }


def write_options(folder: RunDirectory, options: Mapping[str, Any]) -> None:
    """Write `config.toml`, which stays true when the folder is moved; a copy of it is no resume."""
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
    reports: Mapping[str, EvalReport],
    seconds: Mapping[str, float],
) -> None:
    """Write what came out, and how long each part took."""
    folder.update(
        best=best,
        results={split: report.summary() for split, report in reports.items()},
        trunk_cache={"hits": 0, "misses": 0, "bytes": 0},
        seconds={**seconds, "total": sum(seconds.values())},
    )
