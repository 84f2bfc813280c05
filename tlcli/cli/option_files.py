"""Options that come from files: `--config FILE.toml`, and those of a run that is resumed."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from tlcli.errors import ConfigError

TALK_OPTIONS = ("json", "quiet", "verbose", "dry_run", "config")
"""How a command speaks; no part of any config."""
_FREE_ON_RESUME = ("output", "overwrite", "resume", "device", "num_workers")
"""May differ when a run goes on: they do not change what is computed."""


def use_config_file(ctx: typer.Context, value: str | None) -> str | None:
    """Make the values of a TOML file the defaults of the command that is being read."""
    if value is None:
        return None
    known = {str(parameter.name) for parameter in ctx.command.params}
    values = read_option_file(Path(value).expanduser(), known=known - set(TALK_OPTIONS))
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return value


def read_option_file(path: Path, *, known: set[str]) -> dict[str, Any]:
    """Read a flat TOML file of option names (with dashes or underscores) and values.

    Raises:
        ConfigError: If it is no TOML, or has a key that is no option.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no valid TOML: {error}.") from error
    options = {key.replace("-", "_"): value for key, value in values.items()}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"--config {path}: {_unknown_key(key, known)}")
        if isinstance(value, dict | list):
            raise ConfigError(f"--config {path}: '{key}' must be one plain value.")
    return options


def chosen_options(ctx: typer.Context) -> dict[str, Any]:
    """Return the options of a command by name, those of a resumed run in place of defaults.

    An option that was not given and has no value of its own is left out, so that its default is
    the config's.

    Raises:
        ConfigError: If an option was given that differs from that of the run to go on with.
    """
    values = {key: value for key, value in ctx.params.items() if key not in TALK_OPTIONS}
    saved = _options_of_run(values)
    if saved is not None:
        values = _merge(ctx, values, saved)
    return {key: value for key, value in values.items() if value is not None}


def is_given(ctx: typer.Context, name: str) -> bool:
    """Say whether an option was given on the command line or in a config file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _options_of_run(values: Mapping[str, Any]) -> dict[str, Any] | None:
    if not values.get("resume") or not values.get("output"):
        return None
    path = Path(values["output"]).expanduser() / "config.toml"
    return read_option_file(path, known=set(values)) if path.exists() else None


def _merge(
    ctx: typer.Context, values: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    merged = dict(values)
    for key in values:
        if not is_given(ctx, key):
            if key not in _FREE_ON_RESUME or key in ("device", "num_workers"):
                merged[key] = saved.get(key)
        elif key not in _FREE_ON_RESUME and not _same(key, values[key], saved.get(key)):
            flag = f"--{key.replace('_', '-')}"
            raise ConfigError(
                f"{flag} {values[key]} differs from the run's own {saved.get(key)}: a resumed run "
                f"keeps its options. Leave {flag} out, or start a new run with another --output."
            )
    return merged


def _same(key: str, given: object, saved: object) -> bool:
    if key == "data" and isinstance(given, str) and not given.startswith("sample:"):
        given = str(Path(given).expanduser().resolve())
    return given == saved


def _unknown_key(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"'{key}' is no option of this command.{hint}"
