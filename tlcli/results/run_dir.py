"""One folder per run: where its files lie and how they are written."""

import csv
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tlcli.errors import ConfigError, DataError, InterruptedRunError
from tlcli.results.atomic import TEXT_ERRORS, machine_errors, make_folder, write_csv, write_text
from tlcli.results.json_text import to_json_text
from tlcli.results.records import SCHEMA_VERSION, EpochReport, Row
from tlcli.results.toml_text import TomlValue, to_toml

RunStatus = Literal["running", "finished", "interrupted", "failed"]

_WHOLE_NUMBERS = ("epoch", "phase")


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """The folder of one run; get one from `create` or `open`."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool) -> "RunDirectory":
        """Make the folder of a new run, with a `run.json` of status `running`.

        Args:
            path: The folder; it may exist if it is empty.
            overwrite: Delete what is in it first, if it is a run folder and nothing else.

        Raises:
            ConfigError: If the path is taken.
            MachineError: If the disk refuses.
        """
        run = cls(path=path)
        check_free(path, overwrite=overwrite)
        # Without --overwrite nothing is deleted, not even what another command put there since.
        if overwrite and path.is_dir():
            with machine_errors(path, action="empty the run folder"):
                _delete_contents(path)
        make_folder(path)
        _claim(run.checkpoint_path.parent)
        run.write_record({"status": "running"})
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Return the run in an existing folder.

        Raises:
            DataError: If it is not a run folder or its `run.json` cannot be understood.
        """
        run = cls(path=path)
        run.read_record()
        return run

    @property
    def record_path(self) -> Path:
        """`run.json`: what was done and what came out."""
        return self.path / "run.json"

    @property
    def metrics_path(self) -> Path:
        """`metrics.csv`: one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def config_path(self) -> Path:
        """`config.toml`: the options as they were given, readable by `--config`."""
        return self.path / "config.toml"

    @property
    def splits_path(self) -> Path:
        """`splits.csv`: which image was in which split."""
        return self.path / "splits.csv"

    @property
    def weights_path(self) -> Path:
        """`model.safetensors`: the trained weights."""
        return self.path / "model.safetensors"

    @property
    def model_json_path(self) -> Path:
        """`model.json`: what else is needed to rebuild the model."""
        return self.path / "model.json"

    @property
    def checkpoint_path(self) -> Path:
        """`checkpoints/last.pt`: what `--resume` needs."""
        return self.path / "checkpoints" / "last.pt"

    def evaluation_dir(self, name: str) -> Path:
        """Return the folder for the evaluation called `name`, such as a split; not made here.

        Raises:
            ConfigError: If the name is not a plain folder name.
        """
        _check_plain_name(name)
        return self.path / "evaluation" / name

    def read_record(self) -> dict[str, Any]:
        """Read `run.json`.

        Raises:
            DataError: If it is missing, damaged or of another schema version.
            MachineError: If it cannot be read.
        """
        record = _read_json(self.record_path)
        version = record.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"'{self.record_path}' has schema_version {version!r}, this tlcli reads "
                f"{SCHEMA_VERSION}: use the version of tlcli that wrote it."
            )
        return record

    def write_record(self, values: Mapping[str, object]) -> None:
        """Write `run.json` anew; the schema version is added, NaN becomes null.

        Raises:
            ValueError: If `status` is not one of `RunStatus`.
            MachineError: If the disk refuses.
        """
        status = values.get("status")
        if status not in get_args(RunStatus):
            raise ValueError(f"status {status!r} is not one of {get_args(RunStatus)}")
        write_text(self.record_path, to_json_text({**values, "schema_version": SCHEMA_VERSION}))

    def update(self, **fields: object) -> None:
        """Set fields of `run.json`, each as a whole, and keep the others."""
        self.write_record({**self.read_record(), **fields})

    @contextmanager
    def status_kept(self) -> Iterator[None]:
        """Let `run.json` tell how the work in this context ended, and why it failed."""
        self.update(status="running", error=None)
        try:
            yield
        except (InterruptedRunError, KeyboardInterrupt):
            self.update(status="interrupted")
            raise
        except BaseException as error:
            self.update(status="failed", error=str(error))
            raise
        self.update(status="finished")

    def append_metrics(self, report: EpochReport) -> None:
        """Add the row of an epoch to `metrics.csv`.

        Raises:
            DataError: If the columns differ from those the file has.
            ValueError: If the epoch is not later than the last one in the file.
        """
        row = report.to_row()
        rows = self.read_metrics()
        if rows and list(rows[0]) != list(row):
            raise DataError(
                f"'{self.metrics_path}' has the columns {', '.join(rows[0])} but epoch "
                f"{report.epoch} reports {', '.join(row)}: start a new run with another --output."
            )
        if rows and report.epoch <= (rows[-1]["epoch"] or 0):
            raise ValueError(f"epoch {report.epoch} after epoch {rows[-1]['epoch']}")
        self._write_metrics([*rows, row], columns=list(row))

    def read_metrics(self) -> list[Row]:
        """Return the rows of `metrics.csv`, None for empty cells; [] before the first epoch.

        Raises:
            DataError: If a cell is missing or not a number.
        """
        if not self.metrics_path.exists():
            return []
        with (
            machine_errors(self.metrics_path, action="read"),
            self.metrics_path.open(encoding="utf-8", errors=TEXT_ERRORS, newline="") as file,
        ):
            lines = list(csv.reader(file))
        try:
            header, *lines = lines
            return [
                {
                    column: _number(text, column=column)
                    for column, text in zip(header, line, strict=True)
                }
                for line in lines
            ]
        except ValueError as error:
            raise DataError(
                f"'{self.metrics_path}' is damaged ({error}): restore it or start a new run."
            ) from error

    def keep_metrics_until(self, epoch: int) -> None:
        """Drop the rows after `epoch`, which a resumed run will make again; 0 drops all."""
        rows = self.read_metrics()
        kept = [row for row in rows if (row["epoch"] or 0) <= epoch]
        if len(kept) < len(rows):
            self._write_metrics(kept, columns=list(rows[0]))

    def write_config_toml(self, values: Mapping[str, TomlValue]) -> None:
        """Write `config.toml`; options that are None are left out.

        Raises:
            ConfigError: If a text is not valid Unicode.
            MachineError: If the disk refuses.
        """
        write_text(self.config_path, to_toml(values))

    def read_config_toml(self) -> dict[str, Any]:
        """Read `config.toml`.

        Raises:
            DataError: If it is missing or damaged.
        """
        try:
            return tomllib.loads(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are such
            raise DataError(
                f"'{self.config_path}' is missing or damaged ({error}): restore it or start a new "
                "run."
            ) from error

    def _write_metrics(self, rows: list[Row], *, columns: list[str]) -> None:
        write_csv(self.metrics_path, header=columns, rows=(list(row.values()) for row in rows))


def default_run_path(base: Path, name: str) -> Path:
    """Return the first of `base/name`, `base/name-2`, `base/name-3`, ... that does not exist.

    Blanks in the name become hyphens, so that a shell takes it as one word.

    Raises:
        ConfigError: If `name` is not a plain folder name.
    """
    name = "-".join(name.split())
    _check_plain_name(name)
    path, number = base / name, 1
    while os.path.lexists(path):
        number += 1
        path = base / f"{name}-{number}"
    return path


def _check_plain_name(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ConfigError(f"'{name}' is not a plain folder name: leave out slashes and dots.")


def check_free(path: Path, *, overwrite: bool) -> None:
    """Make sure that a run may be written to `path`, before any work is done for it.

    Raises:
        ConfigError: If the path is taken, and `overwrite` does not allow to replace what is there.
        MachineError: If the folder cannot be read.
    """
    with machine_errors(path, action="look into the run folder"):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"'{path}' is a file, not a folder: choose another --output.")
        if not path.is_dir() or not any(path.iterdir()):
            return
    if not _is_run(path):
        raise ConfigError(
            f"'{path}' is not empty and not a run folder: choose another --output "
            "(--overwrite and --resume work on run folders only)."
        )
    if not overwrite:
        go_on = "continue it with --resume, replace it" if _has_checkpoint(path) else "replace it"
        raise ConfigError(
            f"'{path}' already holds a run: {go_on} with --overwrite, or choose another --output."
        )


def _has_checkpoint(path: Path) -> bool:
    return RunDirectory(path=path).checkpoint_path.exists()


def _is_run(path: Path) -> bool:
    try:
        record = _read_json(path / "run.json")
    except DataError:
        return False
    return "schema_version" in record


def _delete_contents(path: Path) -> None:
    """Empty the folder, `run.json` last: a deletion cut short leaves a run folder."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "run.json"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _claim(folder: Path) -> None:
    """Make a folder that must be new: of two commands with one --output, one gets it."""
    with machine_errors(folder, action="make the folder"):
        try:
            folder.mkdir()
        except FileExistsError as error:
            raise ConfigError(
                f"Another command has just started a run in '{folder.parent}': "
                "choose another --output."
            ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with machine_errors(path, action="read"):
            if not path.is_file():
                raise DataError(
                    f"'{path.parent}' is not a run folder (it has no {path.name}): give the "
                    "folder that 'tlcli finetune', 'tlcli detect-finetune', 'tlcli probe' or "
                    "'tlcli extract-features' wrote."
                )
            values = json.loads(path.read_text(encoding="utf-8", errors=TEXT_ERRORS))
    except json.JSONDecodeError as error:
        raise DataError(f"'{path}' is damaged ({error}): restore it or train again.") from error
    if not isinstance(values, dict):
        raise DataError(f"'{path}' is damaged (no JSON object): restore it or train again.")
    return values


def _number(text: str, *, column: str) -> float | None:
    if text == "":
        return None
    return int(text) if column in _WHOLE_NUMBERS else float(text)
