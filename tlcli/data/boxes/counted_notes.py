"""What was found in how many images: sentences that stay true when images are left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tlcli.data.table import some_names

_MOST_NAMED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedNote:
    """Things of one kind, found in some images of a table."""

    one: str
    """The sentence about a single thing; `{names}` stands for the path of its image."""
    many: str
    """The sentence about more; `{number}` and `{names}` are filled in."""
    rows: npt.NDArray[np.int64]
    """(N,) rows of the table's images: the image of each thing, so one may be there twice."""

    def text(self, paths: npt.NDArray[np.object_]) -> str:
        """Return the sentence, given the path of each image of the table."""
        names = some_names(dict.fromkeys(paths[self.rows].tolist()), most=_MOST_NAMED)
        sentence = self.one if len(self.rows) == 1 else self.many
        return sentence.format(number=f"{len(self.rows):,}", names=names)


def counted_note(one: str, many: str, rows: Sequence[int]) -> CountedNote:
    """Return a note about any sequence of rows."""
    return CountedNote(one=one, many=many, rows=np.asarray(rows, dtype=np.int64))


def summed_notes(notes: Iterable[CountedNote]) -> tuple[CountedNote, ...]:
    """Return one note for each pair of sentences, with the rows of all; none without rows."""
    found: dict[tuple[str, str], list[CountedNote]] = {}
    for note in notes:
        found.setdefault((note.one, note.many), []).append(note)
    summed = (
        replace(same[0], rows=np.concatenate([note.rows for note in same]))
        for same in found.values()
    )
    return tuple(note for note in summed if len(note.rows))


def moved_notes(
    notes: Iterable[CountedNote], new_row: npt.NDArray[np.int64]
) -> tuple[CountedNote, ...]:
    """Return the notes for images in other rows.

    Args:
        notes: Of a table of R images.
        new_row: (R,) the row that each image gets, -1 for one that is left out.
    """
    moved = (replace(note, rows=new_row[note.rows]) for note in notes)
    return summed_notes(replace(note, rows=note.rows[note.rows >= 0]) for note in moved)
