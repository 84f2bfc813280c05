"""Options that come from files: `--config FILE.toml`, and those of a run that is resumed."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from tlcli.data.data_spec import absolute_spec
from tlcli.errors import ConfigError
from tlcli.recipes.feature_places import cached_features_root
from tlcli.results.run_dir import RunDirectory

TALK_OPTIONS = ("json", "quiet", "verbose", "dry_run", "config")
"""How a command speaks; no part of any config."""
_KEPT_UNLESS_GIVEN = ("device", "num_workers", "max_time", "offline")
_FREE_ON_RESUME = ("output", "overwrite", "resume", *_KEPT_UNLESS_GIVEN)
"""May differ when a run goes on: they do not change what is computed."""
_PATHS = ("weights", "init_head", "classes")
"""Options that a run keeps as absolute paths, beside `data`."""

_NUMBERS_OR_WORDS = {"lr": float | Literal["auto"] | None}
"""Options whose function has no type, since Typer knows none for them."""


def use_config_file(ctx: typer.Context, value: str | None) -> str | None:
    """Make the values of a TOML file the defaults of the command that is being read."""
    if value is None:
        return None
    values = read_option_file(Path(value).expanduser(), kinds=_kinds_of_options(ctx))
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return value


def read_option_file(path: Path, *, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read a flat TOML file of option names (with dashes or underscores) and values.

    Args:
        path: The file.
        kinds: Type of every option that may stand in it.

    Raises:
        ConfigError: If it is no TOML, has a key that is no option, or a value of another type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no valid TOML: {error}.") from error
    options: dict[str, Any] = {}
    for key, value in values.items():
        option = key.replace("-", "_")
        if option not in kinds:
            raise ConfigError(f"--config {path}: {_unknown_key(option, set(kinds))}")
        if option in options:
            raise ConfigError(f"--config {path}: '{option}' stands there twice.")
        if not _is_of_kind(value, kinds[option]):
            wanted = _in_words(kinds[option])
            raise ConfigError(f"--config {path}: '{option}' must be {wanted}, not {value!r}.")
        options[option] = value
    return options


def _kinds_of_options(ctx: typer.Context) -> dict[str, Any]:
    """Return the types of a command's options, from the signature of its function."""
    hints = get_type_hints(ctx.command.callback)
    names = (str(parameter.name) for parameter in ctx.command.params)
    return {
        name: _NUMBERS_OR_WORDS[name] if hints[name] is Any else hints[name]
        for name in names
        if name in hints and name not in TALK_OPTIONS
    }


def _is_of_kind(value: object, kind: Any) -> bool:
    """Say whether TOML means by `value` what an option of that type takes; 1 is no `true`."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):  # T | None
        return any(_is_of_kind(value, part) for part in get_args(kind))
    return type(value) is kind or (kind is float and type(value) is int)


def _in_words(kind: Any) -> str:
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, parts))}" if len(parts) > 1 else repr(parts[0])
    if parts:
        return " or ".join(map(_in_words, parts))
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(kind, "a text in quotes")


def chosen_options(ctx: typer.Context) -> dict[str, Any]:
    """Return the options of a command by name, those of a resumed run in place of defaults.

    An option that was not given and has no value of its own is left out, so that its default is
    the config's.

    Raises:
        ConfigError: If an option was given that differs from that of the run to go on with.
    """
    values = {key: value for key, value in ctx.params.items() if key not in TALK_OPTIONS}
    if is_resumed(values):
        values = _merge(ctx, values, run=_run_folder(values))
    return {key: value for key, value in values.items() if value is not None}


def is_given(ctx: typer.Context, name: str) -> bool:
    """Say whether an option was given on the command line or in a config file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def is_resumed(values: Mapping[str, Any]) -> bool:
    """Say whether there is a run whose options `--resume` takes up."""
    if not (values.get("resume") and values.get("output")):
        return False
    return _run_folder(values).config_path.exists()


def _run_folder(values: Mapping[str, Any]) -> RunDirectory:
    return RunDirectory(path=Path(values["output"]).expanduser())


def _merge(ctx: typer.Context, values: Mapping[str, Any], *, run: RunDirectory) -> dict[str, Any]:
    """Take what was used when the run began; what is given again may be written as it was then."""
    merged, written = dict(values), run.read_config_toml()
    saved = run.read_record().get("config", written)  # none if it stopped at its very start
    for key in values:
        if not is_given(ctx, key):
            if key not in _FREE_ON_RESUME or key in _KEPT_UNLESS_GIVEN:
                merged[key] = saved.get(key)
        elif key not in _FREE_ON_RESUME and not any(
            _same(key, values[key], options.get(key)) for options in (saved, written)
        ):
            flag = f"--{key.replace('_', '-')}"
            raise ConfigError(
                f"{flag} {values[key]} differs from the run's own {saved.get(key)}: a resumed run "
                f"keeps its options. Leave {flag} out, or start a new run with another --output."
            )
    return merged


def _same(key: str, given: object, saved: object) -> bool:
    """Say whether a given option is the run's own, where values may be written in two ways."""
    if given == saved or not isinstance(given, str):
        return given == saved
    if key == "data":
        return absolute_spec(given) == saved
    if key == "strides" and isinstance(saved, str):
        return _parts(given) == _parts(saved)
    if key == "init_head" and saved == str((cached_features_root() / given).resolve()):
        return True  # a name of `cache list`
    return key in _PATHS and str(Path(given).expanduser().resolve()) == saved


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _unknown_key(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"'{key}' is no option of this command.{hint}"
