"""Views of the images of a run, and the ids by which what was made of them is found again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from tlcli.data.augment import Augmentation, TrainTransform
from tlcli.data.content_ids import Ids, content_ids, view_ids
from tlcli.data.loaders import Reference
from tlcli.data.table import ImageTable
from tlcli.engine.extraction import ViewRequest
from tlcli.recipes.trunk_rows import Views


@dataclass(frozen=True)
class RunViews:
    """Views of the images of one table.

    Args:
        table: With its splits.
        transform: Makes the random views.
        seed: Of the random views.
        threads: How many files are read at once.
    """

    table: ImageTable
    transform: TrainTransform
    seed: int
    threads: int

    @property
    def is_random(self) -> bool:
        """Whether two views of an image differ at all."""
        return self.transform.augmentation != Augmentation()

    def plain(self, split: str) -> Views:
        """Return the view of evaluation of every image of a split, row by row."""
        return Views(
            requests=[ViewRequest(path) for path in self.table.paths(split)],
            ids=self._contents[split],
        )

    def train(self, references: Sequence[Reference]) -> Views:
        """Return views of train images in the order of `references`."""
        paths, contents = self.table.paths("train"), self._contents["train"]
        rows = np.array([index for index, _ in references], dtype=np.int64)
        if not self.is_random:
            return Views(requests=[ViewRequest(paths[row]) for row in rows], ids=contents[rows])
        numbers = np.array([view for _, view in references])
        ids = np.empty((len(rows), contents.shape[1]), dtype=np.uint8)
        for view in np.unique(numbers).tolist():
            is_view = numbers == view
            ids[is_view] = view_ids(
                contents[rows[is_view]], level=self._level, seed=self.seed, view=view
            )
        requests = [ViewRequest(paths[index], view) for index, view in references]
        return Views(requests=requests, ids=ids)

    @cached_property
    def _contents(self) -> dict[str, Ids]:
        """SHA-256 of every file, by split, row by row."""
        return {
            split: content_ids(
                list(self.table.part(split)["path"]), root=self.table.root, threads=self.threads
            )
            for split in self.table.splits
        }

    @cached_property
    def _level(self) -> str:
        """All that decides what a random view shows, but for image, seed and number."""
        return json.dumps(asdict(self.transform.augmentation), sort_keys=True)
