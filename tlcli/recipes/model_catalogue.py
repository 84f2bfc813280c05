"""All models of both sources as one table, kept on disk: listing them builds nothing.

Nothing here loads torch unless the table has to be made anew, once per version of the libraries;
whether weights are on this machine is a question to the disk alone.
"""

import difflib
import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from tlcli.data.cache_folder import cache_folder
from tlcli.errors import MachineError
from tlcli.results.atomic import make_folder, write_text
from tlcli.results.json_text import to_json_text

Task = Literal["classification", "detection"]
SortKey = Literal["name", "params", "gmacs", "score"]

_FORMAT = 2
"""Raised when rows come to mean something else."""
_LIBRARIES = ("tlcli", "timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model with what is published of it; None where nothing is."""

    name: str
    """`timm/resnet18`."""
    task: Task
    weights: tuple[str, ...]
    """Published ones, the default first; all below is of the default."""
    parameters: int | None
    gmacs: float | None
    """Billions of multiply-adds for one image."""
    input_size: int | None
    score: float | None
    """ImageNet top-1 of classifiers, COCO AP of detectors, as a fraction."""
    pretraining: str | None
    license: str | None
    files: tuple[dict[str, str | None], ...] = field(default=(), repr=False)
    """Where the weights come from, as `PublishedFile` has it, one for each."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = {key: value for key, value in vars(self).items() if key != "files"}
        return {**values, "weights": list(self.weights)}


@dataclass(frozen=True, kw_only=True)
class ModelFilter:
    """Which models are wanted; None and "" want all. An unknown figure meets no limit."""

    pattern: str = ""
    source: str | None = None
    task: Task = "classification"
    pretrained_only: bool = True
    max_parameters: int | None = None
    max_gmacs: float | None = None
    min_score: float | None = None
    input_size: int | None = None
    license: str | None = None

    def takes(self, entry: ModelEntry) -> bool:
        """Say whether a model is wanted."""
        return (
            matches(entry.name, self.pattern)
            and entry.task == self.task
            and (self.source is None or entry.name.startswith(f"{self.source}/"))
            and (bool(entry.weights) or not self.pretrained_only)
            and _at_most(entry.parameters, self.max_parameters)
            and _at_most(entry.gmacs, self.max_gmacs)
            and (self.min_score is None or (entry.score or -1) >= self.min_score)
            and self.input_size in (None, entry.input_size)
            and (self.license is None or matches(entry.license or "", self.license))
        )


def list_models(
    wanted: ModelFilter,
    *,
    sort: SortKey = "name",
    limit: int = 0,
    is_available: Callable[[ModelEntry], bool] = lambda entry: True,
) -> list[ModelEntry]:
    """Return the models that are wanted.

    Args:
        wanted: The filter.
        sort: `score` puts the best first, the others the smallest; unknown figures come last.
        limit: At most so many; 0 is all.
        is_available: Asked last, because it looks at the disk.
    """
    chosen = [entry for entry in load_catalogue() if wanted.takes(entry)]
    available = (entry for entry in _sorted(chosen, sort) if is_available(entry))
    return [entry for _, entry in zip(range(limit or len(chosen)), available, strict=False)]


def weights_here(entry: ModelEntry) -> tuple[str, ...]:
    """Return the published weights of a model that lie on this machine; opens no socket."""
    from tlcli.backbones import installed_weights
    from tlcli.backbones.downloads import PublishedFile, cached_file

    return tuple(
        tag
        for tag, file in zip(entry.weights, entry.files, strict=True)
        if installed_weights.find(entry.name, tag=tag) or cached_file(PublishedFile(**file))
    )


def matches(name: str, pattern: str) -> bool:
    """Say whether a glob fits `source/architecture` or `architecture`.

    Without wildcards it may stand anywhere in the name. Case does not matter.
    """
    text, glob = name.lower(), pattern.lower()
    if not any(sign in glob for sign in "*?["):
        glob = f"*{glob}*"
    return fnmatch.fnmatchcase(text, glob) or fnmatch.fnmatchcase(text.partition("/")[2], glob)


def nearest_names(pattern: str, *, task: Task) -> list[str]:
    """Return up to three models whose names are most like a pattern that no name fits."""
    architecture = re.sub(r"[*?\[\]]", "", pattern.lower()).rpartition("/")[2]
    by_architecture: dict[str, str] = {}
    for entry in load_catalogue():
        if entry.task == task:
            by_architecture.setdefault(entry.name.partition("/")[2].lower(), entry.name)
    near = difflib.get_close_matches(architecture, list(by_architecture), n=3, cutoff=0.6)
    return [by_architecture[name] for name in near]


def load_catalogue() -> list[ModelEntry]:
    """Return all models, from the file that an earlier call wrote or from the libraries."""
    path = _path()
    entries = _read(path)
    if entries is None:
        entries = list(_from_libraries())
        _keep(path, entries)
    return entries


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _sorted(entries: Sequence[ModelEntry], key: SortKey) -> list[ModelEntry]:
    field = {"params": "parameters"}.get(key, key)
    if field == "name":
        return list(entries)

    def rank(entry: ModelEntry) -> tuple[bool, float]:
        value = getattr(entry, field)
        return value is None, (value or 0) * (-1 if field == "score" else 1)

    return sorted(entries, key=rank)


def _path() -> Path:
    """Return where the table of these versions lies."""
    names = "-".join(f"{library}{version(library)}" for library in _LIBRARIES)
    return cache_folder() / f"models-{_FORMAT}-{names}.json"


def _read(path: Path) -> list[ModelEntry] | None:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["models"]
        lists = ("weights", "files")
        return [ModelEntry(**{**row, **{key: tuple(row[key]) for key in lists}}) for row in rows]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # missing, or cut off by a crash: it is made anew


def _keep(path: Path, entries: Sequence[ModelEntry]) -> None:
    document = {"models": [asdict(entry) for entry in entries]}
    try:
        make_folder(path.parent)
        write_text(path, to_json_text(document))
    except MachineError:
        return  # a disk that cannot be written makes the next listing slow, not wrong


def _from_libraries() -> Iterator[ModelEntry]:
    """Ask the libraries; takes seconds, builds nothing."""
    from tlcli.backbones.catalog import SOURCES
    from tlcli.backbones.torchvision_source import DEFAULT_LICENSE
    from tlcli.models.detectors import torchvision_detectors as detectors

    for source_name, source in SOURCES.items():
        for name in source.list_names():
            facts, tags = source.facts(name), source.tags(name)
            default = tags[0] if tags else None
            yield ModelEntry(
                name=f"{source_name}/{name}",
                task="classification",
                weights=tuple(tag.name for tag in tags),
                parameters=facts.parameters,
                gmacs=facts.gmacs,
                input_size=default.input_size if default else None,
                score=default.top1 if default else None,
                pretraining=default.pretraining if default else None,
                license=default.license if default else None,
                files=tuple(asdict(source.published_file(name, tag=tag.name)) for tag in tags),
            )
    for name, detector in detectors.NAMED.items():
        facts = detectors.facts(name)
        yield ModelEntry(
            name=f"{detectors.PREFIX}{name}",
            task="detection",
            weights=detectors.tags(name),
            parameters=facts.parameters,
            gmacs=facts.gmacs,
            input_size=detector.image_size,
            score=detectors.box_ap(name),
            pretraining="coco",
            license=DEFAULT_LICENSE,
            files=tuple(
                asdict(detectors.published_file(name, tag)) for tag in detectors.tags(name)
            ),
        )
