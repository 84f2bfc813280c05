"""Epochs in which every class is shown equally often."""

import math

import numpy as np
import numpy.typing as npt

from tlcli.data.augment import view_generator
from tlcli.data.loaders import Reference, training_batches


def balanced_batches(
    targets: npt.NDArray[np.int64], *, batch_size: int, seed: int, epoch: int
) -> list[list[Reference]]:
    """Return the batches of an epoch in which every class has the same number of places.

    An epoch has N / C places per class, rounded up. The images of a class take turns over the
    epochs: each is shown once, in random order, before any is shown again, and then in its next
    view. All of it follows from (seed, epoch), so a run may go on anywhere.

    Args:
        targets: Class indices of the N images; C different ones occur.
        batch_size: Places per batch; a single place left over joins the batch before.
        seed: Of the run.
        epoch: Epochs before this one.

    Raises:
        ConfigError: `batch_size` is below 1, or the seed or epoch below 0.
    """
    classes, counts = np.unique(targets, return_counts=True)
    places = math.ceil(len(targets) / len(classes))
    rows_of = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])
    references = [
        reference
        for target, rows in zip(classes, rows_of, strict=True)
        for reference in _turns(rows, places=places, seed=seed, key=int(target), epoch=epoch)
    ]
    order = view_generator(seed=seed, content_key=0, view=epoch).permutation(len(references))
    return training_batches([references[place] for place in order], batch_size=batch_size)


def _turns(
    rows: npt.NDArray[np.int64], *, places: int, seed: int, key: int, epoch: int
) -> list[Reference]:
    """Return which images of a class, and which views of them, have their turn in an epoch."""
    first, last = epoch * places, (epoch + 1) * places
    rounds = range(first // len(rows), math.ceil(last / len(rows)))
    turns = [
        (int(rows[place]), view)
        for view in rounds
        for place in view_generator(seed=seed, content_key=1 + key, view=view).permutation(
            len(rows)
        )
    ]
    skipped = first - rounds.start * len(rows)
    return turns[skipped : skipped + places]
