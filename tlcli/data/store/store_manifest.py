"""`manifest.json` of a tensor store: what its rows were computed with, and which shards count."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tlcli.data.store.durable_files import write_durably
from tlcli.data.store.shard_header import TensorSpec
from tlcli.errors import DataError
from tlcli.results.atomic import TEXT_ERRORS
from tlcli.results.json_text import to_json_text

SCHEMA_VERSION = 1
KIND = "tensors"
_SHARD_NAME = re.compile("[0-9a-f]+")
_ABSENT = "not set"


@dataclass(frozen=True, kw_only=True, order=True)
class ShardEntry:
    """A shard that counts."""

    name: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What a store knows of itself."""

    key: Mapping[str, Any]
    """What the rows were computed with, as `plain_key` returns it."""
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    """By name; empty until the first shard is listed."""
    shards: tuple[ShardEntry, ...] = ()
    """In the order of their names, whoever finished first."""

    @property
    def key_digest(self) -> str:
        """SHA-256 of the key in hex."""
        return digest_of_key(self.key)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "key": self.key,
            "key_digest": self.key_digest,
            "tensors": {name: asdict(spec) for name, spec in self.tensors.items()},
            "shards": [asdict(entry) for entry in self.shards],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StoreManifest":
        """Rebuild from `to_json`.

        Raises:
            ValueError: the parts contradict each other.
            LookupError, TypeError, AttributeError: a part is missing or of another type.
        """
        manifest = cls(
            key=plain_key(values["key"]),
            tensors={
                name: TensorSpec(dtype=spec["dtype"], shape=tuple(spec["shape"]))
                for name, spec in values["tensors"].items()
            },
            shards=tuple(ShardEntry(**entry) for entry in values["shards"]),
        )
        if values["kind"] != KIND or values["key_digest"] != manifest.key_digest:
            raise ValueError("kind or key_digest is wrong")
        if not all(_SHARD_NAME.fullmatch(entry.name) for entry in manifest.shards):
            raise ValueError("a shard has a strange name")
        return manifest


def plain_key(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a key as JSON reads it back: tuples are lists, names are texts in order.

    Raises:
        ValueError: NaN or infinite numbers.
        TypeError: a value that JSON does not have.
    """
    plain: dict[str, Any] = json.loads(json.dumps(key, sort_keys=True, allow_nan=False))
    return plain


def digest_of_key(key: Mapping[str, Any]) -> str:
    """Return the SHA-256 in hex of a key as compact JSON with sorted names.

    Raises:
        ValueError, TypeError: as `plain_key`.
    """
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say of every part in which two plain keys differ what it is there and here."""
    old, new = dict(_leaves(there)), dict(_leaves(here))
    return [
        f"{name} is {old.get(name, _ABSENT)} there and {new.get(name, _ABSENT)} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def manifest_path(folder: Path) -> Path:
    """Return where the manifest of a store lies."""
    return folder / "manifest.json"


def write_manifest(manifest: StoreManifest, folder: Path) -> None:
    """Write it in one step.

    Raises:
        MachineError: the disk is full or the folder cannot be written to.
    """
    data = to_json_text(manifest.to_json()).encode("utf-8", errors=TEXT_ERRORS)
    write_durably(manifest_path(folder), lambda temporary: temporary.write_bytes(data))


def read_manifest(folder: Path) -> StoreManifest:
    """Read what `write_manifest` wrote.

    Raises:
        DataError: there is none, it is damaged, or another version of tlcli wrote it.
    """
    path = manifest_path(folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors=TEXT_ERRORS))
        version = values["schema_version"]
        manifest = StoreManifest.from_json(values) if version == SCHEMA_VERSION else None
    except FileNotFoundError as error:
        raise DataError(f"'{folder}' is no store of features: it has no {path.name}.") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"'{path}' is damaged ({error}): restore it, or compute again into another folder."
        ) from error
    if manifest is None:
        raise DataError(
            f"'{path}' has schema version {version}; this tlcli reads version {SCHEMA_VERSION}."
            " Use the tlcli that wrote it, or compute again into another folder."
        )
    return manifest


def _leaves(key: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    for plain, value in key.items():
        name = prefix + (json.dumps(plain) if {".", '"'} & {*plain} else plain)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, prefix=f"{name}.")
        else:
            yield name, json.dumps(value, ensure_ascii=False)


def is_store(path: Path) -> bool:
    """Say whether a folder holds a store, possibly one whose manifest was damaged."""
    try:
        return bool(json.loads(manifest_path(path).read_text(encoding="utf-8"))["kind"] == KIND)
    except OSError:
        return False
    except (ValueError, LookupError, TypeError):
        return (path / "shards").is_dir()
