"""`hf:NAME`: image data sets of the Hugging Face hub, read with their library `datasets`."""

import hashlib
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from tlcli.data.cache_folder import cache_folder
from tlcli.data.csv_table import TableColumns
from tlcli.data.data_spec import HUB, hub_folder
from tlcli.data.exported_set import ExportedImage, read_exported, unlabelled_note
from tlcli.data.folders import SPLIT_WORDS
from tlcli.data.table import ImageTable, some_names
from tlcli.errors import ConfigError, DataError, MachineError

_LABEL_NAMES = ("label", "labels", "fine_label", "class")
"""What a label column may be called that does not say of itself that it is one."""


def load_hub_set(spec: str, *, columns: TableColumns, offline: bool) -> ImageTable:
    """Return a data set of the hub, or of a local folder that `datasets` understands.

    On the first call it is downloaded and its images are written as they are to `hf` in the cache
    folder, with a table. A set of the hub is then taken from there, a local one as long as it is
    unchanged.

    Args:
        spec: `hf:NAME`, `hf:NAME:CONFIG` or `hf:FOLDER`.
        columns: Which columns hold image, label and group; image and label are found where the
            data set says what they are.
        offline: Download nothing.

    Raises:
        MachineError: `datasets` is not installed, or the cache folder cannot be written.
        DataError: the data set is not to be had, or which columns are meant is not clear.
        ConfigError: a split column is named; the splits are those of the data set.
    """
    if columns.split is not None:
        raise ConfigError(f"--split-column has no effect on {spec}, which has its own splits.")
    folder = hub_folder(spec)
    name = spec.removeprefix(HUB)
    parts = None if folder is None else _load(name, folder=folder, offline=offline)
    key = _key(name, columns=columns, parts=parts)

    def export(target: Path) -> Iterator[ExportedImage | str]:
        """Yield the images of all parts."""
        loaded = parts or _load(name, folder=None, offline=offline)
        yield from _export(loaded, target, columns=columns, spec=spec)

    root = cache_folder().resolve() / "hf" / f"{Path(name).name.replace(':', '-')}-{key}"
    return read_exported(root, name="tlcli-v1", export=export, spec=spec)


def _key(name: str, *, columns: TableColumns, parts: Mapping[str, Any] | None) -> str:
    """Return what tells exports apart: other columns, or other contents of a folder."""
    contents = {split: part._fingerprint for split, part in (parts or {}).items()}
    text = json.dumps([name, columns.given, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise MachineError(
            "--data hf:… needs the package 'datasets': pip install 'tlcli[hf]'."
        ) from error


def _load(name: str, *, folder: Path | None, offline: bool) -> dict[str, Any]:
    """Return the parts of a data set by their names."""
    if folder is None and offline:
        raise DataError(
            f"{HUB}{name} was not exported on this machine yet, and --offline forbids to download"
            " it; run once without --offline."
        )
    library = _library()
    try:
        if folder is None:
            path, _, config = name.partition(":")
            loaded = library.load_dataset(path, config or None)
        elif any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json")):
            loaded = library.load_from_disk(str(folder))
        else:
            loaded = library.load_dataset(str(folder))
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:400]
        raise DataError(f"Cannot load {HUB}{name}: {reason}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _export(
    parts: Mapping[str, Any], folder: Path, *, columns: TableColumns, spec: str
) -> Iterator[ExportedImage | str]:
    library = _library()
    known = {split: part for split, part in parts.items() if split.lower() in SPLIT_WORDS}
    if not known:
        raise DataError(
            f"{spec} has the parts {some_names(parts, most=8)}; one must be called train,"
            " validation or test."
        )
    if others := [split for split in parts if split not in known]:
        are = "part {} is" if len(others) == 1 else "parts {} are"
        yield f"{spec}: the {are.format(some_names(others, most=8))} not used."
    for name, part in known.items():
        image = _image_column(part.features, columns, library=library, spec=spec)
        label = _label_column(part.features, columns, library=library, spec=spec)
        if columns.group is not None and columns.group not in part.features:
            raise _no_column("group", columns.group, part.features, spec=spec)
        rows = part.cast_column(image, library.Image(decode=False))
        split, unlabelled = SPLIT_WORDS[name.lower()], 0
        for index, row in enumerate(rows):
            text = _label_text(part.features[label], row[label])
            if text is None:
                unlabelled += 1
                continue
            path = _image_file(row[image], folder / f"{split}-{index:07d}", spec=spec)
            group = "" if columns.group is None else str(row[columns.group])
            yield ExportedImage(path, text, split, group)
        if unlabelled:
            yield unlabelled_note(spec, name, unlabelled)


def _image_column(
    features: Mapping[str, Any], columns: TableColumns, *, library: Any, spec: str
) -> str:
    found = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    if columns.path is not None:
        if columns.path in found:
            return columns.path
        raise _no_column("path", columns.path, features, spec=spec, only=found)
    if len(found) != 1:
        raise DataError(
            f"{spec} has {len(found)} columns of images among {some_names(features, most=8)};"
            " name the one with --path-column."
        )
    return found[0]


def _label_column(
    features: Mapping[str, Any], columns: TableColumns, *, library: Any, spec: str
) -> str:
    usable = [
        name
        for name, kind in features.items()
        if isinstance(kind, library.ClassLabel | library.Value)
    ]
    if columns.label is not None:
        if columns.label in usable:
            return columns.label
        raise _no_column("label", columns.label, features, spec=spec, only=usable)
    classes = [name for name in usable if isinstance(features[name], library.ClassLabel)]
    found = classes or [name for name in usable if name in _LABEL_NAMES]
    if len(found) != 1:
        raise DataError(
            f"Which column of {spec} is the one label of an image is not clear among"
            f" {some_names(features, most=8)}; name it with --label-column."
        )
    return found[0]


def _no_column(
    role: str, name: str, features: Mapping[str, Any], *, spec: str, only: list[str] | None = None
) -> DataError:
    fit = f"; of use are {some_names(only, most=8)}" if only is not None else ""
    return DataError(
        f"--{role}-column '{name}' is no such column of {spec}, which has"
        f" {some_names(features, most=8)}{fit}."
    )


def _label_text(kind: Any, value: Any) -> str | None:
    """Return the name of a class; None where there is no answer."""
    if value is None or (hasattr(kind, "int2str") and value < 0):
        return None
    return str(kind.int2str(value)) if hasattr(kind, "int2str") else str(value).strip()


def _image_file(image: Mapping[str, Any] | None, stem: Path, *, spec: str) -> Path:
    """Return the file of an image, written as it is where the data set holds its bytes."""
    content, path = (image or {}).get("bytes"), (image or {}).get("path")
    if content is None and path and Path(path).is_file():
        return Path(path).absolute()
    if content is None:
        raise DataError(f"{spec} has no image in row {int(stem.name.rpartition('-')[2]) + 1}.")
    file = stem.with_suffix(_suffix(content))
    file.write_bytes(content)
    return file


def _suffix(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f".{(image.format or 'img').lower()}"
    except (UnidentifiedImageError, OSError):
        return ".img"  # told with its reason where images are read
