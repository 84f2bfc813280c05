"""Contents by their digest."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tlcli.data.content_ids import content_ids, equal_rows, view_ids
from tlcli.errors import DataError


def write_files(root: Path, *contents: bytes) -> list[str]:
    for number, content in enumerate(contents):
        (root / f"{number}.bin").write_bytes(content)
    return [f"{number}.bin" for number in range(len(contents))]


def test_content_ids__are_sha256_in_the_given_order(tmp_path: Path) -> None:
    contents = [bytes([i % 251]) * i for i in range(600)]  # more than one chunk
    names = write_files(tmp_path, *contents)
    ids = content_ids(names, root=tmp_path, threads=3)
    assert ids.shape == (600, 32)
    assert [row.tobytes() for row in ids] == [hashlib.sha256(c).digest() for c in contents]


def test_content_ids__no_files(tmp_path: Path) -> None:
    assert content_ids([], root=tmp_path, threads=1).shape == (0, 32)


def test_content_ids__see_a_change_that_name_size_and_date_hide(tmp_path: Path) -> None:
    [name] = write_files(tmp_path, b"abc")
    before, stat = content_ids([name], root=tmp_path, threads=1), (tmp_path / name).stat()
    (tmp_path / name).write_bytes(b"abd")
    os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (content_ids([name], root=tmp_path, threads=1) != before).any()


def test_content_ids__missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone\.png: No such file"):
        content_ids(["gone.png"], root=tmp_path, threads=1)


def test_view_ids__differ_by_level_seed_and_view(tmp_path: Path) -> None:
    ids = content_ids(write_files(tmp_path, b"a", b"b"), root=tmp_path, threads=1)
    kinds = [("light", 0, 0), ("light", 0, 1), ("light", 1, 0), ("medium", 0, 0)]
    rows = {
        row.tobytes()
        for level, seed, view in kinds
        for row in view_ids(ids, level=level, seed=seed, view=view)
    }
    assert len(rows | {row.tobytes() for row in ids}) == 10


def test_equal_rows() -> None:
    ids = np.repeat(np.arange(4, dtype=np.uint8)[:, None], 32, axis=1)[[3, 0, 1, 0, 2, 2, 0]]
    assert equal_rows(ids) == [[1, 3, 6], [4, 5]]
    assert equal_rows(ids[:3]) == equal_rows(ids[:0]) == []
