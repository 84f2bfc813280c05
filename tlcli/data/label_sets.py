"""Images of any number of classes: their labels as one text each, and as rows of yes and no."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from tlcli.results.counted import counted

LABEL_SEPARATOR = "|"
"""Stands between the classes of an image in every table of ours."""


def join_labels(sets: Iterable[Iterable[str]], *, classes: Sequence[str]) -> list[str]:
    """Return the classes of each image as one text: each once, in the order of `classes`.

    Raises:
        KeyError: A label is none of the classes.
    """
    place = {name: number for number, name in enumerate(classes)}
    return [LABEL_SEPARATOR.join(sorted(set(names), key=place.__getitem__)) for names in sets]


def split_labels(text: str) -> list[str]:
    """Return the classes that `join_labels` joined; none of an empty text."""
    return text.split(LABEL_SEPARATOR) if text else []


def labels_in_words(labels: Iterable[str]) -> str:
    """Say how many classes images have, whose joined texts are given."""
    numbers = [len(split_labels(text)) for text in labels]
    mean, bare = sum(numbers) / len(numbers), counted(numbers.count(0), "image")
    return f"An image has {mean:.2f} classes on average; {bare} of none."


def label_matrix(labels: Iterable[str], *, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which of the C classes each of N images has, shape (N, C).

    Args:
        labels: A joined text per image.
        classes: The order of the columns.

    Raises:
        KeyError: A label is none of the classes.
    """
    column_of = {name: column for column, name in enumerate(classes)}
    codes, texts = pd.factorize(np.array(list(labels), dtype=object))
    rows = np.zeros((len(texts), len(classes)), dtype=np.bool_)
    for row, text in zip(rows, texts, strict=True):
        row[[column_of[name] for name in split_labels(text)]] = True
    return rows[codes]
