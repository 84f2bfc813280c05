"""`--classes`: which classes of a data set are used, in which order, and what they are called."""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tlcli.data.label_sets import join_labels, split_labels
from tlcli.data.table import ImageTable, make_table, some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted


class ClassName(NamedTuple):
    """A class of the data and what it is called from now on; several may get one name."""

    old: str
    new: str


def read_class_file(path: Path) -> tuple[ClassName, ...]:
    """Read one class per line, `name` or `old,new`, quoted as in a CSV file where need be.

    Blank lines do not count, nor do blanks around names.

    Raises:
        DataError: the file cannot be read or has no classes, a line has other than one or two
            names, or a class stands there twice.
    """
    chosen: dict[str, ClassName] = {}
    for number, names in _lines(path):
        if len(names) > 2 or not all(names):
            raise DataError(
                f"--classes {path}, line {number}: write 'name' or 'old,new', not"
                f" '{','.join(names)}'; a name with a comma needs double quotes."
                + _comment_hint(names[:1])
            )
        if names[0] in chosen:
            raise DataError(f"--classes {path}, line {number}: '{names[0]}' stands there twice.")
        chosen[names[0]] = ClassName(names[0], names[-1])
    if not chosen:
        raise DataError(f"--classes {path} names no class; write one per line.")
    return tuple(chosen.values())


def _comment_hint(names: Iterable[str]) -> str:
    """Return what to tell of a line that looks like a comment: classes may be called so."""
    is_there = any(name.startswith("#") for name in names)
    return " A line with '#' is a class too: take comments out." if is_there else ""


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [name.strip() for name in names]) for names in reader]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Cannot read --classes {path}: {reason}.") from error
    return [(number, names) for number, names in lines if any(names)]


def choose_classes(table: ImageTable, chosen: Sequence[ClassName]) -> ImageTable:
    """Keep the images of the chosen classes under their new names, in the order of the choice.

    Where images have any number of classes, all images stay, with those of their classes that are
    chosen.

    Raises:
        DataError: a class is not in the data, or only one is left of those that exclude each other.
    """
    known = set(table.classes)
    unknown = [name.old for name in chosen if name.old not in known]
    if unknown:
        raise DataError(_unknown(unknown, known=table.classes, spec=table.spec))
    new_names = {name.old: name.new for name in chosen}
    if table.is_multi_label:
        return _choose_labels(table, new_names)
    if len(set(new_names.values())) < 2:
        raise DataError(
            f"--classes leaves one class only, '{chosen[0].new}': a classifier needs two or more."
            f" {table.spec} has {some_names(table.classes, most=10)}."
        )
    is_kept = table.items["label"].isin(list(new_names))
    kept = table.items[is_kept]
    titles = table.class_titles
    return make_table(
        kept.assign(label=kept["label"].map(new_names)),
        spec=table.spec,
        root=table.root,
        classes=list(dict.fromkeys(name.new for name in chosen)),
        class_titles={old: titles[old] for old, new in chosen if old == new and old in titles},
        notes=[*table.notes, *_left_out(table, set(new_names), num_images=int((~is_kept).sum()))],
    )


def _choose_labels(table: ImageTable, new_names: Mapping[str, str]) -> ImageTable:
    """Keep all images with the chosen ones of their classes, under their new names."""
    classes = list(dict.fromkeys(new_names.values()))
    before = [split_labels(text) for text in table.items["label"]]
    sets = [[new_names[name] for name in names if name in new_names] for names in before]
    others = [name for name in table.classes if name not in new_names]
    bare = sum(not now for now, names in zip(sets, before, strict=True) if names)
    note = (
        f"--classes leaves out {counted(len(others), 'class', 'classes')}: {some_names(others)};"
        f" {counted(bare, 'image has', 'images have')} none of the classes then."
    )
    return make_table(
        table.items.assign(label=join_labels(sets, classes=classes)),
        spec=table.spec,
        root=table.root,
        classes=classes,
        is_multi_label=True,
        notes=[*table.notes, note] if others else table.notes,
    )


def _unknown(unknown: Sequence[str], *, known: Sequence[str], spec: str) -> str:
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f" Did you mean '{near[0]}' for '{unknown[0]}'?" if near else ""
    return (
        f"--classes names {some_names(unknown)}, which {spec} does not have.{hint} It has"
        f" {some_names(known, most=10)}.{_comment_hint(unknown)}"
    )


def _left_out(table: ImageTable, kept: Iterable[str], *, num_images: int) -> list[str]:
    others = [name for name in table.classes if name not in kept]
    if not others:
        return []
    images, classes = counted(num_images, "image"), counted(len(others), "class", "classes")
    return [f"--classes leaves out {images} of {classes}: {some_names(others)}."]
