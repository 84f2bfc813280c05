"""Configs as flat mappings of option names, as the command line and `config.toml` hold them."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


def options_of(config: "DataclassInstance") -> dict[str, Any]:
    """Return every option by its name, the inverse of `from_options`."""
    flat: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        is_part = isinstance(part.default_factory, type)
        flat |= dataclasses.asdict(value) if is_part else {part.name: value}
    return flat


def from_options(cls: type[C], values: Mapping[str, Any]) -> C:
    """Sort options into the parts of a config; every option must belong to one.

    Raises:
        ConfigError: If a value is out of its range, or options exclude each other.
        TypeError: If a name is no option.
    """
    left = dict(values)
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(cls):
        if isinstance(part.default_factory, type):
            names = [option.name for option in dataclasses.fields(part.default_factory)]
            chosen = {name: left.pop(name) for name in names if name in left}
            parts[part.name] = part.default_factory(**chosen)
        elif part.name in left:
            parts[part.name] = left.pop(part.name)
    if left:
        raise TypeError(f"no option of {cls.__name__}: {', '.join(sorted(left))}")
    return cls(**parts)
