from pathlib import Path

import pandas as pd
import pytest

from tlcli.data.split_file import read_parts, read_split, write_split
from tlcli.data.splits import split_table
from tlcli.data.table import ImageTable, make_table
from tlcli.errors import DataError


def fresh_table(rows: list[tuple[str, str, str, str]] | None = None) -> ImageTable:
    if rows is None:
        rows = [(f'{c}/{i}, "x" é.png', c, "unsplit", "") for c in ("NA", "001") for i in range(10)]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    return make_table(items, spec="s", root=Path("/r"))


def test_read_split__gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    table = split_table(fresh_table(), val_fraction=0.3, test_fraction=0.2, seed=5)
    write_split(table, path)
    again = read_split(fresh_table(), path)
    assert again.items.equals(table.items)
    assert again.classes == table.classes
    assert [p.name for p in tmp_path.iterdir()] == ["splits.csv"]
    assert path.read_text(encoding="utf-8").startswith("path,label,split,group\n")


def test_read_split__files_appeared_and_vanished(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    rows = [(f"{c}{i}", c, "unsplit", "") for c in "ab" for i in range(4)]
    write_split(split_table(fresh_table(rows), val_fraction=0.3, test_fraction=0, seed=0), path)
    changed = [*rows[1:], ("a9", "a", "unsplit", "")]
    with pytest.raises(DataError, match=r"1 image appeared \('a9'\), 1 vanished \('a0'\)"):
        read_split(fresh_table(changed), path)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("a0", "b", "train", ""), "label"),
        (("a0", "a", "train", "g"), "group"),
        (("a0", "a", "test", ""), "split"),
    ],
)
def test_read_split__rows_changed(
    tmp_path: Path, row: tuple[str, str, str, str], what: str
) -> None:
    path = tmp_path / "splits.csv"
    rows = [(f"{c}{i}", c, "train", "") for c in "ab" for i in range(4)]
    write_split(split_table(fresh_table(rows), val_fraction=0.3, test_fraction=0, seed=0), path)
    with pytest.raises(DataError, match=f"the {what} of 1 image is another: 'a0'"):
        read_split(fresh_table([row, *rows[1:]]), path)


def test_read_split__no_such_file_or_no_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the saved split .*splits\.csv"):
        read_split(fresh_table(), tmp_path / "splits.csv")
    (tmp_path / "splits.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no saved split: it needs the columns path,label"):
        read_split(fresh_table(), tmp_path / "splits.csv")


def test_read_parts__of_any_task(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("path,split\na.png,train\nb.png,val\nc.png,train\n")
    assert read_parts(path) == {"train": ["a.png", "c.png"], "val": ["b.png"]}

    path.write_text("path,label\na.png,train\n")
    with pytest.raises(DataError, match="is no saved split: it needs the columns path and split"):
        read_parts(path)
