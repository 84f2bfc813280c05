"""`torchvision:NAME`: torchvision's data sets for classification, as image files and a table."""

import difflib
import inspect
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from tlcli.data.cache_folder import cache_folder
from tlcli.data.data_spec import TORCHVISION
from tlcli.data.exported_set import ExportedImage, read_exported, unlabelled_note
from tlcli.data.table import ImageTable
from tlcli.errors import DataError

_Arguments = Mapping[str, Any]
_DOWNLOAD_ERRORS = (
    *(OSError, RuntimeError, ValueError, ImportError, EOFError),
    *(HTTPException, tarfile.TarError, zipfile.BadZipFile),
)
"""What torchvision lets through when it fetches and unpacks archives."""
_WHOLE: dict[str, _Arguments] = {"unsplit": {}}
_TRAIN_FLAG: dict[str, _Arguments] = {"train": {"train": True}, "test": {"train": False}}


def _parts(**names: str) -> dict[str, _Arguments]:
    return {split: {"split": name} for split, name in names.items()}


_TRAIN_TEST = _parts(train="train", test="test")
_THREE = _parts(train="train", val="val", test="test")


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How the parts of a data set are asked for."""

    parts: Mapping[str, _Arguments]
    variants: Mapping[str, _Arguments] = field(default_factory=lambda: {"": {}})
    """By what may stand behind the name; the first one is meant where nothing does."""
    files: str = ""
    """Attribute with the image files, of sets that neither take a loader nor tell otherwise."""


SETS: dict[str, _Recipe] = {
    "CIFAR10": _Recipe(parts=_TRAIN_FLAG),
    "CIFAR100": _Recipe(parts=_TRAIN_FLAG),
    "Caltech101": _Recipe(parts=_WHOLE),
    "Caltech256": _Recipe(parts=_WHOLE),
    "Country211": _Recipe(parts=_parts(train="train", val="valid", test="test")),
    "DTD": _Recipe(
        parts=_THREE, variants={str(number): {"partition": number} for number in range(1, 11)}
    ),
    "EMNIST": _Recipe(
        parts=_TRAIN_FLAG,
        variants={
            name: {"split": name}
            for name in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
        },
    ),
    "EuroSAT": _Recipe(parts=_WHOLE),
    "FER2013": _Recipe(parts=_TRAIN_TEST),
    "FGVCAircraft": _Recipe(
        parts=_THREE,
        variants={
            name: {"annotation_level": name} for name in ("variant", "family", "manufacturer")
        },
    ),
    "FashionMNIST": _Recipe(parts=_TRAIN_FLAG),
    "Flowers102": _Recipe(parts=_THREE),
    "Food101": _Recipe(parts=_TRAIN_TEST),
    "GTSRB": _Recipe(parts=_TRAIN_TEST),
    "Imagenette": _Recipe(
        parts=_parts(train="train", val="val"),
        variants={name: {"size": name} for name in ("full", "320px", "160px")},
    ),
    "KMNIST": _Recipe(parts=_TRAIN_FLAG),
    "MNIST": _Recipe(parts=_TRAIN_FLAG),
    "OxfordIIITPet": _Recipe(parts=_parts(train="trainval", test="test"), files="_images"),
    "PCAM": _Recipe(parts=_THREE),
    "QMNIST": _Recipe(parts=_TRAIN_FLAG),
    "RenderedSST2": _Recipe(parts=_THREE),
    "SEMEION": _Recipe(parts=_WHOLE),
    "STL10": _Recipe(parts=_TRAIN_TEST),
    "SUN397": _Recipe(parts=_WHOLE),
    "SVHN": _Recipe(parts=_TRAIN_TEST),
    "StanfordCars": _Recipe(parts=_TRAIN_TEST),
    "USPS": _Recipe(parts=_TRAIN_FLAG),
}
"""Data sets with one class per image, by the name of their class in `torchvision.datasets`."""


def load_torchvision_set(spec: str, *, offline: bool) -> ImageTable:
    """Return a data set of torchvision with the splits it comes with.

    On the first call it is downloaded, where torchvision knows from where, and a table of its
    images is written beside it. Pictures that are files already are used as they are; others are
    written as PNG. Both lie in `torchvision/NAME` of the cache folder.

    Args:
        spec: `torchvision:NAME` or `torchvision:NAME/VARIANT`.
        offline: Download nothing.

    Raises:
        DataError: there is no such data set or variant, or it is neither here nor to be had.
        MachineError: the cache folder cannot be written.
    """
    name, variant = _parse(spec)
    root = cache_folder().resolve() / "torchvision" / name

    def export(folder: Path) -> Iterator[ExportedImage | str]:
        """Yield the images of all parts."""
        for split, dataset in _load_parts(name, variant, root=root, offline=offline).items():
            files = SETS[name].files
            yield from _export_part(dataset, folder, split=split, files=files, spec=spec)

    table = "-".join(["tlcli", *([variant] if variant else []), "v1"])
    return read_exported(root, name=table, export=export, spec=spec)


def _parse(spec: str) -> tuple[str, str]:
    """Return name and variant.

    Raises:
        DataError: one of them is unknown.
    """
    name, _, variant = spec.removeprefix(TORCHVISION).partition("/")
    if name not in SETS:
        by_lower = {known.lower(): known for known in SETS}
        close = difflib.get_close_matches(name.lower(), by_lower, n=1)
        hint = f" Did you mean {TORCHVISION}{by_lower[close[0]]}?" if close else ""
        raise DataError(f"No data set called '{spec}'.{hint} There are {', '.join(SETS)}.")
    variants = SETS[name].variants
    if variant and variant not in variants:
        those = ", ".join(f"{name}/{known}" for known in variants if known)
        told = f"there are {those}" if those else "it has none"
        raise DataError(f"{TORCHVISION}{name} has no variant '{variant}': {told}.")
    return name, variant or next(iter(variants))


def _load_parts(name: str, variant: str, *, root: Path, offline: bool) -> dict[str, Any]:
    """Return the data sets of all parts, downloaded if they are not there."""
    recipe = SETS[name]
    common = {"root": str(root), **recipe.variants[variant]}
    return {
        split: _load_part(name, {**common, **arguments}, root=root, offline=offline)
        for split, arguments in recipe.parts.items()
    }


def _load_part(name: str, arguments: _Arguments, *, root: Path, offline: bool) -> Any:
    kind = getattr(datasets, name)
    known = inspect.signature(kind.__init__).parameters
    if "loader" in known:
        arguments = {**arguments, "loader": Path}  # the file itself instead of its pixels
    can_download = "download" in known or "kwargs" in known
    _check_whole(root, name=name)
    try:
        return kind(**arguments, **({"download": False} if can_download else {}))
    except (OSError, RuntimeError) as error:
        missing = error
    except ImportError as error:
        raise DataError(f"{TORCHVISION}{name} cannot be read: {error}.") from error
    if offline or not can_download:
        why = "--offline forbids to download it" if offline else "torchvision cannot download it"
        raise DataError(_not_here(name, f"{why} ({missing})", root=root)) from missing
    with _marked_download(root):
        try:
            return kind(**arguments, download=True)
        except _DOWNLOAD_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(_not_here(name, f"the download failed: {reason}", root=root)) from error


def _not_here(name: str, why: str, *, root: Path) -> str:
    others = ", ".join(other for other in SETS if other != name)
    return (
        f"{TORCHVISION}{name} is not on this machine, and {why.rstrip('.')}. Put its files into"
        f" {root}, laid out as torchvision.datasets.{name} expects them in its root. Other sets"
        f" are {others}."
    )


def _mark(root: Path) -> Path:
    return root / ".unfinished-download"


@contextmanager
def _marked_download(root: Path) -> Iterator[None]:
    """Leave a mark if the body ends early: torchvision takes half-unpacked folders for whole.

    A download that brought nothing leaves none, so that files put there by hand are looked for.
    """
    before = set(root.rglob("*"))
    _mark(root).touch()
    try:
        yield
    except DataError:
        if not any(path.is_file() for path in {*root.rglob("*")} - before - {_mark(root)}):
            _mark(root).unlink()
        raise
    _mark(root).unlink()


def _check_whole(root: Path, *, name: str) -> None:
    if _mark(root).exists():
        raise DataError(
            f"A download of {TORCHVISION}{name} did not end, and its files in {root} may be"
            " incomplete; remove that folder to fetch them again."
        )


def _export_part(
    dataset: Any, folder: Path, *, split: str, files: str, spec: str
) -> Iterator[ExportedImage | str]:
    """Yield the images of one part; those that are no files are written to `folder`."""
    names, unlabelled = _class_names(dataset), 0
    for index in range(len(dataset)):
        if files and hasattr(dataset, files):
            image, target = Path(getattr(dataset, files)[index]), dataset._labels[index]
        else:
            image, target = dataset[index]
        if target is None:
            unlabelled += 1
            continue
        path = image if isinstance(image, Path) else _file_of(image)
        if path is None:
            path = folder / f"{split}-{index:06d}.png"
            image.save(path)
        label = names[int(target)] if names else str(int(target))
        yield ExportedImage(path.absolute(), label, split)
    if unlabelled:
        yield unlabelled_note(spec, split, unlabelled)


def _file_of(image: Image.Image) -> Path | None:
    """Return the file that a picture was opened from; None if it came from an array."""
    name = getattr(image, "filename", "")
    return Path(name) if name else None


def _class_names(dataset: Any) -> list[str]:
    """Return what classes are called; [] where torchvision has numbers only."""
    found = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []
    names = [str(name) if isinstance(name, str) else str(name[0]) for name in found]
    twice = {name for name in names if names.count(name) > 1}
    return [f"{name} ({index})" if name in twice else name for index, name in enumerate(names)]
