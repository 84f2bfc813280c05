"""The flat TOML of `config.toml`: the standard library reads TOML but does not write it."""

import json
import re
from collections.abc import Mapping, Sequence

from tlcli.errors import ConfigError

TomlScalar = str | bool | int | float
TomlValue = TomlScalar | Sequence[TomlScalar] | None

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(values: Mapping[str, TomlValue]) -> str:
    """Write options as TOML 1.0, one line each, in the order given.

    `tomllib.loads` gives the same values back, tuples as lists. TOML has no null: an option
    that is None is left out.

    Args:
        values: Option names and strings, numbers, booleans or flat lists of these.

    Raises:
        ConfigError: If a text is not valid Unicode, such as a path that is not UTF-8.
        TypeError: If a value is of another kind.
    """
    lines = [f"{_key(key)} = {_value(v, key=key)}\n" for key, v in values.items() if v is not None]
    return "".join(lines)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key, key=key)


def _value(value: TomlValue, *, key: str) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_scalar(item, key=key) for item in value) + "]"
    return _scalar(value, key=key)


def _scalar(value: object, *, key: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value, key=key)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    raise TypeError(f"config.toml cannot hold {key} = {value!r} ({type(value).__name__}).")


def _string(text: str, *, key: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"The value {text!r} of '{key}' is not valid Unicode and cannot be written to "
            "config.toml: rename the file or folder."
        ) from error
    # JSON's escapes are TOML's, except that TOML wants DEL escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
