"""What an evaluation needs before it begins, whatever the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcli.config import DataConfig, EvaluateConfig
from tlcli.engine.runtime import Runtime, choose_runtime
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.image_data import absolute_spec
from tlcli.recipes.run_records import RUNS
from tlcli.recipes.talk import Talk
from tlcli.results.records import EvalReport
from tlcli.results.run_dir import default_run_path


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found, and where the files are."""

    report: EvalReport
    folder: Path
    titles: Mapping[str, str]
    """Readable names of classes, possibly of none."""


def as_trained(config: EvaluateConfig, kept: Mapping[str, Any]) -> EvaluateConfig:
    """Fill what was not given with the run's own precision and seed, as it judged itself."""
    runtime = replace(
        config.runtime,
        amp=kept["amp"] if config.runtime.amp is None else config.runtime.amp,
        channels_last=config.runtime.channels_last and kept["channels_last"],
    )
    if runtime.amp_dtype == "auto" and runtime.amp is not False:
        runtime = replace(runtime, amp_dtype=kept["amp_dtype"])
    seed = kept["seed"] if config.seed is None else config.seed
    return replace(config, runtime=runtime, seed=seed)


def runtime_of(config: EvaluateConfig) -> Runtime:
    """Pick the device and precision of an evaluation."""
    return choose_runtime(
        config.runtime.device,
        amp=config.runtime.amp,
        amp_dtype=config.runtime.amp_dtype,
        channels_last=config.runtime.channels_last,
        seed=config.seed or 0,
    )


def output_path(config: EvaluateConfig) -> Path:
    """Return where the evaluation of a pretrained model goes."""
    if config.output is not None:
        return Path(config.output).expanduser()
    architecture = (config.model or "").rpartition("/")[2]
    return default_run_path(
        RUNS, f"evaluate-{architecture}-{data_name(config.data or DataConfig.data)}"
    )


def data_name(spec: str) -> str:
    """Return what a folder is called after the data in it.

    Raises:
        DataError: If the data has no name.
    """
    name = Path(absolute_spec(spec).rpartition(":")[2]).stem
    if not name:
        raise DataError(f"--data '{spec}' has no name of its own; give --output.")
    return name


def choose_split(wanted: str | None, *, present: Sequence[str]) -> str:
    """Return the part to evaluate on where the user's own data is given: test, else val, ..."""
    parts = [split for split in ("test", "val", "unsplit", "train") if split in present]
    return wanted if wanted and wanted != "all" else parts[0]


def refuse_mixture(config: EvaluateConfig) -> None:
    """Refuse what makes no sense on the data that a run was trained on.

    Raises:
        ConfigError: For `--split all`.
    """
    if config.split == "all":
        raise ConfigError("--split all would mix images trained on with others; name one split.")


def check_own_data(fingerprint: str, record: Mapping[str, Any], *, spec: str) -> None:
    """Make sure that a run is judged on the data that it was trained with.

    Args:
        fingerprint: Of the data as it is now.
        record: `run.json` of the run.
        spec: What the user calls the data.

    Raises:
        DataError: If images or labels were changed since.
    """
    if fingerprint != record["data"]["fingerprint"]:
        raise DataError(
            f"{spec} changed since the run was trained: image files of another size, or other "
            "labels. Restore it, or judge the run on the data as it is now with --data."
        )


def warn_if_chosen_by(split: str, *, talk: Talk) -> None:
    """Warn of a part that the best epoch was chosen by."""
    if split == "val":
        talk.warn("val chose this model among others: as an estimate it is flattering.")
